"""The figures of an iteration, from its records alone.

    records.db -> iteration_figures -> scores table, plot, JSON

A figure that cannot be had is None, never NaN; the counts beside it say why. Every mean has its n
and, where it is about scores, a standard error that is clustered by prompt: answers to one prompt
are alike, so a plain standard error over answers would be too small. Lengths are in characters,
scores and margins in points, rates and shares from 0 to 1.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

from selfreward.measures.curves import TrainingFigures, training_figures
from selfreward.measures.diversity import DataFigures
from selfreward.measures.evaluated import (
    AnswerFigures,
    BenchmarkFigures,
    CanaryFigures,
    ContestFigures,
    FunctionFigures,
    JudgeFigures,
    PositionFigures,
    VerifiedFigures,
    evaluated,
)
from selfreward.measures.meta import MetaFigures, meta_figures
from selfreward.measures.paired import (
    ComparisonFigures,
    PairFigures,
    comparison_figures,
    pair_figures,
)
from selfreward.measures.reports import Estimate, Gate, Health
from selfreward.measures.selection import SelectionFigures
from selfreward.measures.statistics import (
    Bins,
    binned,
    by_count,
    clustered_mean,
    spearman,
    standard_deviation,
)
from selfreward.measures.votes import (
    ALL,
    JudgeRow,
    JuryFigures,
    Key,
    Scored,
    jury_figures,
    read_votes,
    scored_responses,
)
from selfreward.records import FORMS
from selfreward.stages.verdict import points
from selfreward.storage.starts import start_of
from selfreward.storage.store import Store

LAYOUT = 8
"""Raised when a figure gets another meaning; what an earlier release kept is then computed anew, as
is what cannot be read."""
FULL_MARKS = 4.5
"""Points from which a mean score rounds to 5."""

LIVE_ATTEMPTS = 10_000
"""Of an open iteration only so many attempts are counted, so that looking at it takes no second."""

_RESPONSES = """
SELECT attempt, sample, length(text), finish_reason, num_tokens, dropped, author
FROM responses WHERE iteration = ? AND attempt < ? ORDER BY attempt, sample"""
_MASS = " + ".join(f"json_extract(probabilities, '$[{score}]')" for score in range(6))


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """Of the tries at writing a prompt."""

    attempts: int
    accepted: int
    dropped: dict[str, int]
    """By reason, the most frequent first, as all such counts."""
    tokens: int
    """Sampled, as all tokens here."""


@dataclass(frozen=True, slots=True)
class ResponseFigures:
    """Of the policy's answers."""

    n: int
    dropped: dict[str, int]
    truncated: int
    """Cut off at ``responses.max_new_tokens``."""
    tokens: int
    length: float | None
    """Mean over those that were not dropped."""
    length_se: float | None
    """Standard error of it, clustered by prompt; None for one prompt."""


@dataclass(frozen=True, slots=True)
class AnchorFigures(ResponseFigures):
    """What M1 answered to the same prompts, and how that was scored."""

    mean: float | None
    """Score, of those that are whole."""


@dataclass(frozen=True, slots=True)
class JudgmentFigures:
    """Of the first judge's votes; ``JuryFigures`` has those of all."""

    form: str | None
    """Of the judge; None without votes."""
    n: int
    parsed: int
    """Votes with a verdict."""
    parse_rate: float | None
    unparsed: dict[str, int]
    """The others by reason."""
    tokens: int
    mass: float | None
    """Mean probability on scores at all, 0 to 1; None in the ``written`` form."""


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """Of the scores of the policy's responses that are whole.

    One that was cut off is never paired, so what it scores is told apart.
    """

    n: int
    prompts: int
    """With a score."""
    mean: float | None
    se: float | None
    """Standard error of the mean, clustered by prompt; None for one prompt."""
    std: float | None
    prompt_std: float | None
    """Standard deviation within a prompt, mean over those with two scores or more."""
    num_prompt_std: int
    """So many prompts."""
    histogram: tuple[int, ...]
    """By whole points, 0 to 5."""
    bins: Bins | None
    """Where the scores are; None without scores."""
    fives: float | None
    """Share of scores that round to 5."""
    vote_spread: float | None
    """Highest minus lowest vote, mean over the responses with two verdicts or more."""
    num_vote_spread: int
    """So many responses."""
    spearman_length: float | None
    """Rank correlation of length and score, -1 to 1; None where either is constant."""
    num_truncated: int
    """Truncated responses with a score, which count in none of the above."""
    truncated_mean: float | None
    """Their mean."""


