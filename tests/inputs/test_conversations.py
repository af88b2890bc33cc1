"""Prompts of several turns: read in every shape, kept whole, and shown whole to whoever judges."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs import seeds
from selfreward.inputs.columns import column_names, dump_prompt_rows, read_prompt_rows
from selfreward.inputs.conversations import (
    conversations_of,
    is_conversation,
    messages_of,
    num_answered,
    requests_of,
    transcript,
)
from selfreward.inputs.heldout import held_out_prompts
from selfreward.inputs.questions import dump_questions, read_questions
from selfreward.inputs.rankings import copy_ranked, read_ranked
from selfreward.inputs.templates import load_template

SYSTEM, ASKED, SAID, LAST = "Speak plainly.", "Name a fruit.", "A plum.", "Another?"
TURNS = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": SAID},
    {"role": "user", "content": LAST},
]
TEXT = f"System: {SYSTEM}\n\nUser: {ASKED}\n\nAssistant: {SAID}\n\nUser: {LAST}"
ANSWER = {"role": "assistant", "content": "A pear."}


def source(path: Path, *rows: dict) -> SeedSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SeedSource(path=str(path))


def as_shared(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


SHAPES = {
    "messages": {"messages": TURNS},
    "sharegpt": {"conversations": as_shared(TURNS)},
    "sharegpt with a system column": {"system": SYSTEM, "conversations": as_shared(TURNS[1:])},
    "prompt as messages, as TRL has it": {"prompt": TURNS},
    "alpaca with a history": {
        "system": SYSTEM, "history": [[ASKED, SAID]], "instruction": LAST, "input": "",
    },
    "spaces around the turns": {
        "messages": [{**turn, "content": f"\n{turn['content']} "} for turn in TURNS]
    },
}  # fmt: skip


@pytest.mark.parametrize("row", SHAPES.values(), ids=SHAPES)
def test_a_conversation_is_read_in_every_shape_with_all_its_turns(
    tmp_path: Path, row: dict
) -> None:
    rows = source(tmp_path / "a.jsonl", row)
    [prompt] = read_prompt_rows(rows)
    assert (prompt.prompt, messages_of(prompt.prompt, prompt.columns)) == (TEXT, TURNS)
    [question] = read_questions(rows)
    assert (question.prompt, question.columns) == (TEXT, prompt.columns)


@pytest.mark.parametrize(
    "row", [{"messages": [*TURNS, ANSWER]}, {"prompt": TURNS, "completion": [ANSWER]}]
)
def test_the_last_answer_is_the_response_to_all_turns_before_it(tmp_path: Path, row: dict) -> None:
    [example] = seeds.read_ift(source(tmp_path / "a.jsonl", row))
    assert (example.prompt, example.response) == (TEXT, "A pear.")
    assert messages_of(example.prompt, example.columns) == TURNS


def test_a_text_beside_the_conversation_is_its_first_request_and_not_its_prompt(
    tmp_path: Path,
) -> None:
    """As in UltraChat: the answer is one to all the turns."""
    row = {"prompt": ASKED, "messages": [*TURNS[1:], ANSWER]}
    [example] = seeds.read_ift(source(tmp_path / "a.jsonl", row))
    assert messages_of(example.prompt, example.columns) == TURNS[1:]
    assert seeds.read_prompts(source(tmp_path / "b.jsonl", row)) == [ASKED]


def test_a_prompt_of_one_turn_has_no_messages_and_its_copy_is_as_it_always_was(
    tmp_path: Path,
) -> None:
    rows = read_prompt_rows(source(tmp_path / "a.jsonl", {"messages": TURNS[1:2], "answer": 1}))
    assert [(row.prompt, row.columns) for row in rows] == [(ASKED, '{"answer": 1}')]
    assert messages_of(ASKED, rows[0].columns) == [{"role": "user", "content": ASKED}]
    assert dump_prompt_rows(rows) == '{"prompt": "Name a fruit.", "answer": 1}\n'
    assert seeds.dump_rows([seeds.IftExample("p", "r")]) == '{"prompt": "p", "response": "r"}\n'
    eft = '{"prompt": "p", "response": "r", "score": 2.0, "justification": null}\n'
    assert seeds.dump_rows([seeds.EftExample("p", "r", 2.0, None)]) == eft


def test_every_copy_of_a_conversation_reads_back_as_it_was(tmp_path: Path) -> None:
    row = {"prompt": TURNS, "response": "A pear.", "score": 4, "limit": 5}
    rows = source(tmp_path / "a.jsonl", row)
    ranked = {"prompt": TURNS, "chosen": "A pear.", "rejected": "A stone."}
    rankings = source(tmp_path / "r.jsonl", ranked)
    prompts, questions = read_prompt_rows(rows), read_questions(rows)
    ift, eft = seeds.read_ift(rows), seeds.read_eft(rows)
    copies = [
        (read_prompt_rows, dump_prompt_rows(prompts), prompts),
        (read_questions, dump_questions(questions), questions),
        (seeds.read_ift, seeds.dump_rows(ift), ift),
        (seeds.read_eft, seeds.dump_rows(eft), eft),
        (read_ranked, copy_ranked(rankings), read_ranked(rankings)),
    ]
    for reader, text, found in copies:
        (tmp_path / "copy.jsonl").write_text(text, encoding="utf-8")
        assert reader(SeedSource(path=str(tmp_path / "copy.jsonl"))) == found
    assert column_names(copies[0][1]) == ["limit", "messages", "score"]
    files = defaultdict(str, {"seeds/dataset.jsonl": copies[0][1], "seeds/eft.jsonl": "no JSON"})
    assert num_answered(files.__getitem__) == 1


def test_preferences_over_a_conversation_are_of_its_last_answers(tmp_path: Path) -> None:
    worse = {"role": "assistant", "content": "A stone."}
    rows = source(tmp_path / "a.jsonl", {"chosen": [*TURNS, ANSWER], "rejected": [*TURNS, worse]})
    [ranking] = read_ranked(rows).rankings
    assert [one.text for one in ranking.responses] == ["A pear.", "A stone."]
    assert messages_of(ranking.prompt, ranking.columns) == TURNS
    assert conversations_of([ranking]) == {TEXT: ranking.columns}


@pytest.mark.parametrize("reader", [read_prompt_rows, read_questions])
def test_a_conversation_that_ends_with_the_assistant_is_no_prompt(
    tmp_path: Path, reader: object
) -> None:
    rows = source(tmp_path / "a.jsonl", {"prompt": "x"}, {"messages": [*TURNS, ANSWER]})
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: .* ends with a turn of the assistant"):
        reader(rows)  # type: ignore[operator]


def test_two_conversations_that_end_alike_are_two_prompts(tmp_path: Path) -> None:
    other = [TURNS[1], {"role": "assistant", "content": "A fig."}, TURNS[3]]
    rows = source(tmp_path / "a.jsonl", {"messages": TURNS[1:]}, {"messages": other})
    assert len(read_prompt_rows(rows)) == len(read_questions(rows)) == 2


def test_new_prompts_are_not_written_after_conversations(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", {"messages": TURNS}, {"prompt": "Sing."})
    assert seeds.read_prompts(rows) == ["Sing."]


def test_what_is_held_out_is_what_the_user_says(tmp_path: Path) -> None:
    """A system turn is shared by all prompts of an application: none gives away another."""
    copy = dump_prompt_rows(read_prompt_rows(source(tmp_path / "a.jsonl", {"messages": TURNS})))
    assert held_out_prompts({"seeds/questions.jsonl": copy}) == [f"{ASKED}\n\n{LAST}"]
    assert requests_of("Sing.", '{"limit": 5}') == "Sing."


def test_a_judge_is_shown_every_turn_whatever_its_template_uses(tmp_path: Path) -> None:
    plain, own = tmp_path / "plain.jinja", tmp_path / "own.jinja"
    plain.write_text("{% block user %}<request>{{ prompt }}</request>{{ response }}{% endblock %}")
    own.write_text(
        "{% block user %}{% if history %}<before>{{ history }}</before>{% endif %}"
        "<request>{{ prompt }}</request>{{ response }}{% endblock %}"
    )
    columns = json.dumps({"messages": TURNS})
    assert is_conversation(columns)
    variables = {"prompt", "response"}
    asked = load_template(plain, variables)
    assert asked.render(**asked.asked(TEXT, columns), response="!")[0] == (
        f"<request>{TEXT}</request>!"
    )
    asked = load_template(own, variables)
    assert asked.render(**asked.asked(TEXT, columns), response="!")[0] == (
        f"<before>{transcript(TURNS[:3])}</before><request>{LAST}</request>!"
    )
    assert asked.render(prompt="Sing.", response="!")[0] == "<request>Sing.</request>!"
    assert (
        asked.render(**asked.asked("Sing.", None), response="!")[0] == "<request>Sing.</request>!"
    )


def test_history_alone_is_not_enough_for_a_judge(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{% block user %}{{ history }}{{ response }}{% endblock %}")
    with pytest.raises(ConfigError, match="does not use 'prompt'"):
        load_template(path, {"prompt", "response"})
