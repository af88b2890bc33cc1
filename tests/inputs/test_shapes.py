"""Rows in the shapes of other tools: each is read, or refused with what it looks like."""

import json
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs import seeds
from selfreward.inputs.conversations import messages_of
from selfreward.inputs.rankings import copy_ranked, read_ranked
from selfreward.inputs.seeds import EftExample, IftExample
from selfreward.inputs.shapes import as_number

ASKED, ANSWERED = "Name a fruit.", "A plum."


def source(tmp_path: Path, *rows: dict, **columns: str) -> SeedSource:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return SeedSource(path=str(path), columns=columns)


def refusal(reader: Any, source: SeedSource) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        reader(source)
    assert "\n" not in error.value.message
    return error.value


def said(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]


def shared(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if i % 2 else "human", "value": t} for i, t in enumerate(texts)]


ONE_TURN = {
    "ours": {"prompt": ASKED, "response": ANSWERED},
    "completion": {"prompt": ASKED, "completion": ANSWERED},
    "alpaca": {"instruction": ASKED, "output": ANSWERED},
    "alpaca with an empty input": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "alpaca with no input": {"instruction": ASKED, "input": None, "output": ANSWERED},
    "messages": {"messages": said(ASKED, ANSWERED)},
    "messages with an empty system": {"messages": said(ASKED, ANSWERED, system="")},
    "messages beside a prompt": {"prompt": ASKED, "messages": said(ASKED, ANSWERED)},
    "content in parts": {"messages": [
        {"role": "user", "content": [{"type": "text", "text": ASKED}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A "}, {"text": "plum."}]},
    ]},
    "sharegpt": {"id": "7", "conversations": shared(ASKED, ANSWERED)},
    "sharegpt with roles": {"conversations": said(ASKED, ANSWERED)},
    "messages with from": {"messages": shared(ASKED, ANSWERED)},
    "columns that hold messages": {"prompt": said(ASKED), "response": said("", ANSWERED)[1:]},
    "prompt and completion as messages": {
        "prompt": said(ASKED), "completion": [{"role": "assistant", "content": ANSWERED}]},
}  # fmt: skip


@pytest.mark.parametrize("row", ONE_TURN.values(), ids=ONE_TURN)
def test_one_turn_is_read_in_every_shape(tmp_path: Path, row: dict) -> None:
    rows = source(tmp_path, row)
    assert seeds.read_ift(rows) == [IftExample(ASKED, ANSWERED)]
    assert seeds.read_prompts(rows) == [ASKED]
    scored = source(tmp_path, {**row, "score": "3.5", "justification": "Right."})
    assert seeds.read_eft(scored) == [EftExample(ASKED, ANSWERED, 3.5, "Right.")]


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"prompt": "instruction"},
        {"response": "output"},
        {"prompt": "instruction", "response": "output"},
    ],
)
def test_the_input_of_alpaca_never_vanishes(tmp_path: Path, columns: dict[str, str]) -> None:
    rows = [{"instruction": "Translate.", "input": f"Cat {i}.", "output": "Chat."} for i in "12"]
    found = seeds.read_ift(source(tmp_path, *rows, **columns))
    assert [row.prompt for row in found] == ["Translate.\n\nCat 1.", "Translate.\n\nCat 2."]


def test_an_input_that_the_config_gives_another_part_is_not_read_twice(tmp_path: Path) -> None:
    row = {"instruction": "Be brief.", "input": "Name a fruit.", "output": "Plum."}
    rows = source(tmp_path, row, prompt="input", response="output")
    assert seeds.read_ift(rows) == [IftExample("Name a fruit.", "Plum.")]
    rows = source(tmp_path, row, response="input")
    assert seeds.read_ift(rows) == [IftExample("Be brief.", "Name a fruit.")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": said(ASKED, ANSWERED, system="Be brief.")},
        {"conversations": shared(ASKED, ANSWERED), "system": "Be brief."},
        {"conversations": [{"from": "system", "value": "Be brief."}, *shared(ASKED, ANSWERED)]},
        {"instruction": ASKED, "output": ANSWERED, "system": "Be brief."},
        {"prompt": ASKED, "response": ANSWERED, "system": "Be brief."},
        {"prompt": said(ASKED), "completion": said("", ANSWERED)[1:], "system": "Be brief."},
    ],
)
def test_a_system_message_is_a_turn_before_the_prompt(tmp_path: Path, row: dict) -> None:
    [example] = seeds.read_ift(source(tmp_path, row))
    assert example.prompt == f"System: Be brief.\n\nUser: {ASKED}"
    assert messages_of(example.prompt, example.columns) == said(ASKED, system="Be brief.")
    assert example.response == ANSWERED


