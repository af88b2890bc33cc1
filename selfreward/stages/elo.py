"""Elo ratings by maximum likelihood over verdicts on two at a time.

Source: Meta-Rewarding Language Models, arXiv 2407.19594.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

POINTS = 400 / math.log(10)
"""Elo points of one unit of log-odds: 400 points are odds of ten to one."""
_PRIOR = 1.0
"""Variance of a rating before any verdict, in log-odds squared. Ours: without one, a judgment that
won all would have no finite rating. It draws all ratings to the mean alike."""
_DECIMALS = 6
"""Ratings in points closer than this are equal, whatever the machine rounds."""
_MOST_STEPS = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said of two that were shown one after the other."""

    first: int
    second: int
    winner: int | None
    """``first``, ``second``, or None for a tie, and where there is none."""


def position_weights(verdicts: Iterable[Verdict]) -> tuple[float, float]:
    """What a win in the first place counts, and one in the second: the rarer counts more.

    w1 = wins in second / all wins, w2 = wins in first / all wins. A meta-judge that always names
    the first gives (0, 1), so nothing of what it says counts.

    Returns:
        Two weights from 0 to 1 whose sum is 1; both 1/2 where nothing won.
    """
    wins = [v.winner == v.first for v in verdicts if v.winner is not None]
    if not wins:
        return 0.5, 0.5
    second = wins.count(False) / len(wins)
    return second, 1 - second


def elo(
    players: Collection[int], verdicts: Iterable[Verdict], weights: tuple[float, float]
) -> dict[int, float]:
    """Rate players by the verdicts on every two of them.

    The ratings maximize sum over wins of w log sigmoid(r(winner) - r(loser)), with a normal prior
    of variance 1 on each r. Ties count for neither.

    Args:
        weights: Of a win in the first place, and of one in the second; see ``position_weights``.

    Returns:
        Elo points, whose mean is 0.
    """
    at = {player: i for i, player in enumerate(sorted(players))}
    wins = np.zeros((len(at), len(at)))
    for verdict in verdicts:
        if verdict.winner is not None:
            is_first = verdict.winner == verdict.first
            loser = verdict.second if is_first else verdict.first
            wins[at[verdict.winner], at[loser]] += weights[0 if is_first else 1]
    return dict(zip(at, _maximum(wins), strict=True))


def _maximum(wins: np.ndarray) -> list[float]:
    """Newton's method; the likelihood with its prior is strictly concave, so it has one maximum."""
    ratings, both = np.zeros(len(wins)), wins + wins.T
    for _ in range(_MOST_STEPS):
        expected = 1 / (1 + np.exp(ratings[None, :] - ratings[:, None]))
        gradient = wins.sum(1) - (both * expected).sum(1) - ratings / _PRIOR
        curvature = both * expected * expected.T
        hessian = np.diag(curvature.sum(1) + 1 / _PRIOR) - curvature
        step = np.linalg.solve(hessian, gradient)
        ratings = ratings + step
        if np.abs(step).max(initial=0.0) < 1e-12:
            break
    return [round(float(rating) * POINTS, _DECIMALS) + 0.0 for rating in ratings]


def highest_and_lowest(ratings: Mapping[int, float]) -> tuple[int, int] | None:
    """The players of the highest and the lowest rating, of equals the first; None if all tie."""
    ordered = sorted(ratings, key=lambda player: (-ratings[player], player))
    best, worst = ordered[0], min(ratings, key=lambda player: (ratings[player], player))
    return (best, worst) if ratings[best] > ratings[worst] else None
