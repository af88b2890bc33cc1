"""The arms of an experiment beside each other: a measure by model, with intervals."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfreward.charts.base import Pen, over_iterations
from selfreward.charts.judge import interval
from selfreward.measures.arms import ArmMeasure, Unit

_WIDTH = 0.5
"""Of a model, in which the marks of all arms stand side by side, so that intervals do not hide."""
_UNITS: dict[Unit, tuple[float, str]] = {
    "share": (100, "%"), "characters": (1, "characters"), "reward": (1, "reward"),
}  # fmt: skip
_MARKS = "osD^vP*X"
_HEADING = 42
"""Characters."""


def heading(measure: str) -> str:
    """Name of a measure, short enough to stand over its panel: of functions the last module."""
    short = re.sub(r"(?:\w+\.)+(\w+:)", r"\1", measure)
    return short if len(short) <= _HEADING else f"{short[: _HEADING - 1]}…"


def by_model(axis: Any, pen: Pen, found: Mapping[str, Sequence[ArmMeasure]], measure: str) -> None:
    """A measure of the models of each arm, mean over seeds.

    Args:
        found: What each arm has, by its name; one without the measure only takes its color.
    """
    numbers: set[int] = set()
    unit: Unit = "share"
    for place, (arm, measures) in enumerate(found.items()):
        color = pen.palette.series[place % len(pen.palette.series)]
        mark = _MARKS[place % len(_MARKS)]
        one = next((each for each in measures if each.measure == measure), None)
        known = {int(name[1:]): e for name, e in one.models.items()} if one else {}
        unit = one.unit if one else unit
        numbers |= known.keys()
        scale, said = _UNITS[unit]
        aside = _WIDTH * ((place + 0.5) / len(found) - 0.5)
        drawn = [interval(estimate, scale) for estimate in known.values()]
        at = [number + aside for number in known]
        ends = [*zip(*(end for _, end in drawn), strict=True)] if drawn else None
        axis.errorbar(
            at, [value for value, _ in drawn], yerr=ends, color=color, marker=mark, label=arm,
            capsize=2, linewidth=1.2,
        )  # fmt: skip
        for where, number, (value, _) in zip(at, known, drawn, strict=True):
            (dot,) = axis.plot([where], [value], marker=mark, color=color)
            pen.mark(dot, f"{arm}, M{number}: {value:.1f} {said}")
    over_iterations(axis, sorted(numbers), "M")
    axis.set_ylabel(_UNITS[unit][1])
