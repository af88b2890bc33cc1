"""Who answers better: a model's answers against another's, as judges compare them.

A judge that prefers long answers makes a model win that only talks more, so each win rate stands
beside one that is corrected for length.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from selfreward.measures.agreement import RESAMPLES
from selfreward.measures.bootstrap import Bootstrap, Share
from selfreward.measures.reports import (
    Answer,
    Contest,
    Contests,
    Estimate,
    FunctionValues,
    Verified,
)
from selfreward.records import Comparison

Floats = NDArray[np.float64]
WON, TIE, LOST = 1.0, 0.5, 0.0
_REFITS = 200
"""Resamples of what is fitted anew for each, which takes a millisecond."""
_PENALTY = 0.1
"""Weight of half the sum of squares of both coefficients: small beside the likelihood of some ten
questions, and enough where length alone decides, which no finite coefficient fits best."""


def settled(mine: Answer, other: Answer) -> float | None:
    """The result where no judge is needed; None where one is.

    An answer that cannot be shown, as of a model that says nothing, loses against one that can.
    """
    if mine.dropped or other.dropped:
        return TIE if mine.dropped and other.dropped else LOST if mine.dropped else WON
    return TIE if mine.text == other.text else None


def result(comparisons: Sequence[Comparison]) -> float | None:
    """Of two answers compared in both orders, where 0 is the model's and 1 the opponent's.

    Orders that disagree are a tie (arXiv 2401.10020, 3.1.2). None where one has no verdict.
    """
    if any(comparison.reason is not None for comparison in comparisons):
        return None
    winners = {comparison.winner for comparison in comparisons}
    return WON if winners == {0} else LOST if winners == {1} else TIE


def by_value(mine: float | None, other: float | None) -> float | None:
    """The result where a function gave both answers a value: the higher one wins."""
    if mine is None or other is None:
        return None
    return WON if mine > other else LOST if mine < other else TIE


def function_values(
    judge: str, values: Sequence[float | None], reasons: Sequence[str | None]
) -> FunctionValues:
    """The figures of one function; values and reasons are by question."""
    rate = _mean_rate([values])
    return FunctionValues(judge, tuple(values), tuple(reasons), rate)


def verified(functions: Sequence[FunctionValues]) -> Verified:
    """What all functions say of a model's answers."""
    return Verified(tuple(functions), _mean_rate([each.values for each in functions]))


def _mean_rate(given: Sequence[Sequence[float | None]]) -> Estimate:
    """Mean over questions of the mean over functions, of those that gave a value."""
    means, known = known_means(given)
    return Bootstrap(len(known), RESAMPLES, seed=0).share((means, known))


def known_means(given: Sequence[Sequence[float | None]]) -> Share:
    """By question the mean over those who gave a value, 0 where none did, and whether one did.

    Args:
        given: The values of each by question.
    """
    by_question = [[v for v in values if v is not None] for values in zip(*given, strict=True)]
    means = np.array([sum(values) / len(values) if values else 0.0 for values in by_question])
    return means, np.array([bool(values) for values in by_question], float)


def contest(
    model: str,
    opponent: str,
    judge: str,
    results: Sequence[float | None],
    mine: Sequence[Answer],
    other: Sequence[Answer],
) -> Contest:
    """The figures of a contest; results and answers are by question."""
    known = np.array([found is not None for found in results], float)
    won = np.array([found or 0.0 for found in results], float)
    lengths = np.array([[len(a.text), len(b.text)] for a, b in zip(mine, other, strict=True)])
    ahead = lengths[:, 0] - lengths[:, 1] if len(lengths) else np.zeros(0)
    by_question = Bootstrap(len(results), RESAMPLES, seed=0)
    judged = known > 0
    return Contest(
        model=model,
        opponent=opponent,
        judge=judge,
        results=tuple(results),
        win_rate=by_question.share((won, known)),
        length_controlled=length_controlled(won[judged], ahead[judged].astype(float)),
        longer=by_question.share(((np.sign(ahead) + 1) / 2, np.ones(len(results)))),
    )


def length_controlled(results: Floats, ahead: Floats) -> Estimate:
    """The win rate that is left if both answers were as long as each other.

    A logistic regression of the results on tanh of the difference in length over its standard
    deviation, read off where the difference is 0: AlpacaEval 2 (Dubois et al., arXiv 2404.04475,
    section 3), without its term for how hard each prompt is, which needs many models. Questions on
    which the model's answer is the longer one count, together, as much as those on which it is the
    shorter one: else a judge that goes by length alone would seem to prefer the model that is
    longer more often.

    Args:
        results: 0 to 1; a tie counts as half of either. Shape (questions,).
        ahead: By how many characters the model's answer is longer. Shape (questions,).

    Returns:
        No value where no answer of the model, or none of the opponent, is the longer one: then
        length and model cannot be told apart.
    """
    if not ((ahead > 0).any() and (ahead < 0).any()):
        return Estimate(None, None, None, len(results))
    longer = np.tanh(ahead / ahead.std())
    rows = np.column_stack([np.ones_like(longer), longer])

    def at_equal_length(times: Floats) -> float | None:
        more, less = times[ahead > 0].sum(), times[ahead < 0].sum()
        if not (more and less):
            return None
        even = np.select([ahead > 0, ahead < 0], [(more + less) / more, (more + less) / less], 2)
        weights = times * even / 2
        won, lost = weights @ results, weights @ (1 - results)
        if not (won and lost):
            return float(won > 0)  # all won, or all lost
        return float(1 / (1 + np.exp(-_coefficients(rows, results, weights)[0])))

    return Bootstrap(len(rows), _REFITS, seed=0).refit(at_equal_length)


def _coefficients(rows: Floats, shares: Floats, weights: Floats) -> Floats:
    """Of a logistic regression with ``_PENALTY`` / 2 on each coefficient's square.

    Args:
        rows: Shape (questions, coefficients).
        shares: What is to be explained, 0 to 1. Shape (questions,), as ``weights``.
    """
    from scipy.optimize import minimize

    def loss(at: Floats) -> tuple[float, Floats]:
        logits = rows @ at
        wrong = np.logaddexp(0, logits) - shares * logits
        slopes = (1 / (1 + np.exp(-logits)) - shares) * weights
        return float(weights @ wrong + _PENALTY / 2 * at @ at), slopes @ rows + _PENALTY * at

    found: Floats = minimize(loss, np.zeros(rows.shape[1]), jac=True, tol=1e-8).x
    return found


def contests_of(found: Sequence[Contest]) -> Contests:
    """All contests, and how far their judges agree."""
    questions = max((len(each.results) for each in found), default=0)
    same, both = np.zeros(questions), np.zeros(questions)
    for one, other in combinations(found, 2):
        if (one.model, one.opponent) != (other.model, other.opponent):
            continue
        for number, (a, b) in enumerate(zip(one.results, other.results, strict=True)):
            if a is not None and b is not None:
                same[number] += a == b
                both[number] += 1
    judges = {each.judge for each in found}
    share = Bootstrap(questions, RESAMPLES, seed=0).share((same, both))
    return Contests(tuple(found), share if len(judges) > 1 else None)
