"""Benchmarks of a model in a child process, so that the one that asks never holds it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from selfreward.config.evaluation import BenchmarkConfig
from selfreward.engines.likelihood import check_texts, log_likelihoods
from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs.choices import Choices, choices_digest
from selfreward.inputs.heldout import read_benchmark
from selfreward.measures.benchmarks import answered_right, benchmark_result
from selfreward.measures.reports import BenchmarkResults
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.workers.process import Child

REPORT = "benchmarks"
"""Name of the report on ``evaluation.benchmarks``."""

_BATCH = 8


def read_benchmarks(run: Run) -> list[tuple[BenchmarkConfig, list[Choices]]]:
    """``evaluation.benchmarks`` with the questions of each, from the run's own copies."""
    return [(each, read_benchmark(run, each.name)) for each in run.config.evaluation.benchmarks]


def num_choices(questions: Iterable[Choices]) -> int:
    """How many choices a model is asked about."""
    return sum(len(each.choices) for each in questions)


def check_benchmarks(run: Run, model: Path) -> None:
    """Check that the questions of a run's benchmarks fit into its model; its weights stay unread.

    Raises:
        ConfigError: One does not.
    """
    for number, (each, questions) in enumerate(read_benchmarks(run)):
        try:
            check_texts(model, _texts(each, questions), run.config.trust_remote_code)
        except ConfigError as error:
            key = f"evaluation.benchmarks.{number}"
            raise ConfigError(f"{key} ({each.name}): {error.message}", error.hint) from None


def take_benchmarks(
    run: Run, store: Store, iteration: int, on_done: Callable[[int], None]
) -> BenchmarkResults:
    """Ask the model that an iteration made, in this process.

    What it makes of each benchmark is kept at once: whatever cuts this off costs one of them.

    Args:
        on_done: Told how many choices are done of all.

    Raises:
        PreflightError: See ``log_likelihoods``.
    """
    kept, first = (store.report(t, REPORT, BenchmarkResults) for t in (iteration, 0))
    results = {each.name: each for each in (kept.results if kept else ())}
    of_first = {each.name: each for each in (first.results if first and iteration else ())}
    done = 0
    for each, questions in read_benchmarks(run):
        count = num_choices(questions)
        if each.name not in results:

            def show(asked: int, before: int = done) -> None:
                on_done(before + asked)

            likelihoods = log_likelihoods(
                run.policy(iteration + 1), _texts(each, questions), show,
                trust_remote_code=run.config.trust_remote_code,
            )  # fmt: skip
            results[each.name] = benchmark_result(
                each.name, choices_digest(questions), each.style,
                answered_right(questions, by_question(questions, likelihoods)),
                of_first.get(each.name),
            )  # fmt: skip
            store.save_report(iteration, REPORT, BenchmarkResults(tuple(results.values())))
        done += count
        on_done(done)
    return BenchmarkResults(tuple(results.values()))


def by_question(questions: Sequence[Choices], values: Iterable[float]) -> list[list[float]]:
    """The values of all choices, in order, as a list for each question."""
    rest = iter(values)
    return [[next(rest) for _ in each.choices] for each in questions]


def _texts(settings: BenchmarkConfig, questions: Sequence[Choices]) -> list[tuple[str, str]]:
    return [text for each in questions for text in each.asked(settings.style)]


def likelihoods_in_child(
    model: Path,
    texts: Sequence[tuple[str, str]],
    on_done: Callable[[int], None],
    *,
    trust_remote_code: bool = False,
) -> list[float]:
    """See ``log_likelihoods``.

    Raises:
        SelfRewardError: Whatever the child raised, or that it died.
    """
    job = {"work": "likelihood", "model": str(model), "texts": texts,
           "trust_remote_code": trust_remote_code}  # fmt: skip
    found: list[float] = _in_child(job, on_done)
    return found


def likelihood_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Do that in the child."""
    texts = [(context, continuation) for context, continuation in job["texts"]]
    trusted = job["trust_remote_code"]
    say({"found": log_likelihoods(Path(job["model"]), texts, say, trust_remote_code=trusted)})


def lm_eval_in_child(
    model: Path,
    tasks: Sequence[str],
    *,
    include_path: Path | None,
    limit: int | None,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """What lm-eval finds: its ``results``, ``versions``, ``n-samples`` and ``group_subtasks``.

    Args:
        tasks: Names of lm-eval's tasks and groups, or of those that ``include_path`` has.
        include_path: Directory with tasks of your own.

    Raises:
        ConfigError: There is no such task.
        PreflightError: lm-eval raised something else.
        SelfRewardError: The child died.
    """
    job = {"work": "lm_eval", "model": str(model), "tasks": [*tasks], "limit": limit,
           "include_path": None if include_path is None else str(include_path.resolve()),
           "trust_remote_code": trust_remote_code}  # fmt: skip
    found: dict[str, Any] = _in_child(job, lambda done: None)
    return found


def lm_eval_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Do that in the child."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    try:
        manager = TaskManager(include_path=job["include_path"])
        unknown = sorted({*job["tasks"]} - {*manager.all_tasks})
        if unknown:
            raise ConfigError(
                f"--tasks: lm-eval has no {', '.join(unknown)}",
                "`python -m lm_eval ls tasks` lists them; --include-path DIR adds yours.",
            )
        found = simple_evaluate(
            model="hf", tasks=job["tasks"], limit=job["limit"], task_manager=manager,
            model_args={"pretrained": job["model"], "dtype": "float32",
                        "trust_remote_code": job["trust_remote_code"]},
            batch_size=_BATCH, device="cuda" if torch.cuda.is_available() else "cpu",
            log_samples=False, bootstrap_iters=1000,
        )  # fmt: skip
    except ConfigError:
        raise
    except Exception as error:  # whatever a task, the hub or a model's code raises
        first = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise PreflightError(
            f"lm-eval: {type(error).__name__}: {first}",
            "Tasks of the hub need it within reach, or their data in its cache.",
        ) from error
    parts = ("results", "versions", "n-samples", "group_subtasks")
    say({"found": {part: {k: _plain(v) for k, v in found.get(part, {}).items()} for part in parts}})


def _plain(value: Any) -> Any:
    """Numbers and texts of a result, as JSON has them."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value if isinstance(value, (int, float)) else str(value)


def _in_child(job: dict[str, Any], on_done: Callable[[int], None]) -> Any:
    found: list[Any] = []

    def hear(said: Any) -> None:
        if isinstance(said, int):
            on_done(said)
        else:
            found.append(said["found"])

    with Child() as child:
        child.work(job, "benchmark process", hear=hear)
    return found[0]
