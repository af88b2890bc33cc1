"""Options of methods and LoRA: passed on by the names TRL and peft give them, checked first.

The names and types are read from ``trl.SFTConfig``, ``trl.DPOConfig`` and ``peft.LoraConfig``
themselves. Checking imports these libraries, which takes seconds, but loads no model.
"""

import dataclasses
import difflib
import enum
import re
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from selfreward import DISTRIBUTION
from selfreward.errors import ConfigError, PreflightError
from selfreward.training.base import ONLINE, Method
from selfreward.training.methods import METHODS

DEFAULTS: dict[Method, dict[str, Any]] = {
    # 16 rows a step: Self-Rewarding Language Models, arXiv 2401.10020, section 3.1.3. The split
    # into micro-batches fits SFT of a 135M model into 4 GB and DPO into 5 GB.
    "sft": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
    },
    "dpo": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        # The reference is asked once, before the first step, and need not stay in memory.
        "precompute_ref_log_probs": True,
    },
    "reward": {
        "num_train_epochs": 1,  # InstructGPT, arXiv 2203.02155, 3.5: more overfits
        "per_device_train_batch_size": 2,  # prompts, each with all its answers
        "gradient_accumulation_steps": 8,
        "learning_rate": 1e-5,  # TRL's 1e-4 is for adapters
    },
    # 16 responses a step. Dropout would be taken for a difference to the reference.
    "rloo": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_generations": 4,  # arXiv 2402.14740 has 2 and 4; TRL 2
        "disable_dropout": True,
    },
    "grpo": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_generations": 8,  # TRL's
        "disable_dropout": True,
    },
}
"""Ours where they differ from TRL's."""

COMMON: dict[str, Any] = {
    "bf16": False,  # weights are float32; bf16 autocast only where it is asked for
    "save_total_limit": 2,
}

_REFUSED = {
    "the run decides where things are written and what a resume starts from": (
        "output_dir resume_from_checkpoint run_name project push_to_hub hub_token "
        "hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"
    ),
    "set the `seed` of the run": "seed data_seed",
    "a run evaluates models after training, not during it": (
        "do_train do_eval do_predict eval_strategy eval_steps eval_delay eval_on_start "
        "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps eval_packing "
        "per_device_eval_batch_size prediction_loss_only include_for_metrics batch_eval_metrics "
        "bf16_full_eval fp16_full_eval load_best_model_at_end metric_for_best_model "
        "greater_is_better label_names"
    ),
    "every step is logged into the run": (
        "logging_strategy logging_steps logging_first_step log_on_each_node "
        "logging_nan_inf_filter log_level log_level_replica disable_tqdm report_to "
        "trackio_space_id trackio_bucket_id trackio_static_space_id"
    ),
    "a checkpoint must allow an exact resume; choose `save_steps`": (
        "save_strategy save_only_model save_on_each_node enable_jit_checkpoint ignore_data_skip "
        "restore_callback_states_from_checkpoint auto_find_batch_size"
    ),
    "rows come as token ids, whole and in an order of the run's own": (
        "dataset_text_field dataset_kwargs dataset_num_proc eos_token pad_token "
        "chat_template_path max_length truncation_mode shuffle_dataset packing packing_strategy "
        "padding_free completion_only_loss assistant_only_loss remove_unused_columns "
        "train_sampling_strategy length_column_name dataloader_drop_last"
    ),
    "the run's chat format asks, and its judges say what a response is worth": (
        "chat_template_kwargs reward_weights max_tool_calling_iterations num_generations_eval"
    ),
    "responses are not printed": (
        "log_completions log_multimodal num_completions_to_print log_unique_prompts "
        "log_completions_hub_repo"
    ),
    "TRL keeps its state outside of what a checkpoint seals": "use_adaptive_entropy",
    "set `model`, `revision` and `trust_remote_code` of the run": (
        "model_init_kwargs trust_remote_code"
    ),
    "the reference of an iteration is M(t) from its first step to its last": (
        "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps"
    ),
    "the launcher sets it": "local_rank",
    "TRL is to remove it": (
        "use_liger_kernel liger_kernel_config label_smoothing_factor use_transformers_paged"
    ),
}
_REFUSED_LORA = {
    "the run decides it": (
        "task_type peft_type peft_version auto_mapping base_model_name_or_path revision "
        "inference_mode runtime_config"
    ),
    "what is saved whole beside an adapter is not merged into the published model": (
        "modules_to_save trainable_token_indices"
    ),
}
_LORA_STARTS = (True, "gaussian", "orthogonal")
"""Ways to begin an adapter as no change at all, so that the policy starts as M(t) and M(t) stays
the reference; the others of peft alter the weights below it, or start elsewhere."""
_FEW = 12
"""So many names are listed where none is near."""
_EMBEDDINGS = "embed_tokens embed_in wte word_embeddings tok_embeddings"
"""Names of input embeddings, which most models tie to their output."""
_POSITIVE = (
    "per_device_train_batch_size gradient_accumulation_steps num_train_epochs r lora_alpha "
    "num_generations num_iterations steps_per_generation generation_batch_size temperature top_p "
    "max_completion_length"
)
_NOT_NEGATIVE = "dataloader_num_workers neftune_noise_alpha top_k min_p epsilon epsilon_high"
_AT_MOST_1 = "top_p min_p"
# TRL 1.16, DPOTrainer; TRL itself looks when the trainer is made, or only at the first step
_DPO_LOSSES = (
    "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero "
    "apo_down discopop sft sigmoid_norm"
)
_DIVERGENCES = "reverse_kl forward_kl js_divergence alpha_divergence"
_DIVERGENCE_LOSSES = "sigmoid sigmoid_norm hinge ipo exo_pair robust discopop sft"
_UNWEIGHTED_LOSSES = "aot aot_unpaired"
_READ_BY = {
    "label_smoothing": "robust exo_pair aot aot_unpaired",
    "discopop_tau": "discopop",
}
"""Options that these losses read and all others pass over."""
# TRL 1.16, GRPOTrainer, which looks when the trainer is made, or only at the first step
_GRPO_CHOICES = {
    "loss_type": "grpo dr_grpo bnpo dapo cispo sapo luspo vespo",
    "importance_sampling_level": "token sequence",
    "scale_rewards": "group batch none",
    "multi_objective_aggregation": "sum_then_normalize normalize_then_sum",
}