@dataclass(frozen=True, slots=True)
class IterationFigures:
    """All figures of an iteration; iteration 0 has records only with ``sft.selection``."""

    layout: int
    """See ``LAYOUT``."""
    iteration: int
    start: int
    """Number of the model that it starts from, see ``storage.starts``."""
    stages: tuple[str, ...]
    """Finished so far."""
    attempts: int
    """So many are counted of responses and judgments: all, or the first ones."""
    prompts: PromptFigures
    responses: ResponseFigures
    anchors: AnchorFigures | None
    """None where there are none, as the next two."""
    judgments: JudgmentFigures
    jury: JuryFigures | None
    scores: ScoreFigures
    comparisons: ComparisonFigures | None
    pairs: PairFigures
    selection: SelectionFigures | None
    """None but in iteration 0."""
    training: TrainingFigures
    judge: JudgeFigures | None
    """Of the model that the iteration made, as the next three; see ``Evaluated``."""
    drift: Estimate | None
    canaries: CanaryFigures | None
    positions: PositionFigures | None
    contests: tuple[ContestFigures, ...]
    """Its answers to held-out questions against those of other models."""
    verified: VerifiedFigures | None
    """What functions give these answers; None where there are none."""
    health: tuple[Gate, ...]
    """As they were last checked."""
    seconds: dict[str, float]
    """By stage, over all launches."""
    data: DataFigures | None = None
    """Health of the prompts and responses; None until the iteration is closed, and of iterations
    that were closed by a release that did not look."""
    rewards: tuple[FunctionFigures, ...] = ()
    """What the reward models of the contests give the new model's answers."""
    meta: MetaFigures | None = None
    """None where no judgment was judged."""
    benchmarks: dict[str, BenchmarkFigures] = field(default_factory=dict)
    """What the model that the iteration made knows, by ``evaluation.benchmarks``; not what
    ``selfreward benchmark`` found later."""
    answers: AnswerFigures | None = None
    """Its answers to held-out questions; None also of iterations that were closed by a release that
    did not count them."""


def figures_of(store: Store, iteration: int) -> IterationFigures:
    """The kept figures of an iteration if they are still true, else those of its first attempts."""
    return kept_figures(store, iteration) or iteration_figures(store, iteration, LIVE_ATTEMPTS)


def kept_figures(store: Store, iteration: int) -> IterationFigures | None:
    """The kept figures of an iteration if they are still true; None also where there are none."""
    kept = store.figures(iteration, IterationFigures)
    if kept and kept.layout == LAYOUT and kept.stages == _finished(store, iteration):
        return kept
    return None


def iteration_figures(
    store: Store, iteration: int, attempts: int | None = None
) -> IterationFigures:
    """Compute the figures of an iteration, finished or not.

    Args:
        store: The run's records; read at one moment, however much is being written.
        iteration: From 0.
        attempts: Count the responses and judgments of the first so many attempts alone.
    """
    with store.snapshot():
        finished = _finished(store, iteration)
        prompts = _prompts(store, iteration)
        is_part = attempts is not None and attempts < prompts.attempts
        key = (iteration, attempts if attempts is not None and is_part else ALL)
        answers = list(store.query(_RESPONSES, key))
        anchors = [row for row in answers if row[6] == "M1"]
        responses = [row for row in answers if row[6] == "policy" or iteration == 0]
        votes = read_votes(store, *key)
        scored = scored_responses(store, *key, votes)
        model = evaluated(store, iteration)
        health = store.report(iteration, "health", Health)
        return IterationFigures(
            layout=LAYOUT,
            iteration=iteration,
            start=start_of(store, iteration),
            stages=finished,
            attempts=attempts if attempts is not None and is_part else prompts.attempts,
            prompts=prompts,
            responses=_responses(responses),
            anchors=_anchors(anchors, scored) if anchors else None,
            judgments=_judgments(store, key, votes),
            jury=jury_figures(votes, _whole(answers)),
            scores=_scores(scored, responses),
            comparisons=comparison_figures(store, iteration),
            pairs=pair_figures(store, iteration, is_built="pairs" in finished),
            selection=store.report(iteration, "selection", SelectionFigures),
            training=training_figures(store, iteration),
            judge=model.judge,
            drift=model.drift,
            canaries=model.canaries,
            positions=model.positions,
            contests=model.contests,
            verified=model.verified,
            health=health.gates if health else (),
            seconds=_seconds(store, iteration),
            data=store.report(iteration, "data", DataFigures),
            rewards=model.rewards,
            meta=meta_figures(store, iteration),
            benchmarks=model.benchmarks,
            answers=model.answers,
        )


