"""The law of the chat layer over the formats of many models: what is trained is what is sampled.

``tests/data/chat_templates.json`` holds shortened formats, one a family, written for these tests.
"""

import json
import re
from datetime import date
from pathlib import Path

import pytest

from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError
from selfreward.inputs.conversations import Turns
from tests.support import DATA
from tests.support.models import make_model, make_sentencepiece_model

TEMPLATES: dict[str, str] = json.loads((DATA / "chat_templates.json").read_text())
OPENING = ["r1", "r1_no_newline"]
"""Formats that open a thought for the model and leave it out of finished turns."""
WORDS = tuple(sorted({w for t in TEMPLATES.values() for w in re.findall(r"<\|?\w+\|?>", t)}))
ENDS = {
    "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi3": "<|end|>",
    "qwen3": "<|im_end|>", "granite": "<|end_of_text|>",
}  # fmt: skip
"""How a turn ends, where that is not the end of text."""


@pytest.fixture(params=["characters", "sentencepiece"])
def chat_of(request: pytest.FixtureRequest, tmp_path: Path):
    """Makes a chat of a family's format on a tokenizer of one kind."""

    def make(family: str, **kwargs: object) -> Chat:
        words = tuple(w for w in WORDS if w in TEMPLATES[family])
        make = make_model if request.param == "characters" else make_sentencepiece_model
        model = make(tmp_path / family, TEMPLATES[family], words=words, eos="</s>", bos="<s>")
        return Chat(model, template_kwargs=kwargs)

    return make


def finished(chat: Chat, user: Turns, answer: str) -> tuple[int, ...]:
    """The template's own ids of a finished conversation, as far as its last end of turn."""
    asked = [{"role": "user", "content": user}] if isinstance(user, str) else user
    turns = [*asked, {"role": "assistant", "content": answer}]
    text = chat.tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tuple(chat.tokenizer(text, add_special_tokens=False).input_ids)
    return ids[: len(ids) - ids[::-1].index(chat.end_id)]


def spaceless(text: str) -> str:
    """Without the space that a tokenizer of the SentencePiece kind puts behind a control token."""
    return text.replace("> ", ">")


@pytest.mark.parametrize("family", sorted(TEMPLATES.keys() - set(OPENING)))
@pytest.mark.parametrize("answer", ["An apple.", "4", "a\n\nb c"])
def test_sft_trains_the_ids_of_the_templates_own_finished_conversation(
    family: str, answer: str, chat_of
) -> None:
    chat = chat_of(family)
    assert chat.decode([chat.end_id]) == ENDS.get(family, "</s>")
    prompt, completion = chat.continuation("Name a fruit.", "", answer)
    assert prompt == chat.prompt_ids("Name a fruit.")
    assert prompt + completion == finished(chat, "Name a fruit.", answer)


@pytest.mark.parametrize("family", OPENING)
def test_a_thought_that_the_format_opens_is_closed_before_an_answer_is_trained(
    family: str, chat_of
) -> None:
    chat = chat_of(family)
    prompt, completion = chat.continuation("Name a fruit.", "", "An apple.")
    text = spaceless(chat.decode(prompt + completion))
    assert text.endswith("<|Assistant|><think>\n\n</think>\n\nAn apple.</s>")
    thinking, answer = chat.split_thinking(chat.decode(completion).removesuffix("</s>"))
    assert (thinking.strip(), answer.strip()) == ("", "An apple.")


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_what_a_model_said_is_trained_without_a_lead_before_it(family: str, chat_of) -> None:
    chat = chat_of(family)
    said = "<think>Hm.</think>\n\nAn apple."
    prompt, completion = chat.continuation("Name a fruit.", "", said, is_sampled=True)
    assert prompt == chat.prompt_ids("Name a fruit.")
    assert completion[-1] == chat.end_id
    assert spaceless(chat.decode(completion[:-1])).strip() == spaceless(said)


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_a_started_turn_stands_where_an_answer_stands(family: str, chat_of) -> None:
    chat = chat_of(family)
    begun = chat.decode(chat.prompt_ids("Judge.", "Score: "))
    assert begun.endswith("Score: ")
    assert not begun.removesuffix("Score: ").rstrip().endswith("<think>")
    whole = chat.decode(finished(chat, "Judge.", "Score: 4"))
    if family not in OPENING:
        assert whole.startswith(begun)
    assert chat.split_thinking("4 </think> Score: 5", "Score: ") == ("", "4 </think> Score: 5")
    prompt, completion = chat.continuation("Judge.", "Score: ", "4")
    assert prompt == chat.prompt_ids("Judge.", "Score: ")
    assert chat.decode(completion).split() == [f"4{ENDS.get(family, '</s>')}"] or (
        chat.decode(completion).split() == ["4", "</s>"]
    )


def test_qwen3_trains_its_empty_thought_and_without_thinking_none(chat_of) -> None:
    prompt, completion = chat_of("qwen3").continuation("Hi", "", "Hello.")
    text = spaceless(chat_of("qwen3").decode(completion))
    assert text == "<think>\n\n</think>\n\nHello.<|im_end|>"
    chat = chat_of("qwen3", enable_thinking=False)
    prompt, completion = chat.continuation("Hi", "", "Hello.")
    assert spaceless(chat.decode(prompt)).endswith("<think>\n\n</think>\n\n")
    assert chat.decode(completion) == "Hello.<|im_end|>"


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_sampled_ids_are_trained_as_they_were_sampled_with_the_end_of_turn(
    family: str, chat_of
) -> None:
    chat = chat_of(family)
    odd = chat.tokenizer("a", add_special_tokens=False).input_ids * 2
    assert chat.sampled(odd) == (*odd, chat.end_id)


