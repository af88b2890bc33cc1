"""How little an answer repeats itself, and whether it comes to an end."""

from collections.abc import Sequence
from typing import Any

from selfreward.stages.words import words

_N = 4
"""Words of a sequence; repeated 4-grams are what degenerate text shows (Welleck et al., arXiv
1908.04319, section 6)."""
_ENDS = tuple(".!?:;)]}\"'`*\u3002\uff01\uff1f\u2026\u201d\u00bb")


def distinct(completions: Sequence[str], **_: Any) -> list[float | None]:
    """The share of sequences of four words that come but once (1 - seq-rep-4), 0 to 1.

    No value for an answer of fewer words.
    """
    return [_distinct(words(text)) for text in completions]


def ended(completions: Sequence[str], **_: Any) -> list[float]:
    """1 where an answer ends as a sentence, a list or code does, else 0.

    An answer that was cut off at ``responses.max_new_tokens`` is only judged with
    ``judge.truncated``; this finds those that break off by themselves.
    """
    return [float(text.rstrip().endswith(_ENDS)) for text in completions]


def _distinct(found: Sequence[str]) -> float | None:
    sequences = [tuple(found[i : i + _N]) for i in range(len(found) - _N + 1)]
    return len(set(sequences)) / len(sequences) if sequences else None
