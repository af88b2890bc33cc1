"""Training, thin over TRL: rows of token ids and a model directory in, a model directory out.

    sft.train_sft   SftRow -> M1        dpo.train_dpo   DpoRow -> M(t+1), reference M(t)
    distributed.train_processes         either, in several processes

The rows are made by the chat layer, so training sees the very ids that sampling sees; TRL
neither templates nor tokenizes nor cuts. ``sft`` and ``dpo`` import torch and TRL and belong in
child processes; this module, ``options`` and ``distributed`` can be imported anywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

OnLog = Callable[[int, dict[str, float]], None]
"""Told an optimizer step, from 1, and its figures."""
OnStep = Callable[[int, int], None]
"""Told how many optimizer steps are done, and of how many."""


@dataclass(frozen=True, slots=True)
class SftRow:
    """A prompt and the completion to learn; no loss is taken on the prompt."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """Ends with the end-of-turn token."""

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class DpoRow:
    """A prompt with a chosen and a rejected completion."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    """Ends with the end-of-turn token, as does ``rejected_ids``."""
    rejected_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longer completion."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))
