"""The side file of a run: what lists sort by, and the words of all texts, outside the run.

    records.db, read only -> extend() -> <cache>/viewer/<name>-<hash>.db -> lists

Records are only ever added, so a watermark for each table says how far the side file is. A row's
id holds its whole key in order (``pack``), so ids sort as keys do, and the rows of an iteration are
a range of them. The words are in FTS5 tables without the texts, which stay in ``records.db``. The
file may be removed at any time; it is made again.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from selfreward.errors import PreflightError
from selfreward.inputs.shipped import cache_directory
from selfreward.measures.votes import read_votes, scored_responses
from selfreward.storage.directory import Run
from selfreward.storage.store import Store

LAYOUT = 1
"""Raised when a table below changes; a side file of another layout is made anew."""
CHUNK = 20_000
"""Rows that are read and written in one transaction at most."""
_GAP = 16
"""Attempts whose scores are computed together may lie so far apart."""
_BITS = (26, 12, 6, 8)
"""Of attempt, sample, juror and vote within an id; an iteration has what is left of 63."""

SORTED = {
    "prompts": ("score", "spread", "length", "margin", "disagreement"),
    "responses": ("score", "spread", "length", "disagreement"),
    "judgments": ("score", "length"),
    "drops": (),
}
"""What the rows of each kind can be sorted by, beside their key."""
SEARCHED = ("prompts", "responses", "judgments")
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE marks (name TEXT PRIMARY KEY, done INTEGER NOT NULL, total INTEGER NOT NULL);
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


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a run is in its side file, in rows."""

    done: int
    total: int

    @property
    def behind(self) -> int:
        """Rows that are not in it yet."""
        return self.total - self.done


def side_file(run: Run) -> Path:
    """Where the side file of a run is."""
    digest = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:16]
    return cache_directory() / "viewer" / f"{run.name[:64]}-{digest}.db"


def open_side(run: Run, store: Store) -> sqlite3.Connection:
    """Open the side file of a run, made anew where there is none or it is of another ``records.db``.

    Raises:
        PreflightError: It cannot be written; the message says how to have it elsewhere.
    """
    path, identity = side_file(run), _identity(run, store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = _connected(path)
        if db is not None and _is_of(db, identity, store):
            return db
        if db is not None:
            db.close()
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)
        db = _connect(path)
        _create(db, identity)
        return db
    except (OSError, sqlite3.Error) as error:
        raise PreflightError(
            f"{path}: lists and search need this file beside the run ({error})",
            "Free some disk space, or set SELFREWARD_CACHE to a directory that can be written.",
        ) from error


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")  # what is lost is made again
    return db


def _connected(path: Path) -> sqlite3.Connection | None:
    """The file as it lies there; None where there is none, or no whole one."""
    if not path.is_file():
        return None
    db = None
    try:
        db = _connect(path)
        db.execute("SELECT count(*) FROM meta")
        return db
    except sqlite3.DatabaseError:
        if db is not None:
            db.close()
        return None


def _identity(run: Run, store: Store) -> str:
    """What tells a ``records.db`` from another one that takes its place."""
    first = next(store.query("SELECT at, kind, text FROM events ORDER BY rowid LIMIT 1"), None)
    return f"{LAYOUT} {run.records.stat().st_ino} {first}"


def _is_of(db: sqlite3.Connection, identity: str, store: Store) -> bool:
    row = db.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
    if row is None or row[0] != identity:
        # A run that is begun gets its first event after it was first looked at.
        return bool(row) and row[0].endswith(" None") and identity.startswith(row[0][:-5])
    marks = dict(db.execute("SELECT name, done FROM marks"))
    return all(marks.get(name, 0) <= last for name, last in _last_rows(store).items())


