"""Scores of responses, and how far the judges of a jury agree, from an iteration's votes.

    judgments -> one row per response and judge -> scored responses -> figures, show

The scores are those that pairs are made of, see ``stages.jury``.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import itemgetter
from typing import Any, NamedTuple

from selfreward.records import Judgment, Response, judge_key
from selfreward.stages.jury import Means, jury_scores, mean_scores
from selfreward.storage.directory import jury_weights
from selfreward.storage.store import Store

Key = tuple[int, int]
"""(attempt, sample)"""
ALL = 2**62
"""Above every attempt."""
_VOTES = """
SELECT attempt, sample, juror,
    sum(score * weight) / sum(CASE WHEN score IS NOT NULL THEN weight END),
    min(score), max(score), count(*), count(score), sum(num_tokens)
FROM judgments WHERE iteration = ? AND attempt >= ? AND attempt < ?
GROUP BY attempt, sample, juror ORDER BY attempt, sample, juror"""
_WHOLE = """
SELECT attempt, sample FROM responses
WHERE iteration = ? AND attempt >= ? AND attempt < ? AND finish_reason != 'length'
AND author != 'M1'"""


class JudgeRow(NamedTuple):
    """What one judge says of one response."""

    attempt: int
    sample: int
    juror: int
    mean: float | None
    """Over its votes with a verdict, 0 to 5."""
    low: float | None
    high: float | None
    num_votes: int
    num_parsed: int
    tokens: int


class Scored(NamedTuple):
    """A response with a score."""

    attempt: int
    sample: int
    score: float
    """0 to 5."""
    spread: float
    """Highest minus lowest vote of all judges that sit."""
    num_votes: int
    """With a verdict, of these judges."""


@dataclass(frozen=True, slots=True)
class JurorFigures:
    """What one judge of a jury said."""

    judge: str
    """Its key in the config."""
    n: int
    """Votes."""
    parsed: int
    """Votes with a verdict."""
    parse_rate: float | None
    """Their share, 0 to 1; None without votes."""
    mean: float | None
    """Score over responses, 0 to 5; None without verdicts."""
    tokens: int


@dataclass(frozen=True, slots=True)
class JurorAgreement:
    """How far two judges of a jury agree."""

    judges: tuple[str, str]
    """Their keys in the config."""
    pairs: int
    """Two responses to a prompt on which both have verdicts."""
    same: float | None
    """Share of these that both put in the same order, a tie of one alone as a half; None without
    pairs."""
    responses: int
    """That both scored."""
    difference: float | None
    """Between these scores, mean in points; None without any."""


@dataclass(frozen=True, slots=True)
class JuryFigures:
    """Each judge of a jury, and each two of them."""

    judges: tuple[JurorFigures, ...]
    agreement: tuple[JurorAgreement, ...]


def read_votes(store: Store, iteration: int, attempts: int, first: int = 0) -> list[JudgeRow]:
    """The votes of an iteration's first so many attempts, in order of response and judge.

    Args:
        first: Those before this attempt are passed over.
    """
    return [JudgeRow._make(row) for row in store.query(_VOTES, (iteration, first, attempts))]


def scored_responses(
    store: Store,
    iteration: int,
    attempts: int = ALL,
    votes: Iterable[JudgeRow] | None = None,
    first: int = 0,
) -> list[Scored]:
    """The responses that have a score, in order, anchors included.

    Args:
        votes: Of the same attempts; None reads them.
        first: See ``read_votes``.
    """
    votes = read_votes(store, iteration, attempts, first) if votes is None else votes
    rows: list[Any] = [row for row in votes if row.mean is not None]
    if all(row.juror == 0 for row in rows):
        return [
            Scored(row.attempt, row.sample, row.mean, row.high - row.low, row.num_parsed)
            for row in rows
        ]
    whole = set(store.query(_WHOLE, (iteration, first, attempts)))
    scores, sitting = jury_scores(_means(rows), jury_weights(store), whole)
    scored = []
    for key, group in groupby(rows, key=itemgetter(0, 1)):
        if key not in scores:
            continue
        sat = [row for row in group if row.juror in sitting[key[0]]]
        spread = max(row.high for row in sat) - min(row.low for row in sat)
        num_votes = sum(row.num_parsed for row in sat)
        scored.append(Scored(key[0], key[1], scores[key], spread, num_votes))
    return scored


def score_spreads(store: Store, iteration: int, n: int) -> dict[int, float]:
    """Best minus worst score of each prompt's answers, in points, by attempt.

    Prompts of which fewer than two answers have a score are not in it.

    Args:
        n: Answers of a prompt that count; anchors are numbered after them.
    """
    scores: dict[int, list[float]] = {}
    for row in scored_responses(store, iteration):
        if row.sample < n:
            scores.setdefault(row.attempt, []).append(row.score)
    return {attempt: max(s) - min(s) for attempt, s in scores.items() if s[1:]}


def scores_of(
    store: Store, responses: Iterable[Response], judgments: Sequence[Judgment]
) -> dict[Key, float]:
    """Scores of whole prompts' responses, of those that have one."""
    weights = jury_weights(store) if any(j.juror for j in judgments) else (1.0,)
    return mean_scores(responses, judgments, weights)


def jury_figures(rows: Sequence[JudgeRow], whole: Collection[Key]) -> JuryFigures | None:
    """What each judge of a jury said, and how far each two agree; None where there is one judge.

    Args:
        whole: Responses that are not cut off; of others no mean is taken, and votes are counted.
    """
    jurors = sorted({row.juror for row in rows})
    if jurors in ([], [0]):
        return None
    by_juror: dict[int, list[JudgeRow]] = {juror: [] for juror in jurors}
    for row in rows:
        by_juror[row.juror].append(row)
    means = {key: each for key, each in _means(rows).items() if key in whole}
    return JuryFigures(
        judges=tuple(_judge(juror, by_juror[juror], whole) for juror in jurors),
        agreement=tuple(_agreement(a, b, means) for a, b in combinations(jurors, 2)),
    )


def _judge(juror: int, rows: Sequence[JudgeRow], whole: Collection[Key]) -> JurorFigures:
    means = [row.mean for row in rows if row.mean is not None and row[:2] in whole]
    n, parsed = sum(row.num_votes for row in rows), sum(row.num_parsed for row in rows)
    return JurorFigures(
        judge=judge_key(juror),
        n=n,
        parsed=parsed,
        parse_rate=parsed / n if n else None,
        mean=math.fsum(means) / len(means) if means else None,
        tokens=sum(row.tokens for row in rows),
    )


def _agreement(a: int, b: int, means: Mapping[Key, Means]) -> JurorAgreement:
    both = [(key[0], m[a], m[b]) for key, m in sorted(means.items()) if a in m and b in m]
    differences = [abs(x - y) for _, x, y in both]
    same = [
        1 - abs(_order(x[1], y[1]) - _order(x[2], y[2])) / 2
        for _, group in groupby(both, key=itemgetter(0))
        for x, y in combinations(group, 2)
    ]
    return JurorAgreement(
        judges=(judge_key(a), judge_key(b)),
        pairs=len(same),
        same=math.fsum(same) / len(same) if same else None,
        responses=len(both),
        difference=math.fsum(differences) / len(differences) if differences else None,
    )


def _order(x: float, y: float) -> int:
    return (x > y) - (x < y)


def _means(rows: Iterable[JudgeRow]) -> dict[Key, dict[int, float]]:
    means: dict[Key, dict[int, float]] = {}
    for row in rows:
        if row.mean is not None:
            means.setdefault((row.attempt, row.sample), {})[row.juror] = row.mean
    return means
