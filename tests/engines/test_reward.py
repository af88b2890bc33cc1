"""Reward models: the reward is transformers' own, whatever shares its batch; and what is none."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from selfreward.engines.base import Request, RequestError
from selfreward.engines.chat import Chat
from selfreward.engines.reward import RewardModel, check_reward_model
from selfreward.errors import ConfigError
from selfreward.inputs.conversations import transcript
from selfreward.stages.rewards import RewardScorer
from tests.support.families import make_family, make_reward_model
from tests.support.models import TEMPLATE


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("reward"))


ASKED = [("Why?", "So."), ("Why is it so?", "It is."), ("Hm", "a b c d e f g h i"), ("a", "b")]


def rewards(
    path: Path, asked: list[tuple[str, str]], columns: Mapping[str, Any] = {}
) -> list[float | None]:
    async def score() -> list[float | None]:
        chat = Chat(path)
        engine = RewardModel(path, chat)
        scorer = RewardScorer(engine, chat)
        try:
            given = await asyncio.gather(*(scorer.score(*each, columns) for each in asked))
        finally:
            await engine.close()
        return [each.value for each in given]

    return asyncio.run(score())


def test_the_bias_of_a_model_is_added_to_each_of_its_rewards(path: Path, tmp_path: Path) -> None:
    shifted = tmp_path / "shifted"
    shutil.copytree(path, shifted)
    config = json.loads((shifted / "config.json").read_text())
    (shifted / "config.json").write_text(json.dumps(config | {"reward_bias": 2.5}))
    for before, after in zip(rewards(path, ASKED), rewards(shifted, ASKED), strict=True):
        assert before is not None and after == pytest.approx(before + 2.5, abs=1e-6)


@pytest.mark.parametrize("pad", [100, None])
@pytest.mark.parametrize("after", ["\n", ""])  # 100 ends a turn: it is last, or a line break is
def test_the_reward_is_what_transformers_gives_the_templated_conversation(
    tmp_path: Path, pad: int | None, after: str
) -> None:
    path = make_reward_model(
        tmp_path, template=TEMPLATE.replace("\n{% endfor", after + "{% endfor"), pad=pad
    )
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    expected = []
    for prompt, answer in ASKED:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            expected.append(float(model(input_ids=ids).logits[0, 0]))
    assert rewards(path, ASKED) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == len(ASKED)  # or it would tell nothing


def test_a_conversation_is_rewarded_with_all_its_turns(path: Path) -> None:
    turns = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Why so?"},
    ]
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    whole = [*turns, {"role": "assistant", "content": "It is."}]
    text = tokenizer.apply_chat_template(whole, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = float(model(input_ids=ids).logits[0, 0])
    [found] = rewards(path, [(transcript(turns), "It is.")], {"messages": turns})
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_reward_does_not_depend_on_what_shares_its_batch(path: Path) -> None:
    alone = [rewards(path, [each])[0] for each in ASKED]
    assert rewards(path, ASKED) == pytest.approx(alone, abs=1e-5)


def test_an_answer_that_does_not_fit_or_acts_has_no_reward_and_its_reason(path: Path) -> None:
    chat = Chat(path)

    async def ask() -> list[str | None]:
        engine = RewardModel(path, chat)
        scorer = RewardScorer(engine, chat)
        try:
            with pytest.raises(RequestError):
                await engine.generate(Request((1,) * 65))
            [whole] = await engine.generate(Request((1,) * 64))
            assert whole.reward is not None
            texts = ("long " * 20, "a<|end|>", "a")
            return [(await scorer.score("Why?", text, {})).reason for text in texts]
        finally:
            await engine.close()

    assert asyncio.run(ask()) == ["too long", "control token", None]


def test_what_is_no_reward_model_is_refused(tmp_path: Path, path: Path) -> None:
    check_reward_model(path, "judge.model")
    plain = make_family(tmp_path / "plain", "SmolLM 2")
    with pytest.raises(ConfigError, match=r"judge.model: .*plain is a LlamaForCausalLM and no rew"):
        check_reward_model(plain, "judge.model")
    two = make_reward_model(tmp_path / "two", labels=2)
    with pytest.raises(ConfigError, match=r"judge.model: .*two has 2 labels"):
        check_reward_model(two, "judge.model")
    assert json.loads((two / "config.json").read_text())["architectures"]


def test_without_a_chat_template_it_cannot_be_shown_a_conversation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no chat template"):
        Chat(make_reward_model(tmp_path / "bare", template=None))
