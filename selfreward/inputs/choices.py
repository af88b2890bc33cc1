"""Multiple-choice questions, for the quick check of ``selfreward benchmark``."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.rows import read_rows

Style = Literal["question", "plain"]
"""How a question is put. ``question``: ``Question: ...``, and ``Answer:`` on the next line, as by
lm-eval's ARC; ``plain``: alone, and the choice completes it, as by its OpenBookQA."""


@dataclass(frozen=True, slots=True)
class Choices:
    """A question and what may be answered."""

    question: str
    choices: tuple[str, ...]
    """Two or more, all different."""
    answer: int
    """Place of the right one, from 0."""

    def asked(self, style: Style) -> list[tuple[str, str]]:
        """For each choice what is given, and what the model would go on with."""
        given = f"Question: {self.question}\nAnswer:" if style == "question" else self.question
        return [(given, f" {choice}") for choice in self.choices]


def read_choices(path: str, limit: int | None = None) -> list[Choices]:
    """Read rows of ``question``, ``choices`` (a list) and ``answer`` (a place in it, from 0).

    Args:
        path: Of a local file; see ``read_rows``.
        limit: Take the first so many.

    Raises:
        ConfigError: There is no such file, or a row is not of this shape.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"--task {path}: no such file",
            "Name a local file; --tasks takes the tasks of lm-eval.",
        )
    return [_choices(at, row) for at, row in read_rows(SeedSource(path=path, limit=limit))]


def choices_digest(questions: Sequence[Choices]) -> str:
    """sha256 over questions, which tells one task from another."""
    plain = [[each.question, each.choices, each.answer] for each in questions]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _choices(at: str, row: dict[str, object]) -> Choices:
    question, choices, answer = (row.get(name) for name in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"{at}: needs a text in 'question', found {question!r:.60}")
    texts = choices if isinstance(choices, list) else []
    if len(texts) < 2 or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ConfigError(f"{at}: needs a list of two texts or more in 'choices'")
    if len(set(texts)) < len(texts):
        raise ConfigError(f"{at}: the same text stands twice in 'choices'", "Remove one of them.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(texts):
        raise ConfigError(
            f"{at}: needs the place of the right choice in 'answer', 0 to {len(texts) - 1}, "
            f"found {answer!r:.60}"
        )
    return Choices(question, tuple(texts), answer)
