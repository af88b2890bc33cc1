"""What each model knows: accuracy on the benchmarks that every evaluation takes."""

from typing import Any

from selfreward.charts.base import Pen, over_iterations
from selfreward.charts.data import ChartData
from selfreward.charts.judge import interval, said

_APART = 0.06
"""Models by which the marks of two benchmarks stand apart, so that intervals do not hide."""


def accuracy(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Share of the questions of each benchmark that each model answers rightly, with its interval;
    what falls is the alignment tax (InstructGPT, arXiv 2203.02155, 4.2).
    """
    taken = [f for f in data.iterations if f.benchmarks]
    names = dict.fromkeys(name for f in taken for name in f.benchmarks)
    for place, name in enumerate(names):
        color = pen.palette.series[place % len(pen.palette.series)]
        found = [
            (f.iteration + 1, f.benchmarks[name].scores["acc"])
            for f in taken
            if name in f.benchmarks
        ]
        at = [model + _APART * place for model, _ in found]
        drawn = [interval(share, 100) for _, share in found]
        ends = [*zip(*(end for _, end in drawn), strict=True)]
        axis.errorbar(at, [value for value, _ in drawn], yerr=ends, color=color, label=name[:18])
        for where, (model, share), (value, _) in zip(at, found, drawn, strict=True):
            (dot,) = axis.plot([where], [value], marker="o", color=color)
            pen.mark(dot, f"M{model}, {name}: {said(share)} of {share.n} questions")
    axis.set_ylim(0, 103)
    over_iterations(axis, [f.iteration + 1 for f in taken], "M")
    axis.set_ylabel("right answers, %")
    pen.legend(axis, columns=2)
