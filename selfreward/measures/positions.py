"""Having a judge compare what people ranked, and how far it goes by the place of a response.

Each two responses of which people preferred one are compared in both orders; where these disagree
it is a tie (Self-Rewarding Language Models, arXiv 2401.10020, section 3.1.2).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from selfreward.inputs.rankings import Ranking
from selfreward.measures.agreement import LENGTH_RATIO, RESAMPLES
from selfreward.measures.bootstrap import Bootstrap, Floats, P, Shares
from selfreward.measures.reports import (
    JudgedPairs,
    JudgeParts,
    PairCounts,
    PairShares,
    Parts,
    Positions,
)
from selfreward.measures.sample import JudgedResponse, Sample, to_array
from selfreward.records import Comparison
from selfreward.stages.evaluate import Pair, _pair
from selfreward.stages.preference import win_probability


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """Two responses of which people preferred one, with what the judge thinks of them."""

    prompt: str
    lengths: tuple[int, int]
    """Characters of the better and of the worse."""
    verdicts: tuple[float | None, float | None]
    """1 where the judge names the better one, 0 the worse, 0.5 for a tie, None without a verdict;
    first with the better one shown first, then last."""
    probability: float | None = None
    """That the better one wins, averaged over both orders; ``expected`` form alone."""


def compared_pairs(
    rankings: Iterable[Ranking], comparisons: Mapping[Pair, Sequence[Comparison]]
) -> list[ComparedPair]:
    """Put what people and the judge think of each pair together."""
    compared = []
    for ranking in rankings:
        for better, worse in permutations(ranking.responses, 2):
            if better.preference <= worse.preference:
                continue
            pair = _pair(ranking.prompt, better.text, worse.text)
            given, sample = comparisons[pair], pair.index(better.text, 1) - 1
            verdicts = {c.first == sample: _points(c, sample) for c in given}
            compared.append(
                ComparedPair(
                    prompt=ranking.prompt,
                    lengths=(len(better.text), len(worse.text)),
                    verdicts=(verdicts[True], verdicts[False]),
                    probability=win_probability(given, sample),
                )
            )
    return compared


def positions(
    pairs: Sequence[ComparedPair],
    *,
    length_ratio: float = LENGTH_RATIO,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Positions:
    """Figures of a judge that compares; the order of the pairs does not matter."""
    pairs = sorted(pairs, key=lambda p: (p.prompt, p.lengths, str(p.verdicts), str(p.probability)))
    responses = [r for number, pair in enumerate(pairs) for r in _responses(number, pair)]
    sample = Sample(responses, length_ratio)
    bootstrap = Bootstrap(sample.num_prompts, resamples, seed)
    counts = sample.counts()
    # Single verdicts, of which each pair has as many as responses, in the same order.
    verdicts = to_array([verdict for pair in pairs for verdict in pair.verdicts])
    given = ~np.isnan(verdicts)
    named = given & (verdicts != 0.5)
    once = np.tile([1, 0], len(pairs))  # of a pair
    both = np.repeat(given.reshape(-1, 2).all(1), 2) * once
    same = np.repeat(np.equal(*verdicts.reshape(-1, 2).T), 2) * once

    wins = _both([_win(pair) for pair in pairs])
    told = ~np.isnan(wins[sample.better])
    judge, longest = _shares(sample, wins), _shares(sample, sample.lengths)
    averages = [pair.probability for pair in pairs]
    averaged = any(average is not None for average in averages)

    def estimates(kind: type[P], shares: Parts[Shares, Shares]) -> Parts[P, P]:
        return Parts(bootstrap.shares(kind, shares.all), bootstrap.shares(kind, shares.matched))

    return Positions(
        counts=PairCounts(counts.prompts, counts.pairs, counts.matched),
        length_ratio=length_ratio,
        resamples=resamples,
        parse_rate=bootstrap.share(sample.per_response(given, np.ones(len(given)))),
        answered=bootstrap.share(sample.per_response(both, once)),
        consistent=bootstrap.share(sample.per_response(same, both)),
        names_first=bootstrap.share(sample.per_response(named & (verdicts == once), named)),
        judge=JudgeParts(
            all=bootstrap.shares(JudgedPairs, judge.all),
            parsed=bootstrap.shares(JudgedPairs, sample.pair_shares(wins, told)),
            matched=bootstrap.shares(JudgedPairs, judge.matched),
        ),
        averaged=estimates(JudgedPairs, _shares(sample, _both(averages))) if averaged else None,
        longest=estimates(PairShares, longest),
        gain=bootstrap.gain(judge, longest),
    )


def _points(comparison: Comparison, sample: int) -> float | None:
    if comparison.reason is not None:
        return None
    return 0.5 if comparison.winner is None else float(comparison.winner == sample)


def _win(pair: ComparedPair) -> float | None:
    """Points for the better response: 1, 0, a half for a tie; None unless both have a verdict."""
    first, last = pair.verdicts
    if first is None or last is None:
        return None
    return first if first == last else 0.5


def _responses(number: int, pair: ComparedPair) -> list[JudgedResponse]:
    """A pair as a ranking of its own: the better response, then the worse."""
    return [
        JudgedResponse(pair.prompt, number, preference, (), length)
        for preference, length in zip((1.0, 0.0), pair.lengths, strict=True)
    ]


def _both(wins: Sequence[float | None]) -> Floats:
    """Points for the better and the worse response of each pair; shape (2 x pairs,)."""
    points = to_array(wins)
    return np.column_stack([points, 1 - points]).ravel()


def _shares(sample: Sample, scores: Floats) -> Parts[Shares, Shares]:
    return Parts(sample.pair_shares(scores), sample.pair_shares(scores, sample.matched))
