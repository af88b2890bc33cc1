"""Each new model as a judge, held against people: agreement, calibration, drift."""

import math
from typing import Any

from selfreward.charts.base import Pen, over_iterations
from selfreward.charts.data import ChartData
from selfreward.measures.reports import CalibrationBin, Estimate


def agreement(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Held-out pairs that each new model orders as people do, beside taking the longer response."""
    found = [(f.iteration + 1, f.judge) for f in data.iterations if f.judge]
    models = [model for model, _ in found]
    axis.axhline(50, color=pen.palette.muted, lw=0.8)
    for label, color, side, estimates in (
        ("model as judge", pen.first, 0.0, [judge.accuracy for _, judge in found]),
        ("longer wins", pen.second, 0.12, [judge.longest for _, judge in found]),
    ):
        at = [model + side for model in models]
        drawn = [interval(estimate, 100) for estimate in estimates]
        values, ends = [value for value, _ in drawn], [*zip(*(e for _, e in drawn), strict=True)]
        style = "--" if side else "-"
        axis.errorbar(at, values, yerr=ends, color=color, ls=style, label=label)
        for model, place, value, estimate in zip(models, at, values, estimates, strict=True):
            (dot,) = axis.plot([place], [value], marker="s" if side else "o", color=color)
            pen.mark(dot, f"M{model}, {label}: {said(estimate)} of {estimate.n} pairs")
    axis.set_ylim(0, 103)
    over_iterations(axis, models, "M")
    axis.set_ylabel("pairs as people order them, %")
    pen.legend(axis, columns=2)


def drift(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """How far each model's scores of the same held-out responses are from those M1 gave, and what
    responses win by asking for a high score.
    """
    axis.axhline(0, color=pen.palette.muted, lw=0.8)
    models = set()
    for label, color, side, found in (
        ("drift from M1", pen.first, 0.0, [(f.iteration + 1, f.drift) for f in data.iterations]),
        ("won by asking for 5", pen.second, 0.12,
         [(f.iteration + 1, f.canaries.uplift if f.canaries else None) for f in data.iterations]),
    ):  # fmt: skip
        rows = [(model, e) for model, e in found if e and e.value is not None]
        if not rows:
            continue
        drawn = [interval(estimate, 1) for _, estimate in rows]
        ends = [*zip(*(e for _, e in drawn), strict=True)]
        at = [model + side for model, _ in rows]
        axis.errorbar(at, [value for value, _ in drawn], yerr=ends, color=color, label=label)
        for place, (model, estimate), (value, _) in zip(at, rows, drawn, strict=True):
            (dot,) = axis.plot([place], [value], marker="s" if side else "o", color=color)
            pen.mark(dot, f"M{model}, {label}: {value:+.2f} points, n = {estimate.n}")
            models.add(model)
    over_iterations(axis, [*range(min(models), max(models) + 1)], "M")
    axis.set_ylabel("points")
    pen.legend(axis, columns=2)


def calibration(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """How people like the responses that a model gives about the same score."""
    assert iteration is not None
    standing(axis, data.calibration.get(iteration, ()), pen)


def standing(axis: Any, bins: "tuple[CalibrationBin, ...] | Any", pen: Pen) -> None:
    """Share of a prompt's other responses that people like less, by the judge's score."""
    axis.axhline(50, color=pen.palette.muted, lw=0.8)
    _points(axis, [(row.score, row.standing) for row in bins], 100, "%", pen)
    axis.set_ylim(0, 103)
    _scores_below(axis, bins)
    axis.set_ylabel("responses that people like less, %")


def human_score(axis: Any, bins: "tuple[CalibrationBin, ...] | Any", pen: Pen) -> None:
    """Points from people by points from the judge."""
    axis.plot([0, 5], [0, 5], color=pen.palette.muted, lw=0.8)
    _points(axis, [(row.score, row.human_score) for row in bins], 1, " points", pen)
    axis.set_ylim(0, 5.1)
    _scores_below(axis, bins)
    axis.set_ylabel("people's score, points")


def _points(
    axis: Any, rows: list[tuple[float, Estimate]], scale: float, unit: str, pen: Pen
) -> None:
    for score, estimate in rows:
        if estimate.value is None:
            continue
        value, (below, above) = interval(estimate, scale)
        bars = None if estimate.low is None else [[below], [above]]
        axis.errorbar(score, value, yerr=bars, color=pen.first)
        (dot,) = axis.plot([score], [value], marker="o", color=pen.first)
        pen.mark(dot, f"judge {score:.2f}: {value:.1f}{unit}, n = {estimate.n}")
        axis.annotate(
            f"{estimate.n}", (score, value), xytext=(5, 4), textcoords="offset points", fontsize=8.5
        )


def _scores_below(axis: Any, bins: "tuple[CalibrationBin, ...] | Any") -> None:
    low, high = bins[0].score, bins[-1].score
    margin = max(0.08 * (high - low), 0.1)  # the scores of an untrained judge lie close together
    axis.set_xlim(max(low - margin, -0.1), min(high + 2 * margin, 5.3))
    axis.set_xlabel("judge's score, points; bars: 95%; numbers: n")


def interval(estimate: Estimate, scale: float) -> tuple[float, tuple[float, float]]:
    """The value and how far its interval goes below and above; what there is none of is 0 long."""
    value = math.nan if estimate.value is None else estimate.value
    low = value if estimate.low is None else estimate.low
    high = value if estimate.high is None else estimate.high
    return scale * value, (scale * (value - low), scale * (high - value))


def said(estimate: Estimate) -> str:
    """A share in words, with its interval."""
    if estimate.value is None:
        return "n/a"
    text = f"{estimate.value:.1%}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:.1%}, {estimate.high:.1%}]"