def trl_config(method: Method) -> type:
    """TRL's class of a method's options; to import it takes seconds."""
    import trl

    name = METHODS[method].config
    assert name is not None
    kind: type = getattr(trl, name)
    return kind


def check_options(method: Method, options: Mapping[str, object], group: str = "") -> dict[str, Any]:
    """Return the options of TRL's config class, converted to their types.

    Text that is a number, as YAML reads ``1e-6``, becomes that number.

    Args:
        group: Where they stand in the config; empty: under ``method``.

    Raises:
        ConfigError: A name is unknown, belongs to the run, or its value has the wrong type.
    """
    group = group or method
    checked = _check(group, trl_config(method), _REFUSED, options)
    if method == "dpo":
        _check_losses(checked)
    if method == "grpo":
        _check_choices(checked, _GRPO_CHOICES, group)
    for name in _NOT_NEGATIVE.split():
        if (checked.get(name) or 0) < 0:
            raise ConfigError(f"{group}.{name}: found {checked[name]}, expected 0 or more")
    for name in _AT_MOST_1.split():  # transformers looks when it samples
        if (checked.get(name) or 0) > 1:
            raise ConfigError(f"{group}.{name}: found {checked[name]}, expected 1 at most")
    if checked.get("max_steps") == 0:
        raise ConfigError(
            f"{group}.max_steps: 0, expected 1 or more", "-1 trains for num_train_epochs."
        )
    limit = checked.get("save_total_limit")
    if limit is not None and limit < 2:
        raise ConfigError(
            f"{group}.save_total_limit: {limit}, expected 2 or more",
            "a checkpoint is only safe to delete when the next one is whole",
        )
    return checked


