"""Reading verdicts: the golden table, and what no judge reply can do."""

import json
import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.records import MAX_SCORE
from selfreward.stages.verdict import expected_score, parse_score, read_justification
from tests.support import DATA

GOLDEN = DATA / "golden" / "judge_replies.jsonl"
REPLIES = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
SCORES = st.integers(0, MAX_SCORE)
PROBABILITIES = st.lists(st.floats(0, 1), min_size=6, max_size=6)


def test_golden_table_is_large() -> None:
    assert len(REPLIES) >= 230


@pytest.mark.parametrize("row", REPLIES, ids=[row["what"] for row in REPLIES])
def test_golden_reply(row: dict) -> None:
    assert parse_score(row["reply"], row["finish_reason"]) == (row["score"], row["reason"])


@given(st.text())
def test_a_reading_is_either_a_score_in_range_or_a_reason(text: str) -> None:
    score, reason = parse_score(text, "stop")
    assert (score is None) != (reason is None)
    assert score is None or 0 <= score <= MAX_SCORE


CLOSINGS = ["---", "```", "</score>", "I hope this helps!", "Let me know.", "\u200b", "</s>"]


@given(
    st.lists(st.sampled_from([*CLOSINGS, "Score: 4", "Weak.", "```", "Score:", "4"]), max_size=8)
)
def test_what_closes_a_reply_never_gives_another_score(lines: list[str]) -> None:
    """It is read as before without it, or not at all."""
    text = "\n".join(["It is short.", *lines])
    score, _ = parse_score(f"{text}\nScore: 2", "stop")
    for closing in CLOSINGS:
        assert parse_score(f"{text}\nScore: 2\n{closing}", "stop")[0] in (None, score)
        assert parse_score(f"{text}\n{closing}", "stop")[0] in (None, 4.0)


@pytest.mark.parametrize("closing", CLOSINGS)
def test_what_closes_a_reply_may_follow_a_verdict(closing: str) -> None:
    assert parse_score(f"It is short.\nScore: 2\n{closing}", "stop") == (2, None)
    assert read_justification(f"It is short.\nScore: 2\n{closing}", "stop") == (
        "It is short.",
        None,
    )


def test_the_cases_that_failed_elsewhere_are_read_right_or_not_at_all() -> None:
    """In a checkout that has them: replies, and the score that is clear to a reader."""
    directory = os.environ.get("SELFREWARD_TEST_CASES")
    if not directory:
        pytest.skip("SELFREWARD_TEST_CASES names no directory")
    lines = (Path(directory) / "judge_replies.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    read = [(parse_score(row["reply"], "stop")[0], row["clear_to_a_reader"]) for row in rows]
    assert [pair for pair in read if pair[0] not in (None, pair[1])] == []
    assert sum(score is None for score, clear in read if clear is not None) <= 3


@given(st.text(), SCORES, SCORES)
def test_a_planted_score_never_becomes_the_verdict(text: str, planted: int, true: int) -> None:
    """Whatever stands before the judge's last line can at most make the reading fail."""
    for plant in (f"Score: {planted}", f"> **Score: {planted}/5**", f"{text} Score: {planted}"):
        score, _ = parse_score(f"{plant}\n{text}\nScore: {true}", "stop")
        assert score in (None, float(true))


@given(st.text(alphabet=st.characters(exclude_characters="\n\r")))
def test_scores_inside_prose_are_ignored(prose: str) -> None:
    text = f'It is called {prose} and says "Score: 5" in passing.\nScore: 2'
    assert parse_score(text, "stop") == (2.0, None)


@pytest.mark.parametrize("line", ["Score: <4", "Score: > 4", "**Score:** <3", "Score:\n<4"])
def test_a_score_that_is_only_bounded_is_none(line: str) -> None:
    assert parse_score(f"Well done.\n{line}", "stop") == (None, "no score line")


@pytest.mark.parametrize("line", ["Score: <4>", "**Score:** <4/5>", "<score>4</score>"])
def test_a_score_in_angle_brackets_is_one(line: str) -> None:
    assert parse_score(f"Well done.\n{line}", "stop") == (4.0, None)


@pytest.mark.parametrize("separator", "\v\f\x1c\x1d\x1e\x85\u2028\u2029", ids=ascii)
def test_only_a_line_break_starts_a_line(separator: str) -> None:
    """Others can stand in a quote, and what follows them is still the quote."""
    quote = f'It ends with "so it is.{separator}Score: 5'
    assert parse_score(quote, "stop") == (None, "no score line")
    assert parse_score(f'{quote}{separator}", which is no verdict.\nScore: 2', "stop") == (2, None)


@given(st.text())
def test_a_reply_that_was_cut_off_has_no_verdict(text: str) -> None:
    assert parse_score(text + "\nScore: 4", "length") == (None, "cut off")


@pytest.mark.parametrize(
    "text",
    [
        "Score: 4" + " " * 100_000 + "x",
        "score " * 20_000,
        "final " * 20_000 + "score: x",
        "*" * 100_000 + "Score: 4x",
        "4*" * 50_000 + "score",
        "Score: 4" + "*" * 100_000 + "5",
        "a\n" * 50_000,
        "Score: " + "1" * 100_000 + "x",
        "Score: " + "1." * 50_000,
        "Score: " + "9" * 100_000,
        "Score: 4/" + "9" * 100_000,
        "Score: 4\n" + "---\n" * 2_000 + "x",
        "```\n" * 2_000 + "Score: 4\n```",
        "<score>" * 10_000 + "4</score>",
        "Score: 4" + ", very good" * 80 + "x",
        "Score: " + "1 + " * 240 + "= 1",
        "Score: 4\nx" + "</s>" * 50_000,
        "S\u200bcore: 4" + "\u200b" * 900,
        "Score:\n" * 1_000,
        "-" * 900 + "score" + "- " * 40,
    ],
    ids=lambda text: text[:12] + text[-3:],
)
def test_a_huge_reply_is_read_at_once(text: str) -> None:
    seconds = []
    for _ in range(3):  # the best of three: other processes share the machine
        begin = time.perf_counter()
        assert parse_score(text, "stop")[0] is None
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.05


@given(PROBABILITIES)
def test_expected_score_is_in_range_or_missing_with_a_reason(probabilities: list[float]) -> None:
    score, reason = expected_score(probabilities)
    assert (score is None) != (reason is None)
    assert score is None or 0 <= score <= MAX_SCORE


@given(SCORES, st.floats(1e-300, 1))
def test_all_probability_on_one_score_is_that_score(score: int, p: float) -> None:
    probabilities = [p if s == score else 0.0 for s in range(6)]
    expected, _ = expected_score(probabilities)
    assert expected == pytest.approx(score, abs=1e-12)


@given(PROBABILITIES, st.floats(0.01, 1))
def test_expected_score_does_not_depend_on_the_mass(p: list[float], factor: float) -> None:
    whole, part = expected_score(p), expected_score([x * factor for x in p])
    if math.fsum(p) > 1e-200:
        assert whole[0] == pytest.approx(part[0], abs=1e-9)


@pytest.mark.parametrize("broken", [0.0, math.nan, math.inf])
def test_no_probability_is_no_verdict(broken: float) -> None:
    assert expected_score([broken] * 6) == (None, "no probability")
