"""``records.db``: the record of truth of a run, one SQLite file.

A record type of ``records.py`` is a table of the same name. Rows are only ever added, each under
its unique key, in transactions that reach the disk before they count (WAL, ``synchronous=FULL``)
and only while the writer still owns the run: every transaction compares its epoch with the
``owner`` row, so a process that was given up can no longer write. A stage is finished when its
``stages`` row is committed, after all its records. All SQL that writes is in this one file, so that
none goes past the fence.
"""

import json
import math
import os
import socket
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from selfreward.errors import IntegrityError, LockedError
from selfreward.records import (
    Progress,
    R,
    Record,
    Stage,
)
from selfreward.storage import database, seals
from selfreward.storage.made import made_digest, tables_of
from selfreward.storage.tables import RESTORE, TABLES, Row, from_rows, to_row, typed

ANEW = "anew"
"""Kind of the event that tells that a training is begun anew, ``anew_text`` says which."""
T = TypeVar("T")
_PART = 1000
"""Rows that are made records at once."""
_EVENT = {"at": str, "kind": str, "text": str}
_LOGGED = {"step": int, "name": str, "value": float | None}
_OWNER = {"epoch": int, "host": str | None, "pid": int | None, "since": str | None}


class Store:
    """The records of one run.

    Args:
        path: The ``records.db``; it must exist, see ``database.create``.
        epoch: The epoch under which to write, from ``claim``; None reads only.
    """

    def __init__(self, path: Path, epoch: int | None = None) -> None:
        self.path, self.epoch = path, epoch
        self._db = database.connect(path, writes=epoch is not None)

    @classmethod
    def claim(cls, path: Path) -> "Store":
        """Open for writing as the new owner; whoever wrote before can no longer commit.

        A file of the schema version before becomes one of this.
        """
        store = cls(path, epoch=-1)
        try:
            with database.errors(path):
                store._db.execute("BEGIN IMMEDIATE")
                database.upgrade(store._db)
                epoch = store.owner()["epoch"] + 1
                store._db.execute(
                    "UPDATE owner SET epoch = ?, host = ?, pid = ?, since = ?",
                    (epoch, socket.gethostname(), os.getpid(), now()),
                )
                store._db.execute("COMMIT")
                store.epoch = epoch
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Writing: everything goes through one fenced transaction.

    def add(self, records: Iterable[Record], *, note: tuple[str, str] | None = None) -> None:
        """Commit records together.

        Args:
            note: Kind and text of an event that tells where they come from.

        Raises:
            IntegrityError: A key is already taken; nothing of the batch is kept.
            LockedError: Another process owns the run now.
            PreflightError: The disk is full.
        """
        with self._transaction():
            self._insert(records)
            if note is not None:
                self._add_event(*note)

    def finish_stage(
        self,
        stage: Stage,
        records: Iterable[Record] = (),
        reports: Mapping[str, object] | None = None,
    ) -> None:
        """Commit the last records of a stage, and its reports by name, together with its row.

        A stage without a digest gets that of what it made, see ``made``.
        """
        with self._transaction():
            self._insert(records)
            for name, report in (reports or {}).items():
                self._save_report(stage.iteration, name, report)
            made = stage.digest or made_digest(self, stage.iteration, stage.stage)
            self._db.execute(
                "INSERT INTO stages VALUES (?,?,?,?,?,?,?,?,?)",
                (stage.iteration, stage.stage, stage.rows, stage.drops, made,
                 stage.fingerprint, stage.seconds, json.dumps(stage.versions), now()),
            )  # fmt: skip
            seals.seal_stage(self._db, stage.iteration, stage.stage)

    def plan(self, stages: Mapping[int, Sequence[str]]) -> None:
        """Commit which stages each iteration has, in order, in place of what was planned."""
        rows = [(t, at, stage) for t, names in stages.items() for at, stage in enumerate(names)]
        with self._transaction():
            self._db.execute("DELETE FROM planned")
            self._db.executemany("INSERT INTO planned VALUES (?,?,?)", rows)

    def log_training(
        self, iteration: int, step: int, metrics: dict[str, float], stage: str = "train"
    ) -> None:
        """Keep what the trainer logged at a step; a step redone after a resume replaces it."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO train_log VALUES (?,?,?,?,?)",
                [(iteration, stage, step, name, value) for name, value in metrics.items()],
            )

    def set_progress(
        self, iteration: int, stage: str, done: int, total: int, seconds: float, note: str = ""
    ) -> None:
        """Say how far a stage is."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO progress VALUES (?,?,?,?,?,?,?)",
                (iteration, stage, done, total, seconds, note, now()),
            )

    def save_figures(self, iteration: int, figures: object) -> None:
        """Keep the figures of a closed iteration; they can be rebuilt from its records."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO figures VALUES (?,?)", (iteration, _to_json(figures))
            )
            seals.seal_figures(self._db, iteration)

    def save_report(self, iteration: int, name: str, report: object) -> None:
        """Keep a report on the model that an iteration made."""
        with self._transaction():
            self._save_report(iteration, name, report)

    def add_event(self, kind: str, text: str) -> None:
        """Note a launch, a stop or an error."""
        with self._transaction():
            self._add_event(kind, text)

    def note_change(self, kind: str, text: str, again: Sequence[tuple[int, str]]) -> None:
        """Note a change of the config; trainings under way that read it are begun anew.

        Args:
            again: (iteration, stage) of these, whose logs and progress go; each is an event, by
                which who has read the log knows that another one follows.
        """
        with self._transaction():
            for key in again:
                self._add_event(ANEW, anew_text(*key))
            self._add_event(kind, text)
            for table in ("train_log", "progress"):
                self._db.executemany(f"DELETE FROM {table} WHERE iteration=? AND stage=?", again)

    def cut(
        self, iteration: int, stages: Collection[str], events: Collection[str],
        reports: Collection[str],
    ) -> None:  # fmt: skip
        """Leave of a copy what was made up to some stages, for the rest to be made anew.

        Args:
            iteration: The last of which something stays.
            stages: Those of its stages that stay.
            events: Kinds of those that stay beside the first, which tells when the run began.
            reports: Names of those of the iteration that stay.
        """
        begun = {row.stage for row in self.progress() if row.iteration == iteration}
        gone = sorted({*self.planned(iteration), *begun} - {*stages})
        with self._transaction():
            for table in (*(name for name, _ in TABLES.values()), "stages", "train_log",
                          "progress", "reports", "figures", "planned", "seals"):  # fmt: skip
                self._db.execute(f"DELETE FROM {table} WHERE iteration > ?", (iteration,))
            for stage in gone:
                for table, where in tables_of(stage):
                    query = f"DELETE FROM {table} WHERE iteration = ? AND {where}"
                    self._db.execute(query, (iteration,))
                for table in ("drops", "stages", "train_log", "progress"):
                    query = f"DELETE FROM {table} WHERE iteration = ? AND stage = ?"
                    self._db.execute(query, (iteration, stage))
            self._db.execute("DELETE FROM figures WHERE iteration = ?", (iteration,))
            marks = ",".join("?" * len(reports))
            query = f"DELETE FROM reports WHERE iteration = ? AND name NOT IN ({marks})"
            self._db.execute(query, [iteration, *reports])
            marks = ",".join("?" * (len(gone) + 1))
            query = f"DELETE FROM seals WHERE iteration = ? AND what IN ({marks})"
            self._db.execute(query, (iteration, *gone, seals.FIGURES))
            marks = ",".join("?" * len(events))
            self._db.execute(
                f"DELETE FROM events WHERE kind NOT IN ({marks}) AND rowid > "
                "(SELECT min(rowid) FROM events)", [*events],
            )  # fmt: skip
            seals.seal_events(self._db)

    def set_fingerprint(self, iteration: int, stage: str, fingerprint: str) -> None:
        """Give a finished stage of a copy the fingerprint that it would have been made with."""
        with self._transaction():
            query = "UPDATE stages SET fingerprint = ? WHERE iteration = ? AND stage = ?"
            self._db.execute(query, (fingerprint, iteration, stage))
            seals.seal_stage(self._db, iteration, stage)

    # Reading

    def records(self, kind: type[R], iteration: int, attempt: int | range | None = None) -> list[R]:
        """All records of one type of an iteration (of one or some prompts) in key order."""
        if isinstance(attempt, range):
            within = "iteration = ? AND attempt >= ? AND attempt < ?"
            rows = self._rows(_ordered(kind, within), [iteration, attempt.start, attempt.stop])
        else:
            key = [iteration] if attempt is None else [iteration, attempt]
            rows = self._rows(_select(kind, len(key)), key)
        return from_rows(kind, rows, self._table(TABLES[kind][0]))

    def each(self, kind: type[R], iteration: int) -> Iterator[R]:
        """The same one by one, for more than one wants to hold."""
        found: Iterator[Row] = self.query(_select(kind, 1), (iteration,))
        while part := [*islice(found, _PART)]:
            yield from from_rows(kind, part, self._table(TABLES[kind][0]))

    def record(self, kind: type[R], *key: int) -> R:
        """The record that has a key, from the iteration on.

        Raises:
            IntegrityError: There is none.
        """
        where = self._table(TABLES[kind][0])
        found = from_rows(kind, self._rows(_select(kind, len(key)), key), where)
        if len(found) != 1:
            raise IntegrityError(f"{where}: {len(found)} rows have the key {key}, not 1", RESTORE)
        return found[0]

    def drop_reasons(self, iteration: int, stage: str) -> list[str]:
        """Why a stage left things out, one reason per drop."""
        query = "SELECT reason FROM drops WHERE iteration = ? AND stage = ? ORDER BY rowid"
        return self._column("drops", "reason", query, (iteration, stage))

    def has_records(self) -> bool:
        """Whether anything was made that would have to be made again: records, logs or reports."""
        kept = (*(name for name, _ in TABLES.values()), "stages", "train_log", "reports")
        query = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in kept)
        return bool(self._rows(f"SELECT {query}")[0][0])

    def plans(self) -> dict[int, list[str]]:
        """The stages of each iteration, in order; none before the run was first launched."""
        rows = self._rows("SELECT iteration, stage FROM planned ORDER BY iteration, position")
        found: dict[int, list[str]] = {}
        for t, stage in typed({"iteration": int, "stage": str}, rows, self._table("planned")):
            found.setdefault(t, []).append(stage)
        return found

    def planned(self, iteration: int) -> list[str]:
        """The stages of an iteration."""
        return self.plans().get(iteration, [])

    def finished(self, iteration: int, stage: str) -> Stage | None:
        """The stage's row, or None while it is not finished."""
        rows = (row for row in self.stages() if (row.iteration, row.stage) == (iteration, stage))
        return next(rows, None)

    def stages(self) -> list[Stage]:
        """All finished stages in order."""
        rows = self._rows("SELECT * FROM stages ORDER BY iteration, rowid")
        return from_rows(Stage, rows, self._table("stages"))

    def train_log(self, iteration: int, stage: str = "train") -> list[dict[str, float]]:
        """What the trainer logged, one mapping per step with ``step`` among its keys; NaN stays."""
        steps: dict[int, dict[str, float]] = {}
        where = "iteration = ? AND stage = ?"
        query = f"SELECT step, name, value FROM train_log WHERE {where} ORDER BY step"
        rows = self._rows(query, (iteration, stage))
        for step, name, value in typed(_LOGGED, rows, self._table("train_log")):
            row = steps.setdefault(step, {"step": step})
            row[name] = math.nan if value is None else value
        return list(steps.values())

    @property
    def begun(self) -> list[tuple[int, str]]:
        """Iteration and stage of all that has told its progress or logged, finished or not."""
        query = "SELECT iteration, stage FROM progress UNION SELECT iteration, stage FROM train_log"
        columns = {"iteration": int, "stage": str}
        found = typed(columns, self._rows(query), self._table("train_log"))
        return [(iteration, stage) for iteration, stage in found]

    def progress(self) -> list[Progress]:
        """The progress rows, the one touched last at the end."""
        rows = self._rows("SELECT * FROM progress ORDER BY rowid")
        return from_rows(Progress, rows, self._table("progress"))

    def figures(self, iteration: int, kind: type[T]) -> T | None:
        """The figures of a closed iteration; None also where they are not those that were kept.

        So it is where an earlier release kept others, and after damage: they can be had anew.
        """
        rows = self._rows("SELECT data FROM figures WHERE iteration = ?", (iteration,))
        if not rows or self.is_sealed(iteration, seals.FIGURES) is False:
            return None
        try:
            return msgspec.json.decode(rows[0][0], type=kind)
        except (msgspec.DecodeError, TypeError):
            return None

    def report(self, iteration: int, name: str, kind: type[T]) -> T | None:
        """A report on the model that an iteration made.

        Args:
            kind: A dataclass, or ``dict`` for the plain values.

        Raises:
            IntegrityError: It is no such report.
        """
        query = "SELECT data FROM reports WHERE iteration = ? AND name = ?"
        rows = self._rows(query, (iteration, name))
        try:
            return msgspec.json.decode(rows[0][0], type=kind) if rows else None
        except (msgspec.DecodeError, TypeError) as error:
            raise IntegrityError(
                f"{self.path}: the report {name} of iteration {iteration}: {error}", RESTORE
            ) from None

    def events(self) -> list[tuple[str, str, str]]:
        """(UTC time, kind, text), oldest first."""
        rows = self._rows("SELECT at, kind, text FROM events ORDER BY rowid")
        return [(at, kind, text) for at, kind, text in typed(_EVENT, rows, self._table("events"))]

    def owner(self) -> dict[str, Any]:
        """Epoch, host, pid and start of the last owner."""
        rows = self._rows("SELECT epoch, host, pid, since FROM owner")
        if len(rows) != 1:
            raise IntegrityError(f"{self.path}: table owner has {len(rows)} rows, not 1", RESTORE)
        return dict(zip(_OWNER, typed(_OWNER, rows, self._table("owner"))[0], strict=True))

    @property
    def sealed(self) -> list[tuple[int, str]]:
        """Iteration and name of all that is sealed, see ``seals``."""
        columns = {"iteration": int, "what": str}
        found = typed(
            columns, self._rows("SELECT iteration, what FROM seals"), self._table("seals")
        )
        return [(iteration, what) for iteration, what in found]

    @property
    def closed(self) -> list[int]:
        """The iterations that have figures, or had them when they were sealed."""
        rows = self._rows("SELECT iteration FROM figures")
        there = {row[0] for row in typed({"iteration": int}, rows, self._table("figures"))}
        return sorted(there | {t for t, what in self.sealed if what == seals.FIGURES})

    @property
    def is_sealing(self) -> bool:
        """Whether the file is of this release, which seals what it writes."""
        return database.is_current(self._db)

    def is_sealed(self, iteration: int, what: str) -> bool | None:
        """Whether what was sealed is as it was; None where it never was, see ``seals``.

        Args:
            what: A stage, ``seals.FIGURES`` or ``seals.EVENTS``.
        """
        with database.errors(self.path):
            return seals.is_kept(self._db, iteration, what)

    def query(self, sql: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a SELECT, for figures over more records than one wants to hold."""
        with database.errors(self.path):
            rows = self._db.execute(sql, values)
        return self._each(rows)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads of the body see the same committed state while others go on writing.

        Within another one the state is that of the outer.
        """
        if self._db.in_transaction:
            yield
            return
        with database.errors(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:  # SQLite itself ends it on some errors
                self._db.execute("COMMIT")

    def check(self) -> str:
        """``ok``, or what SQLite finds wrong with the file."""
        try:
            return str(self._db.execute("PRAGMA integrity_check").fetchone()[0])
        except sqlite3.DatabaseError as error:
            return str(error)

    # Inside

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with database.errors(self.path):
            return self._db.execute(sql, values).fetchall()

    def _each(self, rows: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
        with database.errors(self.path):
            yield from rows

    def _column(self, table: str, name: str, sql: str, values: Sequence[object]) -> list[str]:
        rows = typed({name: str}, self._rows(sql, values), self._table(table))
        return [row[0] for row in rows]

    def _table(self, name: str) -> str:
        return f"{self.path}: table {name}"

    def _add_event(self, kind: str, text: str) -> None:
        event = (now(), kind, text)
        self._db.execute("INSERT INTO events VALUES (?,?,?)", event)
        seals.seal_event(self._db, event)

    def _save_report(self, iteration: int, name: str, report: object) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO reports VALUES (?,?,?)", (iteration, name, _to_json(report))
        )

    def _insert(self, records: Iterable[Record]) -> None:
        rows: dict[type, list[tuple[Any, ...]]] = {}
        for record in records:
            rows.setdefault(type(record), []).append(to_row(record))
        for kind, values in rows.items():
            marks = ",".join("?" * len(values[0]))
            self._db.executemany(f"INSERT INTO {TABLES[kind][0]} VALUES ({marks})", values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with database.errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                epoch = self.owner()["epoch"]
                if epoch != self.epoch:
                    raise LockedError(
                        f"{self.path}: this process owned epoch {self.epoch}, but the run was "
                        f"taken over (epoch {epoch}); nothing was written"
                    )
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _select(kind: type[Record], num_given: int) -> str:
    """The query for records in key order, of whose key so many columns are given."""
    return _ordered(kind, " AND ".join(f"{name} = ?" for name in TABLES[kind][1][:num_given]))


def _ordered(kind: type[Record], where: str) -> str:
    table, key = TABLES[kind]
    columns = ", ".join(field.name for field in fields(kind))
    return f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {', '.join(key)}"


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def anew_text(iteration: int, stage: str) -> str:
    """Text of the event ``ANEW`` of a training."""
    return f"{iteration} {stage}"


def now() -> str:
    """UTC time as ISO text; a label, never compared."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
