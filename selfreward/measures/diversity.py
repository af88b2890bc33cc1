"""How varied the prompts are that a policy wrote."""

import re
from dataclasses import dataclass
from itertools import pairwise

from selfreward.storage.store import Store

COUNTED = 2000
"""Prompts that are looked at: shares of distinct words fall with their number, so that they compare
only over as many."""
_WORD = re.compile(r"\w+")
_ACCEPTED = """
SELECT substr(text, 1, 10000) FROM prompts WHERE iteration = ? AND dropped IS NULL
ORDER BY attempt LIMIT ?"""


@dataclass(frozen=True, slots=True)
class Diversity:
    """Of the first accepted prompts of an iteration, ``COUNTED`` at most."""

    n: int
    words: float
    """Mean number."""
    distinct_1: float
    """Distinct words of all words, 0 to 1 (distinct-1 of Li et al. 2016, arXiv 1510.03055)."""
    distinct_2: float
    """The same of two words in a row."""
    openings: int
    """Different first two words."""


def diversity(store: Store, iteration: int) -> Diversity | None:
    """Of the prompts that an iteration accepted; None where there are none with words.

    Words are runs of letters and digits, in lower case.
    """
    texts = [row[0] for row in store.query(_ACCEPTED, (iteration, COUNTED))]
    words = [_WORD.findall(text.lower()) for text in texts]
    total = sum(map(len, words))
    if not total:
        return None
    twos = [(a, b) for row in words for a, b in pairwise(row)]
    return Diversity(
        n=len(texts),
        words=total / len(texts),
        distinct_1=len({word for row in words for word in row}) / total,
        distinct_2=len({*twos}) / len(twos) if twos else 1.0,
        openings=len({tuple(row[:2]) for row in words}),
    )