def _prompts(store: Store, iteration: int) -> PromptFigures:
    # A filter of words says which one: what it takes away is to be seen.
    reason = "CASE dropped WHEN 'keyword' THEN 'keyword ' || detail ELSE dropped END"
    query = (
        f"SELECT {reason}, count(*), sum(num_tokens) FROM prompts WHERE iteration = ? GROUP BY 1"
    )
    rows = list(store.query(query, (iteration,)))
    dropped = by_count({reason: count for reason, count, _ in rows if reason is not None})
    attempts = sum(count for _, count, _ in rows)
    return PromptFigures(
        attempts=attempts,
        accepted=attempts - sum(dropped.values()),
        dropped=dropped,
        tokens=sum(tokens for _, _, tokens in rows),
    )


def _responses(rows: Sequence[tuple[Any, ...]]) -> ResponseFigures:
    kept = [row for row in rows if row[5] is None]
    clusters = [[row[2] for row in group] for _, group in groupby(kept, key=itemgetter(0))]
    length, error = clustered_mean(clusters)
    return ResponseFigures(
        n=len(rows),
        dropped=by_count(Counter(row[5] for row in rows if row[5] is not None)),
        truncated=sum(row[3] == "length" for row in rows),
        tokens=sum(row[4] for row in rows),
        length=length,
        length_se=error,
    )


def _whole(rows: Sequence[tuple[Any, ...]]) -> set[Key]:
    """Those of ``_RESPONSES`` that were not cut off."""
    return {row[:2] for row in rows if row[3] != "length"}


def _anchors(rows: Sequence[tuple[Any, ...]], scored: Sequence[Scored]) -> AnchorFigures:
    whole = _whole(rows)
    scores = [row.score for row in scored if row[:2] in whole]
    mean = math.fsum(scores) / len(scores) if scores else None
    return AnchorFigures(**asdict(_responses(rows)), mean=mean)


def _judgments(store: Store, key: tuple[int, int], votes: Sequence[JudgeRow]) -> JudgmentFigures:
    votes = [row for row in votes if row.juror == 0]
    n, parsed = sum(row.num_votes for row in votes), sum(row.num_parsed for row in votes)
    where = "FROM judgments WHERE iteration = ? AND attempt < ? AND juror = 0"
    form = next((row[0] for row in store.query(f"SELECT form {where} LIMIT 1", key)), None)
    mass, unparsed = None, {}
    if form is not None and FORMS[form].weighs:
        mass = next(store.query(f"SELECT avg({_MASS}) {where}", key))[0]
    if parsed < n:
        query = f"SELECT reason, count(*) {where} AND reason IS NOT NULL GROUP BY 1"
        unparsed = by_count(dict(store.query(query, key)))
    return JudgmentFigures(
        form=form,
        n=n,
        parsed=parsed,
        parse_rate=parsed / n if n else None,
        unparsed=unparsed,
        tokens=sum(row.tokens for row in votes),
        mass=mass,
    )


def _scores(scored: Sequence[Scored], responses: Sequence[tuple[Any, ...]]) -> ScoreFigures:
    length, whole = {row[:2]: row[2] for row in responses}, _whole(responses)
    rows = [row for row in scored if row[:2] in whole]
    cut_off = length.keys() - whole
    truncated = [row.score for row in scored if row[:2] in cut_off]
    scores = [row.score for row in rows]
    clusters = [[row.score for row in group] for _, group in groupby(rows, key=itemgetter(0))]
    mean, error = clustered_mean(clusters)
    histogram = [0] * 6
    for score in scores:
        histogram[points(score)] += 1
    within = [standard_deviation(values) for values in clusters if len(values) > 1]
    spreads = [row.spread for row in rows if row.num_votes > 1]
    return ScoreFigures(
        n=len(scores),
        prompts=len(clusters),
        mean=mean,
        se=error,
        std=standard_deviation(scores) if len(scores) > 1 else None,
        prompt_std=math.fsum(within) / len(within) if within else None,
        num_prompt_std=len(within),
        histogram=tuple(histogram),
        bins=binned(scores) if scores else None,
        fives=sum(score >= FULL_MARKS for score in scores) / len(scores) if scores else None,
        vote_spread=math.fsum(spreads) / len(spreads) if spreads else None,
        num_vote_spread=len(spreads),
        spearman_length=spearman([length[row[:2]] for row in rows], scores),
        num_truncated=len(truncated),
        truncated_mean=math.fsum(truncated) / len(truncated) if truncated else None,
    )


def _seconds(store: Store, iteration: int) -> dict[str, float]:
    """Time by stage: of the finished stage, else of what is done of it."""
    spent = {p.stage: p.seconds for p in store.progress() if p.iteration == iteration}
    spent |= {s.stage: s.seconds for s in store.stages() if s.iteration == iteration}
    return {stage: spent[stage] for stage in store.planned(iteration) if stage in spent}


def _finished(store: Store, iteration: int) -> tuple[str, ...]:
    return tuple(s.stage for s in store.stages() if s.iteration == iteration)
