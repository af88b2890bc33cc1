"""Memory and disk that a run will need.

Memory to train a model is 16 bytes a parameter in float32: the weight, its gradient and Adam's two
moments, 4 each; what activations and libraries take besides is not in it.
"""

import shutil
from typing import Any

from selfreward.config.judging import OWN_MODELS, RUN_MODELS
from selfreward.config.run import Config, all_judges
from selfreward.engines.kinds import MEMORY_OPTIONS
from selfreward.inputs.models import count_parameters
from selfreward.records import judge_key
from selfreward.storage.directory import runs_root
from selfreward.verbs.layout import existing, size

_TRAINING_COPIES = 3
"""A checkpoint holds the weights and Adam's two moments."""
_CHECKPOINTS = 3
"""Two are kept while the next one is written."""
_COPYING = ("auto", "ctranslate2", "openvino")
"""Engines that run a copy of the model."""


def memory_of(config: Config) -> dict[str, Any] | None:
    """Bytes to train the model of ``config``, and what engines are told; None if it is not here.

    Returns:
        ``training`` are the bytes of a process that holds all: 16 a parameter, or with LoRA 4,
        to which come 16 for each number of the adapter; 4 more for a reference model that stays.
        ``engine`` holds config keys with their values.
    """
    parameters = count_parameters(config.model, config.revision)
    if parameters is None:
        return None
    asked_once = config.dpo.options.get("precompute_ref_log_probs", True)
    asked_once = asked_once or config.train.method != "dpo"
    if config.online is not None:
        asked_once = config.online.beta == 0
    each = 4 if config.lora is not None else 16 if asked_once else 20
    judges = [(f"{judge_key(k)}.engine", j.engine) for k, j in enumerate(config.judge.jurors)]
    told = {
        f"{key}.{option}": engine.options[option]
        for key, engine in [("engine", config.engine), *judges]
        for option in MEMORY_OPTIONS
        if engine is not None and option in engine.options
    }
    return {
        "parameters": parameters,
        "lora": config.lora is not None,
        "quantized": config.quantization is not None,
        "processes": config.launch.processes,
        "training": each * parameters,
        "engine": told,
    }


def memory_text(memory: dict[str, Any] | None) -> str:
    """A line of ``selfreward plan``."""
    if memory is None:
        return "memory: unknown, the model is not on this machine yet"
    training, processes = memory["training"], memory["processes"]
    text = f"memory: training {memory['parameters'] / 1e9:.3g} billion parameters takes "
    text += size(training) + (" and 16 bytes a number of the adapter" if memory["lora"] else "")
    text += ", less what 4 bits save of 32 in its linear layers" if memory["quantized"] else ""
    if processes > 1:
        text += f", or in shards {size(training / processes)} in each of {processes} processes"
    told = ", ".join(f"{key}={value}" for key, value in memory["engine"].items())
    return f"{text}; engines are told {told}" if told else text


def disk_of(config: Config, weights: int | None) -> dict[str, Any]:
    """Bytes needed at most; None where the size of the model is not known here.

    Args:
        weights: Bytes of the model in float32.
    """
    num_models = config.iterations + (config.sft is not None)
    num_models += config.sft is not None and config.sft.selection is not None
    place = existing(runs_root())
    disk: dict[str, Any] = {"weights": weights, "models": num_models, "place": str(place)}
    disk |= {"free": shutil.disk_usage(place).free, "run": None, "cache": None}
    if weights is not None:
        training = 0 if config.lora else _CHECKPOINTS * _TRAINING_COPIES * weights
        disk["run"] = num_models * weights + training
        disk["cache"] = _cached(config, weights)
    return disk


def _cached(config: Config, weights: int) -> int:
    """Bytes in the cache: what is no safetensors is converted, and some engines copy models.

    CTranslate2 keeps a copy of each model that it ran, OpenVINO one while it runs; which of them
    ``auto`` takes is not known yet. Judges that are not on this machine count as nothing.
    """
    asked = {(config.prompts.author, config.engine.kind)}
    asked |= {
        (judge.model, (judge.engine or config.engine).kind)
        for judge in all_judges(config).values()
        if judge.traits.template
    }
    copying = {(model, kind) for model, kind in asked if kind in _COPYING}
    others = {(model, kind) for model, kind in copying if model not in OWN_MODELS}
    # Asked beside the newest model of the run; CTranslate2 has kept them since they were that.
    own = {m for m, kind in copying if m in RUN_MODELS and kind != "ctranslate2"} - {"policy"}
    kept, held = max(config.iterations, 1), 1 + len(own)
    policies = {"auto": max(kept, held), "ctranslate2": kept + len(own), "openvino": held}
    named = {model for model, _ in asked} - {*OWN_MODELS}
    sizes = {model: 4 * (count_parameters(model) or 0) for model in named}
    converted = {config.model: weights, **sizes}
    return (
        policies.get(config.engine.kind, len(own)) * weights
        + sum(sizes[model] for model, _ in others)
        + sum(b for s, b in converted.items() if s.startswith("bundled:") or s.endswith(".gguf"))
    )


def disk_text(disk: dict[str, Any]) -> str:
    """A line of ``selfreward plan``."""
    free = f"{size(disk['free'])} free at {disk['place']}"
    if disk["weights"] is None:
        return f"disk: unknown, the model is not on this machine yet; {free}"
    need = f"disk: {size(disk['run'])} in the run ({disk['models']} models of "
    need += f"{size(disk['weights'])} in float32, and checkpoints), "
    warning = " - NOT ENOUGH" if disk["free"] < disk["run"] + disk["cache"] else ""
    return f"{need}{size(disk['cache'])} in the cache; {free}{warning}"
