"""Score against length: whether longer answers are scored higher, and from which length on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from selfreward.measures.statistics import clustered_mean
from selfreward.measures.votes import ALL, Key, Scored
from selfreward.storage.store import Store

PARTS = 10
_LENGTHS = """
SELECT attempt, sample, length(text) FROM responses
WHERE iteration = ? AND attempt < ? AND finish_reason != 'length'
AND (author = 'policy' OR iteration = 0)"""


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Responses of about one length, those that were cut off left out."""

    low: int
    """Characters of the shortest, as all lengths."""
    high: int
    length: float
    """Mean."""
    n: int
    mean: float
    """Score, 0 to 5."""
    se: float | None
    """Standard error of it, clustered by prompt; None for one prompt."""


def response_lengths(store: Store, iteration: int, attempts: int = ALL) -> dict[Key, int]:
    """Characters of each whole response of the policy to the first so many attempts."""
    return {row[:2]: row[2] for row in store.query(_LENGTHS, (iteration, attempts))}


def length_bins(lengths: Mapping[Key, int], scored: Iterable[Scored]) -> tuple[LengthBin, ...]:
    """Scored responses in ten parts by length, of as equal number as may be: responses of one
    length stay together, so there may be fewer. Empty for no scores.
    """
    rows = sorted(
        (lengths[row[:2]], row.attempt, row.score) for row in scored if row[:2] in lengths
    )
    parts: list[list[tuple[int, int, float]]] = []
    left, size = len(rows), 0.0
    for _, group in groupby(rows, key=itemgetter(0)):
        if not parts or len(parts[-1]) >= size:
            size = left / (PARTS - len(parts))  # of those that are left, so many for each part
            parts.append([])
        together = list(group)
        parts[-1] += together
        left -= len(together)
    return tuple(map(_bin, parts))


def _bin(rows: list[tuple[int, int, float]]) -> LengthBin:
    by_prompt: dict[int, list[float]] = {}
    for _, attempt, score in rows:
        by_prompt.setdefault(attempt, []).append(score)
    mean, error = clustered_mean(by_prompt.values())
    assert mean is not None
    length = sum(row[0] for row in rows) / len(rows)
    return LengthBin(rows[0][0], rows[-1][0], length, len(rows), mean, error)
