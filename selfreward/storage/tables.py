"""The tables of ``records.db``. A record type of ``records.py`` is a table of the same name."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, TypeVar, get_type_hints

import msgspec

from selfreward.errors import IntegrityError
from selfreward.records import (
    Comparison,
    Criterion,
    Drop,
    JudgePair,
    Judgment,
    MetaJudgment,
    PreferencePair,
    Prompt,
    Record,
    Response,
)

SCHEMA_VERSION = 8
"""``PRAGMA user_version``; a release that changes a table below raises it and migrates, see
``database.upgrade``. Version 4 had no ``planned``, version 5 no ``seals``, version 6 no
columns of prompts, and version 7 no judged judgments."""
RESTORE = "Restore the run from a copy; `selfreward verify RUN` lists all that is damaged."
"""What to do about damage."""

TABLES: dict[type, tuple[str, tuple[str, ...]]] = {
    Prompt: ("prompts", ("iteration", "attempt")),
    Response: ("responses", ("iteration", "attempt", "sample")),
    Judgment: ("judgments", ("iteration", "attempt", "sample", "juror", "vote")),
    Criterion: ("criteria", ("iteration", "attempt", "juror", "number")),
    Comparison: ("comparisons", ("iteration", "attempt", "first", "second")),
    MetaJudgment: ("meta_judgments", ("iteration", "attempt", "sample", "first", "second")),
    PreferencePair: ("pairs", ("iteration", "attempt", "chosen", "rejected")),
    JudgePair: ("judge_pairs", ("iteration", "attempt", "sample", "chosen", "rejected")),
    Drop: ("drops", ("iteration", "stage", "item")),
}
"""Table and unique key of each record type."""

PLANNED = """(iteration INTEGER NOT NULL, position INTEGER NOT NULL, stage TEXT NOT NULL,
    UNIQUE (iteration, position))"""
META_JUDGMENTS = """(iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
    sample INTEGER NOT NULL, first INTEGER NOT NULL, second INTEGER NOT NULL, form TEXT NOT NULL,
    raw TEXT NOT NULL, winner INTEGER, reason TEXT, probabilities TEXT,
    num_tokens INTEGER NOT NULL, CHECK (winner IS NULL OR winner IN (first, second)),
    CHECK (winner IS NULL OR reason IS NULL),
    UNIQUE (iteration, attempt, sample, first, second))"""
JUDGE_PAIRS = """(iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
    sample INTEGER NOT NULL, chosen INTEGER NOT NULL, rejected INTEGER NOT NULL,
    chosen_elo REAL NOT NULL, rejected_elo REAL NOT NULL CHECK (rejected_elo < chosen_elo),
    UNIQUE (iteration, attempt, sample, chosen, rejected))"""
JUDGED_AGAIN = {"meta_judgments": META_JUDGMENTS, "judge_pairs": JUDGE_PAIRS}
"""Tables that schema version 7 did not have."""
SEALS = """(iteration INTEGER NOT NULL, what TEXT NOT NULL, digest TEXT NOT NULL,
    UNIQUE (iteration, what))"""
SCHEMA = f"""
CREATE TABLE owner (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL,
    host TEXT, pid INTEGER, since TEXT);
INSERT INTO owner VALUES (1, 0, NULL, NULL, NULL);
CREATE TABLE prompts (iteration INTEGER NOT NULL, attempt INTEGER NOT NULL, text TEXT NOT NULL,
    raw TEXT NOT NULL, dropped TEXT, detail TEXT NOT NULL, num_tokens INTEGER NOT NULL,
    columns TEXT, UNIQUE (iteration, attempt));
CREATE TABLE responses (iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
    sample INTEGER NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
    num_tokens INTEGER NOT NULL, thinking TEXT NOT NULL, dropped TEXT, logprob REAL,
    author TEXT NOT NULL, token_ids TEXT,
    UNIQUE (iteration, attempt, sample));
CREATE TABLE judgments (iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
    sample INTEGER NOT NULL, vote INTEGER NOT NULL, form TEXT NOT NULL, raw TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 0 AND 5), reason TEXT, probabilities TEXT,
    num_tokens INTEGER NOT NULL, juror INTEGER NOT NULL, weight REAL NOT NULL CHECK (weight > 0),
    CHECK ((score IS NULL) = (reason IS NOT NULL)),
    UNIQUE (iteration, attempt, sample, juror, vote));
CREATE TABLE criteria (iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
    juror INTEGER NOT NULL, number INTEGER NOT NULL, text TEXT NOT NULL,
    weight REAL NOT NULL CHECK (weight > 0), UNIQUE (iteration, attempt, juror, number));
CREATE TABLE comparisons (iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
    first INTEGER NOT NULL, second INTEGER NOT NULL, form TEXT NOT NULL, raw TEXT NOT NULL,
    winner INTEGER, reason TEXT, probabilities TEXT, num_tokens INTEGER NOT NULL,
    CHECK (winner IS NULL OR winner IN (first, second)),
    CHECK (winner IS NULL OR reason IS NULL), UNIQUE (iteration, attempt, first, second));
