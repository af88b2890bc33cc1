"""Multiple-choice questions: of ``evaluation.benchmarks``, and of ``selfreward benchmark``."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from selfreward.config import SeedSource
from selfreward.config.evaluation import Style
from selfreward.errors import ConfigError
from selfreward.inputs.rows import read_rows
from selfreward.inputs.shapes import check_text


@dataclass(frozen=True, slots=True)
class Choices:
    """A question and what may be answered."""

    question: str
    choices: tuple[str, ...]
    """Two or more, all different."""
    answer: int
    """Place of the right one, from 0."""

    def asked(self, style: Style) -> list[tuple[str, str]]:
        """For each choice what is given, and what the model would go on with: a space, the choice.

        Spaces at the end of a question are left out, so that there is one between the two.
        """
        question = self.question.rstrip()
        given = f"Question: {question}\nAnswer:" if style == "question" else question
        return [(given, f" {choice}") for choice in self.choices]


def read_choices(source: SeedSource, beside: Path | None = None) -> list[Choices]:
    """Read rows of ``question``, ``choices`` (a list) and ``answer`` (a place in it, from 0).

    Args:
        beside: Directory that relative paths are also looked for in.

    Raises:
        ConfigError: There is no such file, or a row is not of this shape.
    """
    return [_choices(at, row, source.columns) for at, row in read_rows(source, beside)]


def dump_choices(questions: Sequence[Choices]) -> str:
    """JSONL that ``read_choices`` reads back."""
    rows = (json.dumps(asdict(each), ensure_ascii=False) for each in questions)
    return "".join(f"{row}\n" for row in rows)


def choices_digest(questions: Sequence[Choices]) -> str:
    """sha256 over questions, which tells one task from another."""
    plain = [[each.question, each.choices, each.answer] for each in questions]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _choices(at: str, row: Mapping[str, object], columns: Mapping[str, str]) -> Choices:
    names = ("question", "choices", "answer")
    question, choices, answer = (row.get(columns.get(name, name)) for name in names)
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"{at}: needs a text in 'question', found {question!r:.60}")
    texts = choices if isinstance(choices, list) else []
    if len(texts) < 2 or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ConfigError(f"{at}: needs a list of two texts or more in 'choices'")
    check_text("".join((question, *texts)), "question or choices", at)
    if len(set(texts)) < len(texts):
        raise ConfigError(f"{at}: the same text stands twice in 'choices'", "Remove one of them.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(texts):
        raise ConfigError(
            f"{at}: needs the place of the right choice in 'answer', 0 to {len(texts) - 1}, "
            f"found {answer!r:.60}"
        )
    return Choices(question, tuple(texts), answer)
