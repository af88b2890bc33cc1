"""Supervised fine-tuning: SFT rows in, the next model out, with TRL's ``SFTTrainer``."""

from collections.abc import Sequence

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from selfreward.training.base import OnLog, OnStep, SftRow, Training
from selfreward.training.loop import Job, is_published, load_policy, plan, train


def train_sft(
    training: Training, rows: Sequence[SftRow], *, on_log: OnLog, on_step: OnStep
) -> None:
    """Train a model on the completions of ``rows`` and publish the result.

    Called again after an interruption it goes on from the last whole checkpoint and gives the
    same losses and batches; called after it published, it does nothing.

    Args:
        rows: Trained on in a seeded random order, whole.
        on_log: Told the step, from 1, and TRL's figures of it (``loss``, ``grad_norm``,
            ``learning_rate``, ``mean_token_accuracy``, ``entropy``, ``num_tokens``, ``epoch``).
        on_step: Told (done, total) optimizer steps.

    Raises:
        ConfigError: No rows, or a wrong option.
        StoppedError: A figure or weight is not finite; nothing is published.
    """
    job = plan(training, rows)
    if not is_published(job):
        train(make_trainer(job, rows), job, rows, on_log=on_log, on_step=on_step)


def make_trainer(job: Job, rows: Sequence[SftRow]) -> SFTTrainer:
    """Return TRL's trainer, its data set laid out row by row as it will be trained on."""
    config = SFTConfig(**job.arguments)
    policy, tokenizer = load_policy(job.training)
    return SFTTrainer(
        policy,
        args=config,
        train_dataset=_dataset(rows).select(job.order(config, rows)),
        processing_class=tokenizer,
        peft_config=job.lora,
    )


def _dataset(rows: Sequence[SftRow]) -> Dataset:
    # With both columns TRL prepares nothing: it takes ids and labels as they are.
    return Dataset.from_dict(
        {
            "input_ids": [[*row.prompt_ids, *row.completion_ids] for row in rows],
            "labels": [[-100] * len(row.prompt_ids) + [*row.completion_ids] for row in rows],
        }
    )
