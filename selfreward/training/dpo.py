"""Direct preference optimization: pairs in, the next model out, with TRL's ``DPOTrainer``."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer

from selfreward.errors import ConfigError
from selfreward.training.base import DpoRow, OnLog, OnStep, Training
from selfreward.training.job import Job, is_weighted, plan
from selfreward.training.loop import is_published, is_sharded, load_policy, train
from selfreward.training.starts import share_starts


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


class Weighted(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, whose loss weighs each pair, as it is and with its responses exchanged.

    loss = mean over the pairs of weight x L(chosen, rejected) + turned x L(rejected, chosen), with
    L the sum of TRL 1.16's ``sigmoid`` and ``sft`` losses by their ``loss_weights``; ``sft`` stays
    the mean over the tokens of a micro-batch. At weight 1 and turned 0 it is TRL's loss, by TRL's
    own operations. The reference has to have been asked before the first step.

    Source: CREAM, arXiv 2410.12735 (weight C, turned 1 - C); ScPO, arXiv 2411.04109 (weight the
    margin of the vote shares, turned 0).
    """

    data_collator: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._collate, self.data_collator = self.data_collator, self._with_weights

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [c for c in _WEIGHTS if c not in self._signature_columns]

    def _with_weights(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self._collate(examples)
        there = [name for name in _WEIGHTS if name in examples[0]]  # not if the reference is asked
        return batch | {n: torch.tensor([example[n] for example in examples]) for n in there}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """Add to TRL's loss what the weights change in it."""
        inputs = dict(inputs)
        weight, turned = (inputs.pop(name) for name in _WEIGHTS)
        seen: list[torch.Tensor] = []

        def watched(**asked: Any) -> Any:
            outputs = model(**asked)
            seen.append(outputs.log_probs)
            return outputs

        loss = super().compute_loss(watched, inputs, *args, **named)
        mask = inputs["completion_mask"]
        chosen, rejected = seen[0][:, 1 - mask.size(1) :].sum(1).chunk(2)
        margin = chosen - inputs["ref_chosen_logps"] - rejected + inputs["ref_rejected_logps"]
        lengths = mask.sum(1).chunk(2)
        for name, coefficient in zip(self.loss_types, self.loss_weights, strict=True):
            if name == "sigmoid":
                kept, exchanged = (-logsigmoid(sign * self.beta * margin) for sign in (1, -1))
            else:  # `sft`, as a mean over pairs
                kept, exchanged = (
                    -logps * len(logps) / length.sum()
                    for logps, length in zip((chosen, rejected), lengths, strict=True)
                )
            loss = loss + coefficient * ((weight - 1) * kept + turned * exchanged).mean()
        return loss


def make_trainer(job: Job, rows: Sequence[DpoRow]) -> DPOTrainer:
    """Return TRL's trainer, its data set laid out row by row as it will be trained on.

    With ``precompute_ref_log_probs``, which is our default, the data set holds the reference's
    log-probabilities already: those that a row brings along, and of the other rows the answers of
    the reference.
    """
    trust = job.training.trust_remote_code
    ours = {"precompute_ref_log_probs": False, "trust_remote_code": trust}
    config = DPOConfig(**{**job.arguments, **ours})
    policy, tokenizer = load_policy(job.training)
    share_starts(policy, job.training.share_starts)
    # A model in shards that has an adapter can be asked only while it is trained.
    asked_once = job.arguments["precompute_ref_log_probs"] and not (is_sharded() and job.lora)
    # A shallow copy shares the weights: the policy before its first step is the reference. Shards
    # cannot be shared so: without a copy TRL loads the reference, in shards, from the start model.
    shares = asked_once and not is_sharded() and job.lora is None
    weighted = any(map(is_weighted, rows))
    if weighted and not asked_once:
        raise ConfigError(
            "dpo.weigh_by needs the reference's log-probabilities before the first step",
            "Not with dpo.precompute_ref_log_probs=false, nor LoRA in shards (FSDP, DeepSpeed).",
        )
    trainer = (Weighted if weighted else DPOTrainer)(
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
        data = _with_reference(trainer, data, rows)
        trainer.ref_model = None
        trainer.precompute_ref_logps = True
    if weighted:
        for name in _WEIGHTS:
            data = data.add_column(name, [float(getattr(row, name)) for row in rows])
    trainer.train_dataset = data.select(job.order(config, rows))
    return trainer


_WEIGHTS = ("weight", "turned")
"""Columns of the data set, named as in ``DpoRow``."""
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


def _with_reference(trainer: DPOTrainer, data: Dataset, rows: Sequence[DpoRow]) -> Dataset:
    """Add the reference's log-probabilities; TRL's own way tolerates no tokenized rows."""
    found = {i: row.reference for i, row in enumerate(rows) if row.reference is not None}
    order = sorted({*range(len(rows))} - found.keys(), key=lambda i: -rows[i].length)
    if order:
        found |= zip(order, _asked(trainer, data.select(order)), strict=True)
    for at, column in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
        data = data.add_column(column, [found[i][at] for i in range(len(rows))])
    return data


def _asked(trainer: DPOTrainer, data: Dataset) -> list[tuple[float, float]]:
    """What the reference gives chosen and rejected completions, in nats.

    Each process asks for its share of the rows, and gets all of them.
    """
    config = trainer.args
    reference = trainer.model if trainer.ref_model is None else trainer.ref_model
    loader = DataLoader(
        data,
        batch_size=config.precompute_ref_batch_size or config.per_device_train_batch_size,
        collate_fn=trainer.data_collator,
    )
    batches = [
        trainer.accelerator.gather_for_metrics(trainer.compute_ref_log_probs(reference, batch))
        for batch in trainer.accelerator.prepare(loader)
    ]
    chosen, rejected = (torch.cat(parts).tolist() for parts in zip(*batches, strict=True))
    return list(zip(chosen, rejected, strict=True))
