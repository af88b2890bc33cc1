"""How far a judge agrees with people, beside the judge that takes the longer response.

The figures are those of Self-Rewarding Language Models (arXiv 2401.10020, section 3.1.2 and the
table of reward modeling), each with a bootstrap interval over prompts. That paper does not say how
a tie counts, so both ways are given; a response without a verdict is a miss either way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfreward.measures.bootstrap import Bootstrap, Floats
from selfreward.measures.calibration import calibration, confusion, vote_agreement
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
) -> dict[str, Any]:
    """Figures of a judge; the order of the responses does not matter.

    A pair is two responses of one ranking of which people preferred one. A vote off the scale
    counts as no verdict. Rankings without pairs count in what needs no pairs.

    Returns:
        Plain values. An estimate is described in ``Bootstrap.estimate``.
        ``counts``: prompts, rankings (``ordered`` of them have pairs), responses, pairs, and
        ``matched`` pairs of about the same length.
        ``length_ratio``, ``resamples``: as given.
        ``parse_rate``: estimate, of votes. ``answered``: of responses with any verdict.
        ``judge``: ``all``, ``parsed`` (only responses with a verdict) and ``matched``, each with
        estimates of
          ``accuracy``: pairs ordered as people do, a tie half a hit;
          ``accuracy_strict``: the same, a tie a miss;
          ``ties``: pairs to which the judge gives equal scores;
          ``prefers_longer``: pairs with two verdicts and unequal lengths in which the longer one
          has the higher score, a tie half;
        and, but for ``matched``, of
          ``exact``: rankings of which every pair is in order, no tie;
          ``spearman``, ``kendall``: rank correlations (tau-b), mean over rankings; where all
          scores are equal or one is missing it is 0;
          ``five_best``: of the responses given exactly 5, those that people preferred most.
        ``longest``: ``all`` and ``matched``, of the same what applies to a judge that gives the
          length as its score.
        ``gain``: ``all`` and ``matched``, accuracy of the judge less that of the length.
        ``by_votes``: accuracy and ties of the first 1, 2, ... K votes; empty for one vote.
        ``votes``: see ``vote_agreement``. ``calibration``: see there. ``confusion``: see there.
    """
    # Sums and draws depend on the order in their last digits.
    responses = sorted(responses, key=lambda r: (r.prompt, r.ranking, r.preference, r.length,
                                                 str(r.votes), str(r.human_score)))  # fmt: skip
    votes = [tuple(map(_on_scale, response.votes)) for response in responses]
    scores = to_array([mean_vote(given) for given in votes])
    human = to_array([response.human_score for response in responses])
    sample = Sample(responses, length_ratio)
    bootstrap = Bootstrap(sample.num_prompts, resamples, seed)
    return {
        "counts": sample.counts(),
        "length_ratio": length_ratio,
        "resamples": resamples,
        **_verdict_rates(bootstrap, sample, votes),
        **_beside_length(bootstrap, sample, scores),
        "by_votes": _by_votes(bootstrap, sample, votes),
        "votes": vote_agreement(bootstrap, sample.prompts, votes),
        "calibration": calibration(bootstrap, sample.prompts, scores, sample.standings(), human),
        "confusion": confusion(scores, human),
    }


_PAIRS = ("accuracy", "accuracy_strict", "ties", "prefers_longer")
_RANKINGS = ("exact", "spearman", "kendall")
_Votes = Sequence[Sequence[float | None]]


def _beside_length(bootstrap: Bootstrap, sample: Sample, scores: Floats) -> dict[str, Any]:
    judge, longest = sample.shares(scores), sample.shares(sample.lengths)
    parsed = sample.shares(scores, ~np.isnan(scores))
    return {
        "judge": {
            "all": bootstrap.shares(judge["all"], (*_PAIRS, *_RANKINGS, "five_best")),
            "parsed": bootstrap.shares(parsed["all"], (*_PAIRS, *_RANKINGS, "five_best")),
            "matched": bootstrap.shares(judge["matched"], _PAIRS),
        },
        "longest": {
            "all": bootstrap.shares(longest["all"], (*_PAIRS[:-1], *_RANKINGS)),
            "matched": bootstrap.shares(longest["matched"], _PAIRS[:-1]),
        },
        "gain": {
            part: bootstrap.difference(judge[part]["accuracy"], longest[part]["accuracy"])
            for part in ("all", "matched")
        },
    }


def _verdict_rates(bootstrap: Bootstrap, sample: Sample, votes: _Votes) -> dict[str, Any]:
    asked = to_array([len(given) for given in votes])
    parsed = to_array([sum(vote is not None for vote in given) for given in votes])
    return {
        "parse_rate": bootstrap.share(sample.per_response(parsed, asked)),
        "answered": bootstrap.share(sample.per_response(parsed > 0, asked > 0)),
    }


def _by_votes(bootstrap: Bootstrap, sample: Sample, votes: _Votes) -> list[dict[str, Any]]:
    most = max(map(len, votes), default=0)
    rows = []
    for k in range(1, most + 1 if most > 1 else 0):
        shares = sample.pair_shares(to_array([mean_vote(given[:k]) for given in votes]))
        rows.append({"votes": k, **bootstrap.shares(shares, ("accuracy", "ties"))})
    return rows


def _on_scale(vote: float | None) -> float | None:
    return vote if vote is not None and 0 <= vote <= MAX_SCORE else None