def _create(db: sqlite3.Connection, identity: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    for kind in SEARCHED:
        db.execute(
            f"CREATE VIRTUAL TABLE {kind}_words USING fts5(text, content='', "
            "tokenize='unicode61 remove_diacritics 2')"
        )
        for column in SORTED[kind]:
            where = "" if column == "score" else f" WHERE {column} IS NOT NULL"
            db.execute(f"CREATE INDEX {kind}_{column} ON {kind} (iteration, {column}){where}")
        db.execute(
            f"CREATE INDEX {kind}_reason ON {kind} (iteration, reason) WHERE reason IS NOT NULL"
        )
    db.execute("INSERT INTO meta VALUES ('identity', ?)", (identity,))
    db.execute("COMMIT")


def _last_rows(store: Store) -> dict[str, int]:
    """The last row of each table that is read; rows are only added, so this is their number."""
    return {
        name: next(store.query(f"SELECT ifnull(max(rowid), 0) FROM {name}"))[0] for name in _TAKES
    }


def extent(db: sqlite3.Connection, store: Store) -> Extent:
    """How much of the run is in its side file."""
    marks = dict(db.execute("SELECT name, done FROM marks"))
    last = _last_rows(store)
    return Extent(sum(min(marks.get(name, 0), n) for name, n in last.items()), sum(last.values()))


def extend(db: sqlite3.Connection, store: Store, rows: int = CHUNK) -> Extent:
    """Take in at most so many further rows, in one transaction, and say how far it is.

    A table is read only when all before it are: what a row is about is always there.
    """
    with store.snapshot():
        last = _last_rows(store)
        db.execute("BEGIN IMMEDIATE")
        try:
            marks = dict(db.execute("SELECT name, done FROM marks"))
            left = rows
            for name, take in _TAKES.items():
                done = marks.get(name, 0)
                while left > 0 and done < last[name]:
                    n, done = take(db, store, done, min(left, CHUNK))
                    left -= max(n, 1)
                    marks[name] = done
                    db.execute(
                        "INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (name, done, last[name])
                    )
                if done < last[name]:
                    break
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    return Extent(sum(marks.get(name, 0) for name in _TAKES), sum(last.values()))


_PROMPTS = """SELECT rowid, iteration, attempt, CASE WHEN dropped IS NULL THEN text ELSE raw END,
dropped, detail FROM prompts WHERE rowid > ? ORDER BY rowid LIMIT ?"""
_RESPONSES = """SELECT rowid, iteration, attempt, sample, text, dropped
FROM responses WHERE rowid > ? ORDER BY rowid LIMIT ?"""
_JUDGMENTS = """SELECT rowid, iteration, attempt, sample, juror, vote, raw, score, reason
FROM judgments WHERE rowid > ? ORDER BY rowid LIMIT ?"""
_PAIRS = """SELECT rowid, iteration, attempt, chosen, rejected, chosen_score - rejected_score
FROM pairs WHERE rowid > ? ORDER BY rowid LIMIT ?"""
_DROPS = """SELECT rowid, iteration, stage, item, reason, detail
FROM drops WHERE rowid > ? ORDER BY rowid LIMIT ?"""


def _read(store: Store, sql: str, done: int, n: int) -> tuple[list[tuple[Any, ...]], int]:
    """The next rows, their texts as text, and the last of their rowids."""
    rows = [
        tuple(_text(cell) if isinstance(cell, bytes) else cell for cell in row)
        for row in store.query(sql, (done, n))
    ]
    return rows, rows[-1][0] if rows else done + n


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def _prompts(db: sqlite3.Connection, store: Store, done: int, n: int) -> tuple[int, int]:
    rows, done = _read(store, _PROMPTS, done, n)
    found = sorted((pack(Key(*row[1:3])), *row) for row in rows)
    db.executemany(
        "INSERT INTO prompts (id, iteration, length, reason) VALUES (?,?,?,?)",
        [(row[0], row[2], len(row[4]), row[5]) for row in found],
    )
    _add_words(db, "prompts", [(row[0], row[4]) for row in found])
    _count(db, "prompts", rows)
    dropped = [
        (2 * row[0] + 1, row[1], pack(Key(*row[1:3])), "prompts", str(row[2]), row[4], row[5])
        for row in rows
        if row[4] is not None
    ]
    _add_drops(db, dropped)
    return len(rows), done


def _responses(db: sqlite3.Connection, store: Store, done: int, n: int) -> tuple[int, int]:
    rows, done = _read(store, _RESPONSES, done, n)
    found = sorted((pack(Key(*row[1:4])), row[1], row[4], row[5]) for row in rows)
    db.executemany(
        "INSERT INTO responses (id, iteration, length, reason) VALUES (?,?,?,?)",
        [(packed, iteration, len(text), dropped) for packed, iteration, text, dropped in found],
    )
    _add_words(db, "responses", [(row[0], row[2]) for row in found])
    _count(db, "responses", rows)
    return len(rows), done


def _judgments(db: sqlite3.Connection, store: Store, done: int, n: int) -> tuple[int, int]:
    rows, done = _read(store, _JUDGMENTS, done, n)
    found = sorted((pack(Key(*row[1:6])), row[1], row[6], row[7], row[8]) for row in rows)
    db.executemany(
        "INSERT INTO judgments VALUES (?,?,?,?,?)",
        [(packed, t, score, len(raw), reason) for packed, t, raw, score, reason in found],
    )
    _add_words(db, "judgments", [(row[0], row[2]) for row in found])
    _count(db, "judgments", rows)
    for iteration, first, last in _ranges((row[1], row[2]) for row in rows):
        _score(db, store, iteration, first, last)
    return len(rows), done


def _pairs(db: sqlite3.Connection, store: Store, done: int, n: int) -> tuple[int, int]:
    rows, done = _read(store, _PAIRS, done, n)
    for role, at in (("chosen", 3), ("rejected", 4)):
        other = "rejected" if role == "chosen" else "chosen"
        db.executemany(
            f"UPDATE responses SET role = CASE role WHEN '{other}' THEN 'chosen, rejected' "
            f"WHEN 'chosen, rejected' THEN role ELSE '{role}' END WHERE id = ?",
            [(pack(Key(row[1], row[2], row[at])),) for row in rows],
        )
    db.executemany(
        "UPDATE prompts SET margin = max(ifnull(margin, 0), ?) WHERE id = ?",
        [(row[5], pack(Key(row[1], row[2]))) for row in rows],
    )
    return len(rows), done


def _drops(db: sqlite3.Connection, store: Store, done: int, n: int) -> tuple[int, int]:
    rows, done = _read(store, _DROPS, done, n)
    made = []
    for rowid, iteration, stage, item, reason, detail in rows:
        numbers = _numbers(stage, item)
        made.append((2 * rowid, iteration, pack(Key(iteration, *numbers)), stage, item, reason,
                     detail))  # fmt: skip
        if stage == "pairs" and numbers:
            kind = "prompts" if len(numbers) == 1 else "responses"
            db.execute(
                f"UPDATE {kind} SET reason = ? WHERE id = ?",
                (reason, pack(Key(iteration, *numbers[:2]))),
            )
    _add_drops(db, made)
    return len(rows), done


_TAKES = {
    "prompts": _prompts,
    "responses": _responses,
    "judgments": _judgments,
    "pairs": _pairs,
    "drops": _drops,
}
"""The tables of ``records.db`` that are read, in order, and what takes in their rows."""


def _numbers(stage: str, item: str) -> list[int]:
    """Attempt, sample, juror and vote that a drop is about, as far as it names them.

    A dropped pair (``attempt/chosen/rejected``) is found at its chosen response.
    """
    parts = item.split("/")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        return []  # a row of seed data, such as ``eft:12``
    numbers = [int(part) for part in parts]
    if len(numbers) == 3 and stage == "selection":
        return [numbers[0], numbers[1], 0, numbers[2]]
    return numbers[:2]


def _add_words(db: sqlite3.Connection, kind: str, texts: Iterable[tuple[int, str]]) -> None:
    db.executemany(f"INSERT INTO {kind}_words (rowid, text) VALUES (?,?)", texts)


def _add_drops(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    db.executemany("INSERT INTO drops VALUES (?,?,?,?,?,?,?)", rows)
    _count(db, "drops", rows)


def _count(db: sqlite3.Connection, kind: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Count rows whose second cell is their iteration."""
    counts: dict[int, int] = {}
    for row in rows:
        counts[row[1]] = counts.get(row[1], 0) + 1
    db.executemany(
        "INSERT INTO counts VALUES (?,?,?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
        [(kind, iteration, n) for iteration, n in counts.items()],
    )


def _ranges(touched: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(iteration, first attempt, last attempt) that hold all of these, few and without large gaps."""
    for iteration, group in groupby(sorted(set(touched)), key=lambda key: key[0]):
        attempts = [attempt for _, attempt in group]
        first = last = attempts[0]
        for attempt in attempts[1:]:
            if attempt - last > _GAP:
                yield iteration, first, last
                first = attempt
            last = attempt
        yield iteration, first, last


def _score(db: sqlite3.Connection, store: Store, iteration: int, first: int, last: int) -> None:
    """Scores, spreads and disagreement of responses and prompts, as their votes are now."""
    votes = read_votes(store, iteration, last + 1, first)
    means: dict[tuple[int, int], list[float]] = {}
    for row in votes:
        if row.mean is not None:
            means.setdefault((row.attempt, row.sample), []).append(row.mean)
    scored = scored_responses(store, iteration, last + 1, votes, first)
    if any(
        row.juror for row in votes
    ):  # who of a jury sits may change, and with it who has a score
        within = pack(Key(iteration, first)), pack(Key(iteration, last + 1)) - 1
        db.execute("UPDATE responses SET score = NULL WHERE id BETWEEN ? AND ?", within)
    rows = [
        (row.score, row.spread, _range(means[row.attempt, row.sample]),
         pack(Key(iteration, row.attempt, row.sample)))
        for row in scored
    ]  # fmt: skip
    db.executemany("UPDATE responses SET score=?, spread=?, disagreement=? WHERE id=?", rows)
    prompts = []
    for attempt, group in groupby(zip(scored, rows, strict=True), key=lambda both: both[0].attempt):
        both = list(group)
        scores = [row.score for row, _ in both]
        apart = [row[2] for _, row in both if row[2] is not None]
        prompts.append(
            (sum(scores) / len(scores), max(scores) - min(scores), max(apart, default=None),
             pack(Key(iteration, attempt)))
        )  # fmt: skip
    db.executemany("UPDATE prompts SET score=?, spread=?, disagreement=? WHERE id=?", prompts)


def _range(means: Sequence[float]) -> float | None:
    """How far the judges' means lie apart; None for one judge."""
    return max(means) - min(means) if len(means) > 1 else None


def catch_up(run: Run, rest: int = 0) -> None:
    """Extend a side file until no more rows than these are left."""
    with run.store() as store, closing(open_side(run, store)) as db:
        db.execute("PRAGMA cache_size=-65536")
        while extend(db, store).behind > rest:
            time.sleep(0)
