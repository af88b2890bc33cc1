"""The best model is named by what the figures say, however they come."""

import random
from types import SimpleNamespace
from typing import Any

from selfreward.measures.best import best_model
from selfreward.measures.reports import Estimate


def figures(iteration: int, wins: float | None, agrees: float | None = None) -> Any:
    rate = Estimate(wins, None, None, 20)
    contest = SimpleNamespace(opponent="M1", judge="M1", win_rate=rate)
    judge = SimpleNamespace(accuracy=Estimate(agrees, None, None, 50)) if agrees else None
    contests = (contest,) if iteration else ()
    return SimpleNamespace(iteration=iteration, contests=contests, judge=judge)


def test_the_best_model_is_the_one_that_wins_most_whatever_the_order() -> None:
    found = [figures(0, None), figures(1, 0.55), figures(2, 0.7), figures(3, 0.6)]
    for _ in range(10):
        random.shuffle(found)
        best = best_model(found)
        assert best is not None
        assert (best.model, best.later, best.measured, best.judge) == ("M3", 1, 4, "M1")


def test_m1_is_the_best_where_none_wins_more_than_half() -> None:
    best = best_model([figures(0, None), figures(1, 0.5), figures(2, 0.31)])
    assert best is not None
    assert (best.model, best.value, best.later, best.measured) == ("M1", None, 2, 3)


def test_of_equal_models_the_first_is_the_best_and_less_than_the_margin_is_equal() -> None:
    found = [figures(1, 0.6), figures(2, 0.6), figures(3, 0.64)]
    assert [best_model(found, margin=margin).model for margin in (0.0, 0.05, 0.2)] == [  # type: ignore[union-attr]
        "M4", "M2", "M1",
    ]  # fmt: skip


def test_by_agreement_m1_counts_with_its_own_value() -> None:
    found = [figures(0, None, 0.7), figures(1, 0.9, 0.6)]
    best = best_model(found, "judge_agreement")
    assert best is not None and (best.model, best.later) == ("M1", 1)
    assert best.value is not None and best.value.value == 0.7


def test_nothing_is_the_best_of_one_or_without_a_verdict() -> None:
    assert best_model([figures(0, None)]) is None
    assert best_model([figures(0, None), figures(1, None)]) is None
    assert best_model([figures(0, None, 0.7)], "judge_agreement") is None