def check_lora(options: Mapping[str, object]) -> dict[str, Any]:
    """Return the options of peft's ``LoraConfig``, converted to their types.

    Raises:
        ConfigError: As ``check_options``, the adapter is on ``lm_head``, or peft refuses what the
            options are together.
    """
    from peft import LoraConfig

    checked = _check("lora", LoraConfig, _REFUSED_LORA, options)
    start = checked.get("init_lora_weights", True)
    if start not in _LORA_STARTS:
        raise ConfigError(
            f"lora.init_lora_weights={start} does not start as the model itself",
            "Its reference would not be M(t). Take true, gaussian or orthogonal.",
        )
    targets = checked.get("target_modules") or ()
    named = {targets} if isinstance(targets, str) else set(targets)
    if on := sorted(named & set(_EMBEDDINGS.split())):
        raise ConfigError(
            f"lora.target_modules: an adapter on {on[0]} is lost, or doubled, where the output is "
            "tied to it",
            f"remove {on[0]}",
        )
    if "lm_head" in named:
        raise ConfigError(
            "lora.target_modules: TRL reads lm_head's own weight, so an adapter is never trained",
            "remove lm_head",
        )
    with named_refusal("lora", LoraConfig):
        LoraConfig(**checked)
    return checked


def check_vllm(group: str) -> None:
    """Check that TRL finds vLLM, and supports its version, for ``use_vllm``.

    Raises:
        PreflightError: It does not.
    """
    from trl.import_utils import is_vllm_available

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        is_there = is_vllm_available()
    if not is_there:
        raise PreflightError(
            f"{group}.use_vllm: TRL finds no vllm",
            f"Install it (pip install '{DISTRIBUTION}[vllm]'), or remove {group}.use_vllm.",
        )
    if said:
        raise PreflightError(
            f"{group}.use_vllm: {said[0].message}",
            f"Install a version that TRL supports, or remove {group}.use_vllm.",
        )


def chosen_options(
    method: Method, options: Mapping[str, object], group: str = ""
) -> dict[str, Any]:
    """Return the options and, where they say nothing, our defaults; see ``check_options``."""
    return {**COMMON, **DEFAULTS[method], **check_options(method, options, group)}


