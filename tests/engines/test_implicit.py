"""Implicit rewards: what transformers says of both models, whatever shares the batch."""

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfreward.config import Config
from selfreward.config.load import build_config
from selfreward.engines.base import Request, RequestError
from selfreward.engines.chat import Chat
from selfreward.engines.implicit import ImplicitReward, check_reference
from selfreward.errors import ConfigError
from selfreward.inputs.collect import create_run
from selfreward.stages.rewards import ImplicitScorer
from selfreward.workers.jobs import _check_reward_models
from tests.support.families import make_family
from tests.support.models import make_model

ASKED = [("Why?", "So."), ("Why is it so?", "It is."), ("Hm", "a b c d e f g h i"), ("a", "b")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("implicit")
    made, start = (make_family(root / str(n), "SmolLM 2", seed=n) for n in (1, 2))
    return made, start


def rewards(model: Path, reference: Path, then: Path | None = None) -> list[float | None]:
    async def score() -> list[float | None]:
        chat = Chat(model)
        engine = ImplicitReward(model, reference, chat)
        scorer = ImplicitScorer(engine, chat)
        try:
            if then is not None:
                await engine.load(then)
            given = await asyncio.gather(*(scorer.score(*each, {}) for each in ASKED))
        finally:
            await engine.close()
        return [each.value for each in given]

    return asyncio.run(score())


def logprob(path: Path, prompt: str, answer: str) -> float:
    """Of the answer and the end of its turn, token by token, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    asked = [{"role": "user", "content": prompt}]
    begun = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    before = tokenizer(begun, add_special_tokens=False).input_ids
    ids = [*before, *tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logprobs[at - 1, ids[at]]) for at in range(len(before), len(ids)))


def test_the_reward_is_how_much_likelier_transformers_finds_the_answer(
    models: tuple[Path, Path],
) -> None:
    made, start = models
    expected = [logprob(made, *each) - logprob(start, *each) for each in ASKED]
    assert rewards(made, start) == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 2) for value in expected}) == len(ASKED)  # or it would tell nothing


def test_models_that_change_places_mirror_each_reward(models: tuple[Path, Path]) -> None:
    made, start = models
    mirrored = [-value for value in rewards(start, made) if value is not None]
    assert rewards(made, start) == pytest.approx(mirrored, abs=1e-5)


def test_a_model_that_comes_in_place_is_held_against_the_same_reference(
    models: tuple[Path, Path],
) -> None:
    made, start = models
    assert rewards(start, start, then=made) == pytest.approx(rewards(made, start), abs=1e-6)
    assert rewards(made, start, then=start) == [0.0] * len(ASKED)


def test_what_the_model_cannot_hold_has_a_reason(models: tuple[Path, Path]) -> None:
    made, start = models

    async def ask() -> None:
        engine = ImplicitReward(made, start, Chat(made))
        try:
            await engine.generate(Request((1,) * 10_000, answer=(2,)))
        finally:
            await engine.close()

    with pytest.raises(RequestError, match="10001 tokens"):
        asyncio.run(ask())


def test_what_the_reference_alone_cannot_hold_has_a_reason_too(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    short = make_family(tmp_path, "GPT-2", n_positions=16)

    async def ask() -> None:
        engine = ImplicitReward(models[0], short, Chat(models[0]))
        try:
            assert (await engine.generate(Request((1,) * 15, answer=(2,))))[0].reward is not None
            await engine.generate(Request((1,) * 16, answer=(2,)))
        finally:
            await engine.close()

    with pytest.raises(RequestError, match="17 tokens, and the models hold 16"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("words", "is_refused"),
    [
        (["sft=null", "judge.reference=MODEL"], True),
        (["sft=null", "judge.model=M1", "judge.reference=MODEL"], True),
        (["judge.model=MODEL", "judge.reference=M0"], True),
        (["judge.reference=MODEL"], False),  # held against M1 by SFT and what follows
        (["judge.model=MODEL", "judge.reference=M1"], False),
    ],
)
def test_a_model_that_is_its_own_reference_by_another_name_is_refused(
    words: list[str],
    is_refused: bool,
    models: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    again = f"{models[0].parent}/./{models[0].name}"  # the very name is refused with the config
    words = [word.replace("MODEL", again) for word in words]
    run = create_run(config(f"model={models[0]}", *words), "run")
    if not is_refused:
        return _check_reward_models(run, models[0])
    with pytest.raises(ConfigError, match=r"judge\.reference=.* is the model that judges"):
        _check_reward_models(run, models[0])


def test_a_reference_with_another_tokenizer_is_refused(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", words=("another",))
    with pytest.raises(ConfigError, match=r"judge\.reference: .* has another tokenizer than"):
        check_reference(models[0], other, "judge.reference")


OTHER = ["evaluation.ranked=null", "evaluation.canaries=false", "sft.eft=null"]


def config(*words: str) -> Config:
    return build_config({}, [*OTHER, "judge.form=implicit", "judge.scale=[-9, 9]", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "form=implicit needs reference"),
        (["judge.reference=M1"], "judge.reference=M1 is policy itself in iteration 1"),
        (["judge.reference=M0", "sft=null"], "judge.reference=M0 is policy itself"),
        (["judge.reference=M1", "judge.model=M1"], "model and reference are both M1"),
        (
            ["judge.reference=org/one", "model=org/one", "sft=null"],
            "judge.reference=org/one is policy",
        ),
        (["judge.reference=M0", "judge.model=hosted"], "which model=hosted does not give"),
        (["judge.reference=M0", "judge.engine={kind: vllm}"], "engine goes without form=implicit"),
        (["judge.reference=M0", "evaluation.canaries=true"], "judge.form=implicit: no judge is"),
    ],
)
def test_what_gives_no_reward_is_refused_in_a_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(*words)
    assert said in error.value.message and "\n" not in error.value.message


def test_a_model_is_evaluated_as_the_judge_that_is_asked_in_words() -> None:
    implicit = "judge.jury=[{form: implicit, reference: M0, scale: [-9, 9]}]"
    by_m1 = build_config({}, ["judge.model=M1", implicit]).judge
    assert [juror.model for juror in by_m1.jurors] == ["M1", "policy"] and by_m1.evaluated == 0
    assert build_config({}, [implicit]).judge.evaluated == 0


def test_a_reference_is_of_the_implicit_form_alone_and_a_scale_belongs_to_it() -> None:
    with pytest.raises(ConfigError, match="reference is of form=implicit, and form is written"):
        build_config({}, ["judge.reference=M0"])
    with pytest.raises(ConfigError, match="form=implicit needs scale"):
        build_config({}, [*OTHER, "judge.form=implicit", "judge.reference=M0"])
    assert config("judge.reference=M0").judge.reference == "M0"
