"""Self-rewarding alignment: one model writes prompts, answers, judges and learns from it.

Importing this package loads no torch, transformers, vllm or trl; those live in the child
processes that need them.
"""

__version__ = "0.1.0"
