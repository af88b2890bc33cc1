"""Rows of the table of scores on the contests: how often the new model's answer is the better one.

The words are explained in docs/contests.md.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from selfreward.measures.evaluated import ContestFigures
from selfreward.measures.figures import IterationFigures
from selfreward.verbs.layout import percent
from selfreward.verbs.score_row import MISSING, Cell, Rounds, Row

T = TypeVar("T")
BEFORE = "before"
"""The opponent that is the model which the new one was trained from."""


def contest_rows(rounds: Rounds) -> list[Row]:
    """Two rows for each opponent and judge: how often the new model's answer is the better one."""
    names = dict.fromkeys(
        (_opponent(contest, figures), contest.judge)
        for figures in rounds
        for contest in figures.contests
    )
    rows = []
    for opponent, judge in names:
        of = partial(_contest, opponent, judge)
        who = "M(t)" if opponent == BEFORE else opponent
        rows += [
            Row(
                f"wins v {who}, by {Path(judge).name[-20:]}",
                _met(of, lambda c: percent(c.win_rate)),
                True,
            ),
            Row("  at equal length", _met(of, _equal_length), True),
            Row("  won, tied, lost", _met(of, lambda c: f"{c.wins}, {c.ties}, {c.losses}")),
            Row("  longer answer", _met(of, lambda c: percent(c.longer, bare=True))),
        ]
        if any(c.without_verdict for f in rounds for c in f.contests):
            rows.append(Row("  no verdict", _met(of, lambda c: str(c.without_verdict))))
    return rows


def _opponent(contest: ContestFigures, figures: IterationFigures) -> str:
    is_before = figures.iteration > 1 and contest.opponent == f"M{figures.iteration}"
    return BEFORE if is_before else contest.opponent


def _contest(opponent: str, judge: str, figures: IterationFigures) -> ContestFigures | None:
    fits = (
        contest
        for contest in figures.contests
        if (_opponent(contest, figures), contest.judge) == (opponent, judge)
    )
    return next(fits, None)


def _met(of: Callable[[IterationFigures], T | None], show: Callable[[T], str]) -> Cell:
    """A cell that is empty where the two did not meet, as M2 meets M1 alone."""
    return lambda figures: MISSING if (contest := of(figures)) is None else show(contest)


def _equal_length(contest: ContestFigures) -> str:
    if contest.length_controlled.value is None:
        return "n/a (one-sided)"
    return percent(contest.length_controlled)