FOUR = (ASKED, ANSWERED, "Another?", "A pear.")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": said(*FOUR[:3])}, ":1: needs a text in column 'response'"),
        ({"messages": [*said("x"), *said(*FOUR)]}, ":1: turns 1 and 2 are both of the user"),
        (
            {"messages": said(*FOUR, system="x")[1:] + said(system="y")},
            ":1: turn 5 is a system turn, which only the first can be",
        ),
        ({"messages": said(system="x")}, ":1: a conversation needs a turn of the user"),
        ({"messages": said("x", " ", "y", "z")}, ":1: turn 2, of the assistant, is empty"),
        (
            {"prompt": [*said(*FOUR[:2])[1:], *said("y")], "completion": "x"},
            "column 'prompt': the conversation begins with a turn of the assistant",
        ),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "'history' must be a list of"),
        ({"prompt": "Other?", "messages": said(*FOUR)}, "answers another prompt than the row has"),
        ({"messages": said("x")}, ":1: needs a text in column 'response'"),
        ({"messages": said("x", "y")[1:]}, ":1: needs a text in column 'prompt'"),
        ({"messages": said("x", "y")[::-1]}, "begins with a turn of the assistant"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "user, assistant or system, found 'to"),
        ({"messages": [{"role": "user", "content": None}]}, "a message needs a text, found null"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "that is no text"),
        ({"messages": []}, ":1: needs a text in column 'prompt', row has ['messages']"),
        ({"prompt": "Other?", "response": said(ASKED, ANSWERED)}, "answers another prompt"),
        ({"instruction": None, "output": "y"}, ":1: needs a text in column 'prompt'"),
    ],
)
def test_what_is_no_turn_is_refused_by_name(tmp_path: Path, row: dict, says: str) -> None:
    error = refusal(seeds.read_ift, source(tmp_path, row))
    assert says in error.message
    assert "a.json:1" in error.message


@pytest.mark.parametrize(
    ("row", "looks"),
    [
        ({"question": "x"}, "nothing that is known here"),
        ({"prompt": "x"}, "a row with a prompt"),
        ({"prompt": "x", "responses": [{"text": "y"}]}, "a prompt with several responses"),
        ({"chosen": "x", "rejected": "y"}, "a preference pair"),
        ({"instruction": "x"}, "an instruction (Alpaca)"),
        ({"instruction": "x", "completions": []}, "with several completions (UltraFeedback)"),
        ({"messages": "x"}, "a conversation"),
    ],
)
def test_a_refusal_says_what_the_row_looks_like_and_what_is_read(
    tmp_path: Path, row: dict, looks: str
) -> None:
    hint = refusal(seeds.read_ift, source(tmp_path, row)).hint
    assert f"The row looks like {looks}" in hint or looks in hint
    assert "instruction, input and output (Alpaca)" in hint and "(ShareGPT)" in hint


ULTRA = {
    "instruction": ASKED,
    "completions": [
        {"response": "A plum.", "overall_score": 9, "fine-grained_score": 4.75},
        {"response": "A stone.", "overall_score": 2,
         "annotations": {"helpfulness": {"Rating": "1"}, "honesty": {"Rating": "2"}}},
        {"response": "A pear.", "rating": "4"},
    ],
}  # fmt: skip


def test_completions_with_ratings_are_scored_answers(tmp_path: Path) -> None:
    scores = {"A plum.": 4.75, "A stone.": 1.5, "A pear.": 4.0}
    found = seeds.read_eft(source(tmp_path, ULTRA))
    assert found == [EftExample(ASKED, text, score, None) for text, score in scores.items()]
    [ranking] = read_ranked(source(tmp_path, ULTRA)).rankings
    assert {one.text: one.score for one in ranking.responses} == scores


def test_an_overall_score_of_ten_orders_and_is_no_score(tmp_path: Path) -> None:
    row = {"instruction": ASKED, "completions": [
        {"response": "x", "overall_score": 3}, {"response": "y", "overall_score": "8.5"},
    ]}  # fmt: skip
    assert "'score' must be a number" in refusal(seeds.read_eft, source(tmp_path, row)).message
    [ranking] = read_ranked(source(tmp_path, row)).rankings
    assert [(one.text, one.score) for one in ranking.responses] == [("x", None), ("y", None)]
    assert ranking.responses[1].preference > ranking.responses[0].preference


