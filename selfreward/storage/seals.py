"""Digests of what the digest of a stage does not cover.

    a stage    its row (counts, time, versions), its drops and what its trainer logged
    figures    the figures of a closed iteration and all reports on it
    events     all of them: the digest after each is made of the one before and the event

A seal is written in the transaction that writes what it covers. Seals find damage and slips, not
someone who writes both; a run of an earlier release has none for what it made.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable

FIGURES, EVENTS = "figures", "events"
"""What is sealed beside stages; the events stand under iteration 0."""

_ENCODE = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def seal_stage(db: sqlite3.Connection, iteration: int, stage: str) -> None:
    """Seal a finished stage."""
    _put(db, iteration, stage, _of_stage(db, iteration, stage))


def seal_figures(db: sqlite3.Connection, iteration: int) -> None:
    """Seal the figures and reports of a closed iteration."""
    _put(db, iteration, FIGURES, _of_figures(db, iteration))


def seal_events(db: sqlite3.Connection) -> None:
    """Seal all events anew, as after some were taken away."""
    _put(db, 0, EVENTS, _of_events(db))


def seal_event(db: sqlite3.Connection, event: tuple[str, str, str]) -> None:
    """Seal one more event."""
    _put(db, 0, EVENTS, _after(_sealed(db, 0, EVENTS) or "", event))


def is_kept(db: sqlite3.Connection, iteration: int, what: str) -> bool | None:
    """Whether what is sealed is as it was; None where it was never sealed.

    Args:
        what: A stage, ``FIGURES`` or ``EVENTS``.
    """
    sealed = _sealed(db, iteration, what)
    if sealed is None:
        return None
    if what == EVENTS:
        return sealed == _of_events(db)
    if what == FIGURES:
        return sealed == _of_figures(db, iteration)
    return sealed == _of_stage(db, iteration, what)


def digest_rows(rows: Iterable[Iterable[object]]) -> str:
    """sha256 over rows as JSON, one a line: the digest of records that ``tables.digest`` gives."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(_ENCODE(row).encode("utf-8", "surrogatepass"))
        sha.update(b"\n")
    return sha.hexdigest()


def _of_stage(db: sqlite3.Connection, iteration: int, stage: str) -> str:
    where = "WHERE iteration = ? AND stage = ? ORDER BY"
    rows: list[Iterable[object]] = []
    for table, order in (("stages", "stage"), ("drops", "item"), ("train_log", "step, name")):
        rows += db.execute(f"SELECT * FROM {table} {where} {order}", (iteration, stage))
    return digest_rows(rows)


def _of_figures(db: sqlite3.Connection, iteration: int) -> str:
    rows: list[Iterable[object]] = []
    for table, order in (("figures", "iteration"), ("reports", "name")):
        rows += db.execute(f"SELECT * FROM {table} WHERE iteration=? ORDER BY {order}", [iteration])
    return digest_rows(rows)


def _of_events(db: sqlite3.Connection) -> str:
    found = ""
    for event in db.execute("SELECT at, kind, text FROM events ORDER BY rowid"):
        found = _after(found, event)
    return found


def _after(before: str, event: tuple[str, str, str]) -> str:
    return digest_rows([[before], event])


def _put(db: sqlite3.Connection, iteration: int, what: str, digest: str) -> None:
    db.execute("INSERT OR REPLACE INTO seals VALUES (?,?,?)", (iteration, what, digest))


def _sealed(db: sqlite3.Connection, iteration: int, what: str) -> str | None:
    query = "SELECT digest FROM seals WHERE iteration = ? AND what = ?"
    row = db.execute(query, (iteration, what)).fetchone()
    return None if row is None else str(row[0])
