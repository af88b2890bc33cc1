"""Live progress on standard error: of a run, and of other work that can be counted.

Each stage of a run that ends leaves a line. Of the stage at work, a terminal shows a table of the
iteration that is redrawn in place; a file or pipe gets a plain line when it begins, every 5% and at
least every 30 s, without escape sequences. Other work has such lines everywhere.
"""

import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable
from types import TracebackType

from selfreward.errors import SelfRewardError
from selfreward.storage.directory import Run
from selfreward.verbs import console
from selfreward.verbs.layout import duration
from selfreward.verbs.status import StageRow, stage_cells, stage_rows, total_eta

_LINE_S = 30
_STEP = 0.05


class Display:
    """Shows how far a run is, as a context manager; call ``tick`` a few times a second.

    A display never stops a run: what goes wrong while reading or drawing is left out.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._view = _Table() if console.is_terminal(sys.stderr) else _Lines()
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
            progress, finished = store.progress(), store.stages()
            events = store.events()[self._num_events :]
            iterations = {p.iteration for p in progress} | {s.iteration for s in finished}
            planned = {iteration: store.planned(iteration) for iteration in iterations}
        ended = {(stage.iteration, stage.stage): stage for stage in finished}
        if self._ended is None:
            self._ended = set(ended)
        for key in [key for key in ended if key not in self._ended]:
            self._ended.add(key)
            rows = stage_rows(key[0], planned[key[0]], progress, finished)
            row = next(row for row in rows if row.stage == key[1])
            self._view.line(_line(key[0], row))
        self._num_events += len(events)
        for text in (text for _, kind, text in events if kind == "warning"):
            self._view.line(f"warning: {text}")
        iteration = progress[-1].iteration if progress else None
        rows = []
        if iteration is not None:
            rows = stage_rows(iteration, planned[iteration], progress, finished)
        self._view.show(iteration, rows, time.monotonic() - self._start)


class Count:
    """Lines on a judge's work, with the time that is left; the model's load is no part of it.

    Args:
        total: Of what is to be judged.
        what: Its name, such as ``responses``.
        report: Told the lines.
    """

    def __init__(self, total: int, what: str, report: Callable[[str], None]) -> None:
        self._total, self._report, self._pace = total, report, _Pace()
        self._start = self._ready = time.monotonic()
        report(f"loading the judge; {total} {what} to judge")

    def show(self, done: int) -> None:
        """Say how far it is, if there is something new to say; 0 when the model is loaded."""
        now = time.monotonic()
        if done == 0:
            self._ready = now
            return
        elapsed = now - self._ready
        if not self._pace.is_due(done / self._total, elapsed) and done < self._total:
            return
        left = elapsed / done * (self._total - done)
        rest = f"{duration(left)} left" if left else f"in {duration(elapsed)}"
        self._report(f"judged {done} of {self._total}, {rest}")

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
        self._last: tuple[int | None, str] | None = None
        self._pace = _Pace()

    def start(self) -> None:
        """Nothing to prepare."""

    def stop(self) -> None:
        """Nothing to clean up."""

    def line(self, text: str) -> None:
        console.note(text)

    def show(self, iteration: int | None, rows: list[StageRow], elapsed: float) -> None:
        working = [row for row in rows if row.state == "working"]
        key = (iteration, working[0].stage if working else "preparing")
        shares = [row.done / row.total for row in working if row.total]
        share = sum(shares) / len(shares) if shares else 0.0
        if self._pace.is_due(share, elapsed, begins=key != self._last):
            self._last = key
            self.line(_lines(iteration, working) if working else f"preparing, {duration(elapsed)}")


class _Table:
    """A table that rich redraws in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        screen = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(console=screen, auto_refresh=False, transient=True)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        self._live.console.print(console.sanitize(text))

    def show(self, iteration: int | None, rows: list[StageRow], elapsed: float) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        title = "preparing" if iteration is None else f"iteration {iteration}"
        table.add_row(Text(title, style="bold"), Text(duration(elapsed), style="dim"))
        for row in rows:
            style = {"working": "", "finished": "green", "waiting": "dim"}[row.state]
            table.add_row(*(Text(console.sanitize(cell), style=style) for cell in stage_cells(row)))
        self._live.update(table, refresh=True)


def _lines(iteration: int | None, working: list[StageRow]) -> str:
    """One line for all stages at work; several at once share the time that is left."""
    if len(working) == 1:
        return _line(iteration, working[0])
    stages = [f"{row.stage} {row.done}/{row.total}" for row in working]
    left = total_eta(working)
    note = working[-1].note or working[0].note
    cells = [*stages, "" if left is None else f"{duration(left)} left", note]
    return f"iteration {iteration}: {'  '.join(filter(None, cells))}"


def _line(iteration: int | None, row: StageRow) -> str:
    return f"iteration {iteration}: {'  '.join(filter(None, stage_cells(row)))}"
