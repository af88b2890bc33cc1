"""The kinds of engine: which there are, what options each takes, and opening one of them."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from selfreward.engines.base import Engine
from selfreward.engines.chat import Chat
from selfreward.engines.server.balancer import Balancer
from selfreward.engines.vllm_build import is_cpu_build, vllm_problem
from selfreward.errors import ConfigError, PreflightError

_BATCH = ("max_batch_size", "max_batch_tokens")
OPTIONS = {
    "ctranslate2": (
        "device", "device_index", "compute_type", "inter_threads", "intra_threads",
        "max_queued_batches", "flash_attention", "tensor_parallel", *_BATCH,
    ),
    "transformers": ("dtype", "device_map", "attn_implementation", *_BATCH),
    "server": ("endpoints", "model", "api_key_env", "timeout_s", "max_retries", "omit"),
}  # fmt: skip
"""By engine: arguments of ``ctranslate2.Generator`` and ``AutoModelForCausalLM.from_pretrained``,
and how many sequences and tokens a batch may hold. Listed here so that checking them loads no
library. Those of vLLM, which are many, are asked of it."""
KINDS = ("auto", "ctranslate2", "server", "transformers", "vllm")
_MODULES = {"server": "server.engine"}
"""Where an engine is, if not in the module of its name."""
_AUTO = ("ctranslate2", "transformers")
"""In order of preference, where vLLM has no GPU: the faster one does not run every architecture."""


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Check an engine's name and options before any model is loaded.

    Raises:
        ConfigError: No such engine, or an option that it does not have.
        PreflightError: vLLM is asked for but not installed, or its build does not fit.
    """
    if kind not in KINDS:
        raise ConfigError(f"engine.kind: no engine {kind!r}", _near(kind, KINDS))
    if kind == "vllm":
        _check_vllm(options)
        return
    known = {name for k in (_AUTO if kind == "auto" else (kind,)) for name in OPTIONS[k]}
    for name in options:
        if name not in known:
            raise ConfigError(f"engine.{name}: {kind} has no such option", _near(name, known))
    if kind == "server":
        Balancer(options, model=None)
        return
    for name in _BATCH:
        size = options.get(name, 1)
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"engine.{name}: {size!r}, expected a whole number above 0")


def open_engine(
    kind: str, model: Path, chat: Chat, options: Mapping[str, Any], *, fixed: bool = False
) -> Engine:
    """Load a model.

    Args:
        kind: ``vllm``, ``ctranslate2``, ``transformers`` or ``server``. ``auto``: vllm where it is
            installed and there is a CUDA device, else the first of the next two that can run the
            model.
        model: Model directory.
        chat: Of the same model.
        options: The engine's own; under ``auto`` each engine takes those that it has.
        fixed: Whether no other weights will follow; endpoints need to know.

    Raises:
        ConfigError: See ``check_options``.
        PreflightError: The engine is not installed, cannot run this architecture, or found too
            little memory.
    """
    check_options(kind, options)
    if kind != "auto":
        more = {"fixed": fixed} if kind == "server" else {}
        engine: Engine = _module(kind).open_engine(model, chat, options, **more)
        return engine
    *others, last = candidates(kind)
    for name in others:
        try:
            return open_engine(name, model, chat, own_options(name, options))
        except PreflightError:
            continue
    return open_engine(last, model, chat, own_options(last, options))


def candidates(kind: str) -> tuple[str, ...]:
    """The engines that a kind may come to, in order of preference: one, but for ``auto``."""
    if kind != "auto":
        return (kind,)
    return ("vllm", *_AUTO) if _has_vllm_on_cuda() else _AUTO


def own_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that an engine has."""
    known = set(_module("vllm").OPTIONS if kind == "vllm" else OPTIONS[kind])
    return {key: value for key, value in options.items() if key in known}


def _module(kind: str) -> ModuleType:
    try:
        return importlib.import_module(f"selfreward.engines.{_MODULES.get(kind, kind)}")
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        raise PreflightError(
            f"engine.kind={kind}: {error}",
            f"pip install {missing}, or set another engine.kind."
            if missing
            else "`selfreward doctor` checks the installation; or set another engine.kind.",
        ) from None


def _check_vllm(options: Mapping[str, Any]) -> None:
    if problem := vllm_problem():
        raise PreflightError(f"engine.kind=vllm: {problem.message}", problem.fix)
    module = _module("vllm")
    for name in options:
        if name in module.OWNED:
            raise ConfigError(f"engine.{name} cannot be set", f"{module.OWNED[name]}.")
        if name not in module.OPTIONS:
            close = _near(name, module.OPTIONS, "They are the arguments of vLLM's AsyncEngineArgs.")
            raise ConfigError(f"engine.{name}: vllm has no such option", close)


def _has_vllm_on_cuda() -> bool:
    if vllm_problem() or is_cpu_build():
        return False
    import torch

    return bool(torch.cuda.is_available())


def _near(name: str, known: Iterable[str], otherwise: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    if close:
        return f"Did you mean {close[0]}?"
    return otherwise or f"One of: {', '.join(sorted(known))}."
