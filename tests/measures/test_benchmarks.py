"""Benchmarks: figures worked out by hand, questions refused by line, results kept and compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfreward.config import SeedSource
from selfreward.errors import ConfigError, IntegrityError, LockedError
from selfreward.inputs.choices import Choices, choices_digest, dump_choices, read_choices
from selfreward.inputs.heldout import held_out_prompts
from selfreward.measures.benchmarks import answered_right, gained, scored
from selfreward.storage.benchmarks import (
    Benchmark,
    Score,
    add_benchmarks,
    benchmarks_path,
    read_benchmarks,
)
from selfreward.storage.directory import Run
from selfreward.verbs.benchmark_table import benchmarks_text
from selfreward.verbs.maintenance import verify
from selfreward.verbs.scores import scores_of, scores_text
from tests.support.runs import at_runs, runs

__all__ = ["at_runs", "runs"]
ROW = {"question": "Predators eat", "choices": ["grass", "rabbits"], "answer": 1}


def test_the_likeliest_choice_answers_and_length_normalised_it_is_per_character() -> None:
    questions = [
        Choices("?", ("ab", "abcdefgh"), 1),  # -4 < -8, but -2 < -1 per character
        Choices("?", ("ab", "abcd"), 0),  # -1 > -4, and -0.5 > -1 per character
        Choices("?", ("aa", "bb"), 1),  # equal: the first is taken
    ]
    right = answered_right(questions, [[-4.0, -8.0], [-1.0, -4.0], [-3.0, -3.0]])
    assert right == {"acc": (0, 1, 0), "acc_norm": (1, 1, 0)}


def test_a_share_has_an_interval_that_holds_it_and_few_questions_have_none() -> None:
    found = scored([1, 0, 0, 1] * 5)
    assert found.value == 0.5
    assert found.low is not None and found.high is not None
    assert 0.2 < found.low < 0.5 < found.high < 0.8
    assert scored([1, 0, 0]) == Score(1 / 3, None, None)


def test_a_gain_is_over_the_same_questions_and_nothing_over_itself() -> None:
    one, other = [1, 1, 0, 1] * 5, [0, 1, 0, 1] * 5
    assert gained(one, other).value == pytest.approx(0.25)
    itself = gained(one, one)
    assert (itself.value, itself.low, itself.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": 3}, "needs a text in 'question', found 3"),
        ({"question": " "}, "needs a text in 'question'"),
        ({"choices": ["one"]}, "needs a list of two texts or more in 'choices'"),
        ({"choices": "ab"}, "needs a list of two texts or more in 'choices'"),
        ({"choices": ["a", ""]}, "needs a list of two texts or more in 'choices'"),
        ({"choices": ["a", "a"]}, "the same text stands twice in 'choices'"),
        ({"answer": 2}, "needs the place of the right choice in 'answer', 0 to 1, found 2"),
        ({"answer": "B"}, "found 'B'"),
        ({"answer": True}, "found True"),
        ({"answer": None}, "found None"),
    ],
)
def test_a_question_of_another_shape_is_refused_with_its_line(
    tmp_path: Path, row: dict[str, object], said: str
) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, [ROW, ROW | row])))
    with pytest.raises(ConfigError) as refused:
        read_choices(SeedSource(path=str(path)))
    assert f"{path}:2" in refused.value.message and said in refused.value.message
    first = [Choices("Predators eat", ("grass", "rabbits"), 1)]
    assert read_choices(SeedSource(path=str(path), limit=1)) == first


def test_questions_are_read_back_from_a_copy_whatever_characters_they_hold(tmp_path: Path) -> None:
    questions = [Choices('A "line"\u2028or\x85two?', ("\u00e9", "\\n"), 0)]
    path = tmp_path / "copy.jsonl"
    path.write_text(dump_choices(questions), encoding="utf-8")
    assert read_choices(SeedSource(path=str(path))) == questions
    files = {"seeds/benchmark-a.jsonl": dump_choices(questions)}
    assert held_out_prompts(files) == [questions[0].question]


def test_a_task_is_known_by_its_questions() -> None:
    one = Choices("a", ("b", "c"), 0)
    assert choices_digest([one]) == choices_digest([one])
    assert choices_digest([one]) != choices_digest([replace(one, answer=1)])


def test_each_choice_is_asked_after_the_question_in_its_style() -> None:
    question = Choices("Predators eat", ("grass", "rabbits"), 1)
    assert question.asked("question") == [
        ("Question: Predators eat\nAnswer:", " grass"),
        ("Question: Predators eat\nAnswer:", " rabbits"),
    ]
    assert question.asked("plain")[1] == ("Predators eat", " rabbits")
    with_space = replace(question, question="Predators eat ")
    assert with_space.asked("plain") == question.asked("plain")  # one space between the two


def result(model: str, right: list[int], **changes: object) -> Benchmark:
    found = Benchmark(
        model=model, digest="d", task="obqa/test", by="selfreward 0.1", version="v", style="plain",
        limit=None, n=len(right), scores={"acc": scored(right)}, right={"acc": tuple(right)},
        seconds=1.0, at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def test_results_of_a_finished_run_are_kept_beside_its_records_and_the_latest_counts(
    runs: Path,
) -> None:
    run = Run(runs / "whole")
    before = run.records.read_bytes()
    first, again = result("M1", [0, 1] * 10), result("M1", [1, 1] * 10)
    other = result("M2", [0, 0] * 10)
    try:
        add_benchmarks(run, [first, other])
        add_benchmarks(run, [again])
        assert read_benchmarks(run) == [again, other]
        assert run.records.read_bytes() == before
        assert {"name": "benchmarks.jsonl", "ok": True, "detail": "2 results"} in verify(run)
        text = scores_text(scores_of(run))
        assert "obqa/test, 20 questions" in text and "less M1" in text
        benchmarks_path(run).write_bytes(b'{"model": 3}\n')
        with pytest.raises(IntegrityError, match=r"benchmarks.jsonl:1: no result"):
            read_benchmarks(run)
        with run.locked(), pytest.raises(LockedError):
            add_benchmarks(Run(run.path), [again])
    finally:
        benchmarks_path(run).unlink(missing_ok=True)


def test_the_table_holds_models_against_m1_on_the_same_questions_alone() -> None:
    table = benchmarks_text([
        result("M2", [0, 0, 1, 1] * 5),
        result("M1", [0, 1, 1, 1] * 5),
        result("M2", [1, 1, 1, 1] * 5, version="other questions"),
    ])  # fmt: skip
    rows = [line.split("  ") for line in table.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[0] == ["benchmark", "M1", "M2"]
    assert cells[2][0] == "acc" and cells[2][1].startswith("75.0% [")
    assert cells[2][2].startswith("50.0% [")
    assert cells[3][:2] == ["less M1", "-"] and cells[3][2].startswith("-25.0 [")
    assert cells[5] == ["acc", "-", "100.0% [100.0, 100.0]"]
    assert len(cells) == 6  # the other questions have nothing to be held against


def test_a_limit_that_cut_nothing_off_is_none() -> None:
    table = benchmarks_text([result("M1", [1, 0] * 10), result("M2", [1, 1] * 10, limit=100)])
    assert table.count("20 questions") == 1 and "less M1" in table and "first" not in table
    cut = benchmarks_text([result("M1", [1, 0] * 10), result("M2", [1, 1] * 10, limit=20)])
    assert replace(result("M1", [1]), n=0, limit=100).cut == 100  # nobody said how many there were
    assert cut.count("20 questions") == 2 and "20 questions, first 20" in cut


def test_a_figure_that_is_no_share_is_shown_and_held_against_m1_as_it_is() -> None:
    def of(value: float, name: str) -> dict[str, Score]:
        return {name: Score(value, None, None)}

    for name, first, other, apart in (
        ("word_perplexity", 40.5, 38.2, "-2.3"),
        ("bits_per_byte", 0.9, 0.8, "-0.1"),
        ("acc", 0.5, 0.75, "+25.0"),
    ):
        table = benchmarks_text([
            replace(result("M1", [0], by="lm-eval 0.4", n=0), right={}, scores=of(first, name)),
            replace(result("M2", [0], by="lm-eval 0.4", n=0), right={}, scores=of(other, name)),
        ])  # fmt: skip
        shown = [f"{v:.1%}" if name == "acc" else f"{v}" for v in (first, other)]
        assert table.splitlines()[2].split() == [name, *shown]
        assert table.splitlines()[3].split() == ["less", "M1", "-", apart]
        assert "obqa/test, lm-eval" in table  # no count is told, so none is shown


def test_a_table_that_is_too_wide_goes_on_below() -> None:
    results = [result(f"M{i}", [0, 1] * 10) for i in range(1, 9)]
    table = benchmarks_text(results, 60)
    assert max(map(len, table.splitlines())) <= 60
    assert table.count("benchmark ") == table.count("less M1") > 1
