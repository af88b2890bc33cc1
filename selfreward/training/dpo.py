"""Direct preference optimization: pairs in, the next model out, with TRL's ``DPOTrainer``."""

import copy
from collections.abc import Sequence

import torch
from datasets import Dataset
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer

from selfreward.training.base import DpoRow, OnLog, OnStep, Training
from selfreward.training.loop import Job, is_published, is_sharded, load_policy, plan, train


def train_dpo(
    training: Training, rows: Sequence[DpoRow], *, on_log: OnLog, on_step: OnStep
) -> None:
    """Train a model on preference pairs against itself as the reference.

    Arguments, resume and errors are those of ``sft.train_sft``, with TRL's ``DPOConfig``.
    ``on_log`` gets, besides ``loss`` and ``grad_norm``, TRL's ``rewards/chosen``,
    ``rewards/rejected``, ``rewards/margins``, ``rewards/accuracies``, ``logps/chosen``,
    ``logps/rejected``, ``logits/chosen`` and ``logits/rejected``.

    Source: Rafailov et al. 2023, arXiv 2305.18290.
    """
    job = plan(training, rows)
    if not is_published(job):
        train(make_trainer(job, rows), job, rows, on_log=on_log, on_step=on_step)


def make_trainer(job: Job, rows: Sequence[DpoRow]) -> DPOTrainer:
    """Return TRL's trainer, its data set laid out row by row as it will be trained on.

    With ``precompute_ref_log_probs``, which is our default, the data set holds the reference's
    log-probabilities already.
    """
    trust = job.training.trust_remote_code
    ours = {"precompute_ref_log_probs": False, "trust_remote_code": trust}
    config = DPOConfig(**{**job.arguments, **ours})
    policy, tokenizer = load_policy(job.training)
    # A model in shards that has an adapter can be asked only while it is trained.
    asked_once = job.arguments["precompute_ref_log_probs"] and not (is_sharded() and job.lora)
    # A shallow copy shares the weights: the policy before its first step is the reference. Shards
    # cannot be shared so: without a copy TRL loads the reference, in shards, from the start model.
    shares = asked_once and not is_sharded() and job.lora is None
    trainer = DPOTrainer(
        policy,
        ref_model=copy.copy(policy) if shares else None,
        args=config,
        train_dataset=_PLACEHOLDER,
        processing_class=tokenizer,
        peft_config=job.lora,
    )
    if trainer.is_fsdp_enabled and trainer.ref_model is not None:
        _fill_shards(trainer)
    data = _dataset(rows)
    if asked_once:
        data = _with_reference(trainer, data, [row.length for row in rows])
        trainer.ref_model = None
        trainer.precompute_ref_logps = True
    trainer.train_dataset = data.select(job.order(config, rows))
    return trainer


# DPOTrainer tokenizes the data set it is made with, come what may, but trains on these columns
# of the one it has when training starts.
_PLACEHOLDER = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})


def _dataset(rows: Sequence[DpoRow]) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt_ids": [list(row.prompt_ids) for row in rows],
            "chosen_ids": [list(row.chosen_ids) for row in rows],
            "rejected_ids": [list(row.rejected_ids) for row in rows],
        }
    )


def _fill_shards(trainer: DPOTrainer) -> None:
    """Give the reference the weights of the policy, which is whole until it is trained.

    Where the first process alone reads the model (``fsdp_cpu_ram_efficient_loading``), TRL 1.16
    leaves the others' shards of the reference empty; the losses look right, and are not.
    """
    state = trainer.model.state_dict() if trainer.is_world_process_zero() else {}
    whole = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(trainer.ref_model, state, options=whole)


def _with_reference(trainer: DPOTrainer, data: Dataset, lengths: Sequence[int]) -> Dataset:
    """Add the reference's log-probabilities; TRL's own way tolerates no tokenized rows.

    Each process asks for its share of the rows, and gets all of them.
    """
    config, reference = trainer.args, trainer.ref_model or trainer.model
    order = sorted(range(len(data)), key=lambda row: -lengths[row])
    loader = DataLoader(
        data.select(order),
        batch_size=config.precompute_ref_batch_size or config.per_device_train_batch_size,
        collate_fn=trainer.data_collator,
    )
    batches = [
        trainer.accelerator.gather_for_metrics(trainer.compute_ref_log_probs(reference, batch))
        for batch in trainer.accelerator.prepare(loader)
    ]
    back = torch.argsort(torch.tensor(order))
    for column, parts in zip(
        ("ref_chosen_logps", "ref_rejected_logps"), zip(*batches, strict=True), strict=True
    ):
        data = data.add_column(column, torch.cat(parts).cpu()[back].tolist())
    return data
