"""Supervised fine-tuning: SFT rows in, the next model out, with TRL's ``SFTTrainer``."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from selfreward.training.base import OnLog, OnStep, SftRow, Training
from selfreward.training.job import Job, plan
from selfreward.training.loop import is_published, load_policy, train
from selfreward.training.starts import share_starts

_IS_EFT = "is_eft"


def train_sft(
    training: Training, rows: Sequence[SftRow], *, on_log: OnLog, on_step: OnStep
) -> None:
    """Train a model on the completions of ``rows`` and publish the result.

    Called again after an interruption it goes on from the last whole checkpoint and gives the
    same losses and batches; called after it published, it does nothing.

    Args:
        rows: Trained on in a seeded random order, whole.
        on_log: Told the step, from 1, and TRL's figures of it (``loss``, ``grad_norm``,
            ``learning_rate``, ``mean_token_accuracy``, ``entropy``, ``num_tokens``, ``epoch``);
            with EFT rows also ``eft_loss_share``, the part of the step's loss that is theirs.
        on_step: Told (done, total) optimizer steps.

    Raises:
        ConfigError: No rows, or a wrong option.
        StoppedError: A figure or weight is not finite; nothing is published.
    """
    job = plan(training, rows)
    if not is_published(job):
        train(make_trainer(job, rows), job, rows, on_log=on_log, on_step=on_step)


class Weighted(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, whose loss is the weighted mean over the target tokens of an optimizer step.

    loss = sum of w nll / sum of w, over all micro-batches and processes, as TRL 1.16 takes its own
    mean; w is ``eft_weight`` for a target token of an EFT row, else 1. At ``eft_weight`` 1 this is
    TRL's loss, by TRL's own operations.

    Args:
        eft_weight: Above 0.
    """

    data_collator: Any

    def __init__(self, *args: Any, eft_weight: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._eft_weight = eft_weight
        if eft_weight != 1:  # the sum is divided by all weights of the step, whatever the model is
            self.model_accepts_loss_kwargs = True
        self._collate, self.data_collator = self.data_collator, self._with_kinds
        self._nll = torch.zeros(2)
        """Weighted, of the current step: of all rows, of the EFT rows."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if _IS_EFT not in self._signature_columns:
            self._signature_columns.append(_IS_EFT)

    def _with_kinds(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self._collate(examples)
        return batch | {_IS_EFT: torch.tensor([example[_IS_EFT] for example in examples])}

    def _weights(self, is_eft: torch.Tensor) -> torch.Tensor:
        """By row, as a column; both kinds so scaled that none is below 1, where TRL would clamp."""
        least = min(1.0, self._eft_weight)
        return torch.where(is_eft, self._eft_weight / least, 1 / least)[:, None]

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Any:
        counted = super()._get_num_items_in_batch(batch_samples, device)
        if self._eft_weight == 1:
            return counted
        weight = sum(
            (self._weights(batch[_IS_EFT]) * (batch["labels"][:, 1:] != -100)).sum()
            for batch in batch_samples
        )
        weight = torch.as_tensor(weight).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            weight = self.accelerator.gather(weight).sum()
        return weight

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """Hand TRL log-probabilities that are weighted already, and note whose they are."""
        inputs = dict(inputs)
        is_eft = inputs.pop(_IS_EFT)

        def weighted(**asked: Any) -> Any:
            outputs = model(**asked)
            if self._eft_weight != 1:
                outputs.log_probs = outputs.log_probs * self._weights(is_eft)
            by_row = -outputs.log_probs.detach().sum(1).float()
            found = torch.stack([by_row.sum(), by_row[is_eft].sum()])
            self._nll = self._nll.to(found.device) + found
            return outputs

        return super().compute_loss(weighted, inputs, *args, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of the EFT rows."""
        whole, eft = self.accelerator.reduce(self._nll.to(self.accelerator.device)).tolist()
        self._nll = torch.zeros(2)
        if whole > 0:  # else this is the summary after the last step
            logs["eft_loss_share"] = eft / whole
        super().log(logs, start_time)


def make_trainer(job: Job, rows: Sequence[SftRow]) -> SFTTrainer:
    """Return TRL's trainer, its data set laid out row by row as it will be trained on."""
    config = SFTConfig(**job.arguments)
    policy, tokenizer = load_policy(job.training)
    share_starts(policy, job.training.share_starts)
    mixed = any(row.is_eft for row in rows)
    kind = partial(Weighted, eft_weight=job.training.eft_weight) if mixed else SFTTrainer
    return kind(
        policy,
        args=config,
        train_dataset=_dataset(rows, mixed).select(job.order(config, rows)),
        processing_class=tokenizer,
        peft_config=job.lora,
    )


def _dataset(rows: Sequence[SftRow], mixed: bool) -> Dataset:
    # With both columns TRL prepares nothing: it takes ids and labels as they are.
    columns: dict[str, list[Any]] = {
        "input_ids": [[*row.prompt_ids, *row.completion_ids] for row in rows],
        "labels": [[-100] * len(row.prompt_ids) + [*row.completion_ids] for row in rows],
    }
    if mixed:
        columns[_IS_EFT] = [row.is_eft for row in rows]
    return Dataset.from_dict(columns)
