"""The figures of an iteration's preference pairs, and of the comparisons that broke ties."""

import math
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from selfreward.measures.statistics import by_count, clustered_mean
from selfreward.storage.store import Store


@dataclass(frozen=True, slots=True)
class ComparisonFigures:
    """Of every two responses that tied and were compared in both orders."""

    n: int
    with_verdict: int
    """In both orders."""
    told_apart: int
    """With the same winner in both."""
    tokens: int = 0
    """In both orders; 0, too, where an earlier version closed the iteration."""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """Of the preference pairs."""

    n: int
    paired: int
    """Prompts with a pair."""
    prompts: int
    dropped: dict[str, int]
    """Prompts without a pair by reason."""
    responses_dropped: dict[str, int]
    """Responses that took no part by reason."""
    ties: int | None
    """Prompts without a pair because all scores are equal; None until the pairs are built."""
    tie_rate: float | None
    """Their share of the prompts."""
    margin: float | None
    """Mean."""
    margin_se: float | None
    """Standard error of it, clustered by prompt."""
    chosen_length: float | None
    """Mean, as the next."""
    rejected_length: float | None


_COMPARED = """
SELECT count(*), sum(a.reason IS NULL AND b.reason IS NULL), sum(a.winner = b.winner),
sum(a.num_tokens + b.num_tokens)
FROM comparisons AS a JOIN comparisons AS b ON a.iteration = b.iteration AND a.attempt = b.attempt
AND a.first = b.second AND a.second = b.first WHERE a.iteration = ? AND a.first < a.second"""


def comparison_figures(store: Store, iteration: int) -> ComparisonFigures | None:
    """None where no response tied, or none was compared for it."""
    n, with_verdict, told_apart, tokens = next(store.query(_COMPARED, (iteration,)))
    return ComparisonFigures(n, with_verdict, told_apart or 0, tokens) if n else None


def pair_figures(store: Store, iteration: int, *, is_built: bool) -> PairFigures:
    """The pairs of an iteration, and what became of all else.

    Args:
        is_built: Whether their stage is finished, so that it is known what gave no pair.
    """
    rows = list(store.query(_PAIRED, (iteration,)))
    per_item = list(
        store.query(
            "SELECT instr(item, '/') > 0, reason, count(*) FROM drops"
            " WHERE iteration = ? AND stage = 'pairs' GROUP BY 1, 2",
            (iteration,),
        )
    )
    dropped = by_count({reason: count for inner, reason, count in per_item if not inner})
    clusters = [[row[1] for row in group] for _, group in groupby(rows, key=itemgetter(0))]
    n, prompts = len(rows), len(clusters) + sum(dropped.values())
    margin, error = clustered_mean(clusters)
    ties = dropped.get("tie", 0) if is_built else None
    return PairFigures(
        n=n,
        paired=len(clusters),
        prompts=prompts,
        dropped=dropped,
        responses_dropped=by_count({reason: count for inner, reason, count in per_item if inner}),
        ties=ties,
        tie_rate=ties / prompts if ties is not None and prompts else None,
        margin=margin,
        margin_se=error,
        chosen_length=math.fsum(row[2] for row in rows) / n if n else None,
        rejected_length=math.fsum(row[3] for row in rows) / n if n else None,
    )


_PAIRED = """
SELECT p.attempt, p.chosen_score - p.rejected_score, length(c.text), length(r.text)
FROM pairs AS p
JOIN responses AS c ON c.iteration = p.iteration AND c.attempt = p.attempt AND c.sample = p.chosen
JOIN responses AS r ON r.iteration = p.iteration AND r.attempt = p.attempt AND r.sample = p.rejected
WHERE p.iteration = ? ORDER BY p.attempt"""
