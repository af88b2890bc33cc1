"""Which model of a run is the best, by a measure that the loop does not train."""

from collections.abc import Sequence
from dataclasses import dataclass

from selfreward.measures.figures import IterationFigures
from selfreward.measures.reports import Estimate

FIRST = "M1"


@dataclass(frozen=True, slots=True)
class Best:
    """The best model of a run."""

    model: str
    """``M1``, ``M2``, ..."""
    win_rate: Estimate | None
    """Against M1, by the first judge of the contests; None for M1 itself, which has 0.5."""
    judge: str
    compared: int
    """How many models were, with M1."""


def best_model(iterations: Sequence[IterationFigures]) -> Best | None:
    """The model that wins most against M1 on the held-out questions; M1 where none wins half.

    The earlier one of two that win as often: it was had for less. None where no model was compared.

    Args:
        iterations: In any order.
    """
    found = {
        figures.iteration + 1: contest
        for figures in iterations
        for contest in reversed(figures.contests)  # so that the first judge's stays
        if contest.opponent == FIRST and contest.win_rate.value is not None
    }
    if not found:
        return None
    wins = {number: contest.win_rate.value or 0.0 for number, contest in found.items()}
    number = max(sorted(wins), key=lambda number: wins[number])
    judge = found[number].judge
    if wins[number] <= 0.5:
        return Best(FIRST, None, judge, len(found) + 1)
    return Best(f"M{number}", found[number].win_rate, judge, len(found) + 1)
