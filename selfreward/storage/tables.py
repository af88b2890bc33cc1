"""The tables of ``records.db``. A record type of ``records.py`` is a table of the same name."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from functools import partial
from typing import Any

import msgspec

from selfreward.records import (
    Comparison,
    Criterion,
    Drop,
    Judgment,
    PreferencePair,
    Prompt,
    Record,
    Response,
)

SCHEMA_VERSION = 5
"""``PRAGMA user_version``; a release that changes a table below raises it and migrates, see
``database.upgrade``. Version 4 had no ``planned``."""

TABLES: dict[type, tuple[str, tuple[str, ...]]] = {
    Prompt: ("prompts", ("iteration", "attempt")),
    Response: ("responses", ("iteration", "attempt", "sample")),
    Judgment: ("judgments", ("iteration", "attempt", "sample", "juror", "vote")),
    Criterion: ("criteria", ("iteration", "attempt", "juror", "number")),
    Comparison: ("comparisons", ("iteration", "attempt", "first", "second")),
    PreferencePair: ("pairs", ("iteration", "attempt", "chosen", "rejected")),
    Drop: ("drops", ("iteration", "stage", "item")),
}
"""Table and unique key of each record type."""

PLANNED = """(iteration INTEGER NOT NULL, position INTEGER NOT NULL, stage TEXT NOT NULL,
    UNIQUE (iteration, position))"""
SCHEMA = f"""
CREATE TABLE owner (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL,
    host TEXT, pid INTEGER, since TEXT);
INSERT INTO owner VALUES (1, 0, NULL, NULL, NULL);
CREATE TABLE prompts (iteration INTEGER NOT NULL, attempt INTEGER NOT NULL, text TEXT NOT NULL,
    raw TEXT NOT NULL, dropped TEXT, detail TEXT NOT NULL, num_tokens INTEGER NOT NULL,
    UNIQUE (iteration, attempt));
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
CREATE TABLE planned {PLANNED};
CREATE TABLE figures (iteration INTEGER NOT NULL UNIQUE, data TEXT NOT NULL);
CREATE TABLE events (at TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
"""

Row = Sequence[Any]
_TUPLES = {"probabilities", "token_ids"}
"""Columns that hold JSON."""


def to_row(record: Record) -> tuple[Any, ...]:
    """Values of the columns, in order; tuples as JSON."""
    return tuple(json.dumps(v) if isinstance(v, tuple) else v for v in astuple(record))


def from_rows(kind: type, rows: Iterable[Row]) -> Iterable[Row]:
    """The values of the fields of records of one type, from their columns."""
    names = [field.name for field in fields(kind)]
    for name in _TUPLES & set(names):
        rows = map(partial(_read_tuple, names.index(name)), rows)
    return rows


def digest(made: Iterable[Record] | Mapping[str, Any]) -> str:
    """sha256 over records in the order given, or over reports by name."""
    if isinstance(made, Mapping):
        plain = msgspec.to_builtins(made)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    sha = hashlib.sha256()
    for record in made:
        row = to_row(record)
        if isinstance(record, Response) and record.token_ids is None:
            row = row[:-1]  # as before there was the field
        sha.update(json.dumps(row, ensure_ascii=False).encode())
        sha.update(b"\n")
    return sha.hexdigest()


def _read_tuple(at: int, row: Row) -> Row:
    return row if row[at] is None else (*row[:at], tuple(json.loads(row[at])), *row[at + 1 :])
