"""Every recipe makes models: two iterations of two steps, a tiny model, the real trainers."""

import json
import shutil
from pathlib import Path

import pytest

from selfreward.config.load import load_config
from selfreward.controller import launch
from selfreward.inputs.collect import create_run
from selfreward.inputs.shipped import recipes
from selfreward.records import FinishReason
from selfreward.storage import durable
from selfreward.verbs.maintenance import verify
from tests.support.families import make_family, make_reward_model
from tests.support.models import MERGES, make_model
from tests.support.scripted import scripted_reply
from tests.workers.test_jobs import RealTraining

TINY = [
    "iterations=2", "prompts.count=6", "prompts.window=2", "prompts.rouge_l_max=1.0",
    "responses.n=3", "responses.max_new_tokens=200", "sft.ift={path: seed/ift.jsonl, limit: 4}",
    "sft.eft=null", "prompts.seeds=seed/ift.jsonl", "sft.max_steps=1", "train.sft.max_steps=2",
    "train.sft.min_score=1", "dpo.max_steps=2", "dpo.save_steps=1", "evaluation.ranked=null",
    "evaluation.questions=null", "evaluation.canaries=false", "evaluation.contests=[]",
    "best.by=win_rate",
]  # fmt: skip


def listing(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Some answers are lists, so that a program that checks them prefers some."""
    if "<judgment_a>" in prompt:
        return f"Better: {'AB'[number % 2]}", "stop"
    said, reason = scripted_reply(prompt, number)
    is_list = number % 3 == 0 and "Score: <" not in prompt
    return (said.replace(" ", "\n- ") if is_list else said), reason


def counting(prompt: str, number: int) -> tuple[str, FinishReason]:
    """All end in 1 or 2, so that votes can be counted."""
    return f"{scripted_reply(prompt, number)[0]} {1 + number % 7 % 2}", "stop"


def rewarded(directory: Path) -> list[str]:
    """A reward model for conversations of any length, and two steps of training on it."""
    path = make_reward_model(directory / "reward")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    # A random model does not end what it says.
    return [f"judge.model={path}", "judge.truncated=true", "rloo.max_completion_length=16",
            "rloo.max_steps=2", "judge.scale=[-50, 50]"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_a_recipe_trains_its_models(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    model = make_family(tmp_path / "model", "SmolLM 2", max_position_embeddings=8192)
    digits = make_model(tmp_path / "digits", merges=MERGES[:1])  # each score is a token
    shutil.copyfile(digits / "tokenizer.json", model / "tokenizer.json")
    words = rewarded(tmp_path) if name == "rlhf" else []
    if name == "dice":
        start = shutil.copytree(model, tmp_path / "start")
        words = [f"judge.reference={start}"]
    config = load_config(recipes()[name], [*TINY, f"model={model}", *words])
    run = create_run(config, "run")
    reply = counting if name == "scpo" else listing
    launch(run, lambda: None, RealTraining(run, reply=reply))
    digests = {durable.verify_directory(run.model_directory(i)) for i in (1, 2, 3)}
    assert len(digests) == 3
    assert all(check["ok"] for check in verify(run)), verify(run)
    with run.store() as store:
        logs = [store.train_log(iteration) for iteration in (1, 2)]
    assert [len(log) for log in logs] == [2, 2]
