"""Laws of the chat layer, on tokenizers of a few characters made here, and on the real one."""

import json
from pathlib import Path
from typing import Any

import pytest

from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError
from selfreward.inputs import models as base_models
from tests.support.models import TEMPLATE, make_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path)


def test_a_prompt_is_the_rendered_user_turn_and_the_start_of_the_models_turn(model: Path) -> None:
    chat = Chat(model)
    assert chat.decode(chat.prompt_ids("hi", "1. ")) == (
        "<|start|>user\nhi<|end|>\n<|start|>assistant\n1. "
    )


def test_the_system_prompt_goes_first_and_template_arguments_arrive(tmp_path: Path) -> None:
    template = "{{ mood }}" + TEMPLATE
    chat = Chat(make_model(tmp_path, template), "be brief", {"mood": "glad"})
    text = chat.decode(chat.prompt_ids("hi"))
    assert text.startswith("glad<|start|>system\nbe brief<|end|>\n<|start|>user\nhi")


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template") as error:
        Chat(make_model(tmp_path, template=None))
    assert "instruct" in error.value.hint


def test_of_several_chat_templates_one_must_be_the_default(tmp_path: Path) -> None:
    def several(name: str) -> Path:
        path = make_model(tmp_path / name, template=None)
        config = json.loads((path / "tokenizer_config.json").read_text())
        config["chat_template"] = [{"name": name, "template": TEMPLATE}]
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        return path

    assert Chat(several("default")).prompt_ids("hi")
    with pytest.raises(ConfigError, match="no chat template"):
        Chat(several("tool_use"))


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 99, "n_ctx": 7}, 99),
        ({"n_positions": 256}, 256),
        ({"text_config": {"max_position_embeddings": 99}}, 99),
        ({}, None),
    ],
)
def test_the_length_of_the_context_goes_by_several_names(
    config: dict[str, Any], length: int | None, tmp_path: Path
) -> None:
    assert Chat(make_model(tmp_path, config=config)).max_length == length


def test_a_tokenizer_with_tokens_that_the_embedding_lacks_is_refused(tmp_path: Path) -> None:
    """Such a token ends training in an index error, hours later."""
    Chat(make_model(tmp_path / "as many", config={"vocab_size": 102}))
    with pytest.raises(ConfigError, match=r"up to number 101 .*, the model's embedding only 101"):
        Chat(make_model(tmp_path / "more", config={"vocab_size": 101}, eos="<|text|>"))
    with pytest.raises(ConfigError, match=r"up to number 100 \('<.end.>'\), .* only 98 rows"):
        Chat(make_model(tmp_path / "plain", config={"vocab_size": 98}, template="{{ messages }}"))


def test_a_special_token_that_nothing_writes_may_lack_a_row(tmp_path: Path) -> None:
    """As that for images in the text models of Gemma 3."""
    chat = Chat(make_model(tmp_path, config={"vocab_size": 101}))
    assert chat.control_token("a<|text|>") == "<|text|>"  # what spells it is dropped


def test_training_ids_are_what_sampling_sees_and_what_it_would_sample(model: Path) -> None:
    chat = Chat(model)
    prompt, completion = chat.continuation("hi", "1.", " abc")
    assert prompt == chat.prompt_ids("hi", "1.")
    assert prompt + completion == (*chat.prompt_ids("hi", "1. abc"), chat.end_id)


def test_a_token_that_spans_the_border_leaves_the_prompt_as_sampling_sees_it(model: Path) -> None:
    chat = Chat(model)
    prompt, completion = chat.continuation("hi", "a", "bc")  # "ab" is one token
    assert chat.prompt_ids("hi", "abc")[: len(prompt)] != prompt
    assert prompt == chat.prompt_ids("hi", "a")
    assert chat.decode(completion) == "bc<|end|>"


def test_the_turn_ends_as_the_template_ends_it_and_not_as_texts_end(tmp_path: Path) -> None:
    chat = Chat(make_model(tmp_path, eos="<|text|>"))
    assert chat.decode([chat.end_id]) == "<|end|>"
    assert {chat.decode([end]) for end in chat.end_ids} == {"<|end|>", "<|text|>"}


