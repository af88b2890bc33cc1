"""Learning curves in short: what the trainer logged over all steps of a round.

    train_log -> Curve of each figure -> scores, plot, JSON

A round of DPO has few pairs a step, so the last step alone says next to nothing: means over many
steps do. Whether training still moved, and where to, is the difference of first and last quarter.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfreward.measures.consistency import CONSISTENCY, Consistency
from selfreward.storage.store import Store

SAMPLED = "sampled"
"""Logged by a method that samples: how many responses it sampled for a step."""
NO_VERDICT = "no_verdict"
"""How many of them have no verdict; with ``/`` and a reason behind it, for that reason."""

MIXED = "ptx"
"""Mean SFT loss of the rows that are mixed in, nats a token, before its weight."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A logged figure over the steps of a training, each log one value (``logging_steps``)."""

    n: int
    """Values that were logged."""
    not_finite: int
    """Of these NaN or infinite, which no mean takes in."""
    mean: float | None
    """Over all; None where none is finite, like the next two."""
    first: float | None
    """Mean over the first quarter of the values, rounded up; None also for a single value."""
    last: float | None
    """The same of the last quarter."""


@dataclass(frozen=True, slots=True)
class OnlineFigures:
    """What was sampled in training by RLOO or GRPO, and how it was judged."""

    sampled: int
    """Responses, over all steps."""
    no_verdict: dict[str, int]
    """How many of them have none, by reason; no mean takes them in."""
    reward: Curve | None
    """Mean points of the responses, 0 to 5 [``reward``]."""
    kl: Curve | None
    """KL divergence from the reference, M(t), nats a token [``kl``]: RLOO logs the mean of
    log pi - log pi_ref, which may be below 0, GRPO the estimate that its loss takes, which may not
    (Schulman 2020). None without a reference."""
    length: Curve | None
    """Mean tokens of the responses [``completions/mean_length``]."""
    truncated: Curve | None
    """Share of the responses that were cut off [``completions/clipped_ratio``]."""
    mixed: Curve | None = None
    """Mean SFT loss of the rows of the seed step that were mixed in, nats a token [``ptx``]."""

    @property
    def tokens(self) -> int:
        """Of all responses; each step samples as many."""
        return round(self.sampled * self.length.mean) if self.length and self.length.mean else 0


@dataclass(frozen=True, slots=True)
class TrainingFigures:
    """What the trainer logged; None where it did not. Names in TRL's log in brackets."""

    steps: int
    loss: Curve | None
    """[``loss``]"""
    accuracy: Curve | None
    """Share of pairs with a higher reward for the chosen response [``rewards/accuracies``]."""
    reward_margin: Curve | None
    """Mean difference of the rewards of DPO [``rewards/margins``]."""
    chosen_reward: Curve | None
    """``beta`` times the log-probability that the chosen response gained on the reference, M(t)
    [``rewards/chosen``]. Below 0 DPO takes probability from both responses and gives it to what
    neither of them says (likelihood displacement, arXiv 2410.08847)."""
    rejected_reward: Curve | None
    """The same of the rejected one [``rewards/rejected``]."""
    chosen_logp: Curve | None
    """Natural log-probability of the chosen response, summed over its tokens [``logps/chosen``].
    Other responses are in each step, so unlike the reward it moves with their lengths, too."""
    rejected_logp: Curve | None
    """The same of the rejected one [``logps/rejected``]."""
    dropped: dict[str, int]
    """Rows left out by reason."""
    consistency: Consistency | None = None
    """Of the policy and the model before, where pairs are weighted by it."""
    online: OnlineFigures | None = None
    """Where responses were sampled while it trained."""


def training_figures(store: Store, iteration: int) -> TrainingFigures:
    """Those of the stage ``train`` of an iteration, as far as it is."""
    rows = store.train_log(iteration)
    dropped = Counter(store.drop_reasons(iteration, "train"))
    return TrainingFigures(
        steps=int(rows[-1]["step"]) if rows else 0,
        loss=_curve(rows, "loss"),
        accuracy=_curve(rows, "rewards/accuracies"),
        reward_margin=_curve(rows, "rewards/margins"),
        chosen_reward=_curve(rows, "rewards/chosen"),
        rejected_reward=_curve(rows, "rewards/rejected"),
        chosen_logp=_curve(rows, "logps/chosen"),
        rejected_logp=_curve(rows, "logps/rejected"),
        dropped=dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        consistency=store.report(iteration, CONSISTENCY, Consistency),
        online=_online(rows),
    )


def _online(rows: Sequence[Mapping[str, float]]) -> OnlineFigures | None:
    sampled = sum(row.get(SAMPLED, 0) for row in rows)
    if not sampled:
        return None
    reasons: Counter[str] = Counter()
    for row in rows:
        for name, count in row.items():
            if name.startswith(f"{NO_VERDICT}/"):
                reasons[name.removeprefix(f"{NO_VERDICT}/")] += int(count)
    return OnlineFigures(
        sampled=int(sampled),
        no_verdict=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        reward=_curve(rows, "reward"),
        kl=_curve(rows, "kl"),
        length=_curve(rows, "completions/mean_length"),
        truncated=_curve(rows, "completions/clipped_ratio"),
        mixed=_curve(rows, MIXED),
    )


def _curve(rows: Sequence[Mapping[str, float]], name: str) -> Curve | None:
    values = [row[name] for row in rows if name in row]
    if not values:
        return None
    quarter = math.ceil(len(values) / 4)
    several = len(values) > 1
    return Curve(
        n=len(values),
        not_finite=sum(not math.isfinite(value) for value in values),
        mean=_mean(values),
        first=_mean(values[:quarter]) if several else None,
        last=_mean(values[-quarter:]) if several else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None
