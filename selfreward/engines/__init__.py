"""Inference engines behind one small protocol; see ``base.py``.

Each engine has a module, the only one that imports its library.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from selfreward.chat import Chat
from selfreward.engines.base import Engine
from selfreward.errors import ConfigError, PreflightError

OPTIONS = {
    "ctranslate2": (
        "device", "device_index", "compute_type", "inter_threads", "intra_threads",
        "max_queued_batches", "flash_attention", "tensor_parallel", "max_batch_size",
    ),
    "transformers": ("dtype", "device_map", "attn_implementation", "max_batch_size"),
}  # fmt: skip
"""By engine: arguments of ``ctranslate2.Generator`` and ``AutoModelForCausalLM.from_pretrained``,
and ``max_batch_size`` in sequences. Listed here so that checking them loads no library."""
_AUTO = ("ctranslate2", "transformers")
"""In order of preference: the faster one does not run every architecture."""


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Check an engine's name and options before anything is loaded.

    Raises:
        ConfigError: No such engine, or an option that it does not have.
    """
    if kind != "auto" and kind not in OPTIONS:
        raise ConfigError(f"engine.kind: no engine {kind!r}", _near(kind, ["auto", *OPTIONS]))
    known = {name for k in (_AUTO if kind == "auto" else (kind,)) for name in OPTIONS[k]}
    for name in options:
        if name not in known:
            raise ConfigError(f"engine.{name}: {kind} has no such option", _near(name, known))
    size = options.get("max_batch_size", 1)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"engine.max_batch_size: {size!r}, expected a whole number above 0")


def open_engine(kind: str, model: Path, chat: Chat, options: Mapping[str, Any]) -> Engine:
    """Load a model.

    Args:
        kind: ``ctranslate2``, ``transformers``, or ``auto`` for the first that can run the model.
        model: Model directory.
        chat: Of the same model.
        options: The engine's own; under ``auto`` each engine takes those that it has.

    Raises:
        ConfigError: See ``check_options``.
        PreflightError: The engine is not installed, or cannot run this architecture.
    """
    check_options(kind, options)
    if kind == "auto":
        for name in _AUTO[:-1]:
            own = {key: value for key, value in options.items() if key in OPTIONS[name]}
            try:
                return open_engine(name, model, chat, own)
            except PreflightError:
                continue
        kind = _AUTO[-1]
        options = {key: value for key, value in options.items() if key in OPTIONS[kind]}
    try:
        module = importlib.import_module(f"selfreward.engines.{kind}")
    except ModuleNotFoundError as error:
        raise PreflightError(
            f"engine.kind={kind}: {error}", f"pip install {error.name}, or set another engine.kind."
        ) from None
    engine: Engine = module.open_engine(model, chat, options)
    return engine


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"Did you mean {close[0]}?" if close else f"One of: {', '.join(sorted(known))}."
