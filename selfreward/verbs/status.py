"""Where runs are: stage, rate, time left, last error, owner.

Everything comes from the run directory, so another shell sees what the running one does.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from selfreward.errors import NotFoundError, SelfRewardError
from selfreward.measures.figures import IterationFigures, figures_of
from selfreward.records import Stage
from selfreward.storage.changes import ENDED, Branch, branch_of
from selfreward.storage.directory import Run, list_runs, runs_root
from selfreward.storage.store import Store
from selfreward.verbs.console import bold, dim
from selfreward.verbs.course import (
    StageRow,
    course_of,
    of_iterations,
    stage_cells,
    stage_rows,
    total_eta,
    whole_time,
)
from selfreward.verbs.layout import table
from selfreward.verbs.maintenance import told_as_damage


@dataclass(frozen=True, slots=True)
class OwnerStatus:
    """The process that wrote last."""

    epoch: int
    host: str
    pid: int
    since: str
    """UTC time."""
    alive: bool
    here: bool
    """Whether it is of this machine."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run is."""

    run: str
    path: str
    model: str
    iterations: int
    state: str
    """``running``, ``stopped``, ``failed``, ``waiting`` or ``finished``."""
    iteration: int
    stage: str | None
    """The first of those at work, else the last one that has begun; None before."""
    done: int | None
    """Of the stage at work, None where there is none; like the next three, see ``StageRow``."""
    total: int | None
    rate: float | None
    note: str
    eta_s: float | None
    """Seconds left of all stages at work; None where unknown."""
    seconds: float
    """Worked on the run, over all launches."""
    run_eta_s: float | None
    """Seconds left of the whole run, as long as its stages took before; None where unknown."""
    updated: str | None
    """UTC time of the last progress."""
    stages: tuple[StageRow, ...]
    """Of the current iteration."""
    owner: OwnerStatus
    error: str | None
    """With which the run ended, if it did."""
    waits: str | None
    """For whose votes it waits, and how they come in."""
    warnings: tuple[str, ...]
    """Of the last launch."""
    branch: Branch | None
    """From which run and iteration its first records were copied; None: it made all itself."""
    ended: str | None
    """Why it ended before its last iteration; see ``best.patience``."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in short; see ``Status``."""

    run: str
    model: str
    iterations: int
    state: str
    iteration: int
    stage: str | None
    updated: str | None
    error: str | None
    pairs: int
    """Of all iterations."""
    scores_iteration: int | None
    """The last one with judgments, of which the next three are."""
    mean: float | None
    """Score, 0 to 5; None without scores."""
    se: float | None
    """Its standard error."""
    n: int
    """Responses with a score."""
    branch: Branch | None
    """See ``Status``."""


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A run that cannot be read."""

    run: str
    state: Literal["damaged"]
    error: str


def status_of(run: Run) -> Status:
    """Where a run is."""
    settings, owned = run.settings, run.is_owned
    with run.store() as store:
        course = course_of(store, is_running=owned)
        events, owner = course.events, store.owner()
        last = course.progress[-1] if course.progress else None
        iteration = last.iteration if last else 0 if settings["sft"] is not None else 1
        planned = course.planned.get(iteration, [])
    rows = stage_rows(iteration, planned, course.progress, course.finished, since=course.since)
    working = [row for row in rows if row.state in ("working", "stopped")]
    begun = [row.stage for row in rows if row.state != "waiting"]
    now = working[0] if working else None
    _, ended_as, ending = events[-1] if events else ("", "", "")
    launches = [at for at, (_, kind, _) in enumerate(events) if kind == "launched"]
    launched = events[launches[-1] :] if launches else []
    return Status(
        run=run.name,
        path=str(run.path),
        model=settings["model"],
        iterations=settings["iterations"],
        state=_state(owned, [kind for _, kind, _ in events]),
        iteration=iteration,
        stage=now.stage if now else begun[-1] if begun else None,
        done=now.done if now else None,
        total=now.total if now else None,
        rate=now.rate if now else None,
        note=now.note if now else "",
        eta_s=total_eta(working),
        seconds=course.seconds,
        run_eta_s=course.eta_s,
        updated=last.at if last else None,
        stages=tuple(rows),
        owner=OwnerStatus(**owner, alive=owned, here=owner["host"] == socket.gethostname()),
        error=ending if ended_as == "error" else None,
        waits=ending if ended_as == "waiting" else None,
        warnings=tuple(text for _, kind, text in launched if kind == "warning"),
        branch=branch_of(events),
        ended=why_ended(events),
    )


def last_model(status: Status) -> str:
    """What the run makes last, or has made where it ended before."""
    return f"M{(status.iteration if status.ended else status.iterations) + 1}"


def status_text(status: Status) -> str:
    """What ``selfreward status`` prints."""
    owner, branch = status.owner, status.branch
    where = "" if owner.here else f" on {owner.host}"
    who = f", process {owner.pid}{where} since {owner.since}" if owner.alive else ""
    lines = [
        f"{bold(status.run)}  {status.state}{who}",
        dim(f"{status.model}, M0 to {last_model(status)}; {status.path}"),
        *([dim(_branch_text(branch))] if branch else []),
        "",
        f"{of_iterations(status.iteration, status.iterations)}, "
        f"{whole_time(status.seconds, status.run_eta_s)}",
        table([stage_cells(row) for row in status.stages], indent="  "),
    ]
    if status.ended:
        lines += ["", f"ended {status.ended}"]
    if status.warnings:
        lines += ["", *(f"warning: {text}" for text in status.warnings)]
    if status.error:
        lines += ["", f"last error: {status.error}"]
    if status.waits:
        lines += ["", status.waits]
    if status.state in ("stopped", "failed"):
        lines += ["", f"continue with: selfreward resume {status.run}"]
    return "\n".join(lines)


def _branch_text(branch: Branch) -> str:
    stage, at = branch.stage, f"iteration {branch.iteration} on ({branch.digest[:12]})"
    last = "the pairs" if stage == "pairs" else f"stage {stage}"
    return f"branch of {branch.run} from {last} of {at}"


def ls_rows() -> list[RunRow | DamagedRow]:
    """One row per run under the runs directory."""
    return [ls_row(run) for run in list_runs()]


def ls_row(
    run: Run, figures: Callable[[Store, int], IterationFigures | None] = figures_of
) -> RunRow | DamagedRow:
    """A run in short.

    Args:
        figures: Of an iteration; None where they are not to be waited for.
    """
    try:
        with told_as_damage(run):
            return _ls_row(run, figures)
    except (SelfRewardError, OSError) as error:
        return DamagedRow(run.name, "damaged", str(error))


def _ls_row(run: Run, figures: Callable[[Store, int], IterationFigures | None]) -> RunRow:
    status = status_of(run)
    with run.store() as store:
        pairs = next(store.query("SELECT count(*) FROM pairs"))[0]
        last = next(store.query("SELECT max(iteration) FROM judgments"))[0]
        of_last = figures(store, last) if last else None
    scores = of_last.scores if of_last else None
    return RunRow(
        run=status.run,
        model=status.model,
        iterations=status.iterations,
        state=status.state,
        iteration=status.iteration,
        stage=status.stage,
        updated=status.updated,
        error=status.error,
        pairs=pairs,
        scores_iteration=last,
        mean=scores.mean if scores else None,
        se=scores.se if scores else None,
        n=scores.n if scores else 0,
        branch=status.branch,
    )


def ls_text(rows: Sequence[RunRow | DamagedRow]) -> str:
    """What ``selfreward ls`` prints."""
    if not rows:
        return f"no runs in {runs_root()}/; make one: selfreward run quickstart"
    head = ("run", "state", "model", "iteration", "stage", "pairs", "score")
    return table([[bold(name) for name in head], *map(_ls_cells, rows)])


def _ls_cells(row: RunRow | DamagedRow) -> list[str]:
    if isinstance(row, DamagedRow):
        return [row.run, row.state, row.error]
    iteration = f"{row.iteration} of {row.iterations}"
    name = f"{row.run} (of {row.branch.run})" if row.branch else row.run
    cells = [name, row.state, row.model, iteration, row.stage or "-"]
    return [*cells, str(row.pairs), _mean(row)]


def newest_run() -> Run:
    """The run that was written to last.

    Raises:
        NotFoundError: There is no run yet.
    """
    runs = list_runs()
    if not runs:
        raise NotFoundError(f"no runs in {runs_root()}/", "Make one: selfreward run quickstart")
    return max(runs, key=_touched)


def is_complete(run: Run) -> bool:
    """Whether nothing is left to do."""
    settings = run.settings
    with run.store() as store:
        events, stages = store.events(), store.stages()
    last = (settings["iterations"], "train")
    nothing_to_train = settings["iterations"] == 0 and settings["sft"] is None
    if not events or events[-1][1] != "finished":
        return False
    return nothing_to_train or last in _keys(stages) or why_ended(events) is not None


def why_ended(events: Sequence[tuple[str, str, str]]) -> str | None:
    """Why the last launch ended the run before its last iteration; None where it did not."""
    last = [text for _, kind, text in events[-2:] if kind == ENDED]
    return last[0] if last else None


def _state(owned: bool, kinds: Sequence[str]) -> str:
    if owned:
        return "running"
    last = kinds[-1] if kinds else ""
    return {"finished": last, "waiting": last, "error": "failed"}.get(last, "stopped")


def _keys(stages: Sequence[Stage]) -> set[tuple[int, str]]:
    return {(stage.iteration, stage.stage) for stage in stages}


def _mean(row: RunRow) -> str:
    if row.mean is None:
        return "n/a (no scores)"
    error = "n/a" if row.se is None else f"{row.se:.2f}"
    return f"{row.mean:.2f} ± {error} (n = {row.n})"


def _touched(run: Run) -> float:
    files = (run.records, run.records.with_name("records.db-wal"))
    return max(file.stat().st_mtime for file in files if file.exists())
