"""Training a reward model in a child process: the one that asks never holds a model."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from selfreward.errors import ConfigError
from selfreward.inputs.conversations import messages_of
from selfreward.inputs.rankings import Ranking
from selfreward.inputs.seeds import IftExample
from selfreward.training.base import Training
from selfreward.training.methods import fit_of
from selfreward.training.rows import ranked_rows, scored_ids
from selfreward.workers.process import Child

if TYPE_CHECKING:
    from selfreward.engines.chat import Chat


@dataclass(frozen=True, slots=True)
class RewardJob:
    """What is trained on what."""

    model: str
    """Directory of the start model."""
    out: str
    """Directory to publish."""
    rankings: Sequence[Ranking]
    test: Sequence[Ranking]
    """Held out: the trained model is asked for its rewards of these."""
    options: Mapping[str, Any]
    """Of TRL's ``RewardConfig``."""
    max_length: int
    """Tokens of a prompt with an answer; longer answers are left out."""
    seed: int = 0
    model_digest: str | None = None
    """sha256 of it."""
    demonstrations: Sequence[IftExample] = ()
    """Good answers whose mean reward is to be 0; none: the rewards are left as they come."""
    chat: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``Chat``."""


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What came of it."""

    prompts: int
    """That were trained on."""
    answers: int
    left_out: dict[str, int]
    """Answers and prompts by reason."""
    log: dict[str, float]
    """TRL's figures of the last step; empty where the model was there already."""
    rewards: list[list[float | None]]
    """Of ``test``; None for an answer that cannot be scored."""
    test_left_out: dict[str, int]
    """How many of these there are, by reason."""
    demonstrations: int
    """That fitted, and have a mean reward of 0."""
    bias: float | None
    """Added to each reward for it; None where nothing is."""


def train_in_child(job: RewardJob, on_step: Callable[[int, int], None]) -> RewardResult:
    """Train a reward model and publish it.

    Args:
        on_step: Told how many optimizer steps are done, and of how many.

    Raises:
        SelfRewardError: Whatever the child raised, or that it died.
    """
    found: list[RewardResult] = []

    def hear(said: Any) -> None:
        if "step" in said:
            on_step(*said["step"])
        else:
            found.append(msgspec.convert(said["found"], RewardResult))

    plain = msgspec.to_builtins({"work": "train_reward", "job": job})
    with Child() as child:
        child.work(plain, "training process", hear=hear)
    return found[0]


def reward_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Do that in the child."""
    asked = msgspec.convert(job["job"], RewardJob)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    chat = _chat(Path(asked.model), asked.chat)
    rows, left_out = ranked_rows(asked.rankings, chat, asked.max_length)
    if not rows:
        why = ", ".join(f"{reason} {count}" for reason, count in left_out.items())
        raise ConfigError(
            f"--data: no ranking can be trained on; left out: {why}",
            f"Each needs two answers that fit into --max-length {asked.max_length}.",
        )
    shown = _demonstrations(asked, chat)
    held_out, test_left_out = _held_out(asked, chat)
    out = Path(asked.out)
    training = Training(
        method="reward",
        model=Path(asked.model),
        output=out,
        checkpoints=out.with_name(f"{out.name}.checkpoints"),
        options=asked.options,
        lora=None,
        seed=asked.seed,
        trust_remote_code=bool(asked.chat.get("trust_remote_code")),
        chat_template=asked.chat.get("chat_template"),
        demonstrations=shown,
        model_digest=asked.model_digest,
    )
    log: dict[str, float] = {}

    def on_log(step: int, figures: dict[str, float]) -> None:
        log.update(figures)

    def on_step(done: int, total: int) -> None:
        say({"step": [done, total]})

    fit_of("reward")(training, rows, on_log=on_log, on_step=on_step)
    rewards = _rewards(out, asked, held_out) if asked.test else []
    num_answers = sum(len(row.answers) for row in rows)
    bias = json.loads((out / "config.json").read_bytes()).get("reward_bias")
    found = RewardResult(
        len(rows), num_answers, dict(left_out), log, rewards, test_left_out, len(shown), bias
    )
    say({"found": msgspec.to_builtins(found)})


def _demonstrations(asked: RewardJob, chat: "Chat") -> tuple[tuple[int, ...], ...]:
    """Whole conversations; what a ranked answer would be left out for is left out here too."""
    each = [
        scored_ids(chat, messages_of(e.prompt, e.columns), e.response, asked.max_length)
        for e in asked.demonstrations
    ]
    found = [ids for ids in each if not isinstance(ids, str)]
    if asked.demonstrations and not found:
        raise ConfigError(
            f"--demonstrations: none of {len(asked.demonstrations)} can be scored; --max-length is "
            f"{asked.max_length}",
            "Name shorter ones, or `--demonstrations none` to leave rewards as they come.",
        )
    return tuple(found)


def _chat(model: Path, options: Mapping[str, Any]) -> "Chat":
    from selfreward.engines.chat import Chat

    today = options.get("today")
    return Chat(model, **{**options, "today": today and date.fromisoformat(today)})


def _held_out(
    asked: RewardJob, chat: "Chat"
) -> tuple[list[list[tuple[int, ...] | str]], dict[str, int]]:
    """Of each answer of ``test`` its conversation, or why it is not scored; and these counted.

    Raises:
        ConfigError: No two answers are left of which one is preferred.
    """
    found = [
        [
            scored_ids(chat, messages_of(r.prompt, r.columns), a.text, asked.max_length)
            for a in r.responses
        ]
        for r in asked.test
    ]
    left_out = Counter(ids for each in found for ids in each if isinstance(ids, str))
    kept = (
        {a.preference for a, ids in zip(r.responses, each, strict=True) if not isinstance(ids, str)}
        for r, each in zip(asked.test, found, strict=True)
    )
    if asked.test and not any(len(preferences) > 1 for preferences in kept):
        why = ", ".join(f"{reason} {count}" for reason, count in left_out.items())
        raise ConfigError(
            f"test: no two answers can be told apart; left out: {why}",
            f"Each prompt needs two that fit into max_length, {asked.max_length}.",
        )
    return found, dict(left_out)


def _rewards(
    model: Path, asked: RewardJob, held_out: Sequence[Sequence[tuple[int, ...] | str]]
) -> list[list[float | None]]:
    """What the trained model gives each answer, one at a time: no padding can matter."""
    import torch
    from transformers import AutoModelForSequenceClassification

    trusted = bool(asked.chat.get("trust_remote_code"))
    judge = AutoModelForSequenceClassification.from_pretrained(
        model, dtype=torch.float32, trust_remote_code=trusted, local_files_only=True
    ).eval()
    judge.to("cuda" if torch.cuda.is_available() else "cpu")

    def reward(ids: tuple[int, ...] | str) -> float | None:
        if isinstance(ids, str):
            return None
        with torch.no_grad():
            given = torch.tensor([ids], device=judge.device)
            return float(judge(input_ids=given, use_cache=False).logits)

    return [[reward(ids) for ids in each] for each in held_out]
