"""What the trainer logged by step, and what DPO came to over the iterations.

Names in TRL's log are in ``_SERIES``; ``measures.curves`` says what they mean.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from selfreward.charts.base import Pen, over_iterations
from selfreward.charts.data import ChartData

MOST_POINTS = 240
"""Of a curve; more steps are drawn as means of as many neighbors as it takes."""
_SERIES: dict[str, dict[str, str]] = {
    "loss": {"loss": "loss"},
    "accuracy": {"accuracy": "rewards/accuracies"},
    "rewards": {"chosen": "rewards/chosen", "rejected": "rewards/rejected",
                "margin": "rewards/margins"},
    "logprobs": {"chosen": "logps/chosen", "rejected": "logps/rejected"},
    "points": {"mean points": "reward"},
    "kl": {"KL to M(t)": "kl"},
}  # fmt: skip
_UNIT = {
    "loss": "loss", "accuracy": "share of pairs, %", "rewards": "reward of DPO",
    "logprobs": "log-probability, summed over tokens", "points": "points, 0 to 5",
    "kl": "nats a token",
}  # fmt: skip


def loss(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Loss by step."""
    _curves("loss", axis, data, pen, iteration)


def accuracy(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Share of pairs whose chosen response has the higher reward, by step."""
    axis.axhline(50, color=pen.palette.muted, lw=0.8)
    _curves("accuracy", axis, data, pen, iteration, scale=100)
    axis.set_ylim(0, 103)


def rewards(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Rewards of chosen and rejected responses and their difference, by step."""
    axis.axhline(0, color=pen.palette.muted, lw=0.8)
    _curves("rewards", axis, data, pen, iteration)


def logprobs(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Log-probabilities of chosen and rejected responses, by step."""
    _curves("logprobs", axis, data, pen, iteration)


def points(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Mean points of what reinforcement learning sampled, by step."""
    _curves("points", axis, data, pen, iteration)


def kl(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """KL divergence of the policy from the model that it started as, by step."""
    axis.axhline(0, color=pen.palette.muted, lw=0.8)
    _curves("kl", axis, data, pen, iteration)


def came_to(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """What DPO came to: rewards of both sides against the model before, which is at 0."""
    rounds = [f for f in data.answered if f.training.chosen_reward and f.training.rejected_reward]
    iterations = [f.iteration for f in rounds]
    axis.axhline(0, color=pen.palette.muted, lw=0.8)
    for label, color in (("chosen", pen.first), ("rejected", pen.second)):
        curves = [getattr(f.training, f"{label}_reward") for f in rounds]
        ends = [math.nan if c.last is None else c.last for c in curves]
        axis.plot(iterations, ends, color=color, label=label)
        for at, end in zip(iterations, ends, strict=True):
            if not math.isnan(end):
                (dot,) = axis.plot([at], [end], marker="o", color=color)
                pen.mark(dot, f"iteration {at}, {label}: {end:.4f}")
    over_iterations(axis, iterations)
    axis.set_ylabel("mean of the last quarter")
    pen.legend(axis, columns=2)


def _curves(
    kind: str, axis: Any, data: ChartData, pen: Pen, iteration: int | None, scale: float = 1
) -> None:
    assert iteration is not None
    rows, names = data.logs.get(iteration, ()), _SERIES[kind]
    together = 1
    for (label, name), color in zip(names.items(), pen.palette.series, strict=False):
        steps, values, together = thinned(rows, name)
        if not steps:
            continue
        dots = {"marker": "o", "ms": 3} if len(steps) <= 12 else {}
        shown = [scale * value for value in values]
        (line,) = axis.plot(steps, shown, color=color, label=label, **dots)
        finite = [value for value in shown if math.isfinite(value)]
        ends = f", {finite[0]:.4g} to {finite[-1]:.4g}" if finite else ": not finite"
        pen.mark(line, f"{label}, {len(steps)} points{ends}")
    axis.set_xlabel("step" if together == 1 else f"step; means of {together} steps")
    axis.set_ylabel(_UNIT[kind])
    axis.xaxis.get_major_locator().set_params(integer=True)
    if len(names) > 1:
        pen.legend(axis, columns=3)


def thinned(rows: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float], int]:
    """Steps and values of a logged figure, at most ``MOST_POINTS``.

    Returns:
        Steps, values, and how many neighbors each value is the mean of; a mean that takes in a
        value that is not finite is not finite, and leaves a gap.
    """
    found = [(row["step"], row[name]) for row in rows if name in row]
    size = max(1, math.ceil(len(found) / MOST_POINTS))
    parts = [found[at : at + size] for at in range(0, len(found), size)]
    steps = [sum(step for step, _ in part) / len(part) for part in parts]
    return steps, [sum(value for _, value in part) / len(part) for part in parts], size
