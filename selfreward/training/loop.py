"""What methods share: load a policy, run a TRL trainer to its end, publish what came out.

load_policy -> Trainer -> train: resume, watch, seal checkpoints -> model directory
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import torch
import transformers
import trl.trainer.utils
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from peft import PeftModel
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
from transformers.trainer_utils import SaveStrategy

from selfreward.errors import ConfigError, IntegrityError, PreflightError, StoppedError
from selfreward.storage import durable
from selfreward.training.adapter import merged, save_adapter
from selfreward.training.base import (
    ONLINE,
    OnLog,
    OnStep,
    Row,
    Training,
    num_processes,
)
from selfreward.training.checkpoints import seal_checkpoint, settle_checkpoint
from selfreward.training.identity import check_published, check_start, check_start_kl, told_by
from selfreward.training.job import Job
from selfreward.training.quantized import four_bits, in_float32, settle, written_out

_TOKENS = "num_tokens.json"
"""In a checkpoint: tokens trained on so far, which the trainer logs as ``num_tokens``."""
CHECKPOINT_S = 600
"""Seconds of training after which a checkpoint is written, unless ``save_steps`` says otherwise.

At the last step there is none that is younger: what it holds is published at once."""
_COMPILED = "_orig_mod."
"""What ``torch_compile`` puts before the names of weights."""
_TOKENIZER_FILES = (".json", ".jinja", ".model", ".txt", ".py")  # and generation_config.json


def is_published(job: Job) -> bool:
    """Whether an earlier attempt at this very job came to its end.

    Raises:
        IntegrityError: The output is whole but another job made it.
    """
    if not durable.is_whole(job.training.output):
        return False
    if durable.read_manifest(job.training.output).get("job") not in job.digests:
        raise IntegrityError(
            f"{job.training.output}: holds a model trained on other rows or options, or from "
            "another model"
        )
    shutil.rmtree(job.training.checkpoints, ignore_errors=True)
    return True


def is_sharded() -> bool:
    """Whether the launcher asked accelerate for FSDP or DeepSpeed."""
    flags = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return any(parse_flag_from_env(flag) for flag in flags)


def load_policy(
    training: Training, kind: Any = AutoModelForCausalLM, **more: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the start model in float32 and its tokenizer; silence what writes to the terminal.

    TRL's config must have been made before: ZeRO-3 and FSDP load the model in parts only then.

    Args:
        kind: What it is loaded as: an auto class of transformers.
        more: Further arguments for that.
    """
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # TRL reports each trainer that is made to Hugging Face.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    _project_completions_only()
    model, trusted = training.model, training.trust_remote_code
    if training.quantization is not None:
        more["quantization_config"] = four_bits(training.quantization)
        more["device_map"] = {"": str(PartialState().device)}  # not a GPU, with `use_cpu`
    policy = kind.from_pretrained(
        model,
        dtype=torch.float32,  # bfloat16 weights would swallow updates of 1e-6
        trust_remote_code=trusted,
        local_files_only=True,
        **more,
    )
    if training.quantization is not None:
        settle(policy)
    tokenizer = AutoTokenizer.from_pretrained(
        model, trust_remote_code=trusted, local_files_only=True
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


def train(
    trainer: Trainer,
    job: Job,
    rows: Sequence[Row],
    *,
    on_log: OnLog,
    on_step: OnStep,
) -> None:
    """Train, resuming from the last whole checkpoint, and publish the model.

    Raises:
        ConfigError: DeepSpeed would publish rounded weights.
        PreflightError: The processes cannot work together on this kind of device.
        IntegrityError: See ``identity``; nothing is published.
        StoppedError: Loss, gradient norm or a trained weight is not finite; nothing is published.
    """
    if trainer.is_deepspeed_enabled and trainer.accelerator.mixed_precision != "no":
        raise ConfigError(
            f"DeepSpeed with {trainer.accelerator.mixed_precision} gathers rounded weights",
            "Set mixed_precision: 'no' (runs/accelerate/zero3.yaml), or use FSDP2.",
        )
    if trainer.args.world_size != num_processes():
        raise PreflightError(
            f"{num_processes()} processes were started, but accelerate sees "
            f"{trainer.args.world_size} on {trainer.args.device}",
            "Set launch.processes=1, or use_cpu: true under sft and dpo.",
        )
    if job.training.quantization is not None:
        in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)  # prints to standard output
    trainer.add_callback(_Watch(job, on_log, on_step, trainer))
    found: list[Path | None] = [None]
    if trainer.is_world_process_zero():
        found = [settle_checkpoint(job.training.checkpoints, job.digests)]
    checkpoint = broadcast_object_list(found)[0]  # the others must not look while it removes
    if checkpoint is not None and (tokens := checkpoint / _TOKENS).is_file():
        trainer._total_train_tokens = json.loads(tokens.read_text())  # TRL 1.16 begins anew
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    # All processes take part: each may hold but a shard of every weight. The first gets them whole.
    is_half = trainer.accelerator.mixed_precision != "no" or _computes_half(job.training)
    told = told_by(trainer.model_wrapped, rows)
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        state = {name.removeprefix(_COMPILED): tensor for name, tensor in state.items()}
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        keep_adapter: Callable[[Path], None] | None = None
        if isinstance(trained, PeftModel):
            keep_adapter = partial(save_adapter, trained, state)
            if job.training.quantization is not None:
                state = written_out(trained, state)
            trained = merged(trained, state)
            state = trained.state_dict()
        check = partial(
            check_published,
            rows=rows,
            trained=told,
            trust_remote_code=job.training.trust_remote_code,
            is_half=is_half,
        )
        publish(trained, state, job, check, keep_adapter)


