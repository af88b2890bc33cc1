"""The side file of a run: what lists sort by, and the words of all texts, outside the run.

    <cache>/viewer/<name>-<place>-<what lies there>.db

A row's id holds its whole key in order (``pack``), so ids sort as keys do, and the rows of an
iteration are a range of them. The words are in FTS5 tables without the texts, which stay in
``records.db``. The file may be removed at any time; it is made again.
"""

import glob
import hashlib
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from selfreward.errors import PreflightError
from selfreward.inputs.shipped import cache_directory
from selfreward.storage.directory import Run
from selfreward.storage.store import Store

LAYOUT = 3
"""Raised when a table below changes; a side file of another layout is made anew."""
_BITS = (26, 12, 6, 8)
"""Of attempt, sample, juror and vote within an id; an iteration has what is left of 63."""

_PENDING = 2**26
"""Bytes of words that FTS5 gathers before it writes; the fewer times, the less it has to merge."""
SORTED = {
    "prompts": ("score", "spread", "length", "margin", "disagreement"),
    "responses": ("score", "spread", "length", "disagreement"),
    "judgments": ("score", "length"),
    "drops": (),
}
"""What the rows of each kind can be sorted by, beside their key."""
SEARCHED = ("prompts", "responses", "judgments")
SCHEMA = """
CREATE TABLE marks (name TEXT PRIMARY KEY, done INTEGER NOT NULL, seal TEXT NOT NULL);
CREATE TABLE counts (kind TEXT, iteration INTEGER, n INTEGER NOT NULL,
    PRIMARY KEY (kind, iteration));
CREATE TABLE prompts (id INTEGER PRIMARY KEY, iteration INTEGER NOT NULL, score REAL, spread REAL,
    length INTEGER NOT NULL, margin REAL, disagreement REAL, reason TEXT);
CREATE TABLE responses (id INTEGER PRIMARY KEY, iteration INTEGER NOT NULL, score REAL,
    spread REAL, length INTEGER NOT NULL, disagreement REAL, reason TEXT, role TEXT);
CREATE TABLE judgments (id INTEGER PRIMARY KEY, iteration INTEGER NOT NULL, score REAL,
    length INTEGER NOT NULL, reason TEXT);
CREATE TABLE drops (id INTEGER PRIMARY KEY, iteration INTEGER NOT NULL, place INTEGER NOT NULL,
    stage TEXT NOT NULL, item TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX drops_place ON drops (iteration, place);
"""


class Key(NamedTuple):
    """What names a record; what a kind of record does not have is 0."""

    iteration: int
    attempt: int = 0
    sample: int = 0
    juror: int = 0
    vote: int = 0


def pack(key: Key) -> int:
    """The id of a record's row; ids sort as keys do.

    Raises:
        PreflightError: A number is larger than there is room for.
    """
    packed = key.iteration
    for number, bits in zip(key[1:], _BITS, strict=True):
        if number >> bits:
            raise PreflightError(
                f"{key}: a number above {2**bits - 1:,}, which the viewer cannot list",
                "`selfreward show RUN ATTEMPT` shows it.",
            )
        packed = packed << bits | number
    return packed


def unpack(packed: int) -> Key:
    """The key that an id holds."""
    numbers = []
    for bits in reversed(_BITS):
        numbers.append(packed & ((1 << bits) - 1))
        packed >>= bits
    return Key(packed, *reversed(numbers))


def side_file(run: Run, store: Store) -> Path:
    """Where the side file of a run is; another ``records.db`` in the same place has another one."""
    place = str(run.path.resolve())
    first = next(store.query("SELECT at, kind, text FROM events ORDER BY rowid LIMIT 1"), None)
    identity = f"{LAYOUT} {run.records.stat().st_ino} {first}"
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (place, identity)]
    return cache_directory() / "viewer" / f"{run.name[:64]}-{'-'.join(digests)}.db"


def open_side(run: Run, store: Store) -> sqlite3.Connection:
    """Open the side file of a run, which is made where there is none that fits.

    Raises:
        PreflightError: It cannot be written; the message says how to have it elsewhere.
    """
    path = side_file(run, store)
    try:
        db = _connected(path)
        if db is not None and _fits(db, store):
            return db
        if db is not None:
            db.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        stem = path.name.rpartition("-")[0]
        for old in path.parent.glob(f"{glob.escape(stem)}-*"):
            old.unlink(missing_ok=True)
        _create(path)
        return _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise PreflightError(
            f"{path}: lists and search need this file beside the run ({error})",
            "Free some disk space, or set SELFREWARD_CACHE to a directory that can be written.",
        ) from error


def discard(path: Path) -> None:
    """Remove a side file that cannot be read, so that it is made anew."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous=NORMAL")  # what is lost is made again
        return db
    except BaseException:
        db.close()
        raise


def _connected(path: Path) -> sqlite3.Connection | None:
    """The file as it lies there; None where there is none, or no whole one."""
    if not path.is_file():
        return None
    try:
        db = _connect(path)
    except sqlite3.DatabaseError:
        return None
    try:
        db.execute("SELECT count(*) FROM marks")
        return db
    except sqlite3.DatabaseError:
        db.close()
        return None


def _fits(db: sqlite3.Connection, store: Store) -> bool:
    """Whether the last rows that were taken in are still what they were."""
    marks = db.execute("SELECT name, done, seal FROM marks").fetchall()
    return all(seal_of(store, name, done) == seal for name, done, seal in marks)


def seal_of(store: Store, name: str, rowid: int) -> str:
    """What tells a row of a table from any other that takes its place."""
    row = next(store.query(f"SELECT * FROM {name} WHERE rowid = ?", (rowid,)), None)
    return hashlib.sha256(repr(row).encode()).hexdigest()


def _create(path: Path) -> None:
    """Make an empty side file, which is there whole or not at all."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with closing(sqlite3.connect(made, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(f"BEGIN;{SCHEMA}")
            for kind in SEARCHED:
                db.execute(
                    f"CREATE VIRTUAL TABLE {kind}_words USING fts5(text, content='', "
                    "prefix='3', tokenize='unicode61 remove_diacritics 2')"
                )
                db.execute(
                    f"INSERT INTO {kind}_words ({kind}_words, rank) VALUES ('hashsize', {_PENDING})"
                )
                for column in SORTED[kind]:
                    where = "" if column in ("score", "length") else f" WHERE {column} IS NOT NULL"
                    db.execute(
                        f"CREATE INDEX {kind}_{column} ON {kind} (iteration, {column}){where}"
                    )
                db.execute(
                    f"CREATE INDEX {kind}_reason ON {kind} (iteration, reason) "
                    "WHERE reason IS NOT NULL"
                )
            db.execute("COMMIT")
        made.replace(path)
    finally:
        discard(made)
