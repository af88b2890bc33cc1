"""Elo by maximum likelihood: orders are recovered, places weigh, and silence rates nobody."""

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.stages.elo import POINTS, Verdict, elo, highest_and_lowest, position_weights

HALF = (0.5, 0.5)
VERDICTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))
    .filter(lambda v: v[0] != v[1])
    .map(lambda v: Verdict(v[0], v[1], (v[0], v[1], None)[v[2]])),
    max_size=30,
)


def round_robin(order: list[int]) -> list[Verdict]:
    """Every two in both orders; the one that stands first in ``order`` wins."""
    return [Verdict(a, b, min(a, b, key=order.index)) for a, b in permutations(order, 2)]


def exchanged(verdict: Verdict) -> Verdict:
    """The same winner, shown in the other place."""
    return Verdict(verdict.second, verdict.first, verdict.winner)


def contradicted(verdict: Verdict) -> Verdict:
    """The other winner."""
    if verdict.winner is None:
        return verdict
    loser = verdict.second if verdict.winner == verdict.first else verdict.first
    return Verdict(verdict.first, verdict.second, loser)


@given(st.permutations(range(6)))
def test_elo_recovers_a_known_order(order: list[int]) -> None:
    ratings = elo(order, round_robin(order), HALF)
    assert sorted(ratings, key=ratings.__getitem__, reverse=True) == order
    assert highest_and_lowest(ratings) == (order[0], order[-1])


def test_two_players_have_the_ratings_worked_out_by_hand() -> None:
    # One win of weight 1/2 in each order. With r = r(0) = -r(1) the maximum of
    # log sigmoid(2 r) - r^2 is where sigmoid(-2 r) = r. With r = 0.3374 that is
    # 1 / (1 + e^0.6748) = 1 / 2.9637 = 0.3374.
    ratings = elo([0, 1], round_robin([0, 1]), HALF)
    r = ratings[0] / POINTS
    assert ratings[0] == -ratings[1]
    assert r == pytest.approx(1 / (1 + math.exp(2 * r)), abs=1e-6)
    assert r == pytest.approx(0.3374, abs=5e-5)
    assert pytest.approx(173.7178, abs=1e-4) == POINTS  # 400 / ln 10


@given(VERDICTS)
def test_exchanging_the_places_changes_no_rating(verdicts: list[Verdict]) -> None:
    turned = list(map(exchanged, verdicts))
    one, other = position_weights(verdicts), position_weights(turned)
    if any(v.winner is not None for v in verdicts):
        assert one == pytest.approx(other[::-1])
    assert elo(range(5), verdicts, one) == pytest.approx(elo(range(5), turned, other), abs=1e-5)


@given(VERDICTS)
def test_exchanging_winners_and_losers_mirrors_every_rating(verdicts: list[Verdict]) -> None:
    mirrored = elo(range(5), list(map(contradicted, verdicts)), HALF)
    for player, rating in elo(range(5), verdicts, HALF).items():
        assert mirrored[player] == pytest.approx(-rating, abs=1e-5)


@given(VERDICTS)
def test_the_mean_rating_is_zero(verdicts: list[Verdict]) -> None:
    assert sum(elo(range(5), verdicts, HALF).values()) == pytest.approx(0, abs=1e-4)


def test_the_rarer_place_to_win_counts_more() -> None:
    verdicts = [Verdict(0, 1, 0), Verdict(1, 2, 1), Verdict(2, 0, 2), Verdict(0, 2, 2)]
    assert position_weights(verdicts) == (0.25, 0.75)  # 3 wins in first, 1 in second
    assert position_weights([Verdict(0, 1, None)]) == (0.5, 0.5)


def test_a_judge_that_always_names_the_first_rates_nobody() -> None:
    verdicts = [Verdict(a, b, a) for a, b in permutations(range(3), 2)]
    weights = position_weights(verdicts)
    assert weights == (0.0, 1.0)
    assert highest_and_lowest(elo(range(3), verdicts, weights)) is None


def test_ties_alone_and_circles_rate_nobody() -> None:
    ties = [Verdict(a, b, None) for a, b in permutations(range(3), 2)]
    assert highest_and_lowest(elo(range(3), ties, HALF)) is None
    circle = [Verdict(*shown, winner) for winner, loser in ((0, 1), (1, 2), (2, 0))
              for shown in ((winner, loser), (loser, winner))]  # fmt: skip
    assert highest_and_lowest(elo(range(3), circle, HALF)) is None


def test_of_equal_ratings_the_first_is_taken() -> None:
    assert highest_and_lowest({3: 1.0, 1: 1.0, 2: -1.0, 0: -1.0}) == (1, 0)
