"""What the pages of the viewer say, as plain values: the runs, a run, a prompt, a training."""

import math
import socket
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from selfreward.charts import charts_of
from selfreward.config.secrets import check_secrets
from selfreward.errors import ConfigError, NotFoundError
from selfreward.measures.best import best_of
from selfreward.measures.curves import training_figures
from selfreward.measures.figures import IterationFigures
from selfreward.records import TRAINING
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.benchmark_table import benchmark_rows, benchmarks_of
from selfreward.verbs.findings import findings
from selfreward.verbs.lineage import lineage
from selfreward.verbs.scores import begun_iterations, health_lines
from selfreward.verbs.show import prompt_of
from selfreward.verbs.status import ls_row, status_of
from selfreward.viewer.demonstrations import demonstrations_of
from selfreward.viewer.why import why

CUT = 200_000
"""Characters of a text that a page is sent, unless it asks for all."""
_LEFT_OUT = "(not shown: it looks like a secret)"

FiguresOf = Callable[[Store, int], IterationFigures | None]
"""Figures of an iteration; None while they are computed."""


def runs_page(runs: Sequence[Run], figures: FiguresOf) -> list[Any]:
    """A row for each run, as ``selfreward ls --json`` has them."""
    return [msgspec.to_builtins(ls_row(run, figures)) for run in runs]


def run_page(run: Run, figures: FiguresOf) -> dict[str, Any]:
    """Where a run is, and the figures of its iterations with what they come to in words."""
    status = status_of(run)
    with run.store() as store:
        models = _lineage(run, store)
        benchmarks = benchmarks_of(run, store)
    found = figures_by_iteration(run, figures)
    known = [figures for figures in found.values() if figures is not None]
    return {
        "name": run.name,
        "host": socket.gethostname(),
        "status": msgspec.to_builtins(status),
        "iterations": msgspec.to_builtins(known),
        "pending": [t for t, figures in found.items() if figures is None],
        "findings": findings(known, best_of(run, known)),
        "warnings": health_lines(known),
        "charts": msgspec.to_builtins(charts_of(known)),
        "benchmarks": benchmark_rows(benchmarks, less=False) if benchmarks else [],
        "lineage": models,
        "settings": without_secrets(run.settings),
    }


def figures_by_iteration(run: Run, figures: FiguresOf) -> dict[int, IterationFigures | None]:
    """Of all iterations that have begun, in order."""
    with run.store() as store:
        return {t: figures(store, t) for t in begun_iterations(store)}


def _lineage(run: Run, store: Store) -> list[dict[str, Any]]:
    """The models of the run: the one it began with, then those that were trained, in order."""
    base = run.base_model()
    models: list[dict[str, Any]] = [
        {"model": "M0", "digest": base.get("digest"), "base": None, "iteration": None,
         "finished": None, "seconds": None}
    ]  # fmt: skip
    return [*models, *msgspec.to_builtins(lineage(store))]


def without_secrets(data: Any) -> Any:
    """Settings with whatever may be a key, a token or a password left out, and said so."""
    if isinstance(data, list | tuple):
        return [without_secrets(value) for value in data]
    if not isinstance(data, dict):
        return _LEFT_OUT if _is_secret(data) else data
    shown = {}
    for key, value in data.items():
        if _is_secret(str(key)):
            shown[_LEFT_OUT] = _LEFT_OUT
        elif isinstance(value, str) and _is_secret({key: value}):
            shown[str(key)] = _LEFT_OUT
        else:
            shown[str(key)] = without_secrets(value)
    return shown


def _is_secret(data: Any) -> bool:
    try:
        check_secrets(data, {}, "settings")
        return False
    except ConfigError:
        return True


def prompt_page(run: Run, iteration: int, attempt: int, *, full: bool = False) -> dict[str, Any]:
    """All that a run holds on one prompt.

    A text of more than ``CUT`` characters is sent as far as that, and the object that holds it has
    ``cut``, from the name of the field to how many characters it has.

    Args:
        full: Send all of every text.

    Raises:
        NotFoundError: There is no such prompt.
    """
    shown = prompt_of(run, iteration, attempt)
    page: dict[str, Any] = msgspec.to_builtins(shown)
    for response in page["responses"]:
        del response["token_ids"]
    with run.store() as store:
        rewritten = shown.origin is not None and shown.origin.operation is not None
        found = None if rewritten else demonstrations_of(run, store, iteration, attempt)
        page |= {
            "why": why(shown, run.settings),
            "demonstrations": msgspec.to_builtins(found),
            "previous": _beside(store, iteration, attempt, is_next=False),
            "next": _beside(store, iteration, attempt, is_next=True),
            "previous_iteration": _first(store, iteration, is_next=False),
            "next_iteration": _first(store, iteration, is_next=True),
        }
    return page if full else cut(page)


def cut(value: Any) -> Any:
    """The same with texts of at most ``CUT`` characters; see ``prompt_page``."""
    if isinstance(value, list | tuple):
        return [cut(each) for each in value]
    if not isinstance(value, dict):
        return value
    shown = {name: cut(each) for name, each in value.items()}
    long = {name: len(v) for name, v in value.items() if isinstance(v, str) and len(v) > CUT}
    for name in long:
        shown[name] = shown[name][:CUT]
    return shown | {"cut": long} if long else shown


def _beside(store: Store, iteration: int, attempt: int, *, is_next: bool) -> list[int] | None:
    """Iteration and attempt of the accepted prompt before or after one."""
    over, order = (">", "ASC") if is_next else ("<", "DESC")
    for where in (f"iteration = ? AND attempt {over} ?", f"iteration {over} ? AND ? IS NOT NULL"):
        query = (
            f"SELECT iteration, attempt FROM prompts WHERE {where} AND dropped IS NULL "
            f"ORDER BY iteration {order}, attempt {order} LIMIT 1"
        )
        for row in store.query(query, (iteration, attempt)):
            return [*row]
    return None


def _first(store: Store, iteration: int, *, is_next: bool) -> list[int] | None:
    """Iteration and attempt of the first accepted prompt of the iteration before or after one."""
    over, most = (">", "min") if is_next else ("<", "max")
    query = (
        "SELECT iteration, min(attempt) FROM prompts WHERE dropped IS NULL AND iteration = "
        f"(SELECT {most}(iteration) FROM prompts WHERE iteration {over} ? AND dropped IS NULL) "
        "GROUP BY iteration"
    )
    return next(([*row] for row in store.query(query, (iteration,))), None)


def training_page(run: Run, iteration: int) -> dict[str, Any]:
    """What the trainer logged, step by step, and in short; NaN is null.

    Raises:
        NotFoundError: Nothing was trained in that iteration.
    """
    with run.store() as store:
        names = [name for name in TRAINING if store.train_log(iteration, name)]
        if not names:
            raise NotFoundError(
                f"run {run.name}, iteration {iteration}: no training was logged",
                f"Iterations that have begun: {', '.join(map(str, begun_iterations(store)))}.",
            )
        stages = {name: store.train_log(iteration, name) for name in names}
        curves = training_figures(store, iteration)
    steps = {
        name: [
            {key: value if math.isfinite(value) else None for key, value in row.items()}
            for row in rows
        ]
        for name, rows in stages.items()
    }
    stage = "train" if "train" in steps else names[0]
    return {
        "stage": stage,
        "steps": steps[stage],
        "stages": steps,
        "curves": msgspec.to_builtins(curves),
    }
