"""Sends a run's rows to one tracker, in a process of its own, and never writes to its records."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from selfreward.errors import LockedError
from selfreward.storage.directory import Run
from selfreward.tracking.base import About, Row, Tracker, open_tracker
from selfreward.tracking.rows import begun_anew, bounds, rows_after
from selfreward.tracking.watermark import Watermark

_BATCH = 200
"""Rows between two marks."""
_TICK_S = 0.2
_LOOK_S = 2.0
"""Seconds between two looks at the records."""
_RETRY_S = 30.0
"""Seconds that a tracker which failed is left alone."""
_LOG = logging.getLogger(__name__)


def watermark_path(run: Run, name: str) -> Path:
    """Where the watermark of a tracker is."""
    return run.path / "tracking" / f"{name}.json"


def follow(run: Run, name: str, is_ended: Callable[[], bool]) -> None:
    """Send what there is and what comes, until the run has ended and all is sent.

    Whatever a tracker raises is logged, and it is tried again later.

    Args:
        name: One of ``config.run.TRACKERS``.
        is_ended: Whether nothing more will come.

    Raises:
        LockedError: Another process sends to this tracker.
        Exception: What the tracker raised at the end.
    """
    path = watermark_path(run, name)
    path.parent.mkdir(exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            _follow(_Line(run, name, path), is_ended)
    except Timeout:
        raise LockedError(f"{path}: another process sends to {name} now") from None


def _follow(line: "_Line", is_ended: Callable[[], bool]) -> None:
    due = 0.0
    while True:
        is_last = is_ended()
        if not is_last and time.monotonic() < due:
            time.sleep(_TICK_S)
            continue
        try:
            line.send()
            if is_last:
                line.close()
                return
            due = time.monotonic() + _LOOK_S
        except Exception:
            line.forget()
            if is_last:
                raise
            _LOG.exception("tried again in %g s", _RETRY_S)
            due = time.monotonic() + _RETRY_S


class _Line:
    """The way to one tracker."""

    def __init__(self, run: Run, name: str, path: Path) -> None:
        self._run, self._name, self._path = run, name, path
        self._tracker: Tracker | None = None
        self._mark = self._kept = Watermark.read(path)

    def send(self) -> None:
        """Send all that is new."""
        with self._run.store() as store:
            while True:
                with store.snapshot():
                    mark = self._mark.begun_anew(*bounds(store), begun_anew(store))
                    rows = [*islice(rows_after(store, mark.sent), _BATCH)]
                if not rows:
                    return
                if self._tracker is None:
                    self._tracker = open_tracker(self._name, _about(self._run))
                    self._mark = self._mark.behind(self._tracker.last())
                    self._keep()
                elif mark == self._mark:
                    self._log(self._tracker, rows)
                elif self._mark == self._kept:
                    self._mark = mark  # before any row of the training that was begun anew
                    self._keep()
                else:
                    self.close()  # so that all of the training before is known to be kept

    def _log(self, tracker: Tracker, rows: list[Row]) -> None:
        for row in rows:
            tracker.log(Row(row.at + self._mark.shift, row.values))
        self._mark = replace(self._mark, sent=rows[-1].at)
        if tracker.flush():
            self._keep()

    def close(self) -> None:
        """End the tracker; what it took is kept."""
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        self._keep()

    def forget(self) -> None:
        """Leave a tracker that failed: what is not known to be kept is sent again."""
        self._tracker, self._mark = None, self._kept

    def _keep(self) -> None:
        if self._mark != self._kept:
            self._mark.write(self._path)
            self._kept = self._mark


def _about(run: Run) -> About:
    with run.store() as store:
        first = store.events()[:1]
    text = f"{run.name} {first}"
    run_id = f"{run.name[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    config = run.config.model_dump(mode="json")
    return About(run_id, run.name, config, (run.path / "tracking").resolve())
