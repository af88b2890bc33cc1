"""The rows that a tracker is sent: each training by step, then the figures of the iteration.

Their order and places follow from the records alone: a step of a training, or the figures of an
iteration that is closed, has the number of all steps and figures before it, and one more.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from selfreward.measures.figures import figures_of
from selfreward.records import TRAINING
from selfreward.storage.store import ANEW, Store, anew_text
from selfreward.tracking.base import Row

_ODD = re.compile(r"[^\w ./-]")
"""What some tracker takes in no name."""
_STEPS = "SELECT iteration, stage, max(step) FROM train_log GROUP BY iteration, stage"
_BEGUN_ANEW = "SELECT text FROM events WHERE kind = ? ORDER BY rowid"


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that follow each other."""

    iteration: int
    stage: str | None
    """A training; None for the figures."""
    before: int
    """Rows before it."""
    last: int
    """The place of its last row that will not change."""


def rows_after(store: Store, after: int) -> Iterator[Row]:
    """The rows behind a place, in order.

    The last step of a training that goes on is left for later: it may get more figures.
    """
    for part in _parts(store):
        if part.last <= after:
            continue
        if part.stage is None:
            figures = asdict(figures_of(store, part.iteration))
            figures.pop("iteration")
            values = {_name("figures", *path): value for path, value in _numbers(figures)}
            yield Row(part.last, {"iteration": part.iteration, **values})
            continue
        group = "dpo" if part.iteration else "sft"
        for logged in store.train_log(part.iteration, part.stage):
            at = part.before + int(logged["step"])
            if after < at <= part.last:
                values = {_name(group, name): v for name, v in logged.items() if name != "step"}
                yield Row(at, {"iteration": part.iteration, **values})


def bounds(store: Store) -> tuple[int, int]:
    """Rows before the part that is last, and the place of the last row that will not change."""
    parts = [*_parts(store)]
    return (parts[-1].before, parts[-1].last) if parts else (0, 0)


def begun_anew(store: Store) -> list[int]:
    """For each time that a training was begun anew, in order, the rows before that training."""
    parts = [*_parts(store)]
    end = parts[-1].last if parts else 0
    before = {anew_text(p.iteration, p.stage): p.before for p in parts if p.stage is not None}
    return [before.get(text, end) for (text,) in store.query(_BEGUN_ANEW, (ANEW,))]


def _parts(store: Store) -> Iterator[_Part]:
    steps = {(t, stage): last for t, stage, last in store.query(_STEPS)}
    finished = {(stage.iteration, stage.stage) for stage in store.stages()}
    closed = {*store.closed}
    before = 0
    for iteration in sorted({t for t, _ in {*steps, *finished}} | closed):
        for stage in TRAINING:
            if num_steps := steps.get((iteration, stage), 0):
                is_open = (iteration, stage) not in finished
                yield _Part(iteration, stage, before, before + num_steps - is_open)
                if is_open:
                    return
                before += num_steps
        if iteration in closed:
            yield _Part(iteration, None, before, before + 1)
            before += 1


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """All numbers in nested mappings; lists, such as the bins of a histogram, are left out."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, (*path, str(name)))
    elif isinstance(value, int | float):
        yield path, float(value)


def _name(*path: str) -> str:
    return _ODD.sub("_", "/".join(path))
