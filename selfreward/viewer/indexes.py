"""Side files that follow their runs: a few rows at once, many in a child process."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from selfreward.errors import PreflightError, SelfRewardError
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.viewer.index import Extent, extend, extent
from selfreward.viewer.side import discard, open_side, side_file

_AT_ONCE = 100
"""So many rows are taken in while a request waits."""
_LINGERS_S, _EACH_S = 20.0, 0.5
"""For so long a child waits for more, and how often it looks: a run that writes goes on."""
_PATIENCE_S = 2.0


class Indexes:
    """Opens side files and has them extended."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def opened(self, run: Run) -> Iterator[tuple[sqlite3.Connection, Store, Extent]]:
        """The side file of a run, its store, and how much of the run is in it.

        What is missing is taken in before, if it is little; else by a child, meanwhile.
        """
        with run.store() as store, closing(open_side(run, store)) as side:
            try:
                found = extent(side, store)
                if found.behind:
                    found = self._extend(run, side, store, found)
                yield side, store, found
            except sqlite3.DatabaseError as error:
                with self._lock:
                    child = self._children.pop(str(run.path.resolve()), None)
                if child is not None:
                    _end(child)
                discard(side_file(run, store))
                raise PreflightError(
                    f"the side file of run {run.name} could not be read ({error}), and was removed",
                    "Load the page again: it is made anew.",
                ) from error

    def _extend(self, run: Run, side: sqlite3.Connection, store: Store, found: Extent) -> Extent:
        path = str(run.path.resolve())
        with self._lock:
            child = self._children.get(path)
            if child is not None and child.poll() is None:
                return found
            if child is not None:
                _end(self._children.pop(path))
            if found.behind <= _AT_ONCE:
                return _extended(side, store, found)
            if not self._closed:
                self._children[path] = subprocess.Popen(
                    [sys.executable, "-m", "selfreward.viewer.indexes", path],
                    stdin=subprocess.PIPE, start_new_session=True,
                )  # fmt: skip
        return found

    def close(self) -> None:
        """End all children. Idempotent."""
        with self._lock:
            self._closed = True
            children, self._children = self._children, {}
        for child in children.values():
            _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    assert child.stdin is not None
    with suppress(OSError):
        child.stdin.close()
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _extended(side: sqlite3.Connection, store: Store, found: Extent) -> Extent:
    """Take in what is missing, unless another viewer is at it."""
    side.execute("PRAGMA busy_timeout=50")
    try:
        return extend(side, store, _AT_ONCE)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_BUSY":
            raise
        return found


def main() -> None:
    """Extend the side file of a run while it is being written; end when standard input closes."""
    threading.Thread(target=_listen, daemon=True).start()
    os.nice(10)
    try:
        _follow(Run(Path(sys.argv[1])))
    except (SelfRewardError, sqlite3.Error) as error:
        sys.exit(f"warning: lists are not up to date: {error}")


def _follow(run: Run) -> None:
    last = time.monotonic()
    with run.store() as store, closing(open_side(run, store)) as side:
        side.execute("PRAGMA cache_size=-65536")
        while time.monotonic() - last < _LINGERS_S:
            if extent(side, store).behind:
                while extend(side, store).behind:
                    pass
                last = time.monotonic()
            time.sleep(_EACH_S)


def _listen() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
