"""How far a run and its stages are, and for how long: from what it records while it works."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from selfreward.records import Progress, Stage
from selfreward.storage.changes import BRANCHED, CONFIGURED, REMOVED
from selfreward.storage.store import ANEW, Store
from selfreward.verbs.layout import duration

_LEAST_UNITS, _LEAST_S = 2, 5
"""What must be done, and for how many seconds, before it says how long the rest takes: ours. The
first unit of a stage comes with all that is done once."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """How far a stage is."""

    stage: str
    state: Literal["waiting", "working", "stopped", "finished"] = "waiting"
    """``stopped``: it has begun, and nobody works on it."""
    done: int = 0
    """Units of work, such as records."""
    total: int | None = None
    """None where it is not known, and of a finished stage."""
    seconds: float = 0.0
    """Spent on it, over all launches."""
    rate: float | None = None
    """Units a second; None while there is nothing to go by."""
    eta_s: float | None = None
    """Seconds left; None where unknown."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Course:
    """What a run has recorded of its way, as read at one moment."""

    progress: list[Progress]
    finished: list[Stage]
    events: list[tuple[str, str, str]]
    planned: dict[int, list[str]]
    """Stages of each iteration, which are all that there will be."""
    seconds: float
    """Worked on the run, over all launches."""
    since: str | None
    """UTC time of the launch that works on it now; None: nobody does."""

    @property
    def eta_s(self) -> float | None:
        """Seconds left of the whole run; a stage to come takes as long as it took the last time.

        None before there is a last time, and where nobody works on the run.
        """
        if self.since is None:
            return None
        took = {stage.stage: stage.seconds for stage in self.finished if stage.iteration > 0}
        ended = {(stage.iteration, stage.stage) for stage in self.finished}
        begun = {(p.iteration, p.stage): p for p in self.progress}
        left = 0.0
        for iteration, stages in self.planned.items():
            for stage in stages:
                if (iteration, stage) in ended:
                    continue
                p = begun.get((iteration, stage))
                needs = eta(p) if p else None
                if needs is None and stage in took:
                    needs = max(0.0, took[stage] - (p.seconds if p else 0.0))
                if needs is None:
                    return None
                left += needs
        return left


def course_of(store: Store, *, is_running: bool) -> Course:
    """Read what a run has recorded of its way."""
    progress, finished, events = store.progress(), store.stages(), store.events()
    launches = [at for at, kind, _ in events if kind == "launched"]
    since = None if not is_running else launches[-1] if launches else ""
    worked = _worked(events, [p.at for p in progress], is_running)
    return Course(progress, finished, events, store.plans(), worked, since)


def _worked(
    events: Sequence[tuple[str, str, str]], progress: Sequence[str], is_running: bool
) -> float:
    """Seconds from each launch to the last that it recorded, or to now.

    What is recorded between launches, such as a change of the config, belongs to none.

    Args:
        progress: When each stage was last worked on.
    """
    launches = [_seconds(at) for at, kind, _ in events if kind == "launched"]
    between = (ANEW, BRANCHED, CONFIGURED, REMOVED)
    own = [at for at, kind, _ in events if kind not in between]
    recorded = [_seconds(at) for at in (*own, *progress)]
    ends = [*launches[1:], math.inf]
    if is_running:
        recorded.append(datetime.now(UTC).timestamp())
    return sum(
        max(at for at in recorded if begin <= at < end or at == begin) - begin
        for begin, end in zip(launches, ends, strict=False)
    )


def _seconds(at: str) -> float:
    """Seconds since 1970 of a UTC time as the store writes it."""
    return datetime.fromisoformat(at).timestamp()


def stage_rows(
    iteration: int,
    planned: Sequence[str],
    progress: Sequence[Progress],
    finished: Sequence[Stage],
    *,
    since: str | None = "",
) -> list[StageRow]:
    """The planned stages of an iteration, in order.

    Args:
        since: UTC time of the launch that works on the run; None: nobody does. A stage on which
            it has not gone on yet is stopped, and has no time left.
    """
    begun = {p.stage: p for p in progress if p.iteration == iteration}
    ended = {s.stage: s for s in finished if s.iteration == iteration}
    rows = []
    for stage in planned:
        p, end = begun.get(stage), ended.get(stage)
        speed = rate(p) if p else None
        if end:
            row = StageRow(stage, "finished", end.rows, None, end.seconds, speed, 0.0)
        elif p:
            works = since is not None and p.at >= since
            state: Literal["working", "stopped"] = "working" if works else "stopped"
            left = eta(p) if works else None
            row = StageRow(stage, state, p.done, p.total or None, p.seconds, speed, left, p.note)
        else:
            row = StageRow(stage)
        rows.append(row)
    return rows


def rate(progress: Progress) -> float | None:
    """Units a second, None while there is nothing to go by."""
    return progress.done / progress.seconds if progress.done and progress.seconds else None


def eta(progress: Progress) -> float | None:
    """Seconds that the rest of the stage takes at the rate so far."""
    return time_left(progress.done, progress.total, progress.seconds)


def time_left(done: int, total: int, seconds: float) -> float | None:
    """Seconds for the rest of some work at its rate so far; None while there is too little of it.

    Args:
        done, total: Units of work; a total of 0 is not known.
        seconds: Spent on ``done``.
    """
    if not total or done < _LEAST_UNITS or seconds < _LEAST_S:
        return None
    return max(0, total - done) * seconds / done


def total_eta(working: Sequence[StageRow]) -> float | None:
    """Seconds left of the stages at work; as they share the time, theirs add up."""
    left = [row.eta_s for row in working if row.eta_s is not None]
    return sum(left) if left and len(left) == len(working) else None


def stage_cells(row: StageRow) -> list[str]:
    """A row of ``stage_rows`` as text: stage, done, share, pace, time left, note."""
    if row.state == "waiting":
        return [row.stage, "waiting"]
    if row.state == "finished":
        return [row.stage, f"finished, {row.done} in {duration(row.seconds)}"]
    total = row.total
    done = f"{row.done}/{total}" if total else "starting"
    percent = f"{row.done / total:.0%}" if total else ""
    left = "" if row.eta_s is None else f"{duration(row.eta_s)} left"
    if row.state == "stopped":
        done, left = done if total else "begun", "stopped"
    elif total and row.done >= total:
        left = "finishing"
    return [row.stage, done, percent, _pace(row.rate), left, row.note]


def of_iterations(iteration: int, iterations: int) -> str:
    """Such as ``iteration 1 of 2``."""
    return f"iteration {iteration} of {iterations}"


def whole_time(seconds: float, eta_s: float | None) -> str:
    """Time of the whole run, so far and left, such as ``4 min 05 s, about 12 min 00 s left``."""
    return duration(seconds) + (f", about {duration(eta_s)} left" if eta_s else "")


def _pace(rate: float | None) -> str:
    """Such as ``3.1/s`` or ``12 s each``."""
    if rate is None:
        return ""
    return f"{rate:.1f}/s" if rate >= 1 else f"{duration(1 / rate)} each"
