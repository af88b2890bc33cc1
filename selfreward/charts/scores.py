"""Scores as the run's judge gave them: how they are spread, and their means."""

from typing import Any

from selfreward.charts.base import Pen, over_iterations
from selfreward.charts.data import ChartData


def histogram(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Responses of an iteration by score; all iterations on one scale of shares and points."""
    rounds = [f for f in data.answered if f.scores.bins]
    drawn = {f.iteration: f.scores.bins for f in rounds if f.scores.bins}
    low = min(bins.middles[0] - bins.width for bins in drawn.values())
    high = max(bins.middles[-1] + bins.width for bins in drawn.values())
    top = max(100 * max(bins.counts) / sum(bins.counts) for bins in drawn.values())
    assert iteration is not None
    bins = drawn[iteration]
    n = sum(bins.counts)
    shares = [100 * count / n for count in bins.counts]
    bars = axis.bar(bins.middles, shares, color=pen.first, width=0.85 * bins.width)
    for bar, middle, share, count in zip(bars, bins.middles, shares, bins.counts, strict=True):
        if not count:
            bar.remove()
            continue
        axis.text(middle, share, f"{count}", ha="center", va="bottom", fontsize=8.5)
        ends = [round(middle + side * bins.width / 2, 6) for side in (-1, 1)]
        where = {"kind": "responses", "iteration": iteration, "sort": "score",
                 "min_score": max(ends[0], 0), "max_score": min(ends[1], 5)}  # fmt: skip
        pen.mark(bar, f"{count} of {n} responses ({share:.1f}%) score about {middle:g}", where)
    axis.set_xlim(low, high)
    axis.set_ylim(0, 1.12 * top)
    axis.set_xlabel(f"score that the judge gave, points; n = {n}")
    axis.set_ylabel("responses, %")


def means(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Mean score by iteration, with the standard error clustered by prompt."""
    rounds = [f for f in data.answered if f.scores.mean is not None]
    iterations = [f.iteration for f in rounds]
    values = [f.scores.mean or 0.0 for f in rounds]
    errors = [f.scores.se or 0.0 for f in rounds]
    axis.errorbar(iterations, values, yerr=errors, color=pen.first, ls="-")
    for figures, value in zip(rounds, values, strict=True):
        at, error = figures.iteration, figures.scores.se
        (dot,) = axis.plot([at], [value], marker="o", color=pen.first)
        give = "n/a" if error is None else f"{error:.3f}"
        pen.mark(
            dot, f"iteration {at}: {value:.3f} ± {give} points, n = {figures.scores.n}",
            {"kind": "responses", "iteration": at, "sort": "score"},
        )  # fmt: skip
        if len(rounds) <= 10:
            axis.annotate(
                f"{value:.2f}", (at, value), xytext=(7, 6), textcoords="offset points", fontsize=9
            )
    spread = max(max(values) - min(values), 4 * max(errors), 0.4)
    middle = (max(values) + min(values)) / 2
    axis.set_ylim(middle - spread, middle + spread)
    over_iterations(axis, iterations)
    axis.set_ylabel("points by the run's own judge")
