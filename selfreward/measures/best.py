"""Which model of a run is the best, by a measure that the loop does not train."""

from collections.abc import Iterable
from dataclasses import dataclass

from selfreward.config.evaluation import benchmark_of
from selfreward.measures.figures import IterationFigures
from selfreward.measures.reports import Estimate
from selfreward.storage.directory import Run

FIRST = "M1"
"""Against which the others are compared."""
EVEN = 0.5
"""What M1 wins against itself."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best model of a run."""

    model: str
    """``M1``, ``M2``, ..."""
    by: str
    """See ``best.by``."""
    value: Estimate | None
    """0 to 1; None for M1 by ``win_rate``, which has a half."""
    judge: str | None
    """Who compared; None where none did."""
    measured: int
    """How many models were, M1 among them."""
    later: int
    """How many of them are newer."""

    @property
    def number(self) -> int:
        """1 for M1, ..."""
        return int(self.model.removeprefix("M"))


def best_model(
    iterations: Iterable[IterationFigures], by: str = "win_rate", margin: float = 0.0
) -> Best | None:
    """The best model; None where fewer than two were measured.

    A model counts as better than those before it if it is by more than ``margin``; so of equal ones
    the first, which was had for less.

    Args:
        iterations: In any order.
        by: As ``best.by``.
        margin: 0 to 1, in the units of the measure.
    """
    found = {f.iteration + 1: of for f in iterations if (of := _measured(f, by)) is not None}
    if by == "win_rate" and found:
        found[1] = (None, None)
    if len(found) < 2:
        return None
    best, *others = sorted(found)
    for number in others:
        if _value(found[number]) > _value(found[best]) + margin:
            best = number
    value, judge = found[best]
    later = sum(number > best for number in found)
    judge = judge or next((judge for _, judge in found.values() if judge), None)
    return Best(f"M{best}", by, value, judge, len(found), later)


def best_of(run: Run, iterations: Iterable[IterationFigures]) -> Best | None:
    """The best model by what the run's config says; see ``best_model``."""
    settings = run.settings.get("best", {})  # a group that is younger than some runs
    return best_model(iterations, settings.get("by", "win_rate"), settings.get("margin", 0.0))


def _measured(figures: IterationFigures, by: str) -> tuple[Estimate | None, str | None] | None:
    """The value, and who compared."""
    if wanted := benchmark_of(by):
        name, metric = wanted
        found = figures.benchmarks.get(name)
        return (found.scores[metric], None) if found else None
    if by == "judge_agreement":
        accuracy = figures.judge.accuracy if figures.judge else None
        return (accuracy, None) if accuracy and accuracy.value is not None else None
    if by == "verifiable":
        rate = figures.verified.rate if figures.verified else None
        return (rate, None) if rate and rate.value is not None else None
    contests = [c for c in figures.contests if c.opponent == FIRST]
    if not contests or contests[0].win_rate.value is None:
        return None
    return contests[0].win_rate, contests[0].judge


def _value(measured: tuple[Estimate | None, str | None]) -> float:
    estimate = measured[0]
    return EVEN if estimate is None or estimate.value is None else estimate.value
