"""What trainings are made of: rows of token ids, and who is told of their progress."""

import os
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


def num_processes() -> int:
    """How many processes train together with this one, itself included."""
    # Some clusters set WORLD_SIZE for whatever they run; launchers set both.
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
