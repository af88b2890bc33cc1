"""Figures of a selection: what was sampled, how far it agrees with people, what was kept."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from selfreward.records import Drop, Judgment, Response, kept
from selfreward.stages.selection import COMMONEST, Key, Opinion
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


def selection_figures(
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    opinions: Mapping[Key, Opinion],
    drops: Sequence[Drop],
    left_out: Mapping[str, int],
) -> SelectionFigures:
    """Count a selection.

    Args:
        responses: Of the accepted prompts, those that were not judged among them.
        judgments: All that were sampled.
        opinions: Of each response.
        drops: Of the selection.
        left_out: What was not read of the ranked data, by reason.
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
    )


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
