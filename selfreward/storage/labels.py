"""``labels.db``: what people say of a run's answers, beside its records and apart from them.

    item    answers to one prompt that a person is asked about: two, a few to rank, one to rate
    label   what the person said of them; keyed by labeler, item and the sha256 of the texts

Rows are only ever added (triggers refuse all else). Of several labels of one person on one item the
latest counts; an undo is a row of its own that takes back one label, so that the one before it
counts again. Each row holds a seal over itself and all before it, which ``verify`` checks, and the
file names its run, so that it serves no other. ``records.db`` is only read here.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from selfreward.errors import IntegrityError, NotFoundError
from selfreward.storage import database, seals
from selfreward.storage.changes import BRANCHED, versions
from selfreward.storage.directory import Run
from selfreward.storage.label import Kind, Label, check_label, in_force
from selfreward.storage.store import now
from selfreward.storage.tables import RESTORE

_SCHEMA = """
CREATE TABLE run (id INTEGER PRIMARY KEY CHECK (id = 1), run TEXT NOT NULL, name TEXT NOT NULL);
CREATE TABLE labels (number INTEGER PRIMARY KEY, at TEXT NOT NULL, labeler TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('ab', 'ranking', 'rating')), iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL, samples TEXT NOT NULL, digest TEXT NOT NULL, shown TEXT NOT NULL,
    ranks TEXT, rating INTEGER CHECK (rating BETWEEN 1 AND 7), flags TEXT NOT NULL,
    note TEXT NOT NULL, seconds REAL, undoes INTEGER UNIQUE REFERENCES labels (number),
    seal TEXT NOT NULL);
