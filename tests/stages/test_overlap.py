"""What is held out is never trained on: a prompt that gives it away is dropped, and says so."""

import pytest

from selfreward.config import PromptsConfig
from selfreward.engines.base import Generation
from selfreward.inputs.columns import PromptRow
from selfreward.records import Prompt
from selfreward.stages.overlap import HeldOut
from selfreward.stages.pool import Pool, why_dropped
from selfreward.stages.prompts import draw_prompts
from tests.support.scripted import ScriptedChat

LONG = "Explain to a ten-year-old why the sky turns red at sunset."
"""Thirteen words, as hyphens part them."""
SHORT = "Name three red fruits."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG, LONG),
        ("WHY THE SKY turns red at sunset, explain!", None),  # 7 in a row
        ("Tell me: old, why the sky turns red at sunset", LONG),  # 8 in a row
        ("Why is the sky so red when the sun sets each day in June", None),
        ("name three -- red fruits", SHORT),
        ("Please name three red fruits", None),  # a short one overlaps with its like alone
        ("Name three red", None),
        ("", None),
        ("?!", None),
    ],
)
def test_eight_words_in_a_row_overlap_and_a_shorter_text_with_its_like_alone(
    text: str, expected: str | None
) -> None:
    assert HeldOut([LONG, SHORT, "..."]).overlapping(text) == expected


def test_the_length_of_the_run_decides_and_null_switches_the_filter_off() -> None:
    text = "The sky turns red at sunset every day of the year"  # 6 in a row
    assert HeldOut([LONG], 6).overlapping(text) == LONG
    assert HeldOut([LONG], 7).overlapping(text) is None
    assert HeldOut([LONG], None).overlapping(LONG) is None


def test_each_character_is_a_word_where_the_script_has_no_spaces() -> None:
    held_out = HeldOut(["为什么天空在日落时变成红色"])
    assert held_out.overlapping("请解释大海在日落时变成红色的原因") is not None  # 8 in a row
    assert held_out.overlapping("请解释大海日落时变成红色的原因") is None


def test_a_prompt_that_gives_away_a_held_out_one_is_dropped_with_that_one_named() -> None:
    pool = Pool(["Write a short poem about the sea"], held_out=HeldOut([LONG]))
    text = "Describe how a man grew old, why the sky turns red at sunset and so on"
    written = Generation(text, (), "stop")
    why = why_dropped(text, written, ScriptedChat(), pool, PromptsConfig())  # type: ignore[arg-type]
    assert why == ("held out", LONG)


def test_a_row_of_a_data_set_that_gives_away_a_held_out_one_is_dropped_and_does_not_count() -> None:
    pool = Pool([], held_out=HeldOut([LONG]))
    rows = [PromptRow(text, None) for text in ("one", LONG.upper(), "two", "three")]
    settings = PromptsConfig(count=2)
    found = draw_prompts(rows, ScriptedChat(), pool, settings, iteration=1)  # type: ignore[arg-type]
    assert found == [
        Prompt(1, 0, "one", "one", None),
        Prompt(1, 1, LONG.upper(), LONG.upper(), "held out", LONG),
        Prompt(1, 2, "two", "two", None),
    ]