PAIRS = {
    "texts": {"prompt": ASKED, "chosen": "A plum.", "rejected": "A stone."},
    "messages": {"chosen": said(ASKED, "A plum."), "rejected": said(ASKED, "A stone.")},
    "messages and a prompt": {
        "prompt": ASKED, "chosen": said(ASKED, "A plum."), "rejected": said(ASKED, "A stone.")},
    "answers as messages": {
        "prompt": said(ASKED), "chosen": said(ASKED, "A plum.")[1:],
        "rejected": said(ASKED, "A stone.")[1:]},
    "binarized, with the conversation": {
        "prompt": ASKED, "messages": said(*FOUR), "chosen": said(ASKED, "A plum."),
        "rejected": said(ASKED, "A stone."), "score_chosen": 9.0},
    "sharegpt": {"chosen": shared(ASKED, "A plum."), "rejected": shared(ASKED, "A stone.")},
}  # fmt: skip


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_preferences_are_read_as_texts_and_messages_and_so_is_the_copy(
    tmp_path: Path, row: dict
) -> None:
    rows = source(tmp_path, row)
    [ranking] = read_ranked(rows).rankings
    assert ranking.prompt == ASKED
    best = max(ranking.responses, key=lambda one: one.preference)
    assert (best.text, len(ranking.responses)) == ("A plum.", 2)
    copy = tmp_path / "copy.jsonl"
    copy.write_text(copy_ranked(rows), encoding="utf-8")
    assert read_ranked(SeedSource(path=str(copy))).rankings == [ranking]


def test_preferences_over_other_prompts_are_refused(tmp_path: Path) -> None:
    row = {"chosen": said(*FOUR), "rejected": said("Other?", *FOUR[1:])}
    assert "answers another prompt" in refusal(read_ranked, source(tmp_path, row)).message
    row = {"chosen": said(ASKED, "x"), "rejected": said("Other?", "y")}
    assert "answers another prompt" in refusal(read_ranked, source(tmp_path, row)).message
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    assert "column 'prompt'" in refusal(read_ranked, source(tmp_path, row)).message


def test_a_chosen_answer_is_a_demonstration_where_the_config_says_so(tmp_path: Path) -> None:
    row = {"prompt": ASKED, "chosen": said(ASKED, ANSWERED), "rejected": said(ASKED, "x")}
    found = seeds.read_ift(source(tmp_path, row, response="chosen"))
    assert found == [IftExample(ASKED, ANSWERED)]


def test_ranks_and_scores_as_plain_texts_are_numbers(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": text, "rank": rank, "score": ""}
            for text, rank in (("x", " 2 "), ("y", "1"))]  # fmt: skip
    [ranking] = read_ranked(source(tmp_path, *rows)).rankings
    assert max(ranking.responses, key=lambda one: one.preference).text == "y"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0), (2.5, 2.5), ("4", 4.0), (" 4.50 ", 4.5), ("-1", -1.0), ("+2", 2.0),
        ("4/5", None), ("4,5", None), ("1e0", None), ("nan", None), ("inf", None), ("٤", None),
        ("", None), (None, None), (True, None), ([4], None), (float("inf"), None), (".5", None),
        ("1_0", None), ("four", None), (10**400, None), ("9" * 400, None),
    ],
)  # fmt: skip
def test_a_text_that_is_plainly_a_number_is_one(value: object, number: float | None) -> None:
    assert as_number(value) == number


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (said("hi", "x"), said("hi", "two", "more", "y")),
        (said("hi", "x"), said("hi", "y", system="Be bad.")),
        (said("Why?", "x"), said("Tell me a joke. Why?", "y")),
        (said("hi", "two", "more", "x"), said("more", "y")),
    ],
)
def test_answers_to_different_turns_are_no_pair(
    tmp_path: Path, chosen: list[dict], rejected: list[dict]
) -> None:
    for row in ({"chosen": chosen, "rejected": rejected}, {"chosen": rejected, "rejected": chosen}):
        assert "answers another prompt" in refusal(read_ranked, source(tmp_path, row)).message


