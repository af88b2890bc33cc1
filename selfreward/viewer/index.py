"""Filling the side file of a run, see ``side.py``, as far as the run has come.

    records.db, read only -> extend() -> side file

Records are only ever added, so a mark for each table says how far the side file is.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from selfreward.measures.votes import read_votes, scored_responses
from selfreward.storage.store import Store
from selfreward.viewer.side import Key, pack, seal_of

CHUNK = 20_000
"""Rows that are read and written in one transaction at most."""
_GAP = 16
"""Attempts whose scores are computed together may lie so far apart."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a run is in its side file, in rows."""

    done: int
    total: int

    @property
    def behind(self) -> int:
        """Rows that are not in it yet."""
        return self.total - self.done


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
    """Take in at most so many further rows, in one transaction, and say how far it is then.

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
                if left <= 0 or done >= last[name]:
                    continue
                n, marks[name] = take(db, store, done, left)
                left -= n
                mark = name, marks[name], seal_of(store, name, marks[name])
                db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", mark)
                if marks[name] < last[name]:
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
        tuple([_text(cell) if isinstance(cell, bytes) else cell for cell in row])
        for row in store.query(sql, (done, n))
    ]
    return rows, int(rows[-1][0])


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
    """(iteration, first attempt, last attempt) that hold all of these, without large gaps."""
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
