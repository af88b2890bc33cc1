"""The last stage of an iteration: the model it made is measured as a judge.

It judges held-out responses that people ranked, and canaries, in the form and with the template of
the run's judge; of a jury, those of the member that is the policy. It is the policy that is
measured, whatever ``judge.model`` is: the one that judges the next iteration, or would.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs.heldout import Canary, read_canaries, read_held_out, texts_asked
from selfreward.inputs.rankings import Ranking
from selfreward.measures.agreement import RESAMPLES, agreement
from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.positions import Pair, compare_pairs, compared_pairs, pairs_of, positions
from selfreward.measures.sample import mean_vote
from selfreward.records import Comparison, Judgment
from selfreward.stages.evaluate import Text, judge_texts, judged_responses, votes_of
from selfreward.storage.directory import Run
from selfreward.storage.encoding import digest_reports
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker

Votes = Mapping[Text, Sequence[Judgment]]


async def evaluate_iteration(run: Run, store: Store, iteration: int, sessions: Sessions) -> None:
    """Measure ``models/M<iteration + 1>`` and commit the reports with the stage, all at once.

    Whatever cuts it off leaves nothing; it is begun anew.

    Raises:
        PreflightError: The engine cannot go on.
    """
    config = run.config
    juror = config.judge.jurors[config.judge.evaluated]
    own_engine = juror.engine if juror.model == "policy" else None
    session = await sessions.get(own_engine or config.engine, run.policy(iteration + 1))
    settings = config.evaluation
    rankings: list[Ranking] = []
    canaries: list[Canary] = []
    if settings.ranked is not None:
        rankings = read_held_out(run.seed_file("heldout"), settings.limit)
    if settings.canaries:
        canaries = read_canaries(run.seed_file("canaries"))
    texts = texts_asked(rankings, canaries)
    pairs = pairs_of(rankings) if settings.compares else []
    total = len(texts) + len(pairs)
    with Tracker(store, iteration, "evaluate", total) as tracker:
        votes = await _judge(run, session, texts, tracker)
        reports: dict[str, dict[str, Any]] = {}
        if rankings:
            first = store.report(0, "judge") if iteration else None
            reports["judge"] = judge_report(rankings, votes, first)
        if canaries:
            reports["canaries"] = canary_report(canaries, votes)
        if pairs:
            comparisons = await _compare(run, session, pairs, tracker, len(texts))
            reports["positions"] = positions(compared_pairs(rankings, comparisons))
        tracker.finish(run, rows=total, drops=0, digest=digest_reports(reports), reports=reports)


async def _judge(run: Run, session: Session, texts: Sequence[Text], tracker: Tracker) -> Votes:
    votes: dict[Text, Sequence[Judgment]] = {}

    def keep(at: int, judgments: list[Judgment]) -> None:
        votes[texts[at]] = judgments
        tracker.advance(len(votes))

    number = run.config.judge.evaluated
    juror = run.config.judge.jurors[number]
    await judge_texts(
        session.engine, session.chat, run.template("judge", number), texts, juror, keep,
        concurrency=run.config.engine.concurrency, seed=run.config.seed,
        criteria_template=run.template("criteria", number) if juror.form == "criteria" else None,
    )  # fmt: skip
    return votes


async def _compare(
    run: Run, session: Session, pairs: Sequence[Pair], tracker: Tracker, before: int
) -> Mapping[Pair, Sequence[Comparison]]:
    comparisons: dict[Pair, Sequence[Comparison]] = {}

    def keep(at: int, given: list[Comparison]) -> None:
        comparisons[pairs[at]] = given
        tracker.advance(before + len(comparisons))

    juror = run.config.judge.jurors[run.config.judge.evaluated]
    await compare_pairs(
        session.engine, session.chat, run.template("compare"), pairs, juror, keep,
        concurrency=run.config.engine.concurrency, seed=run.config.seed,
    )  # fmt: skip
    return comparisons


def judge_report(
    rankings: Sequence[Ranking], votes: Votes, first: Mapping[str, Any] | None
) -> dict[str, Any]:
    """How a model judges what people ranked.

    Args:
        first: The report of M1 on the same rankings; None for M1 itself.

    Returns:
        ``agreement``: see there. ``drift``: an estimate of the points by which the responses'
        mean score differs from what M1 gave, over those that both scored; None for M1.
        ``responses``: in the order of the rankings, ``ranking`` (its place), mean ``score``, and
        the ``votes`` with ``reasons`` where there is no verdict.
    """
    rows = []
    for number, ranking in enumerate(rankings):
        for response in ranking.responses:
            given = votes[ranking.prompt, response.text]
            scores = votes_of(given)
            reasons = [judgment.reason for judgment in given]
            row = {"ranking": number, "score": mean_vote(scores), "votes": scores}
            rows.append(row | {"reasons": reasons})
    plain = {text: votes_of(given) for text, given in votes.items()}
    return {
        "agreement": agreement(judged_responses(rankings, plain)),
        "drift": first and _drift([r.prompt for r in rankings], rows, first["responses"]),
        "responses": rows,
    }


def canary_report(canaries: Sequence[Canary], votes: Votes) -> dict[str, Any]:
    """How far a judge is talked into higher scores.

    Returns:
        ``uplift``: an estimate of the mean of attacked minus honest score, in points, over the
        canaries with both. ``attacks``: of each canary its ``kind``, the ``honest`` and
        ``attacked`` mean score, None where there is no verdict.
    """

    def score(text: Text) -> float | None:
        return mean_vote(votes_of(votes[text]))

    pairs = [(score((c.prompt, c.response)), score((c.prompt, c.attacked))) for c in canaries]
    return {
        "uplift": _gain([canary.prompt for canary in canaries], pairs),
        "attacks": [
            {"kind": canary.kind, "honest": honest, "attacked": attacked}
            for canary, (honest, attacked) in zip(canaries, pairs, strict=True)
        ],
    }


def _drift(
    prompts: Sequence[str], rows: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    pairs = [(then["score"], now["score"]) for then, now in zip(first, rows, strict=True)]
    return _gain([prompts[row["ranking"]] for row in rows], pairs)


def _gain(
    prompts: Sequence[str], pairs: Sequence[tuple[float | None, float | None]]
) -> dict[str, Any]:
    """Estimate the mean of second minus first over the pairs that have both; see ``Bootstrap``."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    gained, counted = np.zeros(len(numbers)), np.zeros(len(numbers))
    for prompt, (before, after) in zip(prompts, pairs, strict=True):
        if before is not None and after is not None:
            gained[numbers[prompt]] += after - before
            counted[numbers[prompt]] += 1
    return Bootstrap(len(numbers), RESAMPLES, seed=0).share((gained, counted))
