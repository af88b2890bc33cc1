"""Score against length, in parts of equal number."""

from typing import Any

from selfreward.charts.base import Pen
from selfreward.charts.data import ChartData


def length(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Mean score of the shortest tenth of the responses, of the next, ..., with standard errors."""
    assert iteration is not None
    bins = data.lengths[iteration]
    at, values = [row.length for row in bins], [row.mean for row in bins]
    errors = [row.se or 0.0 for row in bins]
    axis.errorbar(at, values, yerr=errors, color=pen.first)
    for row in bins:
        (dot,) = axis.plot([row.length], [row.mean], marker="o", color=pen.first)
        error = "n/a" if row.se is None else f"{row.se:.2f}"
        tip = f"{row.low} to {row.high} characters: {row.mean:.2f} ± {error} points, n = {row.n}"
        pen.mark(dot, tip, {"kind": "responses", "iteration": iteration, "sort": "length"})
    figures = next(f for f in data.iterations if f.iteration == iteration)
    correlation = figures.scores.spearman_length
    found = "" if correlation is None else f"; Spearman {correlation:+.2f}"
    axis.set_xlabel(f"length, characters, by tenths{found}")
    axis.set_ylabel("mean score by the judge, points")