def test_a_format_with_a_date_has_the_day_on_which_the_run_was_made(chat_of, tmp_path) -> None:
    chat = chat_of("llama3")
    assert date.today().strftime("%d %b %Y") in chat.decode(chat.prompt_ids("Hi"))
    then = Chat(chat.model, today=date(2024, 2, 29))
    assert "Today Date: 29 Feb 2024" in then.decode(then.prompt_ids("Hi"))
    prompt, completion = then.continuation("Hi", "", "Hello.")
    assert "Today Date: 29 Feb 2024" in then.decode(prompt + completion)
    given = Chat(chat.model, template_kwargs={"date_string": "1 Jan"}, today=date(2024, 2, 29))
    assert "Today Date: 1 Jan" in given.decode(given.prompt_ids("Hi"))


def test_a_format_that_refuses_a_system_prompt_is_one_line(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}"
    model = make_model(tmp_path, template + "{% endif %}" + TEMPLATES["chatml"])
    Chat(model)
    with pytest.raises(ConfigError, match=r"refuses .* with system_prompt \(no system role\)"):
        Chat(model, system_prompt="Be brief.")


def test_a_base_model_is_given_a_format_and_without_end_of_text_is_refused(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", template=None)
    chat = Chat(base, chat_template=TEMPLATES["chatml"])
    assert chat.decode(chat.prompt_ids("Hi")).endswith("<|im_start|>assistant\n")
    endless = make_model(tmp_path / "endless")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (endless / name).is_file():
            settings = json.loads((endless / name).read_text())
            settings.pop("eos_token", None)
            (endless / name).write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="no end-of-text token"):
        Chat(endless)


# Conversations of several turns

CONVERSATION = [
    {"role": "user", "content": "Name a fruit."},
    {"role": "assistant", "content": "A plum."},
    {"role": "user", "content": "Another?"},
]
RULED = [{"role": "system", "content": "Speak plainly."}, *CONVERSATION]


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_every_format_shows_all_turns_in_order_and_the_system_turn_once(
    family: str, chat_of
) -> None:
    chat = chat_of(family)
    chat.check_conversation()
    assert chat.left_out(RULED) is None
    text = spaceless(chat.decode(chat.prompt_ids(RULED)))
    places = [text.index(turn["content"]) for turn in RULED]
    assert places == sorted(places) and text.count("Speak plainly.") == 1


@pytest.mark.parametrize("family", sorted(TEMPLATES.keys() - set(OPENING)))
def test_sft_trains_the_last_answer_of_the_templates_own_finished_conversation(
    family: str, chat_of
) -> None:
    chat = chat_of(family)
    prompt, completion = chat.continuation(CONVERSATION, "", "A pear.")
    assert prompt == chat.prompt_ids(CONVERSATION)
    assert prompt + completion == finished(chat, CONVERSATION, "A pear.")


@pytest.mark.parametrize("family", ["gemma", "mistral"])
def test_where_a_format_refuses_a_system_turn_its_text_begins_the_first_request(
    family: str, tmp_path: Path
) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}"
    template = f"{refusing}{{% endif %}}{TEMPLATES[family]}"
    chat = Chat(make_model(tmp_path, template, words=("[INST]", "[/INST]"), bos="<s>"))
    chat.check_conversation()
    joined = [{"role": "user", "content": "Speak plainly.\n\nName a fruit."}, *CONVERSATION[1:]]
    assert chat.prompt_ids(RULED) == chat.prompt_ids(joined)
    assert chat.left_out(RULED) is None


def test_a_system_turn_of_the_conversation_takes_the_place_of_the_runs(tmp_path: Path) -> None:
    model = make_model(tmp_path, TEMPLATES["chatml"])
    chat = Chat(model, system_prompt="Be brief.")
    assert "Be brief." in chat.decode(chat.prompt_ids(CONVERSATION))
    assert chat.prompt_ids(RULED) == Chat(model).prompt_ids(RULED)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages[-1].content }}", "leaves out turns of a conversation"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
         "leaves out turns of a conversation"),
        ("{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}"
         "{% for m in messages %}{{ m.content }}{% endfor %}",
         r"refuses several turns \(one turn\)"),
    ],
    ids=["the last alone", "no answers", "one turn alone"],
)  # fmt: skip
def test_a_format_that_leaves_turns_out_or_refuses_them_is_one_line(
    template: str, says: str, tmp_path: Path
) -> None:
    chat = Chat(make_model(tmp_path, template))
    with pytest.raises(ConfigError, match=says) as error:
        chat.check_conversation()
    assert "\n" not in error.value.message and "chat_template" in error.value.hint


def test_a_turn_that_only_some_conversations_lose_is_named(chat_of) -> None:
    """Qwen3 and DeepSeek-R1 leave out what an earlier answer thought; a turn said twice counts."""
    thought = "<think>Fruit.</think>A plum."
    thinking = [CONVERSATION[0], {"role": "assistant", "content": thought}, CONVERSATION[2]]
    chat = chat_of("r1")
    assert chat.left_out(thinking) == thought
    again = [CONVERSATION[0], {"role": "assistant", "content": "Name a fruit."}, CONVERSATION[2]]
    assert chat.left_out(again) is None
    chat = Chat(chat.model, chat_template="{{ messages[-1].content }}")
    same = [*CONVERSATION[:2], CONVERSATION[0]]
    assert chat.left_out(same) == "A plum."


def test_a_prompt_of_one_turn_is_never_left_out(tmp_path: Path) -> None:
    """A format may rewrite it, and a run on such prompts is what it was before conversations."""
    chat = Chat(make_model(tmp_path, "{{ messages[0].content | upper }}"))
    assert chat.left_out([{"role": "user", "content": "Sing."}]) is None
