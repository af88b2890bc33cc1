"""What methods share that sample while they train: RLOO and GRPO, thin over TRL.

    prompts -> TRL samples num_generations completions of each -> our judges -> points, or no
    verdict -> advantage within a prompt's completions -> loss, KL to the reference M(t)

TRL has no PPO any more. What PPO clips, the ratio of the policy to the one that sampled, GRPO clips
too, once samples are used for several updates (``num_iterations``); what it lacks is PPO's value
model, in whose place the completions of a prompt are each other's baseline.

With ``ptx`` the loss has a second term: an SFT loss on rows of the seed step, as many of them as
there are completions in a micro-batch. It keeps the policy near what people wrote.

TRL 1.16 takes a completion without a reward out of its group: it is in no mean, and its advantage
is 0. In a group with less than two rewards nobody has an advantage. GRPO's KL, which is a part of
its loss, is taken over all.
"""

import math
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from selfreward.measures.curves import MIXED, NO_VERDICT, SAMPLED
from selfreward.training.base import (
    OnlineRow,
    OnLog,
    OnStep,
    Rewards,
    SftRow,
    Training,
    Verdict,
)
from selfreward.training.job import Job, plan, step_order
from selfreward.training.loop import is_published, load_policy, train

with warnings.catch_warnings():
    # Said wherever another vLLM is there; ``options.check_vllm`` says it where it is used.
    warnings.filterwarnings("ignore", "TRL currently supports vLLM", UserWarning)
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

_ROW = "row"
_GRID = 2**12
"""Rewards are rounded to so many parts of a point. TRL takes means in 32 bits: of equal rewards
with longer fractions they are another number, by a rounding, and Adam makes steps of any size out
of that. On this grid sums are exact, and equal rewards have no advantage."""


def train_online(
    kind: type["Sampled"],
    training: Training,
    rows: Sequence[OnlineRow],
    *,
    rewards: Rewards,
    on_log: OnLog,
    on_step: OnStep,
) -> None:
    """Train on rewards of what is sampled; see ``rloo.train_rloo``."""
    job = plan(training, rows)
    if not is_published(job):
        trainer = make_trainer(kind, job, rows, rewards)
        train(trainer, job, rows, on_log=on_log, on_step=on_step)


def place_in_mix(at: int, size: int, seed: int) -> int:
    """Which row of the mix is taken as the ``at``-th, from 0: each once an epoch, shuffled anew.

    Args:
        size: Rows of the mix.
        seed: Decides the order together with ``size``.
    """
    epoch, within = divmod(at, size)
    return _shuffled(size, f"{seed}/{epoch}")[within]


@cache
def _shuffled(size: int, seed: str) -> tuple[int, ...]:
    return tuple(random.Random(seed).sample(range(size), size))


