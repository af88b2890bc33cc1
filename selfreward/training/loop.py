"""What SFT and DPO share: load a policy, run a TRL trainer to its end, publish what came out.

load_policy -> Trainer -> train: resume, watch, seal checkpoints -> model directory
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import torch
import transformers
import trl.trainer.utils
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from selfreward import durable
from selfreward.errors import ConfigError, IntegrityError, StoppedError
from selfreward.training import DpoRow, SftRow
from selfreward.training.checkpoints import (
    last_complete_checkpoint,
    remove_others,
    seal_checkpoint,
)
from selfreward.training.options import COMMON, DEFAULTS, Method, check_lora, check_options
from selfreward.training.order import step_order

OnLog = Callable[[int, dict[str, float]], None]
OnStep = Callable[[int, int], None]

_LOG = logging.getLogger(__name__)
_TOKENIZER_FILES = (".json", ".jinja", ".model", ".txt", ".py")  # and generation_config.json


@dataclass(frozen=True, slots=True)
class Job:
    """One training, from where to where."""

    model: Path
    """The start model; for DPO the reference too."""
    output: Path
    checkpoints: Path
    digest: str
    """Of method, rows, options, LoRA options and seed: what a checkpoint must agree with."""
    arguments: dict[str, Any]
    """For TRL's config class."""
    lora: LoraConfig | None
    epochs: float
    seed: int

    def order(self, config: TrainingArguments, rows: Sequence[SftRow | DpoRow]) -> list[int]:
        """Return which row is trained on when, over all epochs or ``max_steps``."""
        per_step = config.train_batch_size * config.gradient_accumulation_steps * config.world_size
        in_all = max(1, round(self.epochs * len(rows)))
        return step_order(
            [row.length for row in rows],
            rows_per_step=per_step,
            num_rows=per_step * config.max_steps if config.max_steps > 0 else in_all,
            seed=self.seed,
        )


def plan(
    method: Method,
    rows: Sequence[SftRow | DpoRow],
    *,
    model: Path,
    output: Path,
    checkpoints: Path,
    options: Mapping[str, object],
    lora: Mapping[str, object] | None,
    seed: int,
) -> Job:
    """Check the options and settle all that the training depends on.

    Raises:
        ConfigError: There are no rows, or an option is wrong.
    """
    if not rows:
        raise ConfigError(f"{method}: no rows to train on")
    chosen = {**COMMON, **DEFAULTS[method], **check_options(method, options)}
    adapter = None if lora is None else check_lora(lora)
    told = [method, [astuple(row) for row in rows], chosen, adapter, seed]
    digest = hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()
    epochs = float(chosen.pop("num_train_epochs"))
    on_cuda = torch.cuda.is_available() and not chosen.get("use_cpu", False)
    arguments = {
        # The reference's and the policy's activations fit in memory where there is no GPU, and
        # recomputing them costs a third of the time.
        "gradient_checkpointing": on_cuda,
        "dataloader_pin_memory": on_cuda,
        **chosen,
        "output_dir": str(checkpoints),
        "seed": seed,
        "num_train_epochs": 1,  # the rows are laid out for all epochs, see `order`
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "save_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    config = None if adapter is None else LoraConfig(task_type="CAUSAL_LM", **adapter)
    return Job(model, output, checkpoints, digest, arguments, config, epochs, seed)


def is_published(job: Job) -> bool:
    """Whether an earlier attempt at this very job came to its end.

    Raises:
        IntegrityError: The output is whole but another job made it.
    """
    if not durable.is_whole(job.output):
        return False
    if durable.read_manifest(job.output).get("job") != job.digest:
        raise IntegrityError(f"{job.output}: holds a model trained on other rows or options")
    shutil.rmtree(job.checkpoints, ignore_errors=True)
    return True


def load_policy(
    model: Path, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in float32 and its tokenizer; silence what would write to the terminal."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # TRL reports each trainer that is made to Hugging Face.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    _project_completions_only()
    policy = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.float32,  # bfloat16 weights would swallow updates of 1e-6
        trust_remote_code=trust_remote_code,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        model, trust_remote_code=trust_remote_code, local_files_only=True
    )
    return policy, tokenizer


def _project_completions_only() -> None:
    """Let TRL run the LM head at the completion's positions only on CPUs, as it does on GPUs.

    Elsewhere TRL 1.16 projects the prompt too, only to mask it: with 49k logits a position an SFT
    row of 280 + 2 tokens of SmolLM2 takes 2.2 times as long, and 1 GB more. The loss is the same.
    To be removed when TRL's ``add_fused_lm_head`` does it on CPUs.
    """
    assert hasattr(trl.trainer.utils, "_use_triton")
    trl.trainer.utils._use_triton = lambda device: True


def train(trainer: Trainer, job: Job, *, on_log: OnLog, on_step: OnStep) -> None:
    """Train, resuming from the last whole checkpoint, and publish the model as ``job.output``.

    Raises:
        StoppedError: Loss, gradient norm or a trained weight is not finite; nothing is published.
    """
    trainer.remove_callback(PrinterCallback)  # prints to standard output
    trainer.add_callback(_Watch(job, on_log, on_step))
    checkpoint = last_complete_checkpoint(job.checkpoints, job.digest)
    if trainer.is_world_process_zero():
        remove_others(job.checkpoints, checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(trained, PeftModel):
        trained = trained.merge_and_unload()
    if trainer.is_world_process_zero():
        _publish(trained, job)
        shutil.rmtree(job.checkpoints, ignore_errors=True)


def _publish(trained: PreTrainedModel, job: Job) -> None:
    for name, tensor in trained.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise StoppedError(f"trained weight {name} is not finite", _LOWER)
    with durable.publish_directory(job.output, facts={"job": job.digest}) as directory:
        trained.save_pretrained(directory)
        for path in job.model.iterdir():
            ours = path.name in ("config.json", durable.MANIFEST)
            ours = ours or path.name.endswith(".index.json")
            if path.suffix in _TOKENIZER_FILES and not ours:
                shutil.copyfile(path, directory / path.name)


_LOWER = "lower learning_rate, or look for broken rows; checkpoints before this step are kept"


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Passes on steps and figures, seals checkpoints, stops at the first non-finite figure."""

    def __init__(self, job: Job, on_log: OnLog, on_step: OnStep) -> None:
        self.job, self.tell_log, self.tell_step = job, on_log, on_step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self.tell_step(state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self.tell_step(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        if "loss" not in logs:
            return  # the summary after the last step
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise StoppedError(f"{name} is {logs[name]} at step {state.global_step}", _LOWER)
        if state.is_world_process_zero:
            figures = {name: float(value) for name, value in logs.items()}
            figures["epoch"] = self.job.epochs * state.global_step / state.max_steps
            self.tell_log(state.global_step, figures)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            seal_checkpoint(self.job.checkpoints, state.global_step, self.job.digest)
