"""Every chart by name, and how one is asked for.

    figures -> charts_of: which there are; draw: one of them as SVG

A chart is one panel, narrow enough for a phone; a page lays several side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from selfreward.charts import (
    benchmarks,
    costs,
    judge,
    length,
    pairs,
    prompts,
    rates,
    scores,
    training,
)
from selfreward.charts.base import (
    HEIGHT,
    PALETTES,
    WIDTH,
    Links,
    Pen,
    Theme,
    styled,
    svg_text,
)
from selfreward.charts.data import ChartData
from selfreward.errors import NotFoundError
from selfreward.measures.figures import IterationFigures
from selfreward.measures.sampled import sampled
from selfreward.text import spelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Panel = Callable[[Any, ChartData, Pen, int | None], None]
"""Draws on axes of matplotlib; told the iteration where the chart is of one."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A kind of chart."""

    title: str
    panel: Panel
    needs: Callable[[IterationFigures], bool]
    """Whether an iteration has something to show in it."""
    each: bool = False
    """Whether there is one for each such iteration; else one for all."""


@dataclass(frozen=True, slots=True)
class Drawable:
    """A chart that a run has."""

    name: str
    title: str
    iteration: int | None
    """Of which it is; None: of all."""


def _is_answered(figures: IterationFigures) -> bool:
    return figures.iteration > 0


def _has_data(figures: IterationFigures) -> bool:
    return figures.data is not None


def _has_drift(figures: IterationFigures) -> bool:
    canaries = figures.canaries
    drift = figures.drift is not None and figures.drift.value is not None
    return drift or (canaries is not None and canaries.uplift.value is not None)


CHARTS: dict[str, Chart] = {
    "means": Chart("Mean score by the run's own judge", scores.means,
                   lambda f: _is_answered(f) and f.scores.mean is not None),
    "agreement": Chart("Agreement with people", judge.agreement,
                       lambda f: f.judge is not None and f.judge.accuracy.value is not None),
    "drift": Chart("Drift and canaries of the judge", judge.drift, _has_drift),
    "benchmarks": Chart("Benchmarks", benchmarks.accuracy, lambda f: bool(f.benchmarks)),
    "rates": Chart("Ties, ceiling, votes without verdict", rates.rates,
                   lambda f: _is_answered(f) and f.judgments.n > 0),
    "pairs": Chart("Prompts and their pairs", pairs.outcomes,
                   lambda f: _is_answered(f) and f.pairs.prompts > 0),
    "lengths": Chart("Length of chosen and rejected answers", pairs.lengths,
                     lambda f: _is_answered(f) and f.responses.length is not None),
    "prompts": Chart("Prompts accepted and dropped", prompts.taken,
                     lambda f: _is_answered(f) and f.prompts.attempts > 0),
    "variety": Chart("How varied prompts and answers are", prompts.variety, _has_data),
    "kinds": Chart("How prompts begin", prompts.kinds, _has_data),
    "dpo": Chart("What DPO came to", training.came_to,
                 lambda f: bool(f.training.chosen_reward and f.training.rejected_reward)),
    "time": Chart("Time by stage", costs.seconds, lambda f: bool(f.seconds)),
    "tokens": Chart("Tokens sampled", costs.tokens,
                    lambda f: _is_answered(f) and bool(sampled(f))),
    "scores": Chart("Scores", scores.histogram,
                    lambda f: _is_answered(f) and f.scores.bins is not None, each=True),
    "length": Chart("Score against length", length.length,
                    lambda f: _is_answered(f) and f.scores.spearman_length is not None, each=True),
    "calibration": Chart("Calibration of the new model as a judge", judge.calibration,
                         lambda f: f.judge is not None and bool(f.judge.parse_rate.value),
                         each=True),
    "loss": Chart("Training loss", training.loss, lambda f: bool(f.training.loss), each=True),
    "accuracy": Chart("Accuracy of the reward", training.accuracy,
                      lambda f: bool(f.training.accuracy), each=True),
    "rewards": Chart("Rewards of DPO", training.rewards,
                     lambda f: bool(f.training.chosen_reward), each=True),
    "logprobs": Chart("Log-probabilities", training.logprobs,
                      lambda f: bool(f.training.chosen_logp), each=True),
    "points": Chart("Mean points of what was sampled in training", training.points,
                    lambda f: bool(f.training.online and f.training.online.reward), each=True),
    "kl": Chart("KL to the reference", training.kl,
                lambda f: bool(f.training.online and f.training.online.kl), each=True),
}  # fmt: skip
"""By name, in the order of a page."""


def charts_of(figures: Sequence[IterationFigures]) -> list[Drawable]:
    """The charts that there are figures for, those of all iterations first."""
    found = []
    for name, chart in CHARTS.items():
        having = [f.iteration for f in figures if chart.needs(f)]
        if chart.each:
            found += [Drawable(name, _title(chart, at), at) for at in having]
        elif having:
            found.append(Drawable(name, chart.title, None))
    return found


def draw(
    name: str,
    data: ChartData,
    theme: Theme = "light",
    links: Links | None = None,
    iteration: int | None = None,
) -> str:
    """A chart as SVG: an ``<svg>`` element, also well-formed XML on its own.

    Args:
        data: From ``chart_data``, read for this chart or for all.
        links: Where marks lead; None: nowhere. See ``list_links``.
        iteration: Of which it is to be, for a chart that there is one of for each iteration.

    Raises:
        NotFoundError: There is no such chart, or nothing to show in it.
    """
    wanted = _wanted(name, data, iteration)
    figure, pen = figure_of(wanted, data, theme, links)
    with styled(pen.palette, theme):
        return svg_text(figure, pen, theme, wanted.title, slug(wanted))


def list_links(run: str) -> Links:
    """Links to the lists of the viewer, relative to its root."""

    def link(where: Mapping[str, object]) -> str:
        return f"/run/{quote(run, safe='')}/list?{urlencode(where)}"

    return link


def figure_of(
    wanted: Drawable,
    data: ChartData,
    theme: Theme | None,
    links: Links | None = None,
    above: str = "",
) -> "tuple[Figure, Pen]":
    """A chart as a figure of matplotlib, and the pen that drew it.

    Args:
        theme: None: on paper, as for a file.
        above: What to write above it; as it stands, never mathematics.
    """
    from matplotlib.figure import Figure

    palette = PALETTES[theme or "light"]
    pen = Pen(palette, links)
    with styled(palette, theme):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        if above:
            figure.suptitle(spelled(above), x=0.01, ha="left", fontsize=11, fontweight="bold")
        CHARTS[wanted.name].panel(figure.subplots(), data, pen, wanted.iteration)
    return figure, pen


def _wanted(name: str, data: ChartData, iteration: int | None) -> Drawable:
    found = charts_of(data.iterations)
    for wanted in found:
        if (wanted.name, wanted.iteration) == (name, iteration):
            return wanted
    there = ", ".join(dict.fromkeys(wanted.name for wanted in found)) or "none yet"
    at = "" if iteration is None else f" of iteration {iteration}"
    raise NotFoundError(f"there is no chart {name}{at}", f"Charts with something in them: {there}.")


def _title(chart: Chart, iteration: int) -> str:
    return f"{chart.title}, iteration {iteration}"


def slug(wanted: Drawable) -> str:
    """Its name and iteration, as of a file."""
    return wanted.name if wanted.iteration is None else f"{wanted.name}-{wanted.iteration}"
