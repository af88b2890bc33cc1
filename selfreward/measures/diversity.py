"""How healthy the data of an iteration is: how varied, how often repeated, and of which kinds.

Of a prompt that is a conversation what its user says is looked at: a system turn, which many may
share, and earlier answers are no part of it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from selfreward.inputs.conversations import requests_of
from selfreward.measures.duplicates import near_duplicates
from selfreward.stages.words import words
from selfreward.storage.store import Store

COUNTED = 2000
"""Texts that are looked at: shares of distinct words fall with their number, so that they compare
only over as many."""
KINDS = 20
"""Kinds of prompts that are told apart, the most frequent ones; the others are one, ``OTHER``."""
OTHER = "other"
_PROMPTS = """
SELECT substr(text, 1, 10000), columns FROM prompts WHERE iteration = ? AND dropped IS NULL
ORDER BY attempt LIMIT ?"""
_RESPONSES = """
SELECT substr(text, 1, 10000) FROM responses WHERE iteration = ? AND dropped IS NULL
AND author = 'policy' ORDER BY attempt, sample LIMIT ?"""
_EARLIER = """
SELECT substr(text, 1, 10000), columns FROM prompts
WHERE iteration BETWEEN 1 AND ? AND dropped IS NULL ORDER BY iteration, attempt"""
_LONGEST = 10_000
"""Characters of a text that are looked at."""
_ALL = -1
"""For SQLite: no limit."""
_SHOWN = 300
"""Characters of an example."""
_POLITE = re.compile(
    r"^\W*(?:please\W+|kindly\W+|(?:can|could|would|will) you\W+|"
    r"i(?:'d| would) like you to\W+|i (?:want|need) you to\W+)+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Diversity:
    """Of the first texts of an iteration, ``COUNTED`` at most."""

    n: int
    words: float
    """Mean number."""
    distinct_1: float
    """Distinct words of all words, 0 to 1 (distinct-1 of Li et al. 2016, arXiv 1510.03055)."""
    distinct_2: float
    """The same of two words in a row."""
    openings: int
    """Different first two words."""


@dataclass(frozen=True, slots=True)
class DataFigures:
    """Of the prompts that a closed iteration accepted, and of the answers to them."""

    prompts: Diversity
    responses: Diversity | None
    """Of the policy's answers; None where there are none with words."""
    near_duplicates: int
    """Accepted prompts that nearly repeat one accepted before, in this iteration or an earlier one;
    see ``near_duplicates``."""
    compared: int
    """Prompts of this iteration that were held against all before them: all with words."""
    example: tuple[str, str] | None
    """The first of these, and what it repeats."""
    kinds: dict[str, int]
    """Accepted prompts by their first word, see ``kind_of``; the most frequent first."""


def data_figures(store: Store, iteration: int) -> DataFigures | None:
    """Compute them from the records; None where no prompt with words was accepted.

    It reads the prompts of all iterations up to this one, so it is done once, when one is closed.
    """
    varied = diversity(store, iteration)
    if varied is None:
        return None
    texts = _asked(store, _PROMPTS, iteration, _ALL)
    earlier = _asked(store, _EARLIER, iteration - 1)
    repeated = near_duplicates(texts, earlier)
    responses = (row[0] for row in store.query(_RESPONSES, (iteration, COUNTED)))
    return DataFigures(
        prompts=varied,
        responses=_diversity([*responses]),
        near_duplicates=len(repeated),
        compared=sum(bool(words(text)) for text in texts),
        example=(repeated[0][0][:_SHOWN], repeated[0][1][:_SHOWN]) if repeated else None,
        kinds=_kinds(texts),
    )


def diversity(store: Store, iteration: int) -> Diversity | None:
    """Of the prompts that an iteration accepted; None where there are none with words.

    Words are those of ``stages.words``, in any script.
    """
    return _diversity(_asked(store, _PROMPTS, iteration, COUNTED))


def kind_of(prompt: str) -> str:
    """What sort of request it is: its first word, in small letters, polite openings left out.

    A question begins with its question word, a request with its verb, so that this is the verb of
    Self-Instruct's verb and noun (arXiv 2212.10560, 3.2) without a parser; in a script without
    spaces it is the first character. ``OTHER`` without words.
    """
    found = words(_POLITE.sub("", prompt)) or words(prompt)
    return found[0] if found else OTHER


def _asked(store: Store, query: str, *values: int) -> list[str]:
    return [requests_of(*prompt)[:_LONGEST] for prompt in store.query(query, values)]


def _kinds(texts: Sequence[str]) -> dict[str, int]:
    counts = Counter(map(kind_of, texts))
    without = counts.pop(OTHER, 0)
    kinds = dict(sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))[:KINDS])
    rest = without + counts.total() - sum(kinds.values())
    return kinds | ({OTHER: rest} if rest else {})


def _diversity(texts: Sequence[str]) -> Diversity | None:
    found = [words(text) for text in texts]
    total = sum(map(len, found))
    if not total:
        return None
    twos = [(a, b) for row in found for a, b in pairwise(row)]
    return Diversity(
        n=len(texts),
        words=total / len(texts),
        distinct_1=len({word for row in found for word in row}) / total,
        distinct_2=len({*twos}) / len(twos) if twos else 1.0,
        openings=len({tuple(row[:2]) for row in found}),
    )
