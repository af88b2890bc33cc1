"""What a list is asked for: its kind, order, filters and words, read from an address."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfreward.errors import ConfigError
from selfreward.viewer.side import SEARCHED, SORTED, unpack

MOST = 200
"""Items of a page, at most."""
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
        """Whether any row may be left out, but for its words."""
        given = (self.reason, self.stage, self.min_score, self.max_score, self.juror)
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
    kind = one_of("kind", given.get("kind", "prompts"), SORTED)
    sorts = ("attempt", *SORTED[kind])
    sort = one_of("sort", given.get("sort") or "attempt", sorts, f" of {kind}")
    iteration, words = given.get("iteration", "all"), given.get("q", "").strip()
    if words and kind not in SEARCHED:
        raise ConfigError(f"q: {kind} have no texts", f"Search in {', '.join(SEARCHED)}.")
    if given.get("juror") and kind != "judgments":
        raise ConfigError(f"juror: {kind} are not of one judge", "Take kind=judgments.")
    if given.get("stage") and kind != "drops":
        raise ConfigError(f"stage: {kind} are of one stage", "Take kind=drops.")
    return Asked(
        kind=kind,
        iteration=None if iteration in ("", "all") else whole("iteration", iteration, 2**10),
        sort=sort,
        descending=one_of("order", given.get("order") or "asc", _ORDERS) == "desc",
        reason=given.get("reason") or None,
        stage=given.get("stage") or None,
        failed=one_of("failed", given.get("failed") or "0", ("0", "1")) == "1",
        min_score=_number("min_score", given),
        max_score=_number("max_score", given),
        juror=whole("juror", given["juror"], 63) if given.get("juror") else None,
        words=fts_query(words) if words else None,
        after=_cursor(given["after"]) if given.get("after") else None,
        limit=min(MOST, max(1, whole("limit", given.get("limit") or "50", 10**6))),
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


def cursor_of(row: Row) -> str:
    """What the next page goes on from, see ``Asked.after``."""
    return base64.urlsafe_b64encode(json.dumps([row.value, row.id]).encode()).decode()


def one_of(name: str, value: str, known: Any, of: str = "") -> str:
    """One of the values that a parameter may have.

    Raises:
        ConfigError: It is another; the message lists them. So for the next.
    """
    if value not in known:
        raise ConfigError(f"{name}={value[:60]}: not known", f"Known{of}: {', '.join(known)}.")
    return value


def whole(name: str, value: str, most: int) -> int:
    """A whole number from 0 to ``most``."""
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


def _cursor(text: str) -> tuple[float, int]:
    try:
        value, packed = json.loads(base64.b64decode(text.encode(), b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        value, packed = None, None
    is_place = isinstance(value, int | float) and isinstance(packed, int)
    if not (is_place and abs(value) < 2**63 and abs(packed) < 2**62):  # so that NaN is none, too
        raise ConfigError("after: not a cursor of this list", "Take `next` of the page before.")
    return value, packed
