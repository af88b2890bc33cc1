"""Supervised fine-tuning: SFT rows in, the next model out, with TRL's ``SFTTrainer``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from selfreward.training.base import OnLog, OnStep, SftRow
from selfreward.training.loop import Job, is_published, load_policy, plan, train


def train_sft(
    model: Path,
    rows: Sequence[SftRow],
    *,
    output: Path,
    checkpoints: Path,
    options: Mapping[str, object],
    lora: Mapping[str, object] | None,
    seed: int,
    on_log: OnLog,
    on_step: OnStep,
    trust_remote_code: bool = False,
) -> None:
    """Train ``model`` on the completions of ``rows`` and publish the result as ``output``.

    Called again after an interruption it goes on from the last whole checkpoint and gives the
    same losses and batches; called after it published, it does nothing.

    Args:
        model: Start model, as ``models.resolve`` returns it; left as it is.
        rows: Trained on in a seeded random order, whole.
        output: Directory to publish: float32 ``model.safetensors``, config, tokenizer.
        checkpoints: Directory for checkpoints, removed after the publish.
        options: TRL's ``SFTConfig`` by its own names.
        lora: peft's ``LoraConfig`` by its own names; the adapter is merged. None trains all.
        seed: Decides order, dropout and adapter initialization.
        on_log: Told the step, from 1, and TRL's figures of it (``loss``, ``grad_norm``,
            ``learning_rate``, ``mean_token_accuracy``, ``entropy``, ``num_tokens``, ``epoch``).
        on_step: Told (done, total) optimizer steps.
        trust_remote_code: Whether code in ``model`` may run.

    Raises:
        ConfigError: No rows, or a wrong option.
        StoppedError: A figure or weight is not finite; nothing is published.
    """
    job = plan(
        "sft",
        rows,
        model=model,
        output=output,
        checkpoints=checkpoints,
        options=options,
        lora=lora,
        seed=seed,
    )
    if is_published(job):
        return
    trainer = make_trainer(job, rows, trust_remote_code=trust_remote_code)
    train(trainer, job, on_log=on_log, on_step=on_step)


def make_trainer(
    job: Job, rows: Sequence[SftRow], *, trust_remote_code: bool = False
) -> SFTTrainer:
    """Return TRL's trainer, its data set laid out row by row as it will be trained on."""
    config = SFTConfig(**job.arguments)
    policy, tokenizer = load_policy(job.model, trust_remote_code)
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
