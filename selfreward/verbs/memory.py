"""Memory that a model takes to be trained and to be run, by arithmetic on its shapes.

    training      16 bytes a parameter in float32: weight 4, gradient 4, Adam's two moments 8
    DDP           4 more a trained parameter: gradients are added up in buckets of their own
    in shards     all of it divided by the number of processes (FSDP2, ZeRO-3)
    LoRA          weight 4, and 16 for each number of the adapter
    KV cache      2 x layers x KV heads x head size x bytes a number, for each token

What libraries and allocators take besides is not in it: 1 to 2 GB on a GPU.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfreward.config.run import Config
from selfreward.errors import PreflightError
from selfreward.inputs import shipped
from selfreward.inputs.bundled import BUNDLED, bundled_file
from selfreward.training.base import Method
from selfreward.training.options import COMMON, DEFAULTS
from selfreward.verbs.layout import size, table

Shapes = dict[str, tuple[int, ...]]
_BYTES = {
    "float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "int8": 1, "fp8": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model is like, known without loading it."""

    weights: Shapes
    """Each weight once, by name; empty for a GGUF file, which has other names."""
    parameters: int
    config: dict[str, Any]
    """``config.json`` of the language part; empty where there is none."""

    @property
    def kv_numbers(self) -> int | None:
        """Numbers that a plain attention cache keeps per token; None if the config differs."""
        names = ("num_hidden_layers", "hidden_size", "num_attention_heads")
        layers, hidden, heads = (int(self.config.get(name) or 0) for name in names)
        if not (layers and hidden and heads):
            return None
        head_size = int(self.config.get("head_dim") or hidden // heads)
        return 2 * layers * int(self.config.get("num_key_value_heads") or heads) * head_size


def shape_of(source: str) -> Shape | None:
    """Read a model's shapes from headers, or make them from its ``config.json`` alone.

    Returns:
        None if the model is not on this machine, or only its own code knows its shapes.
    """
    path = find_model(source)
    if path is None:
        return None
    if path.is_file():
        from gguf import GGUFReader

        return Shape({}, sum(int(t.n_elements) for t in GGUFReader(path).tensors), {})
    try:
        config = json.loads((path / "config.json").read_bytes())
    except FileNotFoundError:
        config = {}
    files = sorted(path.glob("*.safetensors"))
    weights = {name: size for file in files for name, size in _header(file).items()}
    if not files and config:
        weights = _made(path)
    if not weights:
        return None
    parameters = sum(map(math.prod, weights.values()))
    return Shape(weights, parameters, config.get("text_config", config))


def find_model(source: str) -> Path | None:
    """The model's directory or GGUF file, if it is on this machine; nothing is downloaded."""
    path = Path(source).expanduser()
    if source.startswith("bundled:"):
        name = source.removeprefix("bundled:")
        converted = shipped.cache_directory() / "models"
        path = converted / (BUNDLED[name].sha256 if name in BUNDLED else name)
        if not path.is_dir():
            try:
                path = bundled_file(name)
            except PreflightError:
                return None
    elif not path.exists():
        hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
        snapshots = sorted(hub.glob(f"models--{source.replace('/', '--')}/snapshots/*"))
        path = snapshots[-1] if snapshots else path
    return path if path.is_dir() or (path.suffix == ".gguf" and path.is_file()) else None


def _header(file: Path) -> Shapes:
    """Shapes in a safetensors file, by its header: 8 bytes of length, then JSON."""
    with open(file, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _made(directory: Path) -> Shapes:
    """Shapes of the model that a config describes; takes seconds, and no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError):  # an architecture that transformers does not have
        return {}
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def memory_of(config: Config, longest: int) -> dict[str, Any] | None:
    """Bytes to train and to run the model of ``config``; None where it is not known here.

    Args:
        longest: Tokens of the longest sequence that the engine will hold, prompt included.
    """
    shape = shape_of(config.model)
    if shape is None:
        return None
    return {
        "parameters": shape.parameters,
        "training": _training(config, shape),
        "inference": _inference(config, shape, longest),
    }


def _training(config: Config, shape: Shape) -> dict[str, Any] | None:
    """Bytes per process: alone or under DDP, and in shards over ``launch.processes``."""
    trained = shape.parameters
    if config.lora is not None:
        adapter = _adapter(config.lora, shape)
        if adapter is None:
            return None
        trained = adapter
    processes = config.launch.processes
    asked_once = config.dpo.options.get("precompute_ref_log_probs", True)
    whole = {
        "weights": 4 * (shape.parameters + (trained if config.lora is not None else 0)),
        "gradients": 4 * trained,
        "adam": 8 * trained,
        # Asked once before training, or found by switching the adapter off: no copy stays.
        "reference": 0 if asked_once or config.lora is not None else 4 * shape.parameters,
    }
    ddp = {**whole, "buckets": 4 * trained if processes > 1 else 0}
    shards = {name: math.ceil(size_ / processes) for name, size_ in whole.items()}
    return {
        "trained": trained,
        "processes": processes,
        "ddp": {**ddp, "total": sum(ddp.values())},
        "shards": {**shards, "total": sum(shards.values())} if processes > 1 else None,
        "activations": _activations(config, shape),
    }


def _adapter(lora: Mapping[str, Any], shape: Shape) -> int | None:
    """Numbers in a LoRA adapter: r x (rows + columns) of each target, as peft chooses them."""
    targets = lora.get("target_modules")
    if targets is None:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOSEN

        targets = CHOSEN.get(shape.config.get("model_type", ""))
    if not targets or not shape.weights:
        return None
    outside = ("embed", "lm_head", "wte", "wpe")

    def is_target(module: str) -> bool:
        last = module.rpartition(".")[2]
        if targets == "all-linear":
            return not any(word in last for word in outside)
        if isinstance(targets, str):
            return re.fullmatch(targets, module) is not None
        return any(module == target or module.endswith(f".{target}") for target in targets)

    rank = int(lora.get("r", 8))
    return sum(
        rank * sum(dimensions)
        for name, dimensions in shape.weights.items()
        if len(dimensions) == 2 and is_target(name.removesuffix(".weight"))
    )


def _activations(config: Config, shape: Shape) -> dict[str, int] | None:
    """Bytes at most, with every row as long as ``max_length``; an estimate.

    Source: Korthikanti et al. 2022, arXiv 2205.05198: 34 bytes per token, layer and hidden unit
    in 16 bits, attention computed in blocks; 2 where layers are computed again (checkpointing),
    and one layer in full.
    """
    layers, hidden = shape.config.get("num_hidden_layers"), shape.config.get("hidden_size")
    if not (layers and hidden):
        return None
    tokens = [_tokens_at_once("dpo", config.dpo.options, 2 * config.dpo.max_length)]
    if config.sft is not None:
        tokens.append(_tokens_at_once("sft", config.sft.options, config.sft.max_length))
    most = max(tokens) * hidden
    return {"checkpointing": most * (2 * layers + 34), "whole": most * 34 * layers}


def _tokens_at_once(method: Method, options: Mapping[str, Any], tokens: int) -> int:
    """Tokens in a micro-batch of rows of so many tokens; each counts twice in float32."""
    settings = {**COMMON, **DEFAULTS[method], **options}
    return int(settings["per_device_train_batch_size"]) * tokens * (1 if settings["bf16"] else 2)


def _inference(config: Config, shape: Shape, longest: int) -> dict[str, Any] | None:
    """Bytes to run the model; None where endpoints run it."""
    engine, options = config.engine, config.engine.options
    if engine.kind == "server":
        return None
    dtype = _dtype(engine.kind, options, shape)
    gpus = math.prod(int(options.get(f"{way}_parallel_size", 1)) for way in ("tensor", "pipeline"))
    cached = str(options.get("kv_cache_dtype", "auto"))
    number = _BYTES["fp8"] if cached.startswith("fp8") else _BYTES[dtype]
    kv = None if shape.kv_numbers is None else number * shape.kv_numbers
    n = max(config.responses.n, config.responses.anchors)
    return {
        "dtype": dtype,
        "gpus": gpus,
        "weights": _BYTES[dtype] * shape.parameters,
        "kv_per_token": kv,
        "tokens": longest,
        "sequences": engine.concurrency * max(n, *(j.num_votes for j in config.judge.jurors)),
    }


def _dtype(kind: str, options: Mapping[str, Any], shape: Shape) -> str:
    """The type of the engine's weights: as set, else vLLM's choice on GPUs, else float32."""
    given = str(options.get("dtype") or options.get("compute_type") or "auto")
    if given in _BYTES:
        return given
    return "bfloat16" if kind == "vllm" else "float32"


def memory_text(memory: dict[str, Any] | None) -> str:
    """What ``selfreward plan`` prints about memory."""
    if memory is None:
        return "memory: unknown, the model is not on this machine yet"
    lines = [f"memory, for {memory['parameters'] / 1e9:.3g} billion parameters"]
    lines += _training_lines(memory["training"]) + _inference_lines(memory["inference"])
    return "\n".join(lines)


def _training_lines(training: dict[str, Any] | None) -> list[str]:
    if training is None:
        return ["training with this adapter: unknown until the model is converted or downloaded"]
    processes = training["processes"]
    head = ["training, float32", "one process" if processes == 1 else f"each of {processes}, DDP"]
    columns = [training["ddp"]]
    if training["shards"] is not None:
        head.append(f"each of {processes}, in shards")
        columns.append(training["shards"])
    names = {
        "weights": "weights", "gradients": "gradients", "adam": "Adam's two moments",
        "buckets": "DDP's buckets of gradients", "reference": "reference model",
        "total": "in all",
    }  # fmt: skip
    rows = [head]
    for name, label in names.items():
        if any(column.get(name) for column in columns):
            rows.append([label, *(size(c[name]) if c.get(name) else "-" for c in columns)])
    lines = [table(rows, "  ")]
    if training["activations"]:
        spared, whole = (size(training["activations"][k]) for k in ("checkpointing", "whole"))
        lines.append(
            f"  and activations, about {spared} at most (gradient checkpointing, the default on "
            f"GPUs), {whole} without"
        )
    return lines


def _inference_lines(inference: dict[str, Any] | None) -> list[str]:
    if inference is None:
        return ["  inference is the endpoints' affair"]
    over = f" over {inference['gpus']} GPUs" if inference["gpus"] > 1 else ""
    lines = [f"  inference, {inference['dtype']}: {size(inference['weights'])} of weights{over}"]
    kv, tokens, sequences = (inference[k] for k in ("kv_per_token", "tokens", "sequences"))
    if kv is not None:
        lines.append(
            f"  KV cache: {kv / 1e3:.4g} kB a token, {size(kv * tokens)} for a sequence of "
            f"{tokens:,} tokens, {size(kv * tokens * sequences)} for {sequences} at once"
        )
    return lines
