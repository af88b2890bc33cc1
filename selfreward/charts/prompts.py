"""Prompts that the policy wrote: which were taken, how varied they are, and of which kinds."""

from collections import Counter
from typing import Any

from selfreward.charts.base import Pen, bars_above, over_iterations
from selfreward.charts.data import ChartData
from selfreward.measures.diversity import OTHER

MOST_REASONS = 5
OTHER_REASONS = "other reasons"
_MOST_ASKED = 100
"""Characters of a reason that a link can ask for."""


def variety(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Distinct word pairs of prompts and of answers, and prompts that nearly repeat another."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for f in data.answered:
        if f.data is not None:
            found: dict[str, float | None] = {
                "distinct word pairs, prompts": f.data.prompts.distinct_2,
                "distinct word pairs, answers": getattr(f.data.responses, "distinct_2", None),
                "nearly repeated prompts": f.data.near_duplicates / f.data.compared,
            }
            for label, value in found.items():
                if value is not None:
                    lines.setdefault(label, []).append((f.iteration, value))
    for (label, points), color in zip(lines.items(), pen.palette.series, strict=False):
        at = [number for number, _ in points]
        axis.plot(at, [100 * value for _, value in points], color=color, label=label)
        for number, value in points:
            (dot,) = axis.plot([number], [100 * value], marker="o", color=color)
            where = {"kind": "responses" if "answers" in label else "prompts", "iteration": number}
            pen.mark(dot, f"iteration {number}, {label}: {value:.1%}", where)
    axis.set_ylim(-2, 102)
    over_iterations(axis, [f.iteration for f in data.answered if f.data])
    axis.set_ylabel("share, %")
    pen.legend(axis, columns=2)


def kinds(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Accepted prompts by the word that they begin with; the rarest words together."""
    rounds = [(f.iteration, f.data.kinds) for f in data.answered if f.data]
    total = sum((Counter(found) for _, found in rounds), Counter[str]())
    named = [kind for kind, _ in total.most_common() if kind != OTHER][:MOST_REASONS]
    parts = {kind: [found.get(kind, 0) for _, found in rounds] for kind in named}
    rest = [sum(found.values()) - sum(found.get(k, 0) for k in named) for _, found in rounds]
    if any(rest):
        parts[OTHER] = rest
    iterations = [at for at, _ in rounds]
    for label, bars in bars_above(axis, iterations, parts, pen, 0.6).items():
        for bar, (at, found), count in zip(bars, rounds, parts[label], strict=True):
            tip = f"iteration {at}: {count} of {sum(found.values())} begin with {label}"
            pen.mark(bar, tip, {"kind": "prompts", "iteration": at})
    over_iterations(axis, iterations)
    axis.set_ylabel("accepted prompts")
    axis.yaxis.get_major_locator().set_params(integer=True)
    pen.legend(axis, columns=3)


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
        parts[OTHER_REASONS] = [sum(f.prompts.dropped.get(r, 0) for r in rest) for f in rounds]
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