class Sampled:
    """Before a trainer of TRL: prompts are token ids, and what has no verdict is counted.

    Args:
        rewards: Of the completions, instead of TRL's ``reward_funcs``.
    """

    config: type

    def __init__(self, *args: Any, rewards: Rewards, training: Training, **named: Any) -> None:
        self._rewards = rewards
        self._found: Counter[str] = Counter()
        self._mix, self._ptx, self._seed = training.mix, training.ptx, training.seed
        self._mixed: list[float] = []
        super().__init__(*args, reward_funcs=self.points, **named)  # type: ignore[call-arg]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **named: Any) -> torch.Tensor:
        """TRL's, and the mix."""
        loss: torch.Tensor = super().compute_loss(model, inputs, *args, **named)  # type: ignore[misc]
        if not self._mix:
            return loss
        trainer: Any = self
        at_once, parts = len(inputs["completion_ids"]), trainer.current_gradient_accumulation_steps
        part = (trainer._step - 1) % parts  # which counts anew after a resume
        first = (trainer.state.global_step * parts + part) * at_once
        taken = range(first, first + at_once)
        rows = [self._mix[place_in_mix(at, len(self._mix), self._seed)] for at in taken]
        mixed = sft_loss(model, rows, trainer.processing_class.pad_token_id, loss.device)
        self._mixed.append(mixed.item())
        # GRPO's loss is divided by the parts of a step already, RLOO's is afterwards.
        return loss + self._ptx * mixed / (parts if trainer.loss_is_scaled_for_ga else 1)

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, Any]:
        return prompts, None, {}

    def points(self, *, completion_ids: list[list[int]], row: list[int], **_: Any) -> Any:
        """TRL's reward function: points of each completion, None where there is no verdict."""
        size: int = self.num_generations  # type: ignore[attr-defined]
        groups = range(0, len(row), size)
        found = self._rewards([(row[i], completion_ids[i : i + size]) for i in groups])
        verdicts = [verdict for group in found for verdict in group]
        self._found += Counter(map(_figure, verdicts))
        return [_points(verdict) for verdict in verdicts]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was sampled since the last step, and what of it has no verdict."""
        if "loss" in logs and (sampled := self._found.total()):
            logs[SAMPLED] = sampled
            logs[NO_VERDICT] = sampled - self._found.pop(SAMPLED, 0)
            logs.update(self._found)
            self._found = Counter()
        if "loss" in logs and self._mixed:
            logs[MIXED] = sum(self._mixed) / len(self._mixed)
            self._mixed = []
        super().log(logs, start_time)  # type: ignore[misc]


class RlooSampled(Sampled, RLOOTrainer):  # type: ignore[misc]
    """``RLOOTrainer`` with our prompts and rewards."""

    config = RLOOConfig


class GrpoSampled(Sampled, GRPOTrainer):  # type: ignore[misc]
    """``GRPOTrainer`` with our prompts and rewards."""

    config = GRPOConfig


def sft_loss(model: Any, rows: Sequence[SftRow], pad_id: int, device: torch.device) -> torch.Tensor:
    """Mean negative log-likelihood of all target tokens of some rows, in nats.

    Args:
        pad_id: Fills rows up, seen by nobody.
    """
    longest = max(row.length for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : row.length] = torch.tensor([*row.prompt_ids, *row.completion_ids])
        labels[at, len(row.prompt_ids) : row.length] = torch.tensor(row.completion_ids)
        mask[at, : row.length] = 1
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    targets = labels[:, 1:].to(device)
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten())


def _figure(verdict: Verdict) -> str:
    return SAMPLED if verdict.score is not None else f"{NO_VERDICT}/{verdict.reason}"


def _points(verdict: Verdict) -> float | None:
    return None if verdict.score is None else round(verdict.score * _GRID) / _GRID


def make_trainer(kind: type[Sampled], job: Job, rows: Sequence[OnlineRow], rewards: Rewards) -> Any:
    """Return TRL's trainer, its prompts laid out as they will be sampled from.

    A checkpoint holds no samples, so it is written when those of a generation are used up: a
    resume samples anew what would have been sampled, from the same random state.
    """
    trust = job.training.trust_remote_code
    make = partial(kind.config, **job.arguments, trust_remote_code=trust)
    config = make()
    # Optimizer steps, and then generations, until both begin together.
    micro_steps = config.steps_per_generation * config.num_iterations
    steps = math.lcm(micro_steps, config.gradient_accumulation_steps)
    steps //= config.gradient_accumulation_steps
    at_once = config.generation_batch_size // config.num_generations
    if config.max_steps > 0:
        used = config.max_steps * config.gradient_accumulation_steps
        generations = math.ceil(used / micro_steps)
    else:
        generations = math.ceil(max(1, round(job.epochs * len(rows))) / at_once)
        used = generations * micro_steps
    total = max(1, used // config.gradient_accumulation_steps)
    save = config.save_steps
    save = math.ceil(save * total if save < 1 else save)
    config = make(save_steps=math.ceil(save / steps) * steps)
    order = step_order(
        [row.length for row in rows],
        rows_per_step=at_once,
        num_rows=generations * at_once,
        seed=job.training.seed,
    )
    policy, tokenizer = load_policy(job.training)
    policy.generation_config.eos_token_id = sorted(rewards.end_ids)
    return kind(
        policy,
        rewards=rewards,
        training=job.training,
        args=config,
        train_dataset=Dataset.from_dict(
            {"prompt": [list(rows[i].prompt_ids) for i in order], _ROW: order}
        ),
        processing_class=tokenizer,
        peft_config=job.lora,
    )
