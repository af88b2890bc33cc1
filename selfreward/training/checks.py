"""What a library would refuse only when a training begins, which is after hours of sampling.

TRL's own config object is built as the training will build it, and an optimizer and a learning-rate
schedule for one number. Nothing is loaded or written. A model could still be one that an option
does not fit, such as ``lora.target_modules``.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfreward import DISTRIBUTION
from selfreward.config import EngineConfig, LaunchConfig
from selfreward.config.training import DpoConfig
from selfreward.engines.installed import has_cuda, has_module
from selfreward.errors import ConfigError, PreflightError
from selfreward.training.base import Method
from selfreward.training.distributed import check_num_gpus, launch_command, not_started
from selfreward.training.options import (
    check_vllm,
    chosen_options,
    named_refusal,
    trl_arguments,
    trl_config,
)

_OF_THE_MACHINE = ("bf16", "fp16", "tf32")
_OF_THE_LAUNCH = ("ddp_backend", "deepspeed", "fsdp", "fsdp_config", "parallelism_config")
_DTYPES = {"ctranslate2": "compute_type", "transformers": "dtype"}
"""Option that says how finely an engine computes, of those whose log-probabilities are near enough
to training's: 1e-5 nats a token by ``benchmarks/reference_pass.py``. OpenVINO's are too high by
1.3e-4 a token (``engines/proof.py``), vLLM's on GPUs and those of endpoints are rounded."""
_STEPS = 10


def check_training(
    method: Method,
    options: Mapping[str, object],
    launch: LaunchConfig,
    *,
    group: str = "",
    here: bool = True,
) -> None:
    """Check the options of a method, alone and together.

    Args:
        group: Where they stand in the config; empty: under ``method``.
        here: Whether the training is to run on this machine. What depends on its devices is left
            out elsewhere, as it is with ``launch.command``, which may start it elsewhere.

    Raises:
        ConfigError: TRL, transformers, accelerate or torch would refuse them.
        PreflightError: They ask for vLLM or a GPU that computes in bfloat16 or TF32, and there is
            none.
    """
    group = group or method
    chosen = chosen_options(method, options, group)
    left = _OF_THE_LAUNCH if launch.processes > 1 or launch.command is not None else ()
    chosen = {name: value for name, value in chosen.items() if name not in left}
    if launch.command is not None or not here:
        chosen |= dict.fromkeys(_OF_THE_MACHINE, False)
    arguments = trl_arguments(
        method, chosen, checkpoints=Path("checkpoints"), seed=0, processes=launch.processes
    )
    _check_machine(group, arguments)
    if here and arguments.get("use_vllm"):
        check_vllm(group)
    _build(group, trl_config(method), arguments)


def check_eft_weight(weight: float, options: Mapping[str, object], group: str) -> None:
    """Check that the rows of SFT can be weighted.

    Args:
        group: Where the options stand in the config.

    Raises:
        ConfigError: Not with a loss that is no mean over tokens, or rows in parts.
    """
    if weight == 1:
        return
    for name, default in (("loss_type", "nll"), ("parallelism_config", None)):
        if options.get(name, default) != default:
            raise ConfigError(
                f"sft.eft_weight={weight:g} does not go with {group}.{name}={options[name]}",
                f"Remove {group}.{name}, or set sft.eft_weight=1.",
            )


def check_weights(dpo: DpoConfig) -> None:
    """Check that pairs can be weighted.

    Raises:
        ConfigError: Not with other losses than ``dpo.Weighted`` knows, or a reference that is asked
            at each step.
    """
    if dpo.weigh_by is None:
        return
    losses = dpo.options.get("loss_type", "sigmoid")
    named = [losses] if isinstance(losses, str) else losses
    if unknown := [loss for loss in named if loss not in ("sigmoid", "sft")]:
        raise ConfigError(
            f"dpo.weigh_by={dpo.weigh_by} does not go with dpo.loss_type={unknown[0]}",
            "It goes with: sigmoid, sft.",
        )
    plain = {
        "precompute_ref_log_probs": True,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "use_weighting": False,
    }
    for name, default in plain.items():
        if dpo.options.get(name, default) != default:
            raise ConfigError(
                f"dpo.weigh_by={dpo.weigh_by} does not go with dpo.{name}={dpo.options[name]}",
                f"Remove dpo.{name}, or set dpo.weigh_by=null.",
            )


