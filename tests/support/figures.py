"""Figures of a judge, made up for the tests of what is said about them."""

from selfreward.measures.evaluated import JudgeFigures
from selfreward.measures.reports import Estimate

Interval = tuple[float, float | None, float | None]


def estimate(value: float) -> Estimate:
    """Without an interval."""
    return Estimate(value, None, None, 9)


def judge_figures(accuracy: Interval, gain: Interval) -> JudgeFigures:
    """Of a judge with a verdict on every one of 80 responses.

    Args:
        accuracy: Value, low, high; as ``gain``.
    """
    any_, few = estimate(0.5), Estimate(None, None, None, 0)
    return JudgeFigures(
        prompts=20, responses=80, pairs=120, matched=0, parse_rate=estimate(1.0),
        accuracy=Estimate(*accuracy, 120), accuracy_matched=few, longest=any_,
        longest_matched=few, gain=Estimate(*gain, 120), spearman=any_,
    )  # fmt: skip
