"""Preference pairs: what became of the prompts, and how long chosen and rejected answers are."""

from typing import Any

from selfreward.charts.base import Pen, bars_above, over_iterations
from selfreward.charts.data import ChartData


def outcomes(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Prompts of each iteration with a pair, and without one: equal scores, other reasons."""
    rounds = [f for f in data.answered if f.pairs.prompts]
    iterations = [f.iteration for f in rounds]
    kept = [f.pairs.paired for f in rounds]
    ties = [f.pairs.dropped.get("tie", 0) for f in rounds]
    other = [f.pairs.prompts - k - t for f, k, t in zip(rounds, kept, ties, strict=True)]
    parts = {"with a pair": kept, "all scores equal": ties, "other reasons": other}
    drawn = bars_above(axis, iterations, {k: v for k, v in parts.items() if any(v)}, pen, 0.6)
    lists: dict[str, dict[str, object]] = {
        "with a pair": {"kind": "prompts", "sort": "margin", "order": "desc"},
        "all scores equal": {"kind": "drops", "reason": "tie"},
        "other reasons": {"kind": "drops"},
    }
    for label, bars in drawn.items():
        for bar, figures, count in zip(bars, rounds, parts[label], strict=True):
            where = {**lists[label], "iteration": figures.iteration}
            tip = f"iteration {figures.iteration}: {count} of {figures.pairs.prompts} prompts"
            pen.mark(bar, f"{tip}, {label}", where)
    over_iterations(axis, iterations)
    axis.set_ylabel("prompts")
    axis.yaxis.get_major_locator().set_params(integer=True)
    pen.legend(axis, columns=3)


def lengths(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Mean characters of chosen, rejected and all responses."""
    rounds = [f for f in data.answered if f.pairs.n or f.responses.length is not None]
    iterations = [f.iteration for f in rounds]
    colors = (pen.first, pen.second, pen.palette.series[2])
    series = {
        "chosen": [f.pairs.chosen_length for f in rounds],
        "rejected": [f.pairs.rejected_length for f in rounds],
        "all": [f.responses.length for f in rounds],
    }
    for (label, values), color in zip(series.items(), colors, strict=True):
        found = [(at, v) for at, v in zip(iterations, values, strict=True) if v is not None]
        if not found:
            continue
        style = "--" if label == "all" else "-"
        axis.plot(*zip(*found, strict=True), color=color, ls=style, label=label)
        for at, value in found:
            (dot,) = axis.plot([at], [value], marker="o", color=color)
            where = {"kind": "responses", "iteration": at, "sort": "length", "order": "desc"}
            pen.mark(dot, f"iteration {at}, {label}: {value:.0f} characters", where)
    axis.set_ylim(bottom=0)
    over_iterations(axis, iterations)
    axis.set_ylabel("mean length, characters")
    pen.legend(axis, columns=3)
