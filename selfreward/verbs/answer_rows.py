"""Rows of the table of scores about answers to held-out questions; see ``score_rows.py``."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from selfreward.measures.evaluated import AnswerFigures, ContestFigures, FunctionFigures
from selfreward.measures.figures import IterationFigures
from selfreward.verbs.layout import MISSING, estimated, percent
from selfreward.verbs.score_cells import Cell, Rounds, Row, T, measured

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
                f"wins v {who}, by {_short(judge)}",
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


def cut_off_rows(rounds: Rounds) -> list[Row]:
    """How many of the new model's answers were cut off, if any was."""
    if not any(f.answers and f.answers.truncated for f in rounds):
        return []

    def share(found: AnswerFigures) -> str:
        return f"{found.truncated} of {found.n} ({found.truncated / found.n:.0%})"

    return [Row("answers cut off", measured(lambda f: f.answers, share), short=True)]


def verified_rows(rounds: Rounds) -> list[Row]:
    """What functions give the new model's answers: one row for each, and one for their mean."""
    names = dict.fromkeys(
        function.judge for f in rounds if f.verified for function in f.verified.functions
    )
    if not names:
        return []
    mean = measured(lambda f: f.verified, lambda found: percent(found.rate))
    rows = [Row("verifiable", mean, short=True)]
    for name in names:
        of = partial(_function, name)
        if len(names) > 1:
            rows.append(Row(f"  {name[-30:]}", _met(of, lambda found: percent(found.rate))))
        if any(found.without_value for f in rounds if (found := of(f))):
            lost = _met(of, lambda found: _counts(found.without_value))
            rows.append(Row("  no value", lost))
    return rows


def reward_rows(rounds: Rounds) -> list[Row]:
    """The mean reward of the new model's answers: a row for each reward model."""
    rows = []
    for name in dict.fromkeys(each.judge for f in rounds for each in f.rewards):

        def of(figures: IterationFigures, name: str = name) -> FunctionFigures | None:
            return next((each for each in figures.rewards if each.judge == name), None)

        rows.append(Row(f"reward, by {_short(name)}", _met(of, _mean_reward), short=True))
        if any(found.without_value for f in rounds if (found := of(f))):
            rows.append(Row("  no value", _met(of, lambda found: _counts(found.without_value))))
    return rows


def _mean_reward(found: FunctionFigures) -> str:
    return estimated(found.rate, ".3f")


def _function(name: str, figures: IterationFigures) -> FunctionFigures | None:
    functions = figures.verified.functions if figures.verified else ()
    return next((function for function in functions if function.judge == name), None)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"


def _short(judge: str) -> str:
    """The last part of a path or of a module, 20 characters at most."""
    name = Path(judge).name
    is_of_module = ":" in name and ".py:" not in name
    return (name.rpartition(".")[2] if is_of_module else name)[-20:]


def _opponent(contest: ContestFigures, figures: IterationFigures) -> str:
    is_before = figures.start > 1 and contest.opponent == f"M{figures.start}"
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
