"""Self-rewarding alignment: one model writes prompts, answers, judges and learns from it.

    from selfreward import Run, run

Importing this package loads no torch, transformers, vllm or trl; those live in the child
processes that need them. ``Run`` and ``run`` are those of ``api``, which is loaded when they are
asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfreward.api import Run, run

__version__ = "0.1.0"
DISTRIBUTION = "selfreward-loop"
"""What pip knows this package by. On PyPI the name ``selfreward`` is someone else's."""
__all__ = ["DISTRIBUTION", "Run", "__version__", "run"]


def __getattr__(name: str) -> object:
    if name not in ("Run", "run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from selfreward import api

    return getattr(api, name)
