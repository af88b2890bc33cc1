"""The figures of an iteration, from its records alone.

    records.db -> iteration_figures -> one JSON-able mapping -> scores table, plot, report

A figure that cannot be had is None, never NaN; the counts beside it say why. Every mean has its n
and, where it is about scores, a standard error that is clustered by prompt: answers to one prompt
are alike, so a plain standard error over answers would be too small.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from selfreward.measures.judge import evaluated
from selfreward.measures.statistics import clustered_mean, spearman, standard_deviation
from selfreward.measures.votes import (
    ALL,
    JudgeRow,
    Scored,
    jury_figures,
    read_votes,
    scored_responses,
)
from selfreward.records import FORMS
from selfreward.stages.verdict import points
from selfreward.storage.store import Store

LAYOUT = 5
"""Raised when the mapping changes; figures that an earlier release kept are then computed anew."""
FULL_MARKS = 4.5
"""Points from which a mean score rounds to 5."""

LIVE_ATTEMPTS = 10_000
"""Of an open iteration only so many attempts are counted, so that looking at it takes no second."""

_RESPONSES = """
SELECT attempt, sample, length(text), finish_reason, num_tokens, dropped, author = 'M1'
FROM responses WHERE iteration = ? AND attempt < ?"""
_METRICS = {"loss": "loss", "accuracy": "rewards/accuracies", "reward_margin": "rewards/margins"}
"""Ours -> the trainer's."""
_MASS = " + ".join(f"json_extract(probabilities, '$[{score}]')" for score in range(6))


def figures_of(store: Store, iteration: int) -> dict[str, Any]:
    """The kept figures of an iteration if they are still true, else those of its first attempts."""
    kept = store.figures(iteration)
    if kept and kept.get("layout") == LAYOUT and kept["stages"] == _finished(store, iteration):
        return kept
    return iteration_figures(store, iteration, LIVE_ATTEMPTS)


def iteration_figures(store: Store, iteration: int, attempts: int | None = None) -> dict[str, Any]:
    """Compute the figures of an iteration, finished or not.

    Args:
        store: The run's records; read at one moment, however much is being written.
        iteration: From 0, where without ``sft.selection`` all but ``training`` is empty.
        attempts: Count the responses and judgments of the first so many attempts alone.

    Returns:
        ``stages`` finished so far and ``attempts`` counted, then a mapping each for ``prompts``,
        ``responses``, ``judgments`` (of the first judge), ``scores``, ``pairs``, ``training``, and
        ``seconds`` by stage; ``anchors``, like ``responses`` with their ``mean`` score, and
        ``jury``, see ``votes.jury_figures``, and ``comparisons`` of responses that tie, None where
        there are none; ``selection`` as in ``evaluation.selection``, None but in iteration 0. Of
        the model that the iteration made: ``judge``, ``drift``, ``canaries``, ``positions``, see
        ``reporting.evaluated``; each is None where it was not measured. ``health``: the gates as
        they were last checked, see ``health.Gate``. Lengths are in characters, scores and margins
        in points, rates and shares from 0 to 1.
    """
    with store.snapshot():
        finished = _finished(store, iteration)
        prompts = _prompts(store, iteration)
        is_part = attempts is not None and attempts < prompts["attempts"]
        key = (iteration, attempts if attempts is not None and is_part else ALL)
        responses = list(store.query(_RESPONSES, key))
        anchors = [row for row in responses if row[6]]
        responses = [row for row in responses if not row[6]] if anchors else responses
        votes = read_votes(store, *key)
        scored = scored_responses(store, *key, votes)
        return {
            "layout": LAYOUT,
            "iteration": iteration,
            "stages": finished,
            "attempts": attempts if is_part else prompts["attempts"],
            "prompts": prompts,
            "responses": _responses(responses),
            "anchors": _anchors(anchors, scored) if anchors else None,
            "judgments": _judgments(store, key, votes),
            "jury": jury_figures(votes),
            "scores": _scores(scored, responses),
            "comparisons": _comparisons(store, iteration),
            "pairs": _pairs(store, iteration, "pairs" in finished),
            "selection": store.report(iteration, "selection"),
            "training": _training(store, iteration),
            **evaluated(store, iteration),
            "health": (store.report(iteration, "health") or {"gates": []})["gates"],
            "seconds": _seconds(store, iteration),
        }


def _prompts(store: Store, iteration: int) -> dict[str, Any]:
    query = "SELECT dropped, count(*), sum(num_tokens) FROM prompts WHERE iteration = ? GROUP BY 1"
    rows = list(store.query(query, (iteration,)))
    dropped = _by_count({reason: count for reason, count, _ in rows if reason is not None})
    attempts = sum(count for _, count, _ in rows)
    return {
        "attempts": attempts,
        "accepted": attempts - sum(dropped.values()),
        "dropped": dropped,
        "tokens": sum(tokens for _, _, tokens in rows),
    }


def _responses(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "n": len(rows),
        "dropped": _by_count(Counter(row[5] for row in rows if row[5] is not None)),
        "truncated": sum(row[3] == "length" for row in rows),
        "tokens": sum(row[4] for row in rows),
    }


def _anchors(rows: Sequence[tuple[Any, ...]], scored: Sequence[Scored]) -> dict[str, Any]:
    """What M1 answered to the iteration's prompts, and how that was scored."""
    keys = {row[:2] for row in rows}
    scores = [row.score for row in scored if row[:2] in keys]
    return _responses(rows) | {"mean": math.fsum(scores) / len(scores) if scores else None}


