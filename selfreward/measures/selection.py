"""Figures of a selection: what was sampled, how far it agrees with people, what was kept."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from selfreward.records import Drop, Judgment, Response, kept
from selfreward.stages.selection import COMMONEST, Key, Opinion
from selfreward.stages.verdict import points


def selection_figures(
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    opinions: Mapping[Key, Opinion],
    drops: Sequence[Drop],
) -> dict[str, Any]:
    """Count a selection.

    Args:
        responses: Of the accepted prompts, those that were not judged among them.
        judgments: All that were sampled.
        opinions: Of each response.
        drops: Of the selection.

    Returns:
        ``prompts``, ``responses`` and ``votes`` that were judged; ``parsed`` votes and their share
        ``parse_rate``; ``agreeing`` votes, of which ``rows`` were kept, from ``prompts_kept``
        prompts; histograms over the scores 0 to 5 of the parsed (``sampled``), the agreeing and
        the kept votes; ``dropped`` by reason; ``agreement`` of the mean verdicts with people, and
        of the lengths, see ``pairwise``.
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
    return {
        "prompts": len({attempt for attempt, _ in judged}),
        "responses": len(judged),
        "votes": len(judgments),
        "parsed": len(parsed),
        "parse_rate": len(parsed) / len(judgments) if judgments else None,
        "agreeing": len(rows) + len(surplus),
        "rows": len(rows),
        "prompts_kept": len({row.attempt for row in rows}),
        "histogram": {
            "sampled": histogram(parsed),
            "agreeing": histogram([*rows, *surplus]),
            "kept": histogram(rows),
        },
        "dropped": dict(Counter(drop.reason for drop in drops).most_common()),
        "agreement": {
            "judge": pairwise(asked, {key: fmean(votes) for key, votes in scores.items()}),
            "longest": pairwise(asked, lengths),
        },
    }


def pairwise(opinions: Mapping[Key, Opinion], scores: Mapping[Key, float]) -> dict[str, Any]:
    """How many pairs of responses scores order as people do.

    Returns:
        ``pairs`` of which people preferred one, ``hits``, ``ties``, and ``accuracy``: hits and half
        of the ties, of all pairs; None without pairs. A missing score is a miss.
    """
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
    return {"pairs": num_pairs, "hits": hits, "ties": ties, "accuracy": accuracy}


def histogram(judgments: Iterable[Judgment]) -> list[int]:
    """Verdicts by whole points, 0 to 5."""
    counts = [0] * 6
    for judgment in judgments:
        assert judgment.score is not None
        counts[points(judgment.score)] += 1
    return counts
