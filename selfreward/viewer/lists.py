"""Lists of prompts, responses, judgments and drops: any order, any filter, page by page.

    parameters -> Asked -> ids of a page, from the side file -> items, with texts from the store

A page begins after the last row of the one before (its value and id, the cursor), so it takes as
long as the first one however far down it is. A filter that few rows pass is looked up and its rows
sorted; else rows are read in order and passed over, for at most ``SECONDS``: then a page may be
short, and says where to go on.
"""

import base64
import binascii
import heapq
import json
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfreward.errors import ConfigError
from selfreward.storage.store import Store
from selfreward.viewer.side import SEARCHED, SORTED, Key, pack, unpack

MOST = 200
"""Items of a page, at most."""
SECONDS = 0.15
"""After so long a page is given as far as it is."""
FEW = 10_000
"""Rows that are sorted as a whole, at most."""
SHOWN = 300
"""Characters of a text, a reason or a detail in a list."""
_CHUNK = 2_000
_ORDERS = ("asc", "desc")
_NAMES = {
    "kind", "iteration", "sort", "order", "reason", "failed", "min_score", "max_score", "juror",
    "stage", "q", "after", "limit",
}  # fmt: skip


class Row(NamedTuple):
    """A row of the side file, as far as order and filters go."""

    value: float
    """By which it is sorted."""
    id: int
    score: float | None
    reason: str | None
    stage: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a list is asked for; see the fields of the same names in docs/viewer.md."""

    kind: str
    iteration: int | None
    """None: all."""
    sort: str
    descending: bool
    reason: str | None
    stage: str | None
    failed: bool
    min_score: float | None
    max_score: float | None
    juror: int | None
    words: str | None
    """In the syntax of FTS5."""
    after: tuple[float, int] | None
    """Value and id of the last row of the page before."""
    limit: int

    def passes(self, row: Row) -> bool:
        """Whether a row is in the list, but for its words."""
        return (
            (self.reason is None or row.reason == self.reason)
            and (self.stage is None or row.stage == self.stage)
            and (not self.failed or row.score is None)
            and (self.min_score is None or (row.score is not None and row.score >= self.min_score))
            and (self.max_score is None or (row.score is not None and row.score <= self.max_score))
            and (self.juror is None or unpack(row.id).juror == self.juror)
        )

    @property
    def is_filtered(self) -> bool:
        """Whether any row may be left out."""
        given = (self.reason, self.stage, self.min_score, self.max_score, self.juror, self.words)
        return self.failed or any(value is not None for value in given)

    def follows(self, row: Row) -> bool:
        """Whether a row comes after the page before."""
        if self.after is None:
            return True
        place = row.value, row.id
        return place < self.after if self.descending else place > self.after


def asked(given: Mapping[str, str]) -> Asked:
    """Read the parameters of a list.

    Raises:
        ConfigError: One is not known or not what it has to be; the message names it.
    """
    if unknown := sorted(given.keys() - _NAMES):
        raise ConfigError(
            f"{unknown[0]}: no such parameter", f"Known: {', '.join(sorted(_NAMES))}."
        )
    kind = _one_of("kind", given.get("kind", "prompts"), SORTED)
    sort = _one_of(
        "sort", given.get("sort") or "attempt", ("attempt", *SORTED[kind]), f" of {kind}"
    )
    iteration, words = given.get("iteration", "all"), given.get("q", "").strip()
    if words and kind not in SEARCHED:
        raise ConfigError(f"q: {kind} have no texts", f"Search in {', '.join(SEARCHED)}.")
    if given.get("juror") and kind != "judgments":
        raise ConfigError(f"juror: {kind} are not of one judge", "Take kind=judgments.")
    if given.get("stage") and kind != "drops":
        raise ConfigError(f"stage: {kind} are of one stage", "Take kind=drops.")
    return Asked(
        kind=kind,
        iteration=None if iteration in ("", "all") else _whole("iteration", iteration, 2**10),
        sort=sort,
        descending=_one_of("order", given.get("order") or "asc", _ORDERS) == "desc",
        reason=given.get("reason") or None,
        stage=given.get("stage") or None,
        failed=_one_of("failed", given.get("failed") or "0", ("0", "1")) == "1",
        min_score=_number("min_score", given),
        max_score=_number("max_score", given),
        juror=_whole("juror", given["juror"], 63) if given.get("juror") else None,
        words=fts_query(words) if words else None,
        after=_cursor(given["after"]) if given.get("after") else None,
        limit=min(MOST, max(1, _whole("limit", given.get("limit") or "50", 10**6))),
    )


def fts_query(text: str) -> str:
    """What a person typed as a query of FTS5: all of these words.

    ``"several words"`` are meant as they stand, ``word*`` begins a word; nothing else means
    anything.

    Raises:
        ConfigError: There is no letter or digit to look for.
    """
    parts: list[str] = []
    for number, piece in enumerate(text.replace("\x00", " ").split('"')):
        words = [piece] if number % 2 else piece.split()
        for word in words:
            if any(character.isalnum() for character in word):
                starts = number % 2 == 0 and word.endswith("*")
                parts.append(f'"{word}"' + (" *" if starts else ""))
    if not parts:
        raise ConfigError(f"q: no word to look for in {text[:60]!r}", "Give letters or digits.")
    return " AND ".join(parts)


def page(side: sqlite3.Connection, asked: Asked) -> tuple[list[int], str | None, int | None]:
    """The ids of a page in order, the cursor of the next page, and how many there are in all.

    The cursor is None after the last page; the number where it is not known.
    """
    few = _few(side, asked)
    if few is not None:
        left = [row for row in few if asked.follows(row)]
        taken = left[: asked.limit]
        more = len(left) > len(taken)
        return [row.id for row in taken], _next(taken[-1]) if more else None, len(few)
    taken, last = [], None
    end = time.monotonic() + SECONDS
    for chunk in _chunks(side, asked):
        for row in chunk:
            if asked.passes(row) and _has_words(side, asked, row):
                if len(taken) == asked.limit:
                    return [r.id for r in taken], _next(taken[-1]), _count(side, asked)
                taken.append(row)
            last = row
            if asked.words is not None and time.monotonic() > end:
                return [r.id for r in taken], _next(last), None
        if time.monotonic() > end and last is not None:
            return [r.id for r in taken], _next(last), None
    return [row.id for row in taken], None, _count(side, asked)


def items(
    side: sqlite3.Connection, store: Store, kind: str, ids: list[int]
) -> list[dict[str, Any]]:
    """What a list shows of each row."""
    return [_drop(side, store, packed) if kind == "drops" else _item(side, store, kind, packed)
            for packed in ids]  # fmt: skip


# Which rows


def _iterations(side: sqlite3.Connection, asked: Asked) -> list[int]:
    if asked.iteration is not None:
        return [asked.iteration]
    rows = side.execute("SELECT iteration FROM counts WHERE kind = ? ORDER BY 1", (asked.kind,))
    return [row[0] for row in rows]


def _value(asked: Asked) -> str:
    """The column that an order goes by."""
    if asked.sort != "attempt":
        return asked.sort
    return "place" if asked.kind == "drops" else "id"


def _columns(asked: Asked) -> str:
    value = _value(asked)
    if asked.kind == "drops":
        return f"{value}, id, NULL, reason, stage"
    return f"{value}, id, score, reason, NULL"


def _few(side: sqlite3.Connection, asked: Asked) -> list[Row] | None:
    """All rows of a list in order, if it has a filter that few rows pass; else None."""
    found: list[int] | None = None
    for source, values in _sources(side, asked):
        ids = [row[0] for row in side.execute(f"{source} LIMIT {FEW + 1}", values)]
        if len(ids) <= FEW:
            found = ids if found is None or len(ids) < len(found) else found
    if found is None:
        return None
    rows = []
    for at in range(0, len(found), 500):
        some = found[at : at + 500]
        marks = ",".join("?" * len(some))
        query = f"SELECT {_columns(asked)} FROM {asked.kind} WHERE id IN ({marks})"
        rows += [row for row in map(Row._make, side.execute(query, some)) if asked.passes(row)]
    if asked.sort != "attempt":
        rows = [row for row in rows if row.value is not None]
    rows = [row for row in rows if _has_words(side, asked, row)]
    return sorted(rows, key=lambda row: (row.value, row.id), reverse=asked.descending)


def _sources(side: sqlite3.Connection, asked: Asked) -> Iterator[tuple[str, list[Any]]]:
    """Queries for the ids of all rows that pass one filter, of filters that have an index."""
    iterations = _iterations(side, asked)
    marks = ",".join("?" * len(iterations))
    within = f"FROM {asked.kind} WHERE iteration IN ({marks})"
    if asked.words is not None:
        ends = [pack(Key(iterations[0])), pack(Key(iterations[-1] + 1))] if iterations else [0, 0]
        yield (
            f"SELECT rowid FROM {asked.kind}_words WHERE {asked.kind}_words MATCH ? "
            "AND rowid >= ? AND rowid < ?",
            [asked.words, *ends],
        )
    if asked.reason is not None and asked.kind != "drops":
        yield f"SELECT id {within} AND reason = ?", [*iterations, asked.reason]
    if asked.failed and asked.kind != "drops":
        yield f"SELECT id {within} AND score IS NULL", [*iterations]
    if asked.kind != "drops" and (asked.min_score is not None or asked.max_score is not None):
        low = -math.inf if asked.min_score is None else asked.min_score
        high = math.inf if asked.max_score is None else asked.max_score
        yield f"SELECT id {within} AND score BETWEEN ? AND ?", [*iterations, low, high]


def _has_words(side: sqlite3.Connection, asked: Asked, row: Row) -> bool:
    if asked.words is None:
        return True
    words = f"{asked.kind}_words"
    query = f"SELECT 1 FROM {words} WHERE {words} MATCH ? AND rowid = ?"
    return side.execute(query, (asked.words, row.id)).fetchone() is not None


def _chunks(side: sqlite3.Connection, asked: Asked) -> Iterator[list[Row]]:
    """Rows in order, from after the page before, filters not looked at, some at a time."""
    each = [_of_iteration(side, asked, t) for t in _iterations(side, asked)]
    merged = heapq.merge(*each, key=lambda row: (row.value, row.id), reverse=asked.descending)
    chunk: list[Row] = []
    for row in merged:
        chunk.append(row)
        if len(chunk) == 250:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _of_iteration(side: sqlite3.Connection, asked: Asked, iteration: int) -> Iterator[Row]:
    """The rows of an iteration in order, from after the page before."""
    column, over, order = _value(asked), ">", "ASC"
    if asked.descending:
        over, order = "<", "DESC"
    size, at = asked.limit + 1, asked.after
    while True:
        rows: list[Row] = []
        for where, values in _spans(asked, iteration, column, over, at):
            query = f"{_select(asked)} {where} ORDER BY {column} {order}, id {order} LIMIT ?"
            if asked.words is not None and column == "id":
                query = _select_words(asked, where, order)
                values = [asked.words, *values]
            rows += map(Row._make, side.execute(query, (*values, size - len(rows))))
            if len(rows) == size:
                break
        yield from rows
        if len(rows) < size:
            return
        at, size = (rows[-1].value, rows[-1].id), _CHUNK


def _spans(
    asked: Asked, iteration: int, column: str, over: str, at: tuple[float, int] | None
) -> list[tuple[str, list[Any]]]:
    """Conditions that an index serves, for the rows after one: of its value, then the others."""
    if column == "id":
        ends: list[Any] = [pack(Key(iteration)), pack(Key(iteration + 1))]
        within = "WHERE id >= ? AND id < ?"
        return [(within, ends)] if at is None else [(f"{within} AND id {over} ?", [*ends, at[1]])]
    within = f"WHERE iteration = ? AND {column}"
    if at is None:
        return [(f"{within} IS NOT NULL", [iteration])]
    return [
        (f"{within} = ? AND id {over} ?", [iteration, *at]),
        (f"{within} {over} ?", [iteration, at[0]]),
    ]


def _select(asked: Asked) -> str:
    return f"SELECT {_columns(asked)} FROM {asked.kind}"


def _select_words(asked: Asked, where: str, order: str) -> str:
    """Rows with the words that are asked for, in the order of their keys."""
    words = f"{asked.kind}_words"
    found = f"SELECT rowid AS found FROM {words} {where.replace('id ', 'rowid ')}"
    found = found.replace("WHERE", f"WHERE {words} MATCH ? AND")
    return (
        f"{_select(asked)} JOIN ({found} ORDER BY rowid {order} LIMIT ?) ON id = found "
        f"ORDER BY id {order}"
    )


def _count(side: sqlite3.Connection, asked: Asked) -> int | None:
    """How many rows a list has that leaves none out."""
    if asked.is_filtered or asked.sort != "attempt":
        return None
    iterations = _iterations(side, asked)
    marks = ",".join("?" * len(iterations))
    query = f"SELECT ifnull(sum(n), 0) FROM counts WHERE kind = ? AND iteration IN ({marks})"
    return int(side.execute(query, (asked.kind, *iterations)).fetchone()[0])


# What is shown of them


_BEGINNING = "SELECT substr(CAST({text} AS BLOB), 1, ?) FROM {table} WHERE {key}"
_PLACE = "iteration = ? AND attempt = ?"
_TEXTS = {
    "prompts": _BEGINNING.format(
        text="CASE WHEN dropped IS NULL THEN text ELSE raw END", table="prompts", key=_PLACE
    ),
    "responses": _BEGINNING.format(text="text", table="responses", key=f"{_PLACE} AND sample = ?"),
    "judgments": _BEGINNING.format(
        text="raw", table="judgments", key=f"{_PLACE} AND sample = ? AND juror = ? AND vote = ?"
    ),
}
_HAS = {"prompts": 2, "responses": 3, "judgments": 5}
"""Numbers in the key of each kind."""
_EMPTY = {
    "iteration": None, "attempt": None, "sample": None, "vote": None, "juror": None, "text": "",
    "score": None, "spread": None, "length": None, "margin": None, "disagreement": None,
    "reason": None, "role": None, "stage": None, "detail": None,
}  # fmt: skip


def _item(side: sqlite3.Connection, store: Store, kind: str, packed: int) -> dict[str, Any]:
    key = unpack(packed)[: _HAS[kind]]
    cursor = side.execute(f"SELECT * FROM {kind} WHERE id = ?", (packed,))
    names = [column[0] for column in cursor.description]
    values = dict(zip(names, cursor.fetchone(), strict=True))
    del values["id"]
    numbers = dict(zip(Key._fields, key, strict=False))
    values["reason"] = _start(values["reason"])
    return {"kind": kind, **_EMPTY, **values, **numbers, "text": _text(store, kind, key)}


def _drop(side: sqlite3.Connection, store: Store, packed: int) -> dict[str, Any]:
    query = "SELECT iteration, place, stage, item, reason, detail FROM drops WHERE id = ?"
    iteration, place, stage, item, reason, detail = side.execute(query, (packed,)).fetchone()
    key = unpack(place)
    numbers: dict[str, Any] = {"iteration": iteration}
    text, parts = item, item.count("/")
    if item[:1].isdecimal():
        numbers["attempt"] = key.attempt
        if parts:
            numbers["sample"] = key.sample
        if stage == "selection" and parts == 2:
            numbers["vote"] = key.vote
        text = _text(store, "responses" if parts else "prompts", key[: 3 if parts else 2])
    return {"kind": "drops", **_EMPTY, **numbers, "text": text, "reason": _start(reason),
            "stage": stage, "detail": _start(detail)}  # fmt: skip


def _start(text: str | None) -> str | None:
    return text and text[:SHOWN]


def _text(store: Store, kind: str, key: tuple[int, ...]) -> str:
    """The beginning of a text. As bytes, as SQLite's own ``substr`` ends at a null character."""
    raw: bytes | None = next(store.query(_TEXTS[kind], (4 * SHOWN, *key)), (None,))[0]
    return (raw or b"").decode(errors="backslashreplace")[:SHOWN]


# Reading parameters


def _one_of(name: str, value: str, known: Any, of: str = "") -> str:
    if value not in known:
        raise ConfigError(f"{name}={value[:60]}: not known", f"Known{of}: {', '.join(known)}.")
    return value


def _whole(name: str, value: str, most: int) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) <= most):
        raise ConfigError(f"{name}={value[:60]}: expected a whole number from 0 to {most}")
    return int(value)


def _number(name: str, given: Mapping[str, str]) -> float | None:
    if not given.get(name):
        return None
    try:
        value = float(given[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{name}={given[name][:60]}: expected a number")
    return value


def _next(row: Row) -> str:
    return base64.urlsafe_b64encode(json.dumps([row.value, row.id]).encode()).decode()


def _cursor(text: str) -> tuple[float, int]:
    try:
        value, packed = json.loads(base64.b64decode(text.encode(), b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        value, packed = None, None
    if not isinstance(value, int | float) or not isinstance(packed, int) or abs(packed) >= 2**63:
        raise ConfigError("after: not a cursor of this list", "Take `next` of the page before.")
    return value, packed