def _computes_half(training: Training) -> bool:
    """Whether a model in 4 bits computes in bfloat16."""
    quantization = training.quantization
    return quantization is not None and quantization.bnb_4bit_compute_dtype != "float32"


def publish(
    trained: PreTrainedModel,
    state: Mapping[str, torch.Tensor],
    job: Job,
    check: Callable[[Path], None] | None = None,
    keep_adapter: Callable[[Path], None] | None = None,
) -> None:
    """Write the model directory: weights, config, and the tokenizer of the start model; the
    checkpoints go.

    Args:
        state: The weights, whole.
        check: Told the directory before it is published; raises where it is not to be.
        keep_adapter: Told where to keep the adapter, if there is one.

    Raises:
        StoppedError: A weight is not finite; nothing is published.
    """
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise StoppedError(
                f"trained weight {name} is not finite", _LOWER.format(job.training.key)
            )
    facts: dict[str, object] = {"job": job.digest}
    if job.training.quantization is not None:
        facts[durable.QUANTIZATION] = job.training.quantization.model_dump()
    with durable.publish_directory(job.training.output, facts=facts) as directory:
        # Weights that are tied look like two when they come from shards.
        once = {name: state[name] for name in state if name not in trained.all_tied_weights_keys}
        trained.save_pretrained(directory, state_dict=once)
        for path in job.training.model.iterdir():
            ours = path.name in ("config.json", durable.MANIFEST)
            ours = ours or path.name.endswith(".index.json")
            if path.suffix in _TOKENIZER_FILES and not ours:
                shutil.copyfile(path, directory / path.name)
        if job.training.chat_template is not None:
            _write_chat_template(directory, job.training.chat_template)
        if check is not None:
            check(directory)
        if keep_adapter is not None:
            keep_adapter(directory / durable.ADAPTER)
    shutil.rmtree(job.training.checkpoints, ignore_errors=True)


def _write_chat_template(directory: Path, template: str) -> None:
    """Make it the only one, as ``save_chat_templates`` of transformers 5 does."""
    config = directory / "tokenizer_config.json"
    if config.is_file():
        settings = json.loads(config.read_bytes())
        settings.pop("chat_template", None)
        config.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


_LOWER = "resume with a lower {}.learning_rate, or look for broken rows"


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Passes on steps and figures, seals checkpoints, stops at the first non-finite figure."""

    def __init__(self, job: Job, on_log: OnLog, on_step: OnStep, trainer: Trainer) -> None:
        self.job, self.tell_log, self.tell_step = job, on_log, on_step
        self.trainer = trainer
        self.saved_at = time.monotonic()
        keeps_dropout = not job.arguments.get("disable_dropout", True)  # whose draws are no reward
        self.is_held_to_start = job.training.method in ("dpo", *ONLINE) and not keeps_dropout

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)  # else `save_steps` is that of the checkpoint
        if state.is_world_process_zero:
            self.tell_step(state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self.tell_step(state.global_step, state.max_steps)
        is_last = state.global_step == state.max_steps
        may_save = state.global_step % args.save_steps == 0
        if is_last or (args.save_strategy == SaveStrategy.NO and may_save):
            is_due = time.monotonic() - self.saved_at >= CHECKPOINT_S
            # The processes save together, by the clock of the first.
            control.should_save = broadcast_object_list([is_due])[0]

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
                raise StoppedError(
                    f"{name} is {logs[name]} at step {state.global_step}",
                    _LOWER.format(self.job.training.key),
                )
        if state.global_step == 1 and self.is_held_to_start:
            is_half = bool(args.bf16 or args.fp16) or _computes_half(self.job.training)
            if self.job.training.method == "dpo":
                check_start(logs, args.beta, is_half=is_half)
            else:
                check_start_kl(logs, is_half=is_half)
        if state.is_world_process_zero:
            # TRL logs None for the mean of nothing, as of the rewards where none was given.
            figures = {name: float(v) for name, v in logs.items() if v is not None}
            figures["epoch"] = self.job.epochs * state.global_step / state.max_steps
            self.tell_log(state.global_step, figures)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        PartialState().wait_for_everyone()  # each process writes some of the files
        if state.is_world_process_zero:
            tokens = self.job.training.checkpoints / f"checkpoint-{state.global_step}" / _TOKENS
            durable.write_file(tokens, json.dumps(int(self.trainer._total_train_tokens)))
            seal_checkpoint(self.job.training.checkpoints, state.global_step, self.job.digest)
        self.saved_at = time.monotonic()