def trl_arguments(
    method: Method, chosen: Mapping[str, Any], *, checkpoints: Path, seed: int, processes: int
) -> dict[str, Any]:
    """Return all that TRL's config class is given for a training.

    Args:
        chosen: Of ``chosen_options``.
        checkpoints: Directory for checkpoints.
        processes: How many train together.
    """
    import torch

    on_cuda = torch.cuda.is_available() and not chosen.get("use_cpu", False)
    return {
        # The reference's and the policy's activations fit in memory where there is no GPU, and
        # recomputing them costs a third of the time.
        "gradient_checkpointing": on_cuda,
        "dataloader_pin_memory": on_cuda,
        # Else accelerate would not see that there are others.
        "use_cpu": processes > 1 and not on_cuda,
        **chosen,
        "output_dir": str(checkpoints),
        "seed": seed,
        "num_train_epochs": 1,  # the rows are laid out for all epochs, see `Job.order`
        "train_sampling_strategy": "sequential",
        **({"shuffle_dataset": False} if method in ONLINE else {"max_length": None}),
        # Where nothing is said of steps, `loop` writes checkpoints by the clock.
        "save_strategy": "steps" if "save_steps" in chosen else "no",
        "save_steps": chosen.get("save_steps", 1),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


@contextmanager
def named_refusal(group: str, kind: type, *likely: str) -> Iterator[None]:
    """Turn whatever a library raises of options into a ConfigError that names them.

    Args:
        group: Where they stand in the config, such as ``dpo`` or ``lora``.
        kind: The class that has the options.
        likely: Options that are meant, if it takes no reading to know; else those it names.
    """
    try:
        yield
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        words = set(re.findall(r"\w+", said))
        named = [field.name for field in dataclasses.fields(kind) if field.name in words]
        keys = ", ".join(f"{group}.{name}" for name in likely or named)
        hint = f"Look at {keys}." if keys else f"See the options of {kind.__name__}."
        raise ConfigError(f"{group}: {said}", hint) from error


def _check_choices(checked: Mapping[str, Any], choices: Mapping[str, str], group: str) -> None:
    for name, known in choices.items():
        if name in checked and str(checked[name]) not in known.split():
            raise ConfigError(
                f"{group}.{name}: found {checked[name]!r}",
                _suggest(str(checked[name]), known.split()),
            )


def _check_losses(checked: Mapping[str, Any]) -> None:
    """Check which losses DPO takes, and which of their options go together."""
    losses: Sequence[str] = checked.get("loss_type", ["sigmoid"])
    for loss in losses:
        if loss not in _DPO_LOSSES.split():
            raise ConfigError(f"dpo.loss_type: found {loss!r}", _suggest(loss, _DPO_LOSSES.split()))
    weights = checked.get("loss_weights")
    if weights is not None and len(weights) != len(losses):
        raise ConfigError(
            f"dpo.loss_weights: {len(weights)} for {len(losses)} of dpo.loss_type",
            f"Give one for each of: {', '.join(losses)}.",
        )
    for name, readers in _READ_BY.items():
        if name in checked and not set(losses) & set(readers.split()):
            raise ConfigError(
                f"dpo.{name} means nothing to dpo.loss_type={', '.join(losses)}",
                f"Remove it, or take one of: {', '.join(readers.split())}.",
            )
    divergence = checked.get("f_divergence_type", "reverse_kl")
    if "f_alpha_divergence_coef" in checked and divergence != "alpha_divergence":
        raise ConfigError(
            f"dpo.f_alpha_divergence_coef means nothing to dpo.f_divergence_type={divergence}",
            "Remove it, or set dpo.f_divergence_type=alpha_divergence.",
        )
    if divergence not in _DIVERGENCES.split():
        raise ConfigError(
            f"dpo.f_divergence_type: found {divergence!r}",
            _suggest(divergence, _DIVERGENCES.split()),
        )
    for loss in losses:
        if divergence != "reverse_kl" and loss not in _DIVERGENCE_LOSSES.split():
            raise ConfigError(
                f"dpo.f_divergence_type={divergence} does not go with dpo.loss_type={loss}",
                f"It goes with: {', '.join(_DIVERGENCE_LOSSES.split())}.",
            )
        if checked.get("use_weighting") and loss in _UNWEIGHTED_LOSSES.split():
            raise ConfigError(
                f"dpo.use_weighting does not go with dpo.loss_type={loss}", "Set one of the two."
            )
        if loss == "exo_pair" and not checked.get("label_smoothing"):
            raise ConfigError(
                "dpo.loss_type=exo_pair needs dpo.label_smoothing above 0",
                "Set dpo.label_smoothing=1e-3, as its paper does.",
            )


def _check(
    group: str, kind: type, refused: Mapping[str, str], options: Mapping[str, object]
) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    reasons = {name: reason for reason, names in refused.items() for name in names.split()}
    checked = {}
    for name, value in options.items():
        where = f"{group}.{name}"
        if name not in fields:
            raise ConfigError(
                f"{where}: {kind.__name__} has no such option",
                _suggest(name, fields.keys() - reasons.keys()),
            )
        if name in reasons:
            raise ConfigError(f"{where} cannot be set", reasons[name])
        checked[name] = _convert(where, hints[name], value)
        choices = fields[name].metadata.get("choices")
        if choices and checked[name] not in choices:
            raise ConfigError(f"{where}: found {value!r}", f"one of: {', '.join(choices)}")
        if name in _POSITIVE.split() and checked[name] is not None and not checked[name] > 0:
            raise ConfigError(f"{where}: found {value!r}, expected more than 0")
    return checked


def _convert(where: str, hint: Any, value: object) -> Any:
    parts = [hint, *typing.get_args(hint)]
    if isinstance(value, bool) and bool not in parts:  # Python would take it for 0 or 1
        raise ConfigError(f"{where}: found {value!r}, expected {_describe(hint)}")
    names = [p for p in parts if isinstance(p, type) and issubclass(p, enum.Enum)]
    if names and isinstance(value, str):
        allowed = [str(member.value) for member in names[0]]
        if value not in allowed:
            raise ConfigError(f"{where}: found {value!r}", _suggest(value, allowed))
    if list[str] in parts[:1] and isinstance(value, str):
        value = [value]  # as TRL's own `loss_type: sigmoid`
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_python(value)
    except ValidationError:
        raise ConfigError(f"{where}: found {value!r}, expected {_describe(hint)}") from None


def _describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _suggest(name: str, known: typing.Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    if not near and len(known) > _FEW:
        return (
            f"None of its {len(known)} options is called nearly so; its documentation lists them."
        )
    return f"Did you mean {near[0]}?" if near else f"one of: {', '.join(known)}"
