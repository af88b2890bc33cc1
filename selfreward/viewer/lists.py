"""Lists of prompts, responses, judgments and drops: any order, any filter, page by page.

    Asked -> ids of a page, from the side file -> items, with texts from the store

A page begins after the last row of the one before (its value and id, the cursor), so it takes as
long as the first one however far down it is. A filter that few rows pass is looked up and its rows
sorted; else rows are read in order and passed over, for at most ``SECONDS``: then a page may be
short, and says where to go on. A page whose rows all pass is whole, however slow the machine is.
"""

import heapq
import math
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from selfreward.storage.store import Store
from selfreward.viewer.asked import Asked, Row, cursor_of
from selfreward.viewer.side import Key, pack, unpack

SECONDS = 0.15
"""After so long no further row is passed over: a page is given as far as it is."""
FEW = 5_000
"""Rows that are sorted as a whole, at most."""
SHOWN = 300
"""Characters of a text, a reason or a detail in a list."""
_CHUNK = 2_000
_Span = tuple[str, list[Any]]
"""A condition that an index serves, and its values."""


def page(side: sqlite3.Connection, asked: Asked) -> tuple[list[int], str | None, int | None]:
    """The ids of a page in order, the cursor of the next page, and how many there are in all.

    The cursor is None after the last page; the number where it is not known.
    """
    few, have_words = _few(side, asked)
    rows = _walk(side, asked) if few is None else filter(asked.follows, few)
    count = len(few) if few is not None and have_words else _count(side, asked)
    taken: list[Row] = []
    end = time.monotonic() + SECONDS
    for row in rows:
        if asked.passes(row) and (have_words or _has_words(side, asked, row)):
            if len(taken) == asked.limit:
                return [each.id for each in taken], cursor_of(taken[-1]), count
            taken.append(row)
        elif time.monotonic() > end:
            return [each.id for each in taken], cursor_of(row), count
    return [each.id for each in taken], None, count


def items(
    side: sqlite3.Connection, store: Store, kind: str, ids: list[int]
) -> list[dict[str, Any]]:
    """What a list shows of each row."""
    return [_drop(side, store, packed) if kind == "drops" else _item(side, store, kind, packed)
            for packed in ids]  # fmt: skip


# Which rows


def _few(side: sqlite3.Connection, asked: Asked) -> tuple[list[Row] | None, bool]:
    """All rows of a list in order, if it has a filter that few rows pass; else None.

    Also whether its rows, or else all that will be read in order, are known to have its words.
    """
    is_in_order = asked.words is not None and asked.sort == "attempt"
    found, have_words = None, asked.words is None
    for source, values in [] if is_in_order else _sources(side, asked):
        ids = [row[0] for row in side.execute(f"{source} LIMIT {FEW + 1}", values)]
        if len(ids) <= FEW and not (found is not None and (have_words or len(ids) > len(found))):
            found, have_words = ids, have_words or "MATCH" in source
    if found is None:
        return None, is_in_order or asked.words is None
    rows = []
    for at in range(0, len(found), 500):
        some = found[at : at + 500]
        query = f"{_select(asked)} WHERE id IN ({','.join('?' * len(some))})"
        rows += [row for row in map(Row._make, side.execute(query, some)) if asked.passes(row)]
    rows = [row for row in rows if row.value is not None]
    return sorted(rows, key=_place, reverse=asked.descending), have_words


def _sources(side: sqlite3.Connection, asked: Asked) -> Iterator[_Span]:
    """Queries for the ids of all rows that pass one filter, of filters that have an index."""
    if asked.kind == "drops":
        return
    iterations = _iterations(side, asked)
    if asked.words is not None:
        words = f"{asked.kind}_words"
        query = f"SELECT rowid FROM {words} WHERE {words} MATCH ? AND rowid >= ? AND rowid < ?"
        yield query, [asked.words, *_ends(iterations)]
    marks = ",".join("?" * len(iterations))
    within = f"SELECT id FROM {asked.kind} WHERE iteration IN ({marks})"
    if asked.reason is not None:
        yield f"{within} AND reason = ?", [*iterations, asked.reason]
    if asked.failed:
        yield f"{within} AND score IS NULL", [*iterations]
    if asked.min_score is not None or asked.max_score is not None:
        low = -math.inf if asked.min_score is None else asked.min_score
        high = math.inf if asked.max_score is None else asked.max_score
        yield f"{within} AND score BETWEEN ? AND ?", [*iterations, low, high]


