"""Charts as PNG and SVG files: each one, the overview of a run, the calibration of a judge."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.charts import arms, judge
from selfreward.charts.base import PALETTES, Pen, png_bytes, styled, svg_text
from selfreward.charts.catalog import CHARTS, charts_of, figure_of, slug
from selfreward.charts.data import ChartData
from selfreward.errors import ConfigError, NotFoundError
from selfreward.measures.arms import ArmMeasure
from selfreward.measures.reports import CalibrationBin
from selfreward.storage import durable
from selfreward.text import spelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
_PROLOG = '<?xml version="1.0" encoding="utf-8"?>\n'
_ROUNDS = 6
"""Histograms in an overview; of more iterations those of the first and the last ones."""
_ROW = ("means", "pairs", "dpo", "agreement")
"""What follows them."""


def check_path(path: Path) -> None:
    """Check that a figure can be saved, before there is one.

    Raises:
        ConfigError: It is neither .png nor .svg, or its directory does not exist.
    """
    if path.suffix.lower() not in FORMATS or not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: expected a .png or .svg file in an existing directory")


def save_charts(data: ChartData, directory: Path, title: str) -> list[Path]:
    """Write every chart as PNG and SVG, on white, each file in one step.

    Args:
        title: Name of the run, put above each.

    Returns:
        The files.
    """
    files = []
    for wanted in charts_of(data.iterations):
        figure, pen = figure_of(wanted, data, None, above=f"{title}: {wanted.title}")
        for suffix in FORMATS:
            files.append(directory / f"{slug(wanted)}{suffix}")
            _write(figure, pen, files[-1], wanted.title)
    return files


def save_overview(data: ChartData, path: Path, title: str) -> None:
    """Draw a run in a row: scores by iteration, their mean, pairs, what DPO did, the judge.

    Args:
        path: A .png or .svg file; an earlier one is replaced.
        title: Name of the run.

    Raises:
        ConfigError: See ``check_path``.
        NotFoundError: No iteration has scores.
    """
    check_path(path)
    found = charts_of(data.iterations)
    rounds = [wanted for wanted in found if wanted.name == "scores"]
    if not rounds:
        raise NotFoundError(f"run {title} has no scores to plot")
    if len(rounds) > _ROUNDS:
        rounds = [rounds[0], *rounds[1 - _ROUNDS :]]
    wanted = [*rounds, *(each for name in _ROW for each in found if each.name == name)]
    panels = [
        (each.title, lambda axis, pen, each=each: CHARTS[each.name].panel(
            axis, data, pen, each.iteration))
        for each in wanted
    ]  # fmt: skip
    _save_row(panels, path, title)


def save_arms(
    found: Mapping[str, Sequence[ArmMeasure]], by: str | None, path: Path, title: str
) -> None:
    """Draw each measure by model for all arms of an experiment, a panel each, with intervals.

    Args:
        found: What each arm has, by its name.
        by: The measure that comes first; None for the order of the table.
        path: A .png or .svg file; an earlier one is replaced.
        title: Name of the experiment.

    Raises:
        ConfigError: See ``check_path``.
        NotFoundError: No arm has a model that was measured.
    """
    check_path(path)
    names = dict.fromkeys([*([by] if by else []), *(m.measure for a in found.values() for m in a)])
    if not names:
        raise NotFoundError(f"experiment {title} has no model to plot that was measured")
    panels: list[tuple[str, Callable[[Any, Pen], None]]] = [
        (arms.heading(name), partial(arms.by_model, found=found, measure=name)) for name in names
    ]
    _save_row(panels, path, title, legend=len(found))


def save_calibration(bins: Sequence[CalibrationBin], path: Path, title: str) -> None:
    """Draw people's view of responses over the judge's score, with intervals.

    Args:
        path: A .png or .svg file; an earlier one is replaced.
        title: Name of the judge.

    Raises:
        ConfigError: See ``check_path``.
        NotFoundError: The judge gave no verdict.
    """
    check_path(path)
    if not bins:
        raise NotFoundError("the judge gave no verdict, so there is nothing to plot")
    panels: list[tuple[str, Callable[[Any, Pen], None]]] = [
        ("What people like less", lambda axis, pen: judge.standing(axis, bins, pen))
    ]
    if any(row.human_score.n for row in bins):
        panels.append(("Points", lambda axis, pen: judge.human_score(axis, bins, pen)))
    _save_row(panels, path, title)


def _save_row(
    panels: Sequence[tuple[str, Callable[[Any, Pen], None]]],
    path: Path,
    title: str,
    legend: int = 0,
) -> None:
    """Save panels side by side.

    Args:
        legend: So many series that all panels have stand below them, once; 0 for each its own.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    pen = Pen(PALETTES["light"])
    with styled(pen.palette, None):
        layout = ConstrainedLayoutEngine(w_pad=0.12)
        figure = Figure(figsize=(3.6 * len(panels), 3.6), layout=layout)
        figure.suptitle(spelled(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (name, panel) in zip(axes, panels, strict=True):
            panel(axis, pen)
            axis.set_title(spelled(name), pad=22 if axis.get_legend() else 6, fontsize=10)
        if legend:
            columns = min(legend, 2 * len(panels))
            handles = axes[0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower left", ncols=columns)
    _write(figure, pen, path, title)


def _write(figure: "Figure", pen: Pen, path: Path, title: str) -> None:
    with styled(pen.palette, None):
        if path.suffix.lower() == ".png":
            durable.write_file(path, png_bytes(figure))
        else:
            text = svg_text(figure, pen, "light", title, path.stem)
            durable.write_file(path, f"{_PROLOG}{text}\n")
