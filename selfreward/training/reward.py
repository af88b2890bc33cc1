"""Reward model: ranked answers in, a model that gives each a number out, with TRL's trainer."""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, TrainerCallback, set_seed
from trl import RewardConfig, RewardTrainer
from trl.trainer.utils import pad

from selfreward.training.base import OnLog, OnStep, RankedRow, Training
from selfreward.training.job import Job, plan
from selfreward.training.loop import is_published, load_policy, train

_COLUMNS = ("answers", "preferences")
# RewardTrainer prepares the data set it is made with, but trains on the one it has when it starts.
_PLACEHOLDER = Dataset.from_dict({"chosen_ids": [[0]], "rejected_ids": [[0]]})


def train_reward(
    training: Training, rows: Sequence[RankedRow], *, on_log: OnLog, on_step: OnStep
) -> None:
    """Train a sequence classifier with one label, the reward, and publish it.

    The model is the start model with a scalar head, drawn by the seed, in place of the unembedding.
    Arguments, resume and errors are those of ``sft.train_sft``, with TRL's ``RewardConfig``.
    ``on_log`` gets, besides ``loss`` and ``grad_norm``, TRL's ``accuracy`` (share of the pairs
    whose better answer has the higher reward), ``margin``, ``min_reward``, ``mean_reward`` and
    ``max_reward``. With ``training.demonstrations`` the rewards are shifted, see ``Centered``.

    Source: InstructGPT (Ouyang et al. 2022, arXiv 2203.02155, section 3.5).
    """
    job = plan(training, rows)
    if not is_published(job):
        train(make_trainer(job, rows), job, rows, on_log=on_log, on_step=on_step)


class KWise(RewardTrainer):  # type: ignore[misc]
    """TRL's trainer with all answers to a prompt in one batch element, each read once.

    loss = mean over the prompts of a micro-batch of (1 / P) x the sum over their P pairs of
    -log sigmoid(r(better) - r(worse)); P is C(K, 2) for K answers in a strict order. A tie is no
    pair, so a prompt weighs the same whatever its ties. At K = 2 it is TRL 1.16's loss, as is the
    term of ``center_rewards_coefficient``, which is taken over the same pairs.

    Source: InstructGPT, arXiv 2203.02155, equation 1.
    """

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*_COLUMNS]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        """The loss of a micro-batch, see above; its figures are noted as TRL notes them."""
        inputs = dict(inputs)
        better, worse, share = (inputs.pop(name) for name in ("better", "worse", "share"))
        outputs = model(**inputs, use_cache=False)
        rewards = outputs.logits.squeeze(-1).float()
        apart = rewards[better] - rewards[worse]
        loss = (-logsigmoid(apart) * share).sum()
        if (center := self.args.center_rewards_coefficient) is not None:
            loss = loss + center * ((rewards[better] + rewards[worse]) ** 2 * share).sum()
        with torch.no_grad():
            tokens = self.accelerator.gather(inputs["attention_mask"].sum()).sum()
            self._total_train_tokens += int(tokens)
            figures = {
                "min_reward": rewards.min(),
                "mean_reward": rewards.mean(),
                "max_reward": rewards.max(),
                "accuracy": ((apart > 0).float() * share).sum(),
                "margin": (apart * share).sum(),
            }
            for name, value in figures.items():
                self._metrics["train"][name].append(self.accelerator.gather(value).mean().item())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return (loss, outputs) if return_outputs else loss


class Centered(TrainerCallback):  # type: ignore[misc]
    """Once trained, gives the model the bias with which demonstrations have a mean reward of 0.

    The scalar heads of transformers have no bias, so it is ``reward_bias`` of the model's config,
    which ``engines/reward.py`` adds. No difference between two answers depends on it.

    Source: InstructGPT, arXiv 2203.02155, section 3.5, where it is set before the model rewards.
    """

    def __init__(self, demonstrations: Sequence[Sequence[int]]) -> None:
        self.demonstrations = demonstrations

    def on_train_end(self, *_: Any, model: Any, **__: Any) -> None:
        """Told by the trainer after the last step, before the model is published."""
        was_training = model.training
        model.eval()
        with torch.no_grad():
            rewards = [
                float(model(torch.tensor([ids], device=model.device), use_cache=False).logits)
                for ids in self.demonstrations
            ]
        model.train(was_training)
        model.config.reward_bias = -math.fsum(rewards) / len(rewards)


def make_trainer(job: Job, rows: Sequence[RankedRow]) -> KWise:
    """Return TRL's trainer, its data set laid out row by row as it will be trained on."""
    config = RewardConfig(**job.arguments)
    set_seed(job.training.seed)  # the head is drawn
    policy, tokenizer = load_policy(job.training, AutoModelForSequenceClassification, num_labels=1)
    vars(policy.config).pop("reward_bias", None)  # of a start model that was one of these
    trainer = KWise(
        policy, args=config, train_dataset=_PLACEHOLDER, processing_class=tokenizer,
    )  # fmt: skip
    if job.training.demonstrations:
        trainer.add_callback(Centered(job.training.demonstrations))
    pad_id = policy.config.get_text_config().pad_token_id
    trainer.data_collator = lambda examples: _batch(examples, pad_id)
    columns = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
    trainer.train_dataset = Dataset.from_dict(columns).select(job.order(config, rows))
    return trainer


def _batch(examples: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """All answers to some prompts as rows of ids, and which row is better than which."""
    ids: list[torch.Tensor] = []
    better: list[int] = []
    worse: list[int] = []
    share: list[float] = []
    for example in examples:
        first, preferences = len(ids), example["preferences"]
        ids += map(torch.tensor, example["answers"])
        order = [
            (a, b)
            for a, b in permutations(range(len(preferences)), 2)
            if preferences[a] > preferences[b]
        ]
        better += [first + a for a, _ in order]
        worse += [first + b for _, b in order]
        share += [1 / (len(order) * len(examples))] * len(order)
    masks = [torch.ones_like(row) for row in ids]
    return {
        "input_ids": pad(ids, padding_value=pad_id, padding_side="right"),
        "attention_mask": pad(masks, padding_value=0, padding_side="right"),
        "better": torch.tensor(better),
        "worse": torch.tensor(worse),
        "share": torch.tensor(share),
    }