def check_reference(dpo: DpoConfig, engine: EngineConfig) -> None:
    """Check that what the engine says of its answers can stand for the reference's pass.

    Raises:
        ConfigError: The engine computes otherwise than training does, or might; or an option of TRL
            wants more of the reference than two sums a pair, or wants it rounded.
    """
    if dpo.reference_logprobs == "trl":
        return
    kept = "or dpo.reference_logprobs=trl."
    if engine.kind not in _DTYPES:
        raise ConfigError(
            f"dpo.reference_logprobs=engine does not go with engine.kind={engine.kind}",
            f"Set engine.kind=ctranslate2 or transformers, {kept}",
        )
    dtype = _DTYPES[engine.kind]
    unsaid = "auto" if engine.kind == "transformers" and has_cuda() else "float32"
    found = str(engine.options.get(dtype, unsaid)).removeprefix("torch.")
    if found != "float32":
        raise ConfigError(
            f"dpo.reference_logprobs=engine does not go with engine.{dtype}={found}",
            f"Set engine.{dtype}=float32, {kept}",
        )
    plain = {"precompute_ref_log_probs": True, "ld_alpha": None, "bf16": False, "fp16": False}
    for name, value in plain.items():
        if dpo.options.get(name, value) != value:
            raise ConfigError(
                f"dpo.reference_logprobs=engine does not go with dpo.{name}={dpo.options[name]}",
                f"Remove dpo.{name}, or set dpo.reference_logprobs=trl.",
            )


def check_bitsandbytes() -> None:
    """Check that there is bitsandbytes, for ``quantization``.

    Raises:
        PreflightError: It is not installed.
    """
    if not has_module("bitsandbytes"):
        raise PreflightError(
            "quantization: bitsandbytes is not installed",
            f"Run: pip install '{DISTRIBUTION}[qlora]'.",
        )


def check_command(launch: LaunchConfig, *, here: bool = True) -> None:
    """Check that the command that starts training processes is one.

    Args:
        here: Whether it is to run on this machine; else it need not be installed.

    Raises:
        ConfigError: ``launch.command`` is no command line.
        PreflightError: The command is not installed.
    """
    try:
        program = launch_command(launch)[:1]
    except ValueError as error:
        raise ConfigError(f"launch.command: {error}", "Correct its quotes.") from None
    if not program:
        raise ConfigError("launch.command: empty", "Give a command, or null for torchrun.")
    if here and shutil.which(program[0]) is None:
        raise not_started(program[0], "No such file or directory")


def check_gpus(launch: LaunchConfig, *, here: bool = True) -> None:
    """Check that there are as many GPUs as training processes.

    Args:
        here: Whether they are to run on this machine; else nothing is known of it.

    Raises:
        ConfigError: One process would see several GPUs.
        PreflightError: There are fewer GPUs than processes.
    """
    if launch.command is not None or not here:
        return
    seen = 0
    if has_cuda():
        import torch

        seen = torch.cuda.device_count()
    if seen and launch.train_devices is not None:
        seen = len(launch.train_devices.split(","))
    if seen > 1 and launch.processes == 1:
        raise ConfigError(
            f"launch.processes=1, but training would see {seen} GPUs, of which TRL uses one",
            f"Set launch.processes={seen}, or name one GPU in launch.train_devices.",
        )
    check_num_gpus(launch.processes, seen)


def _check_machine(group: str, arguments: Mapping[str, Any]) -> None:
    from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

    if arguments.get("bf16") and not arguments["use_cpu"] and not is_torch_bf16_gpu_available():
        raise PreflightError(
            f"{group}.bf16: there is no GPU here that computes in bfloat16",
            f"Remove {group}.bf16, or set {group}.use_cpu=true to have a CPU compute in it.",
        )
    if arguments.get("tf32") and not is_torch_tf32_available():
        raise PreflightError(
            f"{group}.tf32: there is no GPU here that computes in TF32", f"Remove {group}.tf32."
        )


def _build(group: str, kind: type, arguments: dict[str, Any]) -> None:
    """Build what TRL's trainer does of its arguments alone."""
    import torch
    from accelerate.utils import TorchDynamoPlugin
    from transformers import Trainer, get_scheduler

    with named_refusal(group, kind):
        config = kind(**arguments)
    if config.torch_compile:
        with named_refusal(group, kind, "torch_compile_backend"):
            TorchDynamoPlugin(backend=config.torch_compile_backend)
    layer = torch.nn.Linear(1, 1)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(layer.parameters())
    if config.optim_target_modules is None:  # which are the model's
        with named_refusal(group, kind, "optim", "optim_args", "learning_rate"):
            made_by, settings = Trainer.get_optimizer_cls_and_kwargs(config, layer)
            if made_by.__module__.startswith("torch."):
                optimizer = made_by(layer.parameters(), **settings)
    with named_refusal(group, kind, "lr_scheduler_type", "lr_scheduler_kwargs"):
        schedule = get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            config.get_warmup_steps(_STEPS),
            _STEPS,
            config.lr_scheduler_kwargs,
        )
        for _ in range(_STEPS):
            optimizer.step()
            schedule.step()