CREATE TABLE pairs (iteration INTEGER NOT NULL, attempt INTEGER NOT NULL,
    chosen INTEGER NOT NULL, rejected INTEGER NOT NULL, chosen_score REAL NOT NULL,
    rejected_score REAL NOT NULL CHECK (rejected_score <= chosen_score),
    UNIQUE (iteration, attempt, chosen, rejected));
CREATE TABLE drops (iteration INTEGER NOT NULL, stage TEXT NOT NULL, item TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, UNIQUE (iteration, stage, item));
CREATE TABLE stages (iteration INTEGER NOT NULL, stage TEXT NOT NULL, rows INTEGER NOT NULL,
    drops INTEGER NOT NULL, digest TEXT NOT NULL, fingerprint TEXT NOT NULL,
    seconds REAL NOT NULL, versions TEXT NOT NULL, finished TEXT NOT NULL,
    UNIQUE (iteration, stage));
CREATE TABLE train_log (iteration INTEGER NOT NULL, stage TEXT NOT NULL, step INTEGER NOT NULL,
    name TEXT NOT NULL, value REAL, UNIQUE (iteration, stage, step, name));
CREATE TABLE progress (iteration INTEGER NOT NULL, stage TEXT NOT NULL, done INTEGER NOT NULL,
    total INTEGER NOT NULL, seconds REAL NOT NULL, note TEXT NOT NULL, at TEXT NOT NULL,
    UNIQUE (iteration, stage));
CREATE TABLE reports (iteration INTEGER NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL,
    UNIQUE (iteration, name));
CREATE TABLE meta_judgments {META_JUDGMENTS};
CREATE TABLE judge_pairs {JUDGE_PAIRS};
CREATE TABLE planned {PLANNED};
CREATE TABLE seals {SEALS};
CREATE TABLE figures (iteration INTEGER NOT NULL UNIQUE, data TEXT NOT NULL);
CREATE TABLE events (at TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
"""

Row = Sequence[Any]
T = TypeVar("T")
_JSON = {"probabilities", "token_ids", "versions"}
"""Columns that hold JSON."""
_CELL = re.compile(r" - at `\$\[(\d+)\]\[(\d+)\].*")


def to_row(record: Record) -> tuple[Any, ...]:
    """Values of the columns, in order; tuples as JSON."""
    return tuple(json.dumps(v) if isinstance(v, tuple) else v for v in astuple(record))


def from_rows(kind: type[T], rows: Iterable[Row], where: str) -> list[T]:
    """Instances of a dataclass from the values of its fields.

    Args:
        where: File and table, for the error.

    Raises:
        IntegrityError: A cell holds what the field cannot.
    """
    return [kind(*row) for row in typed(get_type_hints(kind), rows, where)]


def typed(columns: Mapping[str, Any], rows: Iterable[Row], where: str) -> list[Row]:
    """Rows whose cells are of the types of their columns; JSON is read.

    Raises:
        IntegrityError: One is not; the message names the row by its first cells.
    """
    names, rows = [*columns], list(rows)
    for name in _JSON & columns.keys():
        at = names.index(name)
        rows = [_read_json(columns[name], at, row, where, name) for row in rows]
    try:
        return msgspec.convert(rows, list[tuple[(*columns.values(),)]])  # type: ignore[misc,no-any-return]
    except msgspec.ValidationError as error:
        found = _CELL.search(str(error))
        assert found is not None
        row, name = rows[int(found[1])], names[int(found[2])]
        raise _odd(where, row, name, _CELL.sub("", str(error))) from None


def _read_json(kind: Any, at: int, row: Row, where: str, name: str) -> Row:
    if row[at] is None:
        return row
    try:
        return (*row[:at], msgspec.json.decode(row[at], type=kind), *row[at + 1 :])
    except (msgspec.DecodeError, TypeError) as error:
        raise _odd(where, row, name, str(error)) from None


def _odd(where: str, row: Row, name: str, problem: str) -> IntegrityError:
    key = ", ".join(str(cell)[:20] for cell in row[:4])
    return IntegrityError(f"{where}, row ({key}, ...): {name}: {problem}", RESTORE)


def digest(made: Iterable[Record] | Mapping[str, Any]) -> str:
    """sha256 over records in the order given, or over reports by name."""
    if isinstance(made, Mapping):
        plain = msgspec.to_builtins(made)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    sha = hashlib.sha256()
    for record in made:
        row = to_row(record)
        if isinstance(record, Response | Prompt) and row[-1] is None:
            row = row[:-1]  # as before there was the field
        sha.update(json.dumps(row, ensure_ascii=False).encode())
        sha.update(b"\n")
    return sha.hexdigest()
