"""A training with all that it depends on settled, before a model is loaded.

Training, rows -> options checked -> digest, arguments of TRL, and which row is trained on when
"""

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig
from transformers import TrainingArguments

from selfreward.errors import ConfigError
from selfreward.training.base import DpoRow, OnlineRow, Row, SftRow, Training, num_processes
from selfreward.training.options import check_lora, chosen_options, trl_arguments


@dataclass(frozen=True, slots=True)
class Job:
    """A training with all that it depends on settled."""

    training: Training
    digests: tuple[str, ...]
    """What a checkpoint must agree with one of. The first is of start model, method, rows, options,
    LoRA options, seed, chat template and the number of processes; the other one, that of earlier
    versions, lacks start model and template."""
    arguments: dict[str, Any]
    """For TRL's config class."""
    lora: LoraConfig | None
    epochs: float

    @property
    def digest(self) -> str:
        """With which its checkpoints and its model are sealed."""
        return self.digests[0]

    def order(self, config: TrainingArguments, rows: Sequence[Row]) -> list[int]:
        """Return which row is trained on when, over all epochs or ``max_steps``."""
        at_once = config.train_batch_size * config.world_size
        per_step = at_once * config.gradient_accumulation_steps
        in_all = max(1, round(self.epochs * len(rows)))
        if config.world_size > 1:
            # Each process needs a whole batch at the end too. Accelerate would fill it up with the
            # first rows, which are the longest of their step; these are the next in order.
            in_all = math.ceil(in_all / at_once) * at_once
        return step_order(
            [row.length for row in rows],
            rows_per_step=per_step,
            num_rows=per_step * config.max_steps if config.max_steps > 0 else in_all,
            seed=self.training.seed,
        )


def plan(training: Training, rows: Sequence[Row]) -> Job:
    """Check the options and settle all that the training depends on.

    Raises:
        ConfigError: There are no rows, or an option is wrong.
    """
    method, seed, processes = training.method, training.seed, num_processes()
    if not rows:
        raise ConfigError(f"{training.key}: no rows to train on")
    chosen = chosen_options(method, training.options, training.key)
    adapter = None if training.lora is None else check_lora(training.lora)
    # When checkpoints are written decides nothing; told as it was in earlier versions, whose count.
    decides = {**chosen, "save_steps": 0.2, "save_total_limit": 2}
    told: list[Any] = [method, [_ids(row) for row in rows], decides, adapter, seed]
    if processes > 1:
        told.append(processes)  # batch sizes are per process
    if any(is_weighted(row) for row in rows):
        told.append([(row.weight, row.turned) for row in rows if isinstance(row, DpoRow)])
    known = [row.reference for row in rows if isinstance(row, DpoRow)]
    if any(known):
        told.append(known)
    if training.eft_weight != 1:
        told.append([training.eft_weight, [isinstance(r, SftRow) and r.is_eft for r in rows]])
    if training.demonstrations:
        told.append(training.demonstrations)
    if training.quantization is not None:
        told.append(training.quantization.model_dump())
    if training.mix:
        told.append([training.ptx, [_ids(row) for row in training.mix]])
    arguments = trl_arguments(
        method, chosen, checkpoints=training.checkpoints, seed=seed, processes=processes
    )
    epochs = float(chosen["num_train_epochs"])
    config = None if adapter is None else LoraConfig(task_type="CAUSAL_LM", **adapter)
    return Job(training, digests_of(told, training), arguments, config, epochs)


def digests_of(told: Sequence[Any], training: Training) -> tuple[str, ...]:
    """See ``Job.digests``.

    Args:
        told: All that decides what is trained, but for the model that it starts from.
    """
    former = hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()
    if training.model_digest is None:
        return (former,)
    whole = json.dumps([former, training.model_digest, training.chat_template])
    return hashlib.sha256(whole.encode()).hexdigest(), former


def is_weighted(row: Row) -> bool:
    """Whether it is a pair that does not count once, as it is."""
    return isinstance(row, DpoRow) and (row.weight, row.turned) != (1, 0)


def _ids(row: Row) -> tuple[Any, ...]:
    if isinstance(row, SftRow):
        return row.prompt_ids, row.completion_ids
    if isinstance(row, DpoRow):
        return row.prompt_ids, row.chosen_ids, row.rejected_ids
    if isinstance(row, OnlineRow):
        return (row.prompt_ids,)
    return row.answers, row.preferences


def step_order(
    lengths: Sequence[int], *, rows_per_step: int, num_rows: int, seed: int
) -> list[int]:
    """Return indices of rows, ``num_rows`` in all, every epoch shuffled anew.

    The rows of one optimizer step are a random sample, and within a step they are sorted by
    length, longest first, so that its micro-batches need little padding. Sorting further, over
    several steps (as ``group_by_length`` of transformers does), would make steps of long rows
    and steps of short ones; and its order depends on the global random state, which a resume
    does not bring back before the batches are drawn.

    Args:
        lengths: Tokens of each row.
        rows_per_step: Rows of an optimizer step, over all micro-batches and processes.
        num_rows: How many rows to draw; more than ``len(lengths)`` begins a new epoch.
        seed: Decides the order together with the number of rows.
    """
    order: list[int] = []
    for epoch in range(-(-num_rows // len(lengths))):
        rows = list(range(len(lengths)))
        random.Random(f"{seed}/{epoch}").shuffle(rows)
        order += rows
    order = order[:num_rows]
    steps = [order[i : i + rows_per_step] for i in range(0, num_rows, rows_per_step)]
    return [row for step in steps for row in sorted(step, key=lambda row: -lengths[row])]
