"""Win rates: what is true of them whatever the answers are."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from selfreward.measures.contests import contest, contests_of, length_controlled, result, settled
from selfreward.measures.reports import Answer
from selfreward.records import Comparison

Judge = Callable[[str, str], int | None]
"""Which of two texts is better, 0 or 1; None for a tie."""


def answers(seed: int, n: int = 60) -> list[Answer]:
    draw = np.random.default_rng(seed)
    return [Answer("x" * int(length), 0, False, None) for length in draw.integers(5, 400, n)]


def held(mine: Sequence[Answer], other: Sequence[Answer], judge: Judge) -> list[float | None]:
    """The results by a judge who is asked in both orders."""

    def both(a: Answer, b: Answer) -> float | None:
        if (known := settled(a, b)) is not None:
            return known
        here, there = judge(a.text, b.text), judge(b.text, a.text)
        swapped = None if there is None else 1 - there
        orders = [(0, 1, here), (1, 0, swapped)]
        return result([Comparison(0, 0, f, s, "expected", "", w) for f, s, w in orders])

    return [both(a, b) for a, b in zip(mine, other, strict=True)]


def longest(a: str, b: str) -> int | None:
    return None if len(a) == len(b) else int(len(b) > len(a))


def of_hash(a: str, b: str) -> int:
    """A judge who goes by nothing that matters, but by the same in both orders."""
    return int((len(b) * 7919) % 1009 > (len(a) * 7919) % 1009)


def test_a_model_against_itself_wins_half() -> None:
    mine = answers(0)
    found = contest("M2", "M1", "judge", held(mine, mine, longest), mine, mine)
    assert found.results == (0.5,) * 60
    assert found.win_rate.value == 0.5 and found.longer.value == 0.5
    assert found.win_rate.low == found.win_rate.high == 0.5


def test_an_equal_model_wins_half_within_the_interval() -> None:
    mine, other = answers(1), answers(2)
    found = contest("M2", "M1", "judge", held(mine, other, of_hash), mine, other).win_rate
    assert found.low is not None and found.high is not None
    assert found.low < 0.5 < found.high and found.high - found.low < 0.3


def test_swapping_the_models_mirrors_every_figure() -> None:
    mine, other = answers(3), answers(4)
    one = contest("A", "B", "judge", held(mine, other, of_hash), mine, other)
    two = contest("B", "A", "judge", held(other, mine, of_hash), other, mine)
    assert one.results == tuple(None if r is None else 1 - r for r in two.results)
    for name in ("win_rate", "length_controlled", "longer"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.value == pytest.approx(1 - b.value, abs=1e-6), name
        assert a.low == pytest.approx(1 - b.high, abs=1e-2), name
        assert a.n == b.n == 60


@pytest.mark.parametrize("longer", [0.5, 0.8])
def test_a_judge_that_goes_by_length_alone_gives_half_at_equal_length(longer: float) -> None:
    draw = np.random.default_rng(5)
    sign = np.where(draw.random(200) < longer, 1, -1)
    ahead = sign * draw.integers(1, 300, 200)
    found = length_controlled((ahead > 0).astype(float), ahead.astype(float))
    assert (ahead > 0).mean() == pytest.approx(longer, abs=0.1)
    assert found.value == pytest.approx(0.5, abs=0.06)


def test_a_judge_that_does_not_go_by_length_gives_the_win_rate_at_equal_length() -> None:
    draw = np.random.default_rng(6)
    won, ahead = (draw.random(400) < 0.7).astype(float), draw.integers(-300, 300, 400).astype(float)
    found = length_controlled(won, ahead)
    assert found.value == pytest.approx(won.mean(), abs=0.02)
    assert found.low is not None and found.high is not None and found.low < 0.7 < found.high


def test_where_one_model_is_always_longer_there_is_no_figure_at_equal_length() -> None:
    found = length_controlled(np.array([1.0, 0.0, 1.0]), np.array([3.0, 5.0, 0.0]))
    assert found.value is None and found.n == 3


def test_a_judge_that_goes_by_the_place_alone_gives_ties_alone() -> None:
    mine, other = answers(7), answers(8)
    assert held(mine, other, lambda a, b: 0) == [0.5] * 60


def test_a_missing_verdict_counts_as_nothing_and_an_answer_without_text_loses() -> None:
    said, silent = Answer("yes", 1, False, None), Answer("", 0, False, "empty")
    assert settled(said, silent) == 1 and settled(silent, said) == 0
    assert settled(silent, silent) == 0.5 and settled(said, said) == 0.5
    none = [Comparison(0, 0, 0, 1, "written", "", None, "no verdict"),
            Comparison(0, 0, 1, 0, "written", "", 0)]  # fmt: skip
    assert result(none) is None
    found = contest("M2", "M1", "j", [1.0, None, 0.0], [said] * 3, [said] * 3).win_rate
    assert (found.value, found.n) == (0.5, 2)


def test_two_judges_agree_on_the_share_of_questions_with_the_same_result() -> None:
    said = answers(9, 4)
    one = contest("M2", "M1", "a", [1.0, 0.5, None, 0.0], said, said)
    two = contest("M2", "M1", "b", [1.0, 0.0, 1.0, 0.0], said, said)
    other = contest("M2", "reference", "b", [0.0] * 4, said, said)
    found = contests_of([one, two, other]).agreement
    assert found is not None and (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert contests_of([one]).agreement is None
