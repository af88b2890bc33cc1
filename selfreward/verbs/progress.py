"""Live progress on standard error: of a run, and of other work that can be counted.

Each stage of a run that ends leaves a line. Of the stage at work, a terminal shows a table of the
iteration that is redrawn in place, and stays as it was last; a file or pipe gets a plain line when
it begins, every 5% and at least every 30 s, without escape sequences. Other work has such lines
everywhere.
"""

import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from selfreward.errors import SelfRewardError
from selfreward.storage.directory import Run
from selfreward.verbs import console
from selfreward.verbs.course import (
    Course,
    StageRow,
    course_of,
    of_iterations,
    stage_cells,
    stage_rows,
    time_left,
    total_eta,
    whole_time,
)
from selfreward.verbs.layout import duration

_LINE_S = 30
_STEP = 0.05


class Display:
    """Shows how far a run is, as a context manager; call ``tick`` a few times a second.

    A display never stops a run: what goes wrong while reading or drawing is left out.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._iterations = run, run.settings["iterations"]
        self._view: _Table | _Lines = _Table() if console.is_terminal(sys.stderr) else _Lines()
        self._start = time.monotonic()
        self._ended: set[tuple[int, str]] | None = None
        self._num_events = 0
        self._broken = False

    def __enter__(self) -> "Display":
        with contextlib.suppress(sqlite3.Error, SelfRewardError), self._run.store() as store:
            self._num_events = len(store.events())
        self._view.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.tick()
        with contextlib.suppress(OSError):
            self._view.stop()

    def tick(self) -> None:
        """Show the state of now."""
        if self._broken:
            return
        try:
            self._show()
        except (sqlite3.Error, SelfRewardError):
            pass
        except OSError:
            self._broken = True  # nobody reads standard error any more

    def _show(self) -> None:
        with self._run.store() as store:
            course = course_of(store, is_running=True)
        ended = {(stage.iteration, stage.stage) for stage in course.finished}
        if self._ended is None:
            self._ended = ended
        for at, stage in [key for key in ended if key not in self._ended]:
            self._ended.add((at, stage))
            row = next(row for row in _rows(course, at) if row.stage == stage)
            self._view.line(_line(of_iterations(at, self._iterations), row))
        events = course.events[self._num_events :]
        self._num_events += len(events)
        for text in (text for _, kind, text in events if kind == "warning"):
            self._view.line(f"warning: {text}")
        iteration, rows, title = None, [], self._run.name
        if course.progress:
            iteration = course.progress[-1].iteration
            rows = _rows(course, iteration)
            title = f"{title}, {of_iterations(iteration, self._iterations)}"
        working = [row for row in rows if row.state == "working"]
        preparing = "" if working else _preparing(self._run, course, iteration)
        time_text = whole_time(course.seconds, course.eta_s)
        elapsed = time.monotonic() - self._start
        self._view.show(_Shown(title, time_text, elapsed, rows, preparing))


@dataclass(frozen=True, slots=True)
class _Shown:
    """What there is to show at one moment."""

    title: str
    """Names the run and its iteration."""
    time: str
    """That of the whole run, so far and left."""
    elapsed: float
    """Seconds since the display began."""
    rows: list[StageRow]
    """Stages of the iteration, none before the first."""
    preparing: str
    """What goes on while no stage is at work; empty while one is."""


def _rows(course: Course, iteration: int) -> list[StageRow]:
    planned = course.planned.get(iteration, [])
    return stage_rows(iteration, planned, course.progress, course.finished, since=course.since)


def _preparing(run: Run, course: Course, iteration: int | None) -> str:
    """What is done before the next stage is at work; empty where no stage is left."""
    if not run.base_model():
        return "preparing: checking the config, finding the model"
    ended = {(stage.iteration, stage.stage) for stage in course.finished}
    to_come = (
        (at, stage)
        for at in sorted(course.planned)
        for stage in course.planned[at]
        if (at, stage) not in ended
    )
    at, stage = next(to_come, (None, ""))
    if at is None:
        return ""
    what = _BEFORE.get(stage, "loading the model, and proving its engine if it is new to it")
    of = "" if at == iteration else f" of iteration {at}"
    return f"preparing {stage}{of}: {what}"


_BEFORE = {
    "sft": "making rows, loading the model",
    "train": "making rows, loading the model",
    "selection": "reading judgments",
    "pairs": "reading judgments",
}
"""What comes before a stage, where it is no engine."""


class Count:
    """Lines on a model's work, with the time that is left; the model's load is no part of it.

    Args:
        total: Of what is to be done.
        what: Its name, such as ``responses``.
        report: Told the lines.
        who: Does it.
        doing: The verb, and its past participle.
    """

    def __init__(
        self,
        total: int,
        what: str,
        report: Callable[[str], None],
        who: str = "the judge",
        doing: tuple[str, str] = ("judge", "judged"),
    ) -> None:
        self._total, self._report, self._pace = total, report, _Pace()
        self._start = self._ready = time.monotonic()
        self._done = doing[1]
        report(f"loading {who}; {total} {what} to {doing[0]}")

    def show(self, done: int) -> None:
        """Say how far it is, if there is something new to say; 0 when the model is loaded."""
        now = time.monotonic()
        if done == 0:
            self._ready = now
            return
        elapsed = now - self._ready
        if not self._pace.is_due(done / self._total, elapsed) and done < self._total:
            return
        left = time_left(done, self._total, elapsed)
        rest = "" if left is None else f", {duration(left)} left"
        if done >= self._total:
            rest = f", in {duration(elapsed)}"
        self._report(f"{self._done} {done} of {self._total}{rest}")

    def seconds(self) -> dict[str, float]:
        """Time spent until the model was loaded, and judging."""
        return {"load": self._ready - self._start, "judge": time.monotonic() - self._ready}


class _Pace:
    """When another line is due: at each further 5% of the work, and at least every 30 s."""

    def __init__(self) -> None:
        self._share = self._at = 0.0

    def is_due(self, share: float, elapsed: float, *, begins: bool = False) -> bool:
        """Whether to say where the work is now; what is said is remembered.

        Args:
            share: Of the work that is done, from 0 to 1.
            elapsed: Seconds since it began.
            begins: Whether it is another work than that of the line before.
        """
        due = begins or share - self._share >= _STEP or elapsed - self._at >= _LINE_S
        if due:
            self._share, self._at = share, elapsed
        return due


class _Lines:
    """Plain lines for logs and pipes."""

    def __init__(self) -> None:
        self._last: tuple[str, str] | None = None
        self._pace = _Pace()

    def start(self) -> None:
        """Nothing to prepare."""

    def stop(self) -> None:
        """Nothing to clean up."""

    def line(self, text: str) -> None:
        console.note(text)

    def show(self, shown: _Shown) -> None:
        working = [row for row in shown.rows if row.state == "working"]
        if not working and not shown.preparing:
            return
        key = (shown.title, working[0].stage if working else shown.preparing)
        shares = [row.done / row.total for row in working if row.total]
        share = sum(shares) / len(shares) if shares else 0.0
        if self._pace.is_due(share, shown.elapsed, begins=key != self._last):
            self._last = key
            head = f"{shown.title} ({shown.time})"
            self.line(_lines(head, working) if working else f"{head}: {shown.preparing}")


class _Table:
    """A table that rich redraws in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        screen = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(console=screen, auto_refresh=False)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        self._live.console.print(console.sanitize(text))

    def show(self, shown: _Shown) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        for row in shown.rows:
            style = _STYLES[row.state]
            table.add_row(*(Text(console.sanitize(cell), style=style) for cell in stage_cells(row)))
        head = Text.assemble((console.sanitize(shown.title), "bold"), "  ", (shown.time, "dim"))
        below = [Text(console.sanitize(shown.preparing), style="dim")] if shown.preparing else []
        self._live.update(Group(head, table, *below), refresh=True)


_STYLES = {"working": "", "stopped": "", "finished": "green", "waiting": "dim"}


def _lines(head: str, working: list[StageRow]) -> str:
    """One line for all stages at work; several at once share the time that is left."""
    if len(working) == 1:
        return _line(head, working[0])
    stages = [f"{row.stage} {row.done}/{row.total}" for row in working]
    left = total_eta(working)
    note = working[-1].note or working[0].note
    cells = [*stages, "" if left is None else f"{duration(left)} left", note]
    return f"{head}: {'  '.join(filter(None, cells))}"


def _line(head: str, row: StageRow) -> str:
    return f"{head}: {'  '.join(filter(None, stage_cells(row)))}"
