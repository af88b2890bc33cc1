"""What a run took: seconds by stage, sampled tokens by what they were for."""

from typing import Any

from selfreward.charts.base import Pen, bars_above, over_iterations
from selfreward.charts.data import ChartData
from selfreward.measures.sampled import sampled
from selfreward.records import stages_of

_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
MOST_STAGES = 7


def seconds(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Time by stage, over all launches."""
    rounds = [f for f in data.iterations if f.seconds]
    begun = {stage for f in rounds for stage in f.seconds}
    order = ["sft", *stages_of(1, begun)]
    order.insert(order.index("pairs"), "selection")
    stages = [stage for stage in order if stage in begun]
    named, rest = stages[:MOST_STAGES], stages[MOST_STAGES:]
    parts = {stage: [f.seconds.get(stage, 0.0) for f in rounds] for stage in named}
    if rest:
        parts["others"] = [sum(f.seconds.get(stage, 0.0) for stage in rest) for f in rounds]
    longest = max(sum(f.seconds.values()) for f in rounds)
    size, unit = next((u for u in _UNITS if longest >= u[0]), _UNITS[-1])
    shown = {stage: [value / size for value in values] for stage, values in parts.items()}
    iterations = [f.iteration for f in rounds]
    drawn = bars_above(axis, iterations, shown, pen, 0.6)
    for stage, bars in drawn.items():
        for bar, figures, value in zip(bars, rounds, parts[stage], strict=True):
            pen.mark(bar, f"iteration {figures.iteration}, {stage}: {value:.1f} s")
    over_iterations(axis, iterations)
    axis.set_ylabel(unit)
    pen.legend(axis, columns=4)


def tokens(axis: Any, data: ChartData, pen: Pen, iteration: int | None) -> None:
    """Tokens that models wrote."""
    rounds = [f for f in data.answered if sum(sampled(f).values())]
    kinds = [*dict.fromkeys(kind for f in rounds for kind in sampled(f))]
    parts = {kind: [sampled(f).get(kind, 0) for f in rounds] for kind in kinds}
    most = max(sum(sampled(f).values()) for f in rounds)
    size, unit = next((u for u in ((1e6, "million "), (1e3, "thousand ")) if most >= u[0]), (1, ""))
    shown = {kind: [value / size for value in values] for kind, values in parts.items()}
    iterations = [f.iteration for f in rounds]
    drawn = bars_above(axis, iterations, shown, pen, 0.6)
    for kind, bars in drawn.items():
        for bar, figures, value in zip(bars, rounds, parts[kind], strict=True):
            pen.mark(bar, f"iteration {figures.iteration}, {kind}: {value:,} tokens")
    over_iterations(axis, iterations)
    axis.set_ylabel(f"{unit}tokens sampled")
    pen.legend(axis, columns=3)
