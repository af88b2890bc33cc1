"""Arms held against each other: what is a mean over what, and what an interval is over."""

from collections.abc import Sequence

import numpy as np
import pytest

from selfreward.measures.arms import (
    LENGTH,
    VERIFIABLE,
    WIN_RATE,
    ArmMeasure,
    RunValues,
    arm_measures,
    measure_of,
    unit_of,
)
from selfreward.measures.bootstrap import Share
from selfreward.measures.contests import known_means

QUESTIONS = 12


def share(values: Sequence[float | None]) -> Share:
    return known_means([values])


def run(seed: int, *models: Sequence[float | None], best: int | None = None) -> RunValues:
    given = {number: {VERIFIABLE: share(values)} for number, values in enumerate(models, 1)}
    return RunValues(seed, given, best)


def only(runs: Sequence[RunValues], first: Sequence[RunValues] | None = None) -> ArmMeasure:
    [found] = arm_measures(runs, first)
    return found


def test_a_figure_is_the_mean_over_questions_of_all_seeds() -> None:
    found = only([run(1, [1, 0, 0, 1], [1, 1, 0, 1]), run(2, [0, 0, 0, 1], [1, 1, 1, 1])])
    assert found.models["M1"].value == 3 / 8 and found.models["M1"].n == 8
    assert found.last.value == found.models["M2"].value == 7 / 8
    assert found.seeds == {"1": 3 / 4, "2": 1}
    assert found.gain is not None and found.gain.value == 4 / 8
    assert found.over_first is None


def test_a_question_without_a_value_in_a_seed_counts_in_the_others_alone() -> None:
    found = only([run(1, [1, None, 0]), run(2, [1, 1, None])])
    assert (found.last.value, found.last.n) == (3 / 4, 4)


def test_last_and_best_are_those_of_each_run() -> None:
    ended = run(1, [0, 0], [1, 0], best=2)  # it ended a round early
    whole = run(2, [1, 0], [0, 0], [1, 1], best=1)
    found = only([ended, whole])
    assert found.last.value == 3 / 4  # M2 of one, M3 of the other
    assert found.best.value == 2 / 4
    assert found.models["M3"].value == 1 and found.models["M3"].n == 2


def test_a_run_whose_best_is_m1_counts_with_a_half_in_the_win_rate_over_m1() -> None:
    name = f"{WIN_RATE}judge"
    worse, better = ({1: {}, 2: {name: share(values)}} for values in ([0, 0.5, None], [1, 1, 1]))
    [found] = arm_measures([RunValues(1, worse, 1), RunValues(2, better, 2)], None)
    assert (found.best.value, found.best.n) == ((2 * 0.5 + 3) / 5, 5)


def test_another_arm_is_held_against_the_first_over_the_seeds_that_both_have() -> None:
    first = [run(1, [0, 0], [0, 0]), run(2, [0, 0], [1, 0]), run(3, [0, 0], [1, 1])]
    mine = [run(2, [0, 0], [1, 1]), run(4, [0, 0], [0, 0])]
    found = only(mine, first)
    assert found.over_first is not None and found.over_first.value == 1 / 2  # of seed 2 alone
    assert only([run(4, [0, 0])], first).over_first is None


def test_an_arm_against_itself_differs_by_exactly_nothing() -> None:
    values = [np.random.default_rng(seed).random(QUESTIONS).tolist() for seed in range(3)]
    runs = [run(seed, values[seed]) for seed in range(3)]
    found = only(runs, runs)
    assert found.over_first is not None
    assert (found.over_first.value, found.over_first.low, found.over_first.high) == (0, 0, 0)


def test_more_seeds_of_the_same_answers_make_no_interval_narrower() -> None:
    values = np.random.default_rng(0).random(QUESTIONS).tolist()
    one, three = (only([run(seed, values) for seed in range(n)]) for n in (1, 3))
    assert three.last.n == 3 * one.last.n
    for end in ("value", "low", "high"):
        assert getattr(three.last, end) == pytest.approx(getattr(one.last, end))


def test_a_gain_on_every_question_is_told_though_questions_differ_more() -> None:
    easy = [0.1 * (number % 8) for number in range(QUESTIONS)]
    found = only([run(1, easy, [value + 0.05 for value in easy])])
    gain, last = found.gain, found.last
    assert gain is not None and gain.low is not None and last.low is not None
    assert gain.low == pytest.approx(0.05) and last.high is not None
    assert last.high - last.low > 0.2


def test_a_measure_that_only_later_models_have_has_no_gain() -> None:
    late = {1: {}, 2: {"win rate over M1, judge": share([1, 0.5])}}
    found = only([RunValues(1, late, None)])
    assert (found.last.value, found.gain, [*found.models]) == (3 / 4, None, ["M2"])


def test_each_measure_has_its_unit_and_the_one_that_best_goes_by_is_found() -> None:
    names = [VERIFIABLE, "win rate over M1, j", "benchmark arc", LENGTH, "reward, org/rm"]
    assert [unit_of(name) for name in names] == ["share"] * 3 + ["characters", "reward"]
    assert measure_of("verifiable", names) == VERIFIABLE
    assert measure_of("win_rate", names) == "win rate over M1, j"
    assert measure_of("benchmark.arc.acc_norm", names) == "benchmark arc"
    assert measure_of("judge_agreement", names) is None