def test_a_template_without_end_of_turn_falls_back_to_the_end_of_text(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    chat = Chat(make_model(tmp_path, template, eos="<|text|>"))
    assert chat.decode([chat.end_id]) == "<|text|>"


def test_end_tokens_of_the_generation_config_count(model: Path) -> None:
    ids = Chat(model).tokenizer.convert_tokens_to_ids(["<|text|>", "<|start|>"])
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    chat = Chat(model)
    assert chat.end_ids == {chat.end_id, *ids}


@pytest.mark.parametrize(
    "merges",
    [[], [(" ", str(d)) for d in range(6)], [(":", " ")]],
    ids=["space apart", "space with the digit", "space with the colon"],
)
def test_whatever_the_space_is_joined_to_prompt_and_score_token_spell_the_verdict(
    tmp_path: Path, merges: list[tuple[str, str]]
) -> None:
    chat = Chat(make_model(tmp_path, merges=merges))
    prompt, scores = chat.score_prompt("judge this")
    for score, token in enumerate(scores):
        assert (*prompt, token) == chat.prompt_ids("judge this", f"Score: {score}")
        assert chat.score_target("judge this", score) == (prompt, (token, chat.end_id))


def test_a_tokenizer_without_single_score_tokens_is_sent_to_the_written_form(
    tmp_path: Path,
) -> None:
    chat = Chat(make_model(tmp_path, merges=[(" ", "1")]))  # "Score: 1" alone is shorter
    with pytest.raises(ConfigError, match="single token") as error:
        chat.score_prompt("judge this")
    assert "judge.form=written" in error.value.hint


def test_the_first_control_token_of_the_format_is_found(tmp_path: Path) -> None:
    chat = Chat(make_model(tmp_path, TEMPLATE + "{# <tool> #}", words=("<tool>", "<b>", "\n\n")))
    assert chat.control_token("a <b>bold</b> word\n\nand < | end | >") is None
    assert chat.control_token("x<|end|>\n<|start|>user") == "<|end|>"
    assert chat.control_token("<tool>ls") == "<tool>"


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("plain", "", "plain"),
        ("<think>a</think>b", "a", "b"),
        ("\n<think>a</think>\nb", "\na", "\nb"),
        ("<think>never ends", "never ends", ""),
        ("a</think>b", "", "a</think>b"),
        ("the tag <think> in prose", "", "the tag <think> in prose"),
    ],
)
def test_thinking_is_split_off(model: Path, text: str, thinking: str, answer: str) -> None:
    assert Chat(model).split_thinking(text) == (thinking, answer)


def test_where_the_template_opens_thinking_a_text_without_its_end_is_all_thinking(
    tmp_path: Path,
) -> None:
    template = TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n{%")
    chat = Chat(make_model(tmp_path, template))
    assert chat.split_thinking("hm") == ("hm", "")
    assert chat.split_thinking("a</think>b") == ("a", "b")


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, None),
        ({"max_position_embeddings": 64}, 64),
        ({"text_config": {"max_position_embeddings": 32}}, 32),
    ],
)
def test_the_context_length_is_the_configs(
    tmp_path: Path, config: dict[str, Any], length: int | None
) -> None:
    assert Chat(make_model(tmp_path, config=config)).max_length == length


@pytest.mark.slow
def test_the_bundled_models_chat_is_known() -> None:
    chat = Chat(base_models.resolve("bundled:smollm2-135m").path)
    assert chat.decode(chat.prompt_ids("Hi", "1.")) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n1."
    )
    assert chat.end_ids == {chat.end_id}
    assert chat.decode([chat.end_id]) == "<|im_end|>"
    prompt, scores = chat.score_prompt("Judge.")
    assert chat.decode(prompt).endswith("assistant\nScore: ")
    assert [chat.decode([score]) for score in scores] == list("012345")
    assert chat.max_length == 8192
    assert chat.control_token("so <repo_name> it is") == "<repo_name>"
