"""A figure of what a judge's score means to people."""

from pathlib import Path
from typing import Any

from selfreward.errors import ConfigError, NotFoundError
from selfreward.verbs.plot import FORMATS

_BLUE, _GRAY = "#2a6f97", "#c9ced3"


def check_path(path: Path) -> None:
    """Check that a figure can be saved, before there is one.

    Raises:
        ConfigError: It is neither .png nor .svg, or its directory does not exist.
    """
    if path.suffix.lower() not in FORMATS or not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: expected a .png or .svg file in an existing directory")


def save_calibration(report: dict[str, Any], path: Path) -> None:
    """Draw people's view of responses over the judge's score, with intervals.

    Args:
        report: From ``judge.judge_report``.
        path: A .png or .svg file; an earlier one is replaced.

    Raises:
        ConfigError: See ``check_path``.
        NotFoundError: The judge gave no verdict.
    """
    check_path(path)
    bins = report["calibration"]
    if not bins:
        raise NotFoundError("the judge gave no verdict, so there is nothing to plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    has_points = any(row["human_score"]["n"] for row in bins)
    figure = Figure(figsize=(8.4 if has_points else 4.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    # Names of models are plain text, never mathematics.
    figure.suptitle(report["model"], parse_math=False, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(1, 1 + has_points, squeeze=False)[0]
    axes[0].set_title("share of the prompt's other responses\nthat people like less, %")
    axes[0].axhline(50, color=_GRAY, lw=1)
    _draw(axes[0], bins, "standing", 100)
    axes[0].set_ylim(0, 100)
    if has_points:
        axes[1].set_title("people's score, points")
        axes[1].plot([0, 5], [0, 5], color=_GRAY, lw=1)
        _draw(axes[1], bins, "human_score", 1)
        axes[1].set_ylim(0, 5)
    low, high = bins[0]["score"], bins[-1]["score"]
    margin = max(0.08 * (high - low), 0.1)  # the scores of an untrained judge lie close together
    for axis in axes:
        axis.set_xlim(max(low - margin, -0.1), min(high + 2 * margin, 5.3))
        axis.set_xlabel("judge's score, points; bars: 95% over prompts; n", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(length=2, labelsize=8)
        axis.title.set_fontsize(9)
    figure.savefig(path, dpi=150)


def _draw(axis: Any, bins: list[dict[str, Any]], name: str, scale: float) -> None:
    for row in bins:
        estimate = row[name]
        if estimate["value"] is None:
            continue
        value, bars = scale * estimate["value"], None
        if estimate["low"] is not None:
            bars = [[value - scale * estimate["low"]], [scale * estimate["high"] - value]]
        axis.errorbar(
            row["score"], value, yerr=bars, color=_BLUE, marker="o", ms=5, capsize=3, lw=1.2
        )
        axis.annotate(
            f"{estimate['n']}", (row["score"], value), xytext=(5, 4), textcoords="offset points",
            fontsize=7,
        )  # fmt: skip
