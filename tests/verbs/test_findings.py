"""What ``scores`` says in words follows from the figures and their intervals."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from selfreward.measures.evaluated import AnswerFigures
from selfreward.measures.figures import IterationFigures, iteration_figures
from selfreward.measures.reports import Estimate
from selfreward.storage import database
from selfreward.storage.store import Store
from selfreward.verbs.answer_rows import cut_off_rows
from selfreward.verbs.console import unmarked
from selfreward.verbs.findings import findings
from selfreward.verbs.scores import Scores, scores_text
from tests.support.figures import judge_figures


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> IterationFigures:
    path: Path = tmp_path_factory.mktemp("run") / "records.db"
    database.create(path)
    with Store(path) as store:
        return iteration_figures(store, 1)


def scored(
    bare: IterationFigures,
    number: int,
    mean: float,
    se: float | None,
    length: float = 100.0,
    length_se: float | None = 1.0,
) -> IterationFigures:
    return replace(
        bare,
        iteration=number,
        start=number,
        scores=replace(bare.scores, n=8, mean=mean, se=se),
        responses=replace(bare.responses, length=length, length_se=length_se),
    )


def test_models_are_told_apart_only_where_the_interval_of_their_scores_excludes_none(
    bare: IterationFigures,
) -> None:
    half = 1.96 * math.hypot(0.03, 0.04)
    for change, said in (
        (half + 0.01, "By their judges the answers of M3 score higher than those of M1"),
        (-half - 0.01, "By their judges the answers of M3 score lower than those of M1"),
        (half - 0.01, "The answers of M3 are not told from those of M1 by their judges"),
    ):
        rounds = [
            scored(bare, n, 2 + change * (n == 3), 0.04 if n == 3 else 0.03) for n in (1, 2, 3)
        ]
        [sentence, _] = findings(rounds)
        assert sentence == (
            f"{said}: {change:+.2f} points [{change - half:+.2f}, {change + half:+.2f}]."
        )


def test_without_an_error_nothing_is_told(bare: IterationFigures) -> None:
    rounds = [scored(bare, 1, 2.0, None, 100, None), scored(bare, 2, 4.0, None, 300, None)]
    for sentence in findings(rounds):
        assert "no telling" in sentence
    assert findings([]) == []
    assert findings([bare]) == []
    assert "nothing to compare" in findings([scored(bare, 1, 2.0, 0.1)])[0]


@pytest.mark.parametrize(
    ("length", "said"),
    [(109.0, "Answers grew by 9% from M1 to M2: [+6%, +12%]."),
     (80.0, "Answers shrank by 20% from M1 to M2: [-22%, -17%]."),
     (101.0, "Answers of M2 are not told from those of M1 in length: +1% [-2%, +4%].")],
)  # fmt: skip
def test_growth_is_told_with_its_interval(bare: IterationFigures, length: float, said: str) -> None:
    rounds = [scored(bare, 1, 2.0, 0.1), scored(bare, 2, 2.0, 0.1, length)]
    assert findings(rounds)[-1] == said


@pytest.mark.parametrize(
    ("accuracy", "gain", "said"),
    [
        ((0.529, 0.42, 0.653), (0.05, -0.06, 0.17),
         "M2 as a judge is not told from chance (orders 52.9% [42.0, 65.3] of 120 held-out pairs "
         "as people do) and not told from the longer response (+5.0 [-6.0, +17.0] percentage "
         "points)."),
        ((0.66, 0.59, 0.73), (-0.13, -0.2, -0.06), "better than chance .* worse than the longer"),
        ((0.4, 0.32, 0.48), (0.1, 0.02, 0.18), "worse than chance .* better than the longer"),
        ((0.9, None, None), (0.3, None, None), "not told from chance .* not told from the longer"),
    ],
)  # fmt: skip
def test_a_judge_is_held_against_chance_and_the_longer_response(
    bare: IterationFigures, accuracy: tuple, gain: tuple, said: str
) -> None:
    judge = judge_figures(accuracy=accuracy, gain=gain)
    [sentence] = findings([replace(bare, judge=judge)])
    assert sentence == said or re.search(said, sentence)


def test_a_judge_without_a_verdict_orders_nothing(bare: IterationFigures) -> None:
    judge = replace(
        judge_figures((0.0, 0.0, 0.0), (-0.5, -0.6, -0.4)), parse_rate=Estimate(0.0, 0.0, 0.0, 80)
    )
    text = unmarked(scores_text(Scores("run", (replace(bare, judge=judge),)), 200, everything=True))
    assert "M2 as a judge gave no verdict on any of 80 held-out responses." in text
    assert "orders 0.0%" not in text
    [row] = [line for line in text.splitlines() if line.startswith("  agrees with people")]
    assert row.endswith("n/a (no verdict)")


@pytest.mark.parametrize(("last", "is_said"), [(42, True), (5, True), (4, False), (0, False)])
def test_answers_that_are_cut_off_are_counted_and_spoken_of_where_they_are_many(
    bare: IterationFigures, last: int, is_said: bool
) -> None:
    rounds = [
        replace(bare, iteration=t, start=max(1, t), answers=AnswerFigures(48, cut, 400.0))
        for t, cut in enumerate((1, last))
    ]
    said = f"Cut off, of the answers to held-out questions: M1 2%, M2 {last / 48:.0%}."
    assert (said in findings(rounds)) is is_said
    row = [row.cell(rounds[1]) for row in cut_off_rows(rounds)]
    assert row == [f"{last} of 48 ({last / 48:.0%})"]
    assert cut_off_rows([replace(rounds[0], answers=AnswerFigures(48, 0, 400.0))]) == []
    assert cut_off_rows([bare]) == [] and not any("Cut off" in s for s in findings([bare]))
