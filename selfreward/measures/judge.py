"""What the evaluation of an iteration keeps of the votes of the model that it made."""

from collections.abc import Mapping, Sequence

import numpy as np

from selfreward.inputs.heldout import Canary
from selfreward.inputs.rankings import Ranking, Text
from selfreward.measures.agreement import RESAMPLES, agreement
from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.reports import Attack, CanaryReport, Estimate, JudgedText, JudgeReport
from selfreward.measures.sample import judged_responses, mean_vote, votes_of
from selfreward.records import Judgment

Votes = Mapping[Text, Sequence[Judgment]]


def judge_report(
    rankings: Sequence[Ranking], votes: Votes, first: JudgeReport | None
) -> JudgeReport:
    """How a model judges what people ranked.

    Args:
        first: The report of M1 on the same rankings; None for M1 itself.
    """
    rows = []
    for number, ranking in enumerate(rankings):
        for response in ranking.responses:
            given = votes[ranking.prompt, response.text]
            scores = tuple(votes_of(given))
            reasons = tuple(judgment.reason for judgment in given)
            rows.append(JudgedText(number, mean_vote(scores), scores, reasons))
    plain = {text: votes_of(given) for text, given in votes.items()}
    return JudgeReport(
        agreement=agreement(judged_responses(rankings, plain)),
        drift=_drift([r.prompt for r in rankings], rows, first.responses) if first else None,
        responses=tuple(rows),
    )


def canary_report(canaries: Sequence[Canary], votes: Votes) -> CanaryReport:
    """How far a judge is talked into higher scores."""

    def score(text: Text) -> float | None:
        return mean_vote(votes_of(votes[text]))

    attacks = [
        Attack(c.kind, score((c.prompt, c.response)), score((c.prompt, c.attacked)))
        for c in canaries
    ]
    gains = [attack.uplift for attack in attacks]
    return CanaryReport(_mean([canary.prompt for canary in canaries], gains), tuple(attacks))


def _drift(
    prompts: Sequence[str], rows: Sequence[JudgedText], first: Sequence[JudgedText]
) -> Estimate:
    gains = [
        None if then.score is None or now.score is None else now.score - then.score
        for then, now in zip(first, rows, strict=True)
    ]
    return _mean([prompts[row.ranking] for row in rows], gains)


def _mean(prompts: Sequence[str], gains: Sequence[float | None]) -> Estimate:
    """Estimate the mean of those that are known."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    gained, counted = np.zeros(len(numbers)), np.zeros(len(numbers))
    for prompt, gain in zip(prompts, gains, strict=True):
        if gain is not None:
            gained[numbers[prompt]] += gain
            counted[numbers[prompt]] += 1
    return Bootstrap(len(numbers), RESAMPLES, seed=0).share((gained, counted))
