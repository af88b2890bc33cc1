"""Having a judge compare what people ranked, and how far it goes by the place of a response.

Each two responses of which people preferred one are compared in both orders; where these disagree
it is a tie (Self-Rewarding Language Models, arXiv 2401.10020, section 3.1.2).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from selfreward.inputs.rankings import Ranking
from selfreward.measures.agreement import LENGTH_RATIO, RESAMPLES
from selfreward.measures.bootstrap import Bootstrap, Floats, Share
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
) -> dict[str, Any]:
    """Figures of a judge that compares; the order of the pairs does not matter.

    Returns:
        Plain values. An estimate is described in ``Bootstrap.estimate``.
        ``counts``: prompts, pairs, and ``matched`` pairs of about the same length.
        ``length_ratio``, ``resamples``: as given.
        ``parse_rate``: estimate, of single verdicts. ``answered``: of pairs with a verdict in both
          orders.
        ``consistent``: of pairs with two verdicts, those in which both are the same.
        ``names_first``: of single verdicts that name a response, those that name the first one.
        ``judge``: ``all``, ``parsed`` (only pairs with two verdicts) and ``matched``, each with
        estimates of
          ``accuracy``: pairs ordered as people do, a tie half a hit;
          ``accuracy_strict``: the same, a tie a miss;
          ``ties``: pairs of two ties, or whose orders disagree;
          ``prefers_longer``: pairs with two verdicts and unequal lengths in which the longer
          response wins, a tie half.
        ``averaged``: ``all`` and ``matched``, of the same where the probability averaged over both
          orders decides; None in the ``written`` form, which has none.
        ``longest``: ``all`` and ``matched``, of the same what applies to the longer response.
        ``gain``: ``all`` and ``matched``, accuracy of the judge less that of the length.
    """
    pairs = sorted(pairs, key=lambda p: (p.prompt, p.lengths, str(p.verdicts), str(p.probability)))
    responses = [r for number, pair in enumerate(pairs) for r in _responses(number, pair)]
    sample = Sample(responses, length_ratio)
    bootstrap = Bootstrap(sample.num_prompts, resamples, seed)
    counts = sample.counts()
    return {
        "counts": {name: counts[name] for name in ("prompts", "pairs", "matched")},
        "length_ratio": length_ratio,
        "resamples": resamples,
        **_verdict_rates(bootstrap, sample, pairs),
        **_beside_length(bootstrap, sample, pairs),
    }


_FIGURES = ("accuracy", "accuracy_strict", "ties", "prefers_longer")


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


def _beside_length(
    bootstrap: Bootstrap, sample: Sample, pairs: Sequence[ComparedPair]
) -> dict[str, Any]:
    wins = _both([_win(pair) for pair in pairs])
    told = ~np.isnan(wins[sample.better])
    averages = [pair.probability for pair in pairs]
    parts = {"all": np.ones(len(pairs), bool), "matched": sample.matched}
    judge, averaged, longest = (
        {part: sample.pair_shares(scores, among) for part, among in parts.items()}
        for scores in (wins, _both(averages), sample.lengths)
    )

    def estimates(shares: dict[str, dict[str, Share]], names: Sequence[str]) -> dict[str, Any]:
        return {part: bootstrap.shares(shares[part], names) for part in parts}

    return {
        "judge": {
            **estimates(judge, _FIGURES),
            "parsed": bootstrap.shares(sample.pair_shares(wins, told), _FIGURES),
        },
        "averaged": estimates(averaged, _FIGURES) if any(p is not None for p in averages) else None,
        "longest": estimates(longest, _FIGURES[:-1]),
        "gain": {
            part: bootstrap.difference(judge[part]["accuracy"], longest[part]["accuracy"])
            for part in parts
        },
    }


def _verdict_rates(
    bootstrap: Bootstrap, sample: Sample, pairs: Sequence[ComparedPair]
) -> dict[str, Any]:
    """Shares of single verdicts, of which each pair has as many as responses; and of pairs."""
    verdicts = to_array([verdict for pair in pairs for verdict in pair.verdicts])
    given = ~np.isnan(verdicts)
    named = given & (verdicts != 0.5)
    first = named & (verdicts == np.tile([1, 0], len(pairs)))
    once = np.tile([1, 0], len(pairs))
    both = np.repeat(given.reshape(-1, 2).all(1), 2) * once
    same = np.repeat(np.equal(*verdicts.reshape(-1, 2).T), 2) * once
    return {
        "parse_rate": bootstrap.share(sample.per_response(given, np.ones(len(given)))),
        "answered": bootstrap.share(sample.per_response(both, once)),
        "consistent": bootstrap.share(sample.per_response(same, both)),
        "names_first": bootstrap.share(sample.per_response(first, named)),
    }