@pytest.mark.parametrize("row", [{"response": "b"}, {"chosen": "b", "rejected": "c"}])
def test_of_two_answers_none_is_taken_for_the_other(tmp_path: Path, row: dict) -> None:
    given = source(tmp_path, {"prompt": said(ASKED, "a"), **row})
    for reader in (seeds.read_ift, read_ranked):
        assert "has an answer beside" in refusal(reader, given).message


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"instruction": "Sum it up.", "context": "A plum is red."}, {}),
        ({"instruction": "Sum it up.", "document": "A plum is red."}, {"input": "document"}),
        ({"task": "Sum it up.", "input": "A plum is red."}, {"instruction": "task"}),
        ({"prompt": "Sum it up.", "input": "A plum is red."}, {}),
        ({"prompt": "Sum it up.\n\nA plum is red.", "input": "A plum is red."}, {}),
    ],
)
def test_what_a_prompt_is_about_is_never_left_out(
    tmp_path: Path, row: dict, columns: dict[str, str]
) -> None:
    given = source(tmp_path, {**row, "response": "Red."}, **columns)
    assert seeds.read_ift(given) == [IftExample("Sum it up.\n\nA plum is red.", "Red.")]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Double 15.", "input": "5"}, "Double 15.\n\n5"),
        ({"prompt": "Name a word with an a.", "input": "a"}, "Name a word with an a.\n\na"),
        ({"instruction": "", "input": "Why?"}, "Why?"),
        ({"prompt": "Why?", "input": "Why?"}, "Why?"),
        ({"prompt": "Why?", "input": float("nan")}, "Why?"),
    ],
)
def test_an_input_is_left_out_only_where_the_prompt_ends_with_its_lines(
    tmp_path: Path, row: dict, prompt: str
) -> None:
    assert seeds.read_ift(source(tmp_path, {**row, "output": "x", "response": "x"}))[0].prompt == (
        prompt
    )


def test_an_input_that_is_a_number_is_a_text_and_one_that_is_a_list_is_refused(
    tmp_path: Path,
) -> None:
    row = {"instruction": "Double it.", "output": "10"}
    assert seeds.read_ift(source(tmp_path, {**row, "input": 5}))[0].prompt == "Double it.\n\n5"
    assert "'input' must be a text" in (
        refusal(seeds.read_ift, source(tmp_path, {**row, "input": [5]})).message
    )


@pytest.mark.parametrize(
    ("name", "columns"), [("system_prompt", {}), ("role_text", {"system": "role_text"})]
)
def test_a_system_turn_is_read_by_all_its_names(
    tmp_path: Path, name: str, columns: dict[str, str]
) -> None:
    [row] = seeds.read_ift(
        source(tmp_path, {name: "Be kind.", "prompt": ASKED, "response": ANSWERED}, **columns)
    )
    assert messages_of(row.prompt, row.columns) == said(ASKED, system="Be kind.")


def test_messages_are_read_under_another_name(tmp_path: Path) -> None:
    given = source(tmp_path, {"chat": said(ASKED, ANSWERED)}, messages="chat")
    assert seeds.read_ift(given) == [IftExample(ASKED, ANSWERED)]


def test_what_two_tools_call_a_turn_may_both_be_there_with_null_in_one(tmp_path: Path) -> None:
    turns = [turn | {"role": None, "content": None} for turn in shared(ASKED, ANSWERED)]
    given = source(tmp_path, {"conversations": turns})
    assert seeds.read_ift(given) == [IftExample(ASKED, ANSWERED)]


@pytest.mark.parametrize("annotations", ["a", [1], [{"Rating": "5"}], 3])
def test_annotations_that_are_no_object_rate_nothing(tmp_path: Path, annotations: object) -> None:
    completions = [{"response": ANSWERED, "annotations": annotations}, {"response": "x"}]
    given = source(tmp_path, {"instruction": ASKED, "completions": completions})
    assert "no rank or score 2" in refusal(read_ranked, given).message


def test_an_empty_list_of_answers_is_told(tmp_path: Path) -> None:
    given = source(tmp_path, {"prompt": ASKED, "responses": []})
    assert "'responses' is an empty list" in refusal(seeds.read_eft, given).message
    full = {"prompt": ASKED, "responses": [{"text": "x", "rank": 1}, {"text": "y", "rank": 2}]}
    given = source(tmp_path, full, {"prompt": "q", "responses": []})
    assert read_ranked(given).left_out == {"no response": 1}
