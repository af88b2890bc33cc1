"""The runs that a viewer serves, by name, and whether they have changed."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfreward.errors import NotFoundError

if TYPE_CHECKING:
    from selfreward.storage.directory import Run
    from selfreward.storage.store import Store

_KEPT = 8
"""Connections that are kept to ask whether a run has changed."""


class GoneError(NotFoundError):
    """A run that was there is no more."""


@dataclass(slots=True)
class _Watched:
    """A connection that only ever asks for the counter of commits."""

    store: "Store"
    inode: int
    number: int
    """Of the connection: the counter means nothing to another one."""


class Runs:
    """The runs under the runs directory, or one that lies elsewhere.

    Args:
        only: The one that is served; None serves those of the runs directory.
    """

    def __init__(self, only: "Run | None" = None) -> None:
        self._only = only
        self._seen: set[str] = set()
        self._watched: dict[str, _Watched] = {}
        self._opened = 0
        self._lock = threading.Lock()

    @property
    def root(self) -> str:
        """Where they are, for people."""
        from selfreward.storage.directory import runs_root

        return str(self._only.path if self._only else runs_root())

    def all(self) -> "list[Run]":
        """Those that are there now, by name."""
        from selfreward.storage.directory import list_runs

        if self._only is None:
            return list_runs()
        return [self._only] if self._only.records.is_file() else []

    def get(self, name: str) -> "Run":
        """One of them; a name is never a path.

        Raises:
            GoneError: It was there before.
            NotFoundError: It is not there; the message lists those that are.
        """
        runs = {run.name: run for run in self.all()}
        if name in runs:
            self._seen.add(name)
            return runs[name]
        known = ", ".join(runs) or "none"
        if name in self._seen:
            raise GoneError(
                f"run {name} was removed while it was open", f"Runs in {self.root}: {known}."
            )
        raise NotFoundError(f"no run {name!r} in {self.root}", f"Runs there: {known}.")

    def version(self, records: Path) -> str:
        """Another text after every commit to a ``records.db``, whoever makes it.

        SQLite counts commits of others for each connection (``PRAGMA data_version``); no
        transaction is left open.
        """
        from selfreward.storage.store import Store

        place, inode = str(records), os.stat(records).st_ino
        with self._lock:
            watched = self._watched.pop(place, None)
            if watched and watched.inode != inode:
                watched.store.close()
                watched = None
            if watched is None:
                self._opened += 1
                watched = _Watched(Store(records), inode, self._opened)
            self._watched[place] = watched  # the last one used comes last
            while len(self._watched) > _KEPT:
                self._watched.pop(next(iter(self._watched))).store.close()
            commits = next(watched.store.query("PRAGMA data_version"))[0]
        return f"{watched.number}.{commits}"

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            for watched in self._watched.values():
                watched.store.close()
            self._watched.clear()
