"""What charts are drawn from: the figures of iterations, and what these do not hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfreward.measures.figures import LIVE_ATTEMPTS, IterationFigures
from selfreward.measures.lengths import LengthBin, length_bins, response_lengths
from selfreward.measures.reports import CalibrationBin, JudgeReport
from selfreward.measures.votes import ALL, scored_responses
from selfreward.storage.store import Store

Rows = Sequence[Mapping[str, float]]
"""Of the trainer's log, one mapping a step, ``step`` among its keys."""


@dataclass(frozen=True, slots=True)
class ChartData:
    """What the charts of a run are drawn from; by iteration what is not in the figures."""

    iterations: tuple[IterationFigures, ...]
    """Those that have begun, in order."""
    logs: Mapping[int, Rows] = field(default_factory=dict)
    calibration: Mapping[int, Sequence[CalibrationBin]] = field(default_factory=dict)
    """Of the model that the iteration made."""
    lengths: Mapping[int, Sequence[LengthBin]] = field(default_factory=dict)

    @property
    def answered(self) -> list[IterationFigures]:
        """Iterations above 0, which have answers."""
        return [figures for figures in self.iterations if figures.iteration > 0]


def chart_data(
    store: Store,
    figures: Sequence[IterationFigures],
    name: str | None = None,
    iteration: int | None = None,
) -> ChartData:
    """Read what charts need beside the figures.

    Args:
        figures: Of all iterations that have begun.
        name: A chart; nothing is read that it does not need. None reads for all.
        iteration: Read of this one alone.
    """
    read = [f for f in figures if iteration is None or f.iteration == iteration]
    logs, calibration, lengths = {}, {}, {}
    for each in read:
        at = each.iteration
        if name in (None, "loss", "accuracy", "rewards", "logprobs"):
            logs[at] = store.train_log(at)
        if name in (None, "calibration") and each.judge:
            report = store.report(at, "judge", JudgeReport)
            calibration[at] = report.agreement.calibration if report else ()
        if name in (None, "length") and at:
            part = ALL if each.attempts == each.prompts.attempts else LIVE_ATTEMPTS
            scored = scored_responses(store, at, part)
            lengths[at] = length_bins(response_lengths(store, at, part), scored)
    return ChartData(tuple(figures), logs, calibration, lengths)