CREATE INDEX of_labeler ON labels (labeler, kind, iteration, attempt);
CREATE TRIGGER no_update BEFORE UPDATE ON labels
    BEGIN SELECT RAISE(ABORT, 'labels are only ever added'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON labels
    BEGIN SELECT RAISE(ABORT, 'labels are only ever added'); END;
"""
_VERSION = 1
"""``PRAGMA user_version``; apart from that of ``records.db``."""
_COLUMNS = (
    "number", "at", "labeler", "kind", "iteration", "attempt", "samples", "digest", "shown",
    "ranks", "rating", "flags", "note", "seconds", "undoes",
)  # fmt: skip
_JSON = ("samples", "shown", "ranks", "flags")
_NO_RUN = "Move it away; `selfreward view RUN` begins a new one with the first label."


def labels_path(run: Run) -> Path:
    """Where the labels of a run are, if it has any."""
    return run.path / "labels.db"


class Labels:
    """The labels of one run; a context manager.

    Args:
        run: Whose ``records.db`` is only read, to know the run by.
        writes: Whether labels are to be added; then a file that is missing is made.

    Raises:
        NotFoundError: There are none yet, and none are to be added.
        IntegrityError: The file is of another run or release, or damaged.
        PreflightError: The disk does not let it be opened.
    """

    def __init__(self, run: Run, *, writes: bool = False) -> None:
        self.path = labels_path(run)
        none = NotFoundError(
            f"run {run.name} has no labels by people yet",
            f"Give some: `selfreward view {run.name}`, then Label.",
        )
        if not writes and not self.path.is_file():
            raise none
        identity = run_identity(run)
        with database.errors(self.path):
            self._db, version = database.open_file(self.path, writes=writes, makes=writes)
        try:
            with database.errors(self.path):
                if writes:
                    version = self._prepare(identity, run.name)
                elif not version and self._is_empty:
                    raise none  # it is being made
                self._check_owner(version, identity, run.name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    def __enter__(self) -> "Labels":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add(self, label: Label) -> int:
        """Commit a label and return its number.

        Raises:
            ConfigError: It is no label of its kind.
        """
        check_label(label)
        with self._transaction():
            return self._insert(replace(label, undoes=None, at=now()))

    def undo(self, labeler: str, kind: Kind) -> Label | None:
        """Take back the last label of a kind that a person gave and that counts; None without."""
        with self._transaction():
            mine = self._read("WHERE labeler = ? AND kind = ?", (labeler, kind))
            if not (counts := in_force(mine)):
                return None
            last = max(counts, key=lambda label: label.number)
            self._insert(replace(last, undoes=last.number, at=now()))
        return last

    def history(self) -> list[Label]:
        """All rows in order, those that were superseded or taken back, and undos, included."""
        with database.errors(self.path):
            return self._read()

    def of_kind(self, kind: Kind) -> list[Label]:
        """The labels of a kind that count."""
        with database.errors(self.path):
            return in_force(self._read("WHERE kind = ?", (kind,)))

    def check(self) -> list[Label]:
        """Check the file and all seals; return the history.

        Raises:
            IntegrityError: Something is not as it was written.
        """
        with database.errors(self.path):
            found = str(self._db.execute("PRAGMA integrity_check").fetchone()[0])
            if found != "ok":
                raise IntegrityError(f"{self.path}: {found}", RESTORE)
            seal = ""
            columns = ", ".join(_COLUMNS)
            for *row, kept in self._db.execute(f"SELECT {columns}, seal FROM labels ORDER BY 1"):
                seal = seals.digest_rows([[seal], row])
                if kept != seal:
                    raise IntegrityError(
                        f"{self.path}: label {row[0]} or one before it is not as it was written",
                        RESTORE,
                    )
        return self.history()

    def _prepare(self, identity: str, name: str) -> int:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        with self._transaction():
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if version or not self._is_empty:
                return version
            for statement in _statements(_SCHEMA):
                self._db.execute(statement)
            self._db.execute("INSERT INTO run VALUES (1, ?, ?)", (identity, name))
            self._db.execute(f"PRAGMA user_version={_VERSION}")
        return _VERSION

    @property
    def _is_empty(self) -> bool:
        return not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def _check_owner(self, version: int, identity: str, name: str) -> None:
        if version != _VERSION:
            raise IntegrityError(
                f"{self.path}: schema version {version}, this release reads {_VERSION}",
                f"Take the release that made it. {_NO_RUN}",
            )
        rows = self._db.execute("SELECT run, name FROM run").fetchall()
        if len(rows) != 1 or rows[0][0] != identity:
            whose = f"run {rows[0][1]}" if len(rows) == 1 else "no run"
            if whose == f"run {name}":
                whose = f"another run of the name {name}"
            raise IntegrityError(
                f"{self.path}: holds labels of {whose}, not of this run ({name})", _NO_RUN
            )

    def _read(self, where: str = "", values: Sequence[object] = ()) -> list[Label]:
        query = f"SELECT {', '.join(_COLUMNS)} FROM labels {where} ORDER BY number"
        return [self._label(row) for row in self._db.execute(query, values)]

    def _label(self, row: Sequence[Any]) -> Label:
        cells = dict(zip(_COLUMNS, row, strict=True))
        try:
            cells |= {name: json.loads(cells[name]) for name in _JSON if cells[name] is not None}
            names = ("kind", "iteration", "attempt", "samples")
            cells["item"] = {name: cells.pop(name) for name in names}
            label = msgspec.convert(cells, Label)
            check_label(label)
        except (ValueError, TypeError) as error:  # ConfigError and what msgspec raises among them
            raise IntegrityError(f"{self.path}: label {row[0]}: {error}", RESTORE) from None
        return label

    def _insert(self, label: Label) -> int:
        last = self._db.execute("SELECT number, seal FROM labels ORDER BY number DESC LIMIT 1")
        number, seal = last.fetchone() or (0, "")
        self._write(replace(label, number=number + 1), seal)
        return int(number) + 1

    def _write(self, label: Label, before: str) -> str:
        item = label.item
        row = [
            label.number, label.at, label.labeler, item.kind, item.iteration, item.attempt,
            json.dumps(item.samples), label.digest, json.dumps(label.shown),
            None if label.ranks is None else json.dumps(label.ranks), label.rating,
            json.dumps(label.flags), label.note,
            None if label.seconds is None else float(label.seconds), label.undoes,
        ]  # fmt: skip
        seal = seals.digest_rows([[before], row])
        marks = ",".join("?" * (len(row) + 1))
        self._db.execute(f"INSERT INTO labels VALUES ({marks})", (*row, seal))
        return seal

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with database.errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def reading(run: Run) -> Iterator[Labels | None]:
    """The labels of a run for reading, or None where it has none."""
    try:
        labels = Labels(run)
    except NotFoundError:
        yield None
        return
    with labels:
        yield labels


def run_identity(run: Run) -> str:
    """What a run is known by, however it goes on: sha256 over its first event, the config that it
    was made with, and where it branched off.

    Raises:
        NotFoundError: It was never launched.
    """
    with run.store() as store:
        events = store.events()
    if not events:
        raise NotFoundError(f"run {run.name} has no records yet", f"selfreward resume {run.name}")
    made_with = versions(run.settings, events)[-1]
    branched = [event for event in events if event[1] == BRANCHED]
    text = json.dumps([events[0], made_with, branched], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def carry(origin: Run, branch: Run, last: int) -> int:
    """Take the labels on iterations up to ``last`` over into a branch, which has their records.

    Returns:
        How many rows.

    Raises:
        IntegrityError: The labels are damaged or of another run.
    """
    with reading(origin) as labels:
        history = labels.history() if labels else []
    rows = [label for label in history if label.item.iteration <= last]
    if rows:
        with Labels(branch, writes=True) as made, made._transaction():
            seal = ""
            for label in rows:
                seal = made._write(label, seal)
    return len(rows)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, which ``executescript`` would commit one by one."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
