"""Prompts that the policy wrote: which were taken, and why not the others."""

from collections import Counter
from typing import Any

from selfreward.charts.base import Pen, bars_above, over_iterations
from selfreward.charts.data import ChartData

MOST_REASONS = 5
OTHER = "other reasons"
_MOST_ASKED = 100
"""Characters of a reason that a link can ask for."""


def taken(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Attempts by what became of them; the rarest reasons together."""
    rounds = [f for f in data.answered if f.prompts.attempts]
    iterations = [f.iteration for f in rounds]
    total = sum((Counter(f.prompts.dropped) for f in rounds), Counter[str]())
    reasons = [reason for reason, _ in total.most_common()]
    named, rest = reasons[:MOST_REASONS], reasons[MOST_REASONS:]
    parts: dict[str, list[int]] = {"accepted": [f.prompts.accepted for f in rounds]}
    for reason in named:
        parts[reason] = [f.prompts.dropped.get(reason, 0) for f in rounds]
    if rest:
        parts[OTHER] = [sum(f.prompts.dropped.get(r, 0) for r in rest) for f in rounds]
    drawn = bars_above(axis, iterations, parts, pen, 0.6)
    for label, bars in drawn.items():
        for bar, figures, count in zip(bars, rounds, parts[label], strict=True):
            where: dict[str, object] = {"kind": "drops", "iteration": figures.iteration}
            if label == "accepted":
                where["kind"] = "prompts"
            elif label in named and len(label) <= _MOST_ASKED:
                where["reason"] = label.partition(" ")[0] if "keyword " in label else label
            tip = f"iteration {figures.iteration}: {count} of {figures.prompts.attempts}, {label}"
            pen.mark(bar, tip, where)
    over_iterations(axis, iterations)
    axis.set_ylabel("attempts at a prompt")
    axis.yaxis.get_major_locator().set_params(integer=True)
    pen.legend(axis, columns=3)
