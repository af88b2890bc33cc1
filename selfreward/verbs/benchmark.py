"""What ``selfreward benchmark`` does: models on questions that have one right answer."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import selfreward
from selfreward.engines.vllm_build import version
from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs import models
from selfreward.inputs.choices import Choices, Style, choices_digest, read_choices
from selfreward.measures.benchmarks import answered_right, scored
from selfreward.storage.benchmarks import Benchmark, Score, add_benchmarks
from selfreward.storage.directory import Run, open_run
from selfreward.storage.store import now
from selfreward.verbs.layout import duration
from selfreward.workers.benchmark import likelihoods_in_child, lm_eval_in_child

_NORMAL_95 = 1.96
INSTALL = '.venv/bin/pip install -e ".[eval]"'


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model that is measured."""

    name: str
    """``M2``; or as it was given, where it is of no run."""
    path: Path
    digest: str
    run: Run | None
    """Where its results are kept; None: nowhere."""
    trusted: bool


def contestants(words: Sequence[str], report: Callable[[str], None]) -> list[Contestant]:
    """The models that ``RUN:M2``, or any model source, names.

    Raises:
        ConfigError, NotFoundError: There is no such model.
        LockedError: Its run is under way.
    """
    return [_contestant(word, report) for word in dict.fromkeys(words)]


def _contestant(word: str, report: Callable[[str], None]) -> Contestant:
    named = re.fullmatch(r"(.+):(M\d{1,6}|SFT)", word)
    if named is None:
        if "/" not in word and ":" not in word and not Path(word).exists():
            raise ConfigError(
                f"{word}: expected RUN:M1, a run and one of its models, or a model source"
            )
        found = models.resolve(word, report=report)
        return Contestant(word, found.path, found.digest, None, False)
    run = open_run(named[1])
    with run.locked():  # else what is found could not be kept at the end
        path = run.named_model(named[2])
    return Contestant(named[2], path, models.digest(path), run, run.config.trust_remote_code)


def benchmark_files(
    who: Sequence[Contestant],
    files: Sequence[str],
    *,
    style: Style = "question",
    limit: int | None = None,
    report: Callable[[str], None],
) -> list[Benchmark]:
    """Ask models the questions of local files; what is found of a run's models is kept in it.

    Args:
        files: See ``read_choices``.
        limit: Questions of each file, the first ones.
        report: Told what is being done, one line each.

    Raises:
        ConfigError: A file is not as it should be.
        PreflightError: A model cannot be run here.
    """
    tasks = {file: read_choices(file, limit) for file in files}
    made = []
    for each in who:
        found = [_ask(each, f, questions, style, limit, report) for f, questions in tasks.items()]
        _keep(each, found)
        made += found
    return made


def _ask(
    who: Contestant,
    file: str,
    questions: Sequence[Choices],
    style: Style,
    limit: int | None,
    report: Callable[[str], None],
) -> Benchmark:
    from selfreward.verbs.progress import Count

    began = time.monotonic()
    texts = [text for each in questions for text in each.asked(style)]
    count = Count(len(texts), f"choices of {Path(file).name}", report, who.name, ("ask", "asked"))
    values = iter(likelihoods_in_child(who.path, texts, count.show, trust_remote_code=who.trusted))
    likelihoods = [[next(values) for _ in each.choices] for each in questions]
    right = answered_right(questions, likelihoods)
    return Benchmark(
        model=who.name, digest=who.digest, task=_task_name(file),
        by=f"selfreward {selfreward.__version__}", version=choices_digest(questions), style=style,
        limit=limit, n=len(questions), scores={name: scored(r) for name, r in right.items()},
        right=right, seconds=time.monotonic() - began, at=now(),
    )  # fmt: skip


def _task_name(file: str) -> str:
    """Such as ``openbookqa/test``, as files of several tasks are called ``test``."""
    path = Path(file).resolve()
    return f"{path.parent.name}/{path.name.split('.')[0]}"


def benchmark_lm_eval(
    who: Sequence[Contestant],
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    report: Callable[[str], None],
) -> list[Benchmark]:
    """Have lm-eval measure models; what is found of a run's models is kept in it.

    Raises:
        PreflightError: lm-eval is not installed, or fails.
        ConfigError: It has no such task.
    """
    if find_spec("lm_eval") is None:
        raise PreflightError("--tasks: lm-eval is not installed", f"Run `{INSTALL}`.")
    if include_path is not None and not include_path.is_dir():
        raise ConfigError(f"--include-path {include_path}: no such directory")
    made = []
    for each in who:
        report(f"lm-eval asks {each.name}: {', '.join(tasks)}")
        began = time.monotonic()
        found = lm_eval_in_child(
            each.path, tasks, include_path=include_path, limit=limit,
            trust_remote_code=each.trusted,
        )  # fmt: skip
        results = [*_results(each, found, limit, time.monotonic() - began)]
        _keep(each, results)
        made += results
    return made


def _results(
    who: Contestant, found: dict[str, Any], limit: int | None, seconds: float
) -> Iterator[Benchmark]:
    for task, values in found["results"].items():
        scores = {}
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{kind}")
            wide = _NORMAL_95 * error if isinstance(error, (int, float)) else None
            name = metric if kind == "none" else f"{metric} ({kind})"
            scores[name] = Score(
                value,
                None if wide is None else value - wide,
                None if wide is None else value + wide,
            )
        yield Benchmark(
            model=who.name, digest=who.digest, task=task, by=f"lm-eval {version('lm_eval')}",
            version=str(found["versions"].get(task, "")), style="", limit=limit,
            n=int(found["n-samples"].get(task, {}).get("effective", 0)), scores=scores, right={},
            seconds=seconds, at=now(),
        )  # fmt: skip


def _keep(who: Contestant, results: Sequence[Benchmark]) -> None:
    if who.run is not None:
        add_benchmarks(who.run, results)


def kept_text(who: Sequence[Contestant], results: Sequence[Benchmark]) -> str:
    """Where the results are kept, and how long they took."""
    runs = dict.fromkeys(each.run.name for each in who if each.run is not None)
    spent = duration(sum({(r.model, r.by, r.at): r.seconds for r in results}.values()))
    shown = "".join(f"; kept, `selfreward scores {name}` shows it" for name in runs)
    return f"measured in {spent}{shown}"