def _judgments(store: Store, key: tuple[int, int], votes: Sequence[JudgeRow]) -> dict[str, Any]:
    """Of the first judge; ``jury_figures`` has the others."""
    votes = [row for row in votes if row.juror == 0]
    n, parsed = sum(row.num_votes for row in votes), sum(row.num_parsed for row in votes)
    where = "FROM judgments WHERE iteration = ? AND attempt < ? AND juror = 0"
    form = next((row[0] for row in store.query(f"SELECT form {where} LIMIT 1", key)), None)
    mass, unparsed = None, {}
    if form is not None and FORMS[form].weighs:
        mass = next(store.query(f"SELECT avg({_MASS}) {where}", key))[0]
    if parsed < n:
        query = f"SELECT reason, count(*) {where} AND reason IS NOT NULL GROUP BY 1"
        unparsed = _by_count(dict(store.query(query, key)))
    return {
        "form": form,
        "n": n,
        "parsed": parsed,
        "parse_rate": parsed / n if n else None,
        "unparsed": unparsed,
        "tokens": sum(row.tokens for row in votes),
        "mass": mass,
    }


def _scores(scored: Sequence[Scored], responses: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Figures over the scores of the policy's responses."""
    length = {row[:2]: row[2] for row in responses}
    rows = [row for row in scored if row[:2] in length]
    scores = [row.score for row in rows]
    clusters = [[row.score for row in group] for _, group in groupby(rows, key=itemgetter(0))]
    mean, error = clustered_mean(clusters)
    histogram = [0] * 6
    for score in scores:
        histogram[points(score)] += 1
    within = [standard_deviation(values) for values in clusters if len(values) > 1]
    spreads = [row.spread for row in rows if row.num_votes > 1]
    return {
        "n": len(scores),
        "prompts": len(clusters),
        "mean": mean,
        "se": error,
        "std": standard_deviation(scores) if len(scores) > 1 else None,
        "prompt_std": math.fsum(within) / len(within) if within else None,
        "num_prompt_std": len(within),
        "histogram": histogram,
        "fives": sum(score >= FULL_MARKS for score in scores) / len(scores) if scores else None,
        "vote_spread": math.fsum(spreads) / len(spreads) if spreads else None,
        "num_vote_spread": len(spreads),
        "spearman_length": spearman([length[row[:2]] for row in rows], scores),
    }


_COMPARED = """
SELECT count(*), sum(a.reason IS NULL AND b.reason IS NULL), sum(a.winner = b.winner)
FROM comparisons AS a JOIN comparisons AS b ON a.iteration = b.iteration AND a.attempt = b.attempt
AND a.first = b.second AND a.second = b.first WHERE a.iteration = ? AND a.first < a.second"""


def _comparisons(store: Store, iteration: int) -> dict[str, Any] | None:
    """Of every two responses that were compared, those with a verdict and with a better one."""
    n, with_verdict, told_apart = next(store.query(_COMPARED, (iteration,)))
    return {"n": n, "with_verdict": with_verdict, "told_apart": told_apart or 0} if n else None


def _pairs(store: Store, iteration: int, finished: bool) -> dict[str, Any]:
    rows = list(store.query(_PAIRED, (iteration,)))
    per_item = list(
        store.query(
            "SELECT instr(item, '/') > 0, reason, count(*) FROM drops"
            " WHERE iteration = ? AND stage = 'pairs' GROUP BY 1, 2",
            (iteration,),
        )
    )
    dropped = _by_count({reason: count for inner, reason, count in per_item if not inner})
    clusters = [[row[1] for row in group] for _, group in groupby(rows, key=itemgetter(0))]
    n, prompts = len(rows), len(clusters) + sum(dropped.values())
    margin, error = clustered_mean(clusters)
    ties = dropped.get("tie", 0) if finished else None
    return {
        "n": n,
        "paired": len(clusters),
        "prompts": prompts,
        "dropped": dropped,
        "responses_dropped": _by_count(
            {reason: count for inner, reason, count in per_item if inner}
        ),
        "ties": ties,
        "tie_rate": ties / prompts if ties is not None and prompts else None,
        "margin": margin,
        "margin_se": error,
        "chosen_length": math.fsum(row[2] for row in rows) / n if n else None,
        "rejected_length": math.fsum(row[3] for row in rows) / n if n else None,
    }


_PAIRED = """
SELECT p.attempt, p.chosen_score - p.rejected_score, length(c.text), length(r.text)
FROM pairs AS p
JOIN responses AS c ON c.iteration = p.iteration AND c.attempt = p.attempt AND c.sample = p.chosen
JOIN responses AS r ON r.iteration = p.iteration AND r.attempt = p.attempt AND r.sample = p.rejected
WHERE p.iteration = ? ORDER BY p.attempt"""


def _training(store: Store, iteration: int) -> dict[str, Any]:
    """Last logged value of each of the trainer's metrics."""
    last: dict[str, float] = {}
    steps = 0
    for row in store.train_log(iteration):
        last |= row
        steps = int(row["step"])
    figures: dict[str, Any] = {"steps": steps}
    for ours, theirs in _METRICS.items():
        value = last.get(theirs, math.nan)
        figures[ours] = value if math.isfinite(value) else None
    drops = Counter(store.drop_reasons(iteration, "train"))
    return figures | {"dropped": _by_count(drops)}


def _seconds(store: Store, iteration: int) -> dict[str, float]:
    """Time by stage: of the finished stage, else of what is done of it."""
    spent = {p.stage: p.seconds for p in store.progress() if p.iteration == iteration}
    spent |= {s.stage: s.seconds for s in store.stages() if s.iteration == iteration}
    return {stage: spent[stage] for stage in store.planned(iteration) if stage in spent}


def _finished(store: Store, iteration: int) -> list[str]:
    return [s.stage for s in store.stages() if s.iteration == iteration]


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
