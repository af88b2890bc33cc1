"""What ``selfreward benchmark`` does: models on questions that have one right answer."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import selfreward
from selfreward import DISTRIBUTION
from selfreward.config import SeedSource
from selfreward.config.evaluation import Style
from selfreward.engines.installed import has_module, version
from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs.choices import Choices, choices_digest, read_choices
from selfreward.inputs.rows import SUFFIXES
from selfreward.measures.benchmarks import answered_right, scored
from selfreward.storage.benchmarks import Benchmark, Score, add_benchmarks
from selfreward.storage.store import now
from selfreward.verbs.layout import duration
from selfreward.verbs.named_models import NamedModel, named_model
from selfreward.workers.benchmark import by_question, likelihoods_in_child, lm_eval_in_child

_NORMAL_95 = 1.96
INSTALL = f"pip install '{DISTRIBUTION}[eval]'"


def contestants(words: Sequence[str], report: Callable[[str], None]) -> list[NamedModel]:
    """The models that ``RUN:M2``, or any model source, names.

    Raises:
        ConfigError, NotFoundError: There is no such model.
        LockedError: Its run is under way, so what is found could not be kept at the end.
    """
    found = [named_model(word, report) for word in dict.fromkeys(words)]
    for each in found:
        if each.run is not None:
            with each.run.locked():
                pass
    return found


def benchmark_files(
    who: Sequence[NamedModel],
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
    if missing := [file for file in files if not Path(file).is_file()]:
        raise ConfigError(
            f"--task {missing[0]}: no such file",
            "Name a local file; --tasks takes the tasks of lm-eval.",
        )
    tasks = {file: read_choices(SeedSource(path=file, limit=limit)) for file in files}
    made = []
    for each in who:
        found = [_ask(each, f, questions, style, limit, report) for f, questions in tasks.items()]
        _keep(each, found)
        made += _called(each, found, who)
    return made


def _ask(
    who: NamedModel,
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
    likelihoods = likelihoods_in_child(
        Path(who.path), texts, count.show, trust_remote_code=who.trusted
    )
    right = answered_right(questions, by_question(questions, likelihoods))
    return Benchmark(
        model=who.short, digest=who.digest or "", task=_task_name(file),
        by=f"selfreward {selfreward.__version__}", version=choices_digest(questions), style=style,
        limit=limit, n=len(questions), scores={name: scored(r) for name, r in right.items()},
        right=right, seconds=time.monotonic() - began, at=now(),
    )  # fmt: skip


def _task_name(file: str) -> str:
    """Such as ``openbookqa/test``, as files of several tasks are called ``test``."""
    path = Path(file).resolve()
    name = path.name.removesuffix(".gz")
    suffix = next((each for each in SUFFIXES if name.lower().endswith(each)), "")
    return f"{path.parent.name}/{name[: len(name) - len(suffix)]}"


def benchmark_lm_eval(
    who: Sequence[NamedModel],
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
    if not has_module("lm_eval"):
        raise PreflightError("--tasks: lm-eval is not installed", f"Run `{INSTALL}`.")
    if include_path is not None and not include_path.is_dir():
        raise ConfigError(f"--include-path {include_path}: no such directory")
    made = []
    for each in who:
        report(f"lm-eval asks {each.name}: {', '.join(tasks)}")
        began = time.monotonic()
        found = lm_eval_in_child(
            Path(each.path), tasks, include_path=include_path, limit=limit,
            trust_remote_code=each.trusted,
        )  # fmt: skip
        results = [*_results(each, found, limit, time.monotonic() - began)]
        _keep(each, results)
        made += _called(each, results, who)
    return made


def _results(
    who: NamedModel, found: dict[str, Any], limit: int | None, seconds: float
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
            model=who.short, digest=who.digest or "", task=task, by=f"lm-eval {version('lm_eval')}",
            version=str(found["versions"].get(task, "")), style="", limit=limit,
            n=_num_asked(task, found), scores=scores, right={},
            seconds=seconds, at=now(),
        )  # fmt: skip


def _num_asked(task: str, found: dict[str, Any]) -> int:
    """Questions of a task, or of all tasks of a group; 0 where lm-eval does not say."""
    if task in found["n-samples"]:
        return int(found["n-samples"][task].get("effective", 0))
    return sum(_num_asked(part, found) for part in found["group_subtasks"].get(task, ()))


def _called(each: NamedModel, found: list[Benchmark], who: Sequence[NamedModel]) -> list[Benchmark]:
    """Results as they are shown: by the full name where another model has the same short one."""
    if [one.short for one in who].count(each.short) == 1:
        return found
    return [replace(result, model=each.name) for result in found]


def _keep(who: NamedModel, results: Sequence[Benchmark]) -> None:
    if who.run is not None:
        add_benchmarks(who.run, results)


def kept_text(who: Sequence[NamedModel], results: Sequence[Benchmark]) -> str:
    """Where the results are kept, and how long they took."""
    runs = dict.fromkeys(each.run.name for each in who if each.run is not None)
    spent = duration(sum({(r.model, r.by, r.at): r.seconds or 0.0 for r in results}.values()))
    shown = "".join(f"; kept, `selfreward scores {name}` shows it" for name in runs)
    return f"measured in {spent}{shown}"
