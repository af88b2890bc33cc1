"""What prompts begin with alike, such as the rubric: engines keep its state and reuse it."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

_Token = TypeVar("_Token", str, int)


def shared_start(
    rows: Sequence[Sequence[_Token]], known: Iterable[Sequence[_Token]]
) -> list[_Token]:
    """Tokens that all rows begin with, and that are worth a state of their own.

    The first that is at least half as long as what the rows share is taken: of the known starts
    the longest that fits, then the longest beginning of a known one, then all that the rows share.
    A row that is alone takes the first, however short.

    Args:
        rows: Prompts; each keeps a token after the start.
        known: Starts of which the state is kept.
    """
    common, starts = common_start(rows), [list(start) for start in known]
    best = max((s for s in starts if common[: len(s)] == s), key=len, default=[])
    if len(rows) == 1 or 2 * len(best) >= len(common):
        return best
    best = max((_common([start, common]) for start in starts), key=len, default=[])
    return best if 2 * len(best) >= len(common) else common


def common_start(rows: Sequence[Sequence[_Token]]) -> list[_Token]:
    """The longest common start that leaves each row a token."""
    return _common([list(row[:-1]) for row in rows])


def _common(rows: Sequence[list[_Token]]) -> list[_Token]:
    first, last = min(rows), max(rows)  # what these share, all between them share
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), len(first))]