def _has_words(side: sqlite3.Connection, asked: Asked, row: Row) -> bool:
    words = f"{asked.kind}_words"
    query = f"SELECT 1 FROM {words} WHERE {words} MATCH ? AND rowid = ?"
    return side.execute(query, (asked.words, row.id)).fetchone() is not None


def _walk(side: sqlite3.Connection, asked: Asked) -> Iterator[Row]:
    """All rows in order, from after the page before; filters are not looked at."""
    iterations = _iterations(side, asked)
    if _column(asked) == "id":
        return _read(side, asked, iterations)  # ids sort by iteration first
    each = [_read(side, asked, [iteration]) for iteration in iterations]
    return heapq.merge(*each, key=_place, reverse=asked.descending)


def _read(side: sqlite3.Connection, asked: Asked, iterations: list[int]) -> Iterator[Row]:
    """The rows of one iteration in order, or by id of several; little by little."""
    order = "DESC" if asked.descending else "ASC"
    size, at = asked.limit + 1, asked.after
    while True:
        rows: list[Row] = []
        for where, values in _spans(asked, iterations, at):
            query = f"{_select(asked)} WHERE {where}"
            query += f" ORDER BY {_column(asked)} {order}, id {order} LIMIT ?"
            if _column(asked) == "id" and asked.words is not None:
                query, values = _searched(asked, order), [asked.words, *values]
            rows += map(Row._make, side.execute(query, (*values, size - len(rows))))
            if len(rows) == size:
                break
        yield from rows
        if len(rows) < size:
            return
        at, size = _place(rows[-1]), _CHUNK


def _spans(asked: Asked, iterations: list[int], at: tuple[float, int] | None) -> list[_Span]:
    """Which rows come after one: those of its value, then the others."""
    column, over = _column(asked), "<" if asked.descending else ">"
    if column == "id":
        first, end = _ends(iterations)
        if at is not None and asked.descending:
            end = min(end, at[1])
        elif at is not None:
            first = max(first, at[1] + 1)
        return [("id >= ? AND id < ?", [first, end])]
    within = f"iteration = ? AND {column}"
    if at is None:
        return [(f"{within} IS NOT NULL", [*iterations])]
    return [
        (f"{within} = ? AND id {over} ?", [*iterations, *at]),
        (f"{within} {over} ?", [*iterations, at[0]]),
    ]


def _searched(asked: Asked, order: str) -> str:
    """Rows that have the words that are asked for, from an id to before another."""
    words = f"{asked.kind}_words"
    return (
        f"{_select(asked)} JOIN (SELECT rowid AS found FROM {words} WHERE {words} MATCH ? "
        f"AND rowid >= ? AND rowid < ? ORDER BY rowid {order} LIMIT ?) ON id = found "
        f"ORDER BY id {order}"
    )


def _iterations(side: sqlite3.Connection, asked: Asked) -> list[int]:
    if asked.iteration is not None:
        return [asked.iteration]
    rows = side.execute("SELECT iteration FROM counts WHERE kind = ? ORDER BY 1", (asked.kind,))
    return [row[0] for row in rows]


def _ends(iterations: list[int]) -> list[int]:
    """The first id of some iterations, and the one after the last."""
    return [pack(Key(iterations[0])), pack(Key(iterations[-1] + 1))] if iterations else [0, 0]


def _column(asked: Asked) -> str:
    """The column that an order goes by."""
    if asked.sort != "attempt":
        return asked.sort
    return "place" if asked.kind == "drops" else "id"


def _select(asked: Asked) -> str:
    """The columns of ``Row``."""
    rest = "NULL, reason, stage" if asked.kind == "drops" else "score, reason, NULL"
    return f"SELECT {_column(asked)}, id, {rest} FROM {asked.kind}"


def _place(row: Row) -> tuple[float, int]:
    return row.value, row.id


def _count(side: sqlite3.Connection, asked: Asked) -> int | None:
    """How many rows there are of all of a kind, or with some words, if these are few."""
    if asked.is_filtered or asked.sort != "attempt":
        return None
    if asked.words is not None:
        query, values = next(_sources(side, asked))
        count = f"SELECT count(*) FROM ({query} LIMIT {FEW + 1})"
        found = int(side.execute(count, values).fetchone()[0])
        return found if found <= FEW else None
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
