"""Figures of a selection: what was sampled, how far it agrees with people, what was kept."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from math import prod
from statistics import fmean

from selfreward.records import Drop, Judgment, Response, kept
from selfreward.stages.selection import COMMONEST, NEAR, Key, Opinion, whole_sets
from selfreward.stages.verdict import points


@dataclass(frozen=True, slots=True)
class Hits:
    """How many pairs of responses are ordered as people do."""

    pairs: int
    """Of which people preferred one."""
    hits: int
    ties: int
    accuracy: float | None
    """Hits and half of the ties, of all pairs, 0 to 1; None without pairs."""


@dataclass(frozen=True, slots=True)
class Pairwise:
    """What agrees with people."""

    judge: Hits
    """Its mean verdicts."""
    longest: Hits
    """Lengths taken for scores."""


@dataclass(frozen=True, slots=True)
class Histograms:
    """Votes by whole points, 0 to 5; six counts each."""

    sampled: tuple[int, ...]
    """Of all parsed votes."""
    agreeing: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SelectionFigures:
    """What was sampled in iteration 0, and what became EFT rows."""

    prompts: int
    """That were judged, like the next two."""
    responses: int
    votes: int
    parsed: int
    """Votes with a verdict."""
    parse_rate: float | None
    """Their share, 0 to 1; None without votes."""
    agreeing: int
    """Votes that agree with people."""
    rows: int
    """Those of them that were kept."""
    prompts_kept: int
    """Prompts with such a vote."""
    histogram: Histograms
    dropped: dict[str, int]
    """Votes by reason."""
    agreement: Pairwise
    left_out: dict[str, int]
    """What was not read of the ranked data, by reason."""
    prompts_agreeing: int | None = None
    """Prompts with a vote that agrees with people, before the cap; None in runs made before this
    and ``chance`` were measured."""
    chance: float | None = None
    """Share of the prompts that would have one if the judge rolled dice; see ``by_chance``."""


def selection_figures(
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    opinions: Mapping[Key, Opinion],
    drops: Sequence[Drop],
    left_out: Mapping[str, int],
    *,
    combine: bool = False,
) -> SelectionFigures:
    """Count a selection.

    Args:
        responses: Of the accepted prompts, those that were not judged among them.
        judgments: All that were sampled.
        opinions: Of each response.
        drops: Of the selection.
        left_out: What was not read of the ranked data, by reason.
        combine: As it was selected.
    """
    rows = kept(judgments, drops)
    parsed = [judgment for judgment in judgments if judgment.score is not None]
    capped = {drop.item for drop in drops if drop.reason == COMMONEST}
    surplus = [judgment for judgment in judgments if judgment.item in capped]
    scores: defaultdict[Key, list[float]] = defaultdict(list)
    for judgment in parsed:
        assert judgment.score is not None
        scores[judgment.attempt, judgment.sample].append(judgment.score)
    judged = {(judgment.attempt, judgment.sample) for judgment in judgments}
    asked = {key: opinion for key, opinion in opinions.items() if key in judged}
    lengths = {(r.attempt, r.sample): float(len(r.text)) for r in responses}
    return SelectionFigures(
        prompts=len({attempt for attempt, _ in judged}),
        responses=len(judged),
        votes=len(judgments),
        parsed=len(parsed),
        parse_rate=len(parsed) / len(judgments) if judgments else None,
        agreeing=len(rows) + len(surplus),
        rows=len(rows),
        prompts_kept=len({row.attempt for row in rows}),
        histogram=Histograms(histogram(parsed), histogram([*rows, *surplus]), histogram(rows)),
        dropped=dict(Counter(drop.reason for drop in drops).most_common()),
        agreement=Pairwise(
            judge=pairwise(asked, {key: fmean(votes) for key, votes in scores.items()}),
            longest=pairwise(asked, lengths),
        ),
        left_out=dict(left_out),
        prompts_agreeing=len({row.attempt for row in [*rows, *surplus]}),
        chance=by_chance(judgments, opinions, combine=combine),
    )


def by_chance(
    judgments: Sequence[Judgment], opinions: Mapping[Key, Opinion], *, combine: bool
) -> float | None:
    """Share of the prompts, 0 to 1, that a judge would pass which rolls dice.

    Every verdict is drawn on its own from all verdicts of the run, and those that are missing stay
    missing. What is expected is exact: responses are gone through from the worst level up, with the
    probability that the scores so far end at each height (``_ordered``).

    Returns:
        None without judgments.
    """
    counts = Counter(vote.score for vote in judgments if vote.score is not None)
    heights = sorted(counts)
    shares = [counts[height] / counts.total() for height in heights]
    passed = []
    for _, group in groupby(judgments, key=lambda vote: vote.attempt):
        votes = [vote for vote in group if vote.score is not None]
        rows = [list(of_one) for _, of_one in groupby(votes, key=lambda vote: vote.sample)]
        found = [opinions[row[0].attempt, row[0].sample] for row in rows]
        levels = sorted({one.preference for one in found})
        rated = list(zip(rows, found, strict=True))
        if len(levels) > 1:
            sizes = [
                [len(row) if combine else 1 for row, one in rated if one.preference == level]
                for level in levels
            ]
            tries = 1 if combine else len(whole_sets(rows))
            passed.append(1 - (1 - _ordered(sizes, shares)) ** tries)
        else:
            passed.append(1 - prod(_far(one, heights, shares) ** len(row) for row, one in rated))
    return fmean(passed) if passed else None


def _far(opinion: Opinion, heights: Sequence[float], shares: Sequence[float]) -> float:
    """Probability that a verdict is not near what people gave; 1 where they gave no points."""
    given = opinion.score
    if given is None:
        return 1.0
    return sum(p for at, p in zip(heights, shares, strict=True) if abs(at - given) > NEAR)


def _ordered(levels: Sequence[Sequence[int]], shares: Sequence[float]) -> float:
    """Probability that votes drawn on their own can be chosen so that each level tops the last.

    Args:
        levels: From the worst up; of each response, its number of votes.
        shares: Of each score, from the least up; they sum to 1.
    """
    bounds = {-1: 1.0}
    """Place of the highest score chosen so far -> probability; the least that will do is chosen."""
    for level in levels:
        reached: defaultdict[int, float] = defaultdict(float)
        for bound, probability in bounds.items():
            below = 0.0
            for place in range(bound + 1, len(shares)):
                share = min(1.0, sum(shares[bound + 1 : place + 1]))
                at_most = prod(1 - (1 - share) ** size for size in level)
                reached[place] += probability * (at_most - below)
                below = at_most
        bounds = reached
    return min(1.0, sum(bounds.values()))  # a sum of shares may be 1 and a rounding


def pairwise(opinions: Mapping[Key, Opinion], scores: Mapping[Key, float]) -> Hits:
    """How many pairs of responses scores order as people do; a missing score is a miss."""
    by_prompt: defaultdict[int, list[Key]] = defaultdict(list)
    for key in sorted(opinions):
        by_prompt[key[0]].append(key)
    hits = ties = num_pairs = 0
    for keys in by_prompt.values():
        for a, b in combinations(keys, 2):
            preferred = opinions[a].preference - opinions[b].preference
            if preferred == 0:
                continue
            num_pairs += 1
            if a in scores and b in scores:
                scored = scores[a] - scores[b]
                ties += scored == 0
                hits += scored * preferred > 0
    accuracy = (hits + ties / 2) / num_pairs if num_pairs else None
    return Hits(num_pairs, hits, ties, accuracy)


def histogram(judgments: Iterable[Judgment]) -> tuple[int, ...]:
    """Verdicts by whole points, 0 to 5."""
    counts = [0] * 6
    for judgment in judgments:
        assert judgment.score is not None
        counts[points(judgment.score)] += 1
    return tuple(counts)
