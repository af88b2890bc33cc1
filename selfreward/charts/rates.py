"""Shares that say whether a judge still tells answers apart, by iteration."""

from typing import Any

from selfreward.charts.base import Pen, over_iterations
from selfreward.charts.data import ChartData
from selfreward.measures.figures import IterationFigures

_LISTS: dict[str, dict[str, object]] = {
    "no verdict": {"kind": "judgments", "failed": 1},
    "prompts all equal": {"kind": "drops", "reason": "tie"},
    "score rounds to 5": {"kind": "responses", "min_score": 4.5},
    "cut off": {"kind": "responses", "sort": "length", "order": "desc"},
}


def rates(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Votes without a verdict, prompts whose scores are all equal, scores at the ceiling, responses
    that were cut off.
    """
    rounds = [f for f in data.answered if f.judgments.n]
    for (label, where), color in zip(_LISTS.items(), pen.palette.series, strict=False):
        found = [(f.iteration, v) for f in rounds if (v := _share(label, f)) is not None]
        if not found:
            continue
        at = [number for number, _ in found]
        axis.plot(at, [100 * value for _, value in found], color=color, label=label)
        for number, value in found:
            (dot,) = axis.plot([number], [100 * value], marker="o", color=color)
            pen.mark(
                dot, f"iteration {number}, {label}: {value:.1%}", where | {"iteration": number}
            )
    axis.set_ylim(-2, 102)
    over_iterations(axis, [f.iteration for f in rounds])
    axis.set_ylabel("share, %")
    pen.legend(axis, columns=2)


def _share(label: str, figures: IterationFigures) -> float | None:
    votes, responses = figures.judgments, figures.responses
    if label == "no verdict":
        return None if votes.parse_rate is None else 1 - votes.parse_rate
    if label == "prompts all equal":
        return figures.pairs.tie_rate
    if label == "score rounds to 5":
        return figures.scores.fives
    return responses.truncated / responses.n if responses.n else None
