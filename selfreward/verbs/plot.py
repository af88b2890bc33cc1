"""A figure of a run: scores per iteration, their mean, pairs, what DPO did, and the judge."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from selfreward.measures.evaluated import JudgeFigures
    from selfreward.measures.figures import IterationFigures
    from selfreward.measures.reports import Estimate
    from selfreward.verbs.judge import ScoredReport
    from selfreward.verbs.scores import Scores

FORMATS = (".png", ".svg")
_BLUE, _ORANGE, _GRAY = "#2a6f97", "#e07a1f", "#c9ced3"


def save_plot(scores: "Scores", path: Path) -> None:
    """Draw the scores of a run.

    Args:
        scores: From ``scores.scores_of``.
        path: A .png or .svg file; an earlier one is replaced.

    Raises:
        ConfigError: Another kind of file, or a directory that does not exist.
        NotFoundError: No iteration has scores.
    """
    if path.suffix.lower() not in FORMATS or not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: expected a .png or .svg file in an existing directory")
    rounds = [f for f in scores.iterations if f.iteration and f.scores.n]
    if not rounds:
        raise NotFoundError(f"run {scores.run} has no scores to plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    each = 2.6 if len(rounds) <= 4 else 1.7
    measured = [(f.iteration + 1, f.judge) for f in scores.iterations if f.judge]
    trained = [f for f in rounds if f.training.chosen_reward and f.training.rejected_reward]
    widths = [each] * len(rounds) + [2.7] * (2 + bool(trained) + bool(measured))
    figure = Figure(figsize=(sum(widths), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    # Names of models and runs are plain text, never mathematics.
    figure.suptitle(scores.run, parse_math=False, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    _histograms(axes[: len(rounds)], rounds)
    _means(axes[len(rounds)], rounds)
    _pairs(axes[len(rounds) + 1], rounds)
    if trained:
        _rewards(axes[len(rounds) + 2], trained)
    if measured:
        _agreement(axes[-1], measured)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(length=2, labelsize=8)
        axis.title.set_fontsize(9)
    figure.savefig(path, dpi=150)


def _histograms(axes: Any, rounds: "list[IterationFigures]") -> None:
    """Share of responses by score, in the bins of each iteration, all on one scale."""
    drawn = [bins for figures in rounds if (bins := figures.scores.bins)]
    low = min(bins.middles[0] - bins.width for bins in drawn)
    high = max(bins.middles[-1] + bins.width for bins in drawn)
    top = 1.15 * max(100 * max(bins.counts) / sum(bins.counts) for bins in drawn)
    for axis, figures, bins in zip(axes, rounds, drawn, strict=True):
        n = figures.scores.n
        shares = [100 * count / n for count in bins.counts]
        axis.bar(bins.middles, shares, color=_BLUE, width=0.85 * bins.width)
        for middle, part, count in zip(bins.middles, shares, bins.counts, strict=True):
            if count:
                axis.text(middle, part, f"{count}", ha="center", va="bottom", fontsize=7)
        axis.set_xlim(low, high)
        axis.set_ylim(0, top)
        axis.set_title(f"iteration {figures.iteration}, n = {n}")
        axis.set_xlabel("score, points", fontsize=8)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    axes[0].set_ylabel("share of responses, %", fontsize=8)


def _means(axis: Any, rounds: "list[IterationFigures]") -> None:
    iterations = [figures.iteration for figures in rounds]
    means = [figures.scores.mean or 0.0 for figures in rounds]
    errors = [figures.scores.se or 0.0 for figures in rounds]
    axis.errorbar(iterations, means, yerr=errors, color=_BLUE, marker="o", ms=5, capsize=4, lw=1.5)
    for iteration, mean in zip(iterations, means, strict=True):
        axis.annotate(
            f"{mean:.2f}", (iteration, mean), xytext=(7, 6), textcoords="offset points", fontsize=8
        )
    spread = max(max(means) - min(means), 4 * max(errors), 0.4)
    middle = (max(means) + min(means)) / 2
    axis.set_ylim(middle - spread, middle + spread)
    axis.set_xlim(iterations[0] - 0.5, iterations[-1] + 0.7)
    axis.set_xticks(iterations)
    axis.set_xlabel("iteration", fontsize=8)
    axis.set_ylabel("points", fontsize=8)
    axis.set_title("mean score ± clustered SE")


def _pairs(axis: Any, rounds: "list[IterationFigures]") -> None:
    iterations = [figures.iteration for figures in rounds]
    kept = [figures.pairs.paired for figures in rounds]
    ties = [figures.pairs.dropped.get("tie", 0) for figures in rounds]
    all_prompts = [figures.pairs.prompts for figures in rounds]
    other = [p - k - t for p, k, t in zip(all_prompts, kept, ties, strict=True)]
    below = [0] * len(rounds)
    for label, counts, color in (("paired", kept, _BLUE), ("ties", ties, _ORANGE),
                                 ("other", other, _GRAY)):  # fmt: skip
        if not any(counts):
            continue
        axis.bar(iterations, counts, bottom=below, color=color, width=0.6, label=label)
        below = [b + c for b, c in zip(below, counts, strict=True)]
    for iteration, count in zip(iterations, kept, strict=True):
        axis.text(iteration, count / 2, f"{count}", ha="center", va="center",
                  fontsize=8, color="white")  # fmt: skip
    axis.set_xticks(iterations)
    axis.set_xlabel("iteration", fontsize=8)
    axis.set_ylabel("prompts", fontsize=8)
    axis.set_title("pairs")
    axis.yaxis.get_major_locator().set_params(integer=True)
    if any(below):
        axis.set_ylim(0, 1.3 * max(below))
        axis.legend(fontsize=7, frameon=False, loc="upper center", ncols=3, handlelength=1)


def _rewards(axis: Any, rounds: "list[IterationFigures]") -> None:
    """What DPO came to: both sides against the model before, which is at 0."""
    iterations = [figures.iteration for figures in rounds]
    chosen = [figures.training.chosen_reward for figures in rounds]
    rejected = [figures.training.rejected_reward for figures in rounds]
    axis.axhline(0, color=_GRAY, lw=1)
    for label, curves, color in (("chosen", chosen, _BLUE), ("rejected", rejected, _ORANGE)):
        ends = [math.nan if c is None or c.last is None else c.last for c in curves]
        axis.plot(iterations, ends, color=color, marker="o", ms=5, lw=1.5, label=label)
    axis.set_xticks(iterations)
    axis.set_xlim(iterations[0] - 0.5, iterations[-1] + 0.5)
    axis.set_xlabel("iteration", fontsize=8)
    axis.set_ylabel("mean of the last quarter", fontsize=8)
    axis.set_title("rewards of DPO")
    axis.legend(fontsize=7, frameon=False)


def _agreement(axis: Any, measured: "list[tuple[int, JudgeFigures]]") -> None:
    """Held-out pairs that each new model orders as people do, with the 95% interval."""
    models = [model for model, _ in measured]
    drawn = [_interval(judge.accuracy, 100) for _, judge in measured]
    values, ends = [value for value, _ in drawn], [*zip(*(bars for _, bars in drawn), strict=True)]
    axis.errorbar(models, values, yerr=ends, color=_BLUE, marker="o", ms=5, capsize=4, lw=1.5)
    longest, _ = _interval(measured[-1][1].longest, 100)
    axis.axhline(longest, color=_ORANGE, lw=1.2, ls="--", label="longer wins")
    axis.set_xticks(models, [f"M{model}" for model in models])
    axis.set_xlim(models[0] - 0.5, models[-1] + 0.5)
    axis.set_ylabel("pairs, %", fontsize=8)
    axis.set_title("judge agrees with people")
    axis.legend(fontsize=7, frameon=False)


def check_path(path: Path) -> None:
    """Check that a figure can be saved, before there is one.

    Raises:
        ConfigError: It is neither .png nor .svg, or its directory does not exist.
    """
    if path.suffix.lower() not in FORMATS or not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: expected a .png or .svg file in an existing directory")


def save_calibration(report: "ScoredReport", path: Path) -> None:
    """Draw people's view of responses over the judge's score, with intervals.

    Args:
        report: From ``judge.judge_report``.
        path: A .png or .svg file; an earlier one is replaced.

    Raises:
        ConfigError: See ``check_path``.
        NotFoundError: The judge gave no verdict.
    """
    check_path(path)
    bins = report.calibration
    if not bins:
        raise NotFoundError("the judge gave no verdict, so there is nothing to plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    has_points = any(row.human_score.n for row in bins)
    figure = Figure(figsize=(8.4 if has_points else 4.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    # Names of models are plain text, never mathematics.
    figure.suptitle(report.model, parse_math=False, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(1, 1 + has_points, squeeze=False)[0]
    axes[0].set_title("share of the prompt's other responses\nthat people like less, %")
    axes[0].axhline(50, color=_GRAY, lw=1)
    _draw(axes[0], [(row.score, row.standing) for row in bins], 100)
    axes[0].set_ylim(0, 100)
    if has_points:
        axes[1].set_title("people's score, points")
        axes[1].plot([0, 5], [0, 5], color=_GRAY, lw=1)
        _draw(axes[1], [(row.score, row.human_score) for row in bins], 1)
        axes[1].set_ylim(0, 5)
    low, high = bins[0].score, bins[-1].score
    margin = max(0.08 * (high - low), 0.1)  # the scores of an untrained judge lie close together
    for axis in axes:
        axis.set_xlim(max(low - margin, -0.1), min(high + 2 * margin, 5.3))
        axis.set_xlabel("judge's score, points; bars: 95% over prompts; n", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(length=2, labelsize=8)
        axis.title.set_fontsize(9)
    figure.savefig(path, dpi=150)


def _draw(axis: Any, rows: "list[tuple[float, Estimate]]", scale: float) -> None:
    for score, estimate in rows:
        if estimate.value is None:
            continue
        value, (below, above) = _interval(estimate, scale)
        bars = None if estimate.low is None else [[below], [above]]
        axis.errorbar(score, value, yerr=bars, color=_BLUE, marker="o", ms=5, capsize=3, lw=1.2)
        axis.annotate(
            f"{estimate.n}", (score, value), xytext=(5, 4), textcoords="offset points", fontsize=7
        )


def _interval(estimate: "Estimate", scale: float) -> tuple[float, tuple[float, float]]:
    """The value and how far its interval goes below and above; what there is none of is 0 long."""
    value = math.nan if estimate.value is None else estimate.value
    low = value if estimate.low is None else estimate.low
    high = value if estimate.high is None else estimate.high
    return scale * value, (scale * (value - low), scale * (high - value))
