"""Benchmarks of a model in a child process, so that the one that asks never holds it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfreward.errors import ConfigError, PreflightError
from selfreward.workers.process import Child

_BATCH = 8


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
    from selfreward.engines.likelihood import log_likelihoods

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
    """What lm-eval finds: its ``results``, ``versions`` and ``n-samples``, each by task.

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
    parts = ("results", "versions", "n-samples")
    say({"found": {part: {k: _plain(v) for k, v in found[part].items()} for part in parts}})


def _plain(value: Any) -> Any:
    """Numbers and texts of a result, as JSON has them."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
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
