"""``records.db``: the record of truth of a run, one SQLite file.

A record type of ``records.py`` is a table of the same name. Rows are only ever added, each under
its unique key, in transactions that reach the disk before they count (WAL, ``synchronous=FULL``)
and only while the writer still owns the run: every transaction compares its epoch with the
``owner`` row, so a process that was given up can no longer write. A stage is finished when its
``stages`` row is committed, after all its records.
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
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from selfreward.errors import IntegrityError, LockedError
from selfreward.records import (
    REPORTS,
    Comparison,
    Criterion,
    Drop,
    Judgment,
    PreferencePair,
    Progress,
    Prompt,
    R,
    Record,
    Response,
    Stage,
    judge_stage,
    kept,
)
from selfreward.storage import database
from selfreward.storage.tables import TABLES, digest, from_rows, to_row

T = TypeVar("T")


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
            with database.write_errors(path):
                store._db.execute("BEGIN IMMEDIATE")
                database.upgrade(store._db)
                store._db.execute(
                    "UPDATE owner SET epoch = epoch + 1, host = ?, pid = ?, since = ?",
                    (socket.gethostname(), os.getpid(), now()),
                )
                store.epoch = store._db.execute("SELECT epoch FROM owner").fetchone()[0]
                store._db.execute("COMMIT")
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

    def add(self, records: Iterable[Record]) -> None:
        """Commit records together.

        Raises:
            IntegrityError: A key is already taken; nothing of the batch is kept.
            LockedError: Another process owns the run now.
            PreflightError: The disk is full.
        """
        with self._transaction():
            self._insert(records)

    def finish_stage(
        self,
        stage: Stage,
        records: Iterable[Record] = (),
        reports: Mapping[str, object] | None = None,
    ) -> None:
        """Commit the last records of a stage, and its reports by name, together with its row.

        A stage without a digest gets that of what it made, see ``made_by``.
        """
        with self._transaction():
            self._insert(records)
            for name, report in (reports or {}).items():
                self._save_report(stage.iteration, name, report)
            made = stage.digest or digest(made_by(self, stage.iteration, stage.stage))
            self._db.execute(
                "INSERT INTO stages VALUES (?,?,?,?,?,?,?,?,?)",
                (stage.iteration, stage.stage, stage.rows, stage.drops, made,
                 stage.fingerprint, stage.seconds, json.dumps(stage.versions), now()),
            )  # fmt: skip

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

    def save_report(self, iteration: int, name: str, report: object) -> None:
        """Keep a report on the model that an iteration made."""
        with self._transaction():
            self._save_report(iteration, name, report)

    def add_event(self, kind: str, text: str) -> None:
        """Note a launch, a stop or an error."""
        with self._transaction():
            self._db.execute("INSERT INTO events VALUES (?,?,?)", (now(), kind, text))

    def note_change(self, kind: str, text: str, again: Sequence[tuple[int, str]]) -> None:
        """Note a change of the config; trainings under way that read it are begun anew.

        Args:
            again: (iteration, stage) of these, whose logs and progress go.
        """
        with self._transaction():
            self._db.execute("INSERT INTO events VALUES (?,?,?)", (now(), kind, text))
            for table in ("train_log", "progress"):
                self._db.executemany(f"DELETE FROM {table} WHERE iteration=? AND stage=?", again)

    def cut_to_pairs(self, iteration: int, events: Collection[str]) -> None:
        """Leave of a copy what was made up to the pairs of an iteration, for it to be trained anew.

        Args:
            events: Kinds of those that stay beside the first, which tells when the run began.
        """
        later = ("train", "evaluate")
        with self._transaction():
            for table in (*(name for name, _ in TABLES.values()), "stages", "train_log",
                          "progress", "reports", "figures", "planned"):  # fmt: skip
                self._db.execute(f"DELETE FROM {table} WHERE iteration > ?", (iteration,))
            for table in ("drops", "stages", "train_log", "progress"):
                query = f"DELETE FROM {table} WHERE iteration = ? AND stage IN (?, ?)"
                self._db.execute(query, (iteration, *later))
            for table in ("reports", "figures"):
                self._db.execute(f"DELETE FROM {table} WHERE iteration = ?", (iteration,))
            marks = ",".join("?" * len(events))
            self._db.execute(
                f"DELETE FROM events WHERE kind NOT IN ({marks}) AND rowid > "
                "(SELECT min(rowid) FROM events)", [*events],
            )  # fmt: skip

    # Reading

    def records(self, kind: type[R], iteration: int, attempt: int | None = None) -> list[R]:
        """All records of one type of an iteration (of one prompt, if given) in key order."""
        table, key = TABLES[kind]
        columns = ", ".join(field.name for field in fields(kind))
        where, values = "iteration = ?", [iteration]
        if attempt is not None:
            where, values = where + " AND attempt = ?", [iteration, attempt]
        rows = self._db.execute(
            f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {', '.join(key)}", values
        )
        return [kind(*row) for row in from_rows(kind, rows)]

    def drop_reasons(self, iteration: int, stage: str) -> list[str]:
        """Why a stage left things out, one reason per drop."""
        query = "SELECT reason FROM drops WHERE iteration = ? AND stage = ? ORDER BY rowid"
        return [row[0] for row in self._db.execute(query, (iteration, stage))]

    def has_records(self) -> bool:
        """Whether anything was made that would have to be made again: records, logs or reports."""
        kept = (*(name for name, _ in TABLES.values()), "stages", "train_log", "reports")
        query = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in kept)
        return bool(self._db.execute(f"SELECT {query}").fetchone()[0])

    def planned(self, iteration: int) -> list[str]:
        """The stages of an iteration, in order; none before the run was first launched."""
        query = "SELECT stage FROM planned WHERE iteration = ? ORDER BY position"
        return [row[0] for row in self._db.execute(query, (iteration,))]

    def finished(self, iteration: int, stage: str) -> Stage | None:
        """The stage's row, or None while it is not finished."""
        rows = (row for row in self.stages() if (row.iteration, row.stage) == (iteration, stage))
        return next(rows, None)

    def stages(self) -> list[Stage]:
        """All finished stages in order."""
        rows = self._db.execute("SELECT * FROM stages ORDER BY iteration, rowid")
        names = [field.name for field in fields(Stage)]
        made = (dict(zip(names, row, strict=True)) for row in rows)
        return [Stage(**row | {"versions": json.loads(row["versions"])}) for row in made]

    def train_log(self, iteration: int, stage: str = "train") -> list[dict[str, float]]:
        """What the trainer logged, one mapping per step with ``step`` among its keys.

        SQLite keeps NaN as NULL; it comes back as NaN.
        """
        steps: dict[int, dict[str, float]] = {}
        where = "iteration = ? AND stage = ?"
        query = f"SELECT step, name, value FROM train_log WHERE {where} ORDER BY step"
        for step, name, value in self._db.execute(query, (iteration, stage)):
            row = steps.setdefault(step, {"step": step})
            row[name] = math.nan if value is None else value
        return list(steps.values())

    def progress(self) -> list[Progress]:
        """The progress rows, the one touched last at the end."""
        return [Progress(*row) for row in self._db.execute("SELECT * FROM progress ORDER BY rowid")]

    def figures(self, iteration: int, kind: type[T]) -> T | None:
        """The figures of a closed iteration; None also where an earlier release kept others."""
        query = "SELECT data FROM figures WHERE iteration = ?"
        row = self._db.execute(query, (iteration,)).fetchone()
        try:
            return msgspec.json.decode(row[0], type=kind) if row else None
        except msgspec.ValidationError:
            return None

    def report(self, iteration: int, name: str, kind: type[T]) -> T | None:
        """A report on the model that an iteration made.

        Args:
            kind: A dataclass, or ``dict`` for the plain values.

        Raises:
            IntegrityError: It is no such report.
        """
        query = "SELECT data FROM reports WHERE iteration = ? AND name = ?"
        row = self._db.execute(query, (iteration, name)).fetchone()
        try:
            return msgspec.json.decode(row[0], type=kind) if row else None
        except msgspec.DecodeError as error:
            raise IntegrityError(
                f"{self.path}: the report {name} of iteration {iteration}: {error}"
            ) from None

    def events(self) -> list[tuple[str, str, str]]:
        """(UTC time, kind, text), oldest first."""
        return list(self._db.execute("SELECT * FROM events ORDER BY rowid"))

    def owner(self) -> dict[str, Any]:
        """Epoch, host, pid and start of the last owner."""
        row = self._db.execute("SELECT epoch, host, pid, since FROM owner").fetchone()
        return dict(zip(("epoch", "host", "pid", "since"), row, strict=True))

    def query(self, sql: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a SELECT, for figures over more records than one wants to hold."""
        return self._db.execute(sql, values)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads of the body see the same committed state while others go on writing."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def check(self) -> str:
        """``ok``, or what SQLite finds wrong with the file."""
        try:
            return str(self._db.execute("PRAGMA integrity_check").fetchone()[0])
        except sqlite3.DatabaseError as error:
            return str(error)

    # Inside

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
        with database.write_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                epoch = self._db.execute("SELECT epoch FROM owner").fetchone()[0]
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


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def now() -> str:
    """UTC time as ISO text; a label, never compared."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def made_by(store: Store, iteration: int, stage: str) -> Sequence[Record] | dict[str, Any]:
    """What a stage made: records but drops in key order, of a judge, criteria first; or reports.

    Of ``selection`` the judgments that were selected; none of a training, which makes a model.
    """
    if stage == "evaluate":
        found = {name: store.report(iteration, name, dict) for name in REPORTS}
        return {name: report for name, report in found.items() if report is not None}
    if stage == "selection":
        return kept(store.records(Judgment, iteration), store.records(Drop, iteration))
    if stage == "prompts":
        return [*store.records(Prompt, iteration)]
    if stage in ("responses", "anchors"):
        responses = store.records(Response, iteration)
        return [r for r in responses if r.is_anchor == (stage == "anchors")]
    if stage == "comparisons":
        return [*store.records(Comparison, iteration)]
    if stage == "pairs":
        return [*store.records(PreferencePair, iteration)]
    criteria, judgments = store.records(Criterion, iteration), store.records(Judgment, iteration)
    return [
        *(criterion for criterion in criteria if judge_stage(criterion.juror) == stage),
        *(judgment for judgment in judgments if judge_stage(judgment.juror) == stage),
    ]
