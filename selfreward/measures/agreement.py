"""How far a judge agrees with people, beside the judge that takes the longer response.

The figures are those of Self-Rewarding Language Models (arXiv 2401.10020, section 3.1.2 and the
table of reward modeling), each with a bootstrap interval over prompts. That paper does not say how
a tie counts, so both ways are given; a response without a verdict is a miss either way.
"""

from collections.abc import Sequence

import numpy as np

from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.calibration import calibration, confusion, vote_agreement
from selfreward.measures.reports import (
    Agreement,
    JudgedPairs,
    JudgedRankings,
    JudgeParts,
    PairShares,
    Parts,
    RankedShares,
    VoteCount,
)
from selfreward.measures.sample import JudgedResponse, Sample, mean_vote, to_array
from selfreward.records import MAX_SCORE

LENGTH_RATIO = 1.25
"""Responses are of about the same length where the longer one has at most this many times the
characters of the shorter one; our choice: in Open Assistant it leaves about one pair in seven."""
RESAMPLES = 2_000


def agreement(
    responses: Sequence[JudgedResponse],
    *,
    length_ratio: float = LENGTH_RATIO,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Figures of a judge; the order of the responses does not matter.

    A pair is two responses of one ranking of which people preferred one. A vote off the scale
    counts as no verdict. Rankings without pairs count in what needs no pairs.
    """
    # Sums and draws depend on the order in their last digits.
    responses = sorted(responses, key=lambda r: (r.prompt, r.ranking, r.preference, r.length,
                                                 str(r.votes), str(r.human_score)))  # fmt: skip
    votes = [tuple(map(_on_scale, response.votes)) for response in responses]
    scores = to_array([mean_vote(given) for given in votes])
    human = to_array([response.human_score for response in responses])
    sample = Sample(responses, length_ratio)
    bootstrap = Bootstrap(sample.num_prompts, resamples, seed)
    asked = to_array([len(given) for given in votes])
    parsed = to_array([sum(vote is not None for vote in given) for given in votes])
    judge, longest = sample.shares(scores), sample.shares(sample.lengths)
    told = sample.shares(scores, ~np.isnan(scores))
    return Agreement(
        counts=sample.counts(),
        length_ratio=length_ratio,
        resamples=resamples,
        parse_rate=bootstrap.share(sample.per_response(parsed, asked)),
        answered=bootstrap.share(sample.per_response(parsed > 0, asked > 0)),
        judge=JudgeParts(
            all=bootstrap.shares(JudgedRankings, judge.all),
            parsed=bootstrap.shares(JudgedRankings, told.all),
            matched=bootstrap.shares(JudgedPairs, judge.matched),
        ),
        longest=Parts(
            all=bootstrap.shares(RankedShares, longest.all),
            matched=bootstrap.shares(PairShares, longest.matched),
        ),
        gain=bootstrap.gain(judge, longest),
        by_votes=_by_votes(bootstrap, sample, votes),
        votes=vote_agreement(bootstrap, sample.prompts, votes),
        calibration=calibration(bootstrap, sample.prompts, scores, sample.standings(), human),
        confusion=confusion(scores, human),
    )


def _by_votes(
    bootstrap: Bootstrap, sample: Sample, votes: Sequence[Sequence[float | None]]
) -> tuple[VoteCount, ...]:
    most = max(map(len, votes), default=0)
    rows = []
    for k in range(1, most + 1 if most > 1 else 0):
        shares = sample.pair_shares(to_array([mean_vote(given[:k]) for given in votes]))
        accuracy, ties = bootstrap.share(shares["accuracy"]), bootstrap.share(shares["ties"])
        rows.append(VoteCount(k, accuracy, ties))
    return tuple(rows)


def _on_scale(vote: float | None) -> float | None:
    return vote if vote is not None and 0 <= vote <= MAX_SCORE else None
