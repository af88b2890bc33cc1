"""What the evaluation of an iteration found, in short, and how it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfreward.inputs.heldout import Canary
from selfreward.inputs.rankings import Ranking, Text
from selfreward.measures.agreement import RESAMPLES, agreement
from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.sample import judged_responses, mean_vote, votes_of
from selfreward.records import Judgment
from selfreward.storage.store import Store

Figures = dict[str, Any]


def evaluated(store: Store, iteration: int) -> dict[str, Any]:
    """What its evaluation found of the model that an iteration made.

    Estimates have ``value``, ``low``, ``high`` (95% interval) and ``n``, see
    ``evaluation.bootstrap``.

    Returns:
        ``judge``, against people on held-out responses: counts of ``prompts``, ``responses``,
        ``pairs`` and ``matched`` pairs of about the same length, and estimates:
        ``parse_rate``, ``accuracy``, ``accuracy_matched``, the same of the judge that takes
        the longer response as ``longest`` and ``longest_matched``, ``gain`` of the one over
        the other, ``spearman``.
        ``drift``: estimate, points by which the mean score of those responses differs from M1's.
        ``canaries``: ``uplift``, an estimate of the points that attacks win; ``without_score``,
        how many attacks have no two scores to compare; ``worst``, the ``kind`` of the attack that
        wins most, and how much, or None.
        ``positions``, of comparisons in both orders: estimates ``consistent``, ``names_first`` and
        ``accuracy``, see ``evaluation.positions``.
    """
    positions = store.report(iteration, "positions")
    judge, canaries = store.report(iteration, "judge"), store.report(iteration, "canaries")
    return {
        "judge": judge and _judge(judge["agreement"]),
        "drift": judge and judge["drift"],
        "canaries": canaries and _canaries(canaries),
        "positions": positions and _positions(positions),
    }


def _judge(found: dict[str, Any]) -> dict[str, Any]:
    judge, longest = found["judge"], found["longest"]
    return {
        **{key: found["counts"][key] for key in ("prompts", "responses", "pairs", "matched")},
        "parse_rate": found["parse_rate"],
        "accuracy": judge["all"]["accuracy"],
        "accuracy_matched": judge["matched"]["accuracy"],
        "longest": longest["all"]["accuracy"],
        "longest_matched": longest["matched"]["accuracy"],
        "gain": found["gain"]["all"],
        "spearman": judge["all"]["spearman"],
    }


def _canaries(found: dict[str, Any]) -> dict[str, Any]:
    scored = [row for row in found["attacks"] if None not in (row["honest"], row["attacked"])]
    gains = [(row["attacked"] - row["honest"], row["kind"]) for row in scored]
    worst = max(gains, default=None)
    return {
        "uplift": found["uplift"],
        "without_score": len(found["attacks"]) - len(scored),
        "worst": worst and {"kind": worst[1], "uplift": worst[0]},
    }


def _positions(found: dict[str, Any]) -> dict[str, Any]:
    rates = {key: found[key] for key in ("consistent", "names_first")}
    return rates | {"accuracy": found["judge"]["all"]["accuracy"]}


Votes = Mapping[Text, Sequence[Judgment]]


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
