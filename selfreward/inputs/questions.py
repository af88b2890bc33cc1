"""Held-out prompts that every model of a run answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.columns import further_columns, whole_row
from selfreward.inputs.rows import read_rows
from selfreward.inputs.shapes import check_text, our_row

QUESTION = frozenset({"prompt", "kind", "reference"})
"""The columns of a question that are read; it may have further ones."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that no model of the run is trained on."""

    prompt: str
    kind: str = ""
    """What sort of request it is, such as ``rewriting``; empty where the data does not say."""
    reference: str | None = None
    """An answer that the models are also compared with."""
    columns: str | None = None
    """Further columns of its row as a JSON object, which reward functions get; None without any."""


def read_questions(source: SeedSource, beside: Path | None = None) -> list[Question]:
    """Read questions: rows of ``prompt``, ``kind`` and ``reference`` if any, and further columns.

    Args:
        beside: Directory that relative paths are also looked for in.

    Raises:
        ConfigError: A row without a prompt, a text that is none, a prompt that comes twice, or
            references beside prompts that have none.
    """
    found: list[Question] = []
    first: dict[str, str] = {}
    for at, row in read_rows(source, beside):
        values = our_row(row, source.columns, at, ("prompt",))
        texts = {name: _text(values, name, at) for name in QUESTION}
        prompt = texts["prompt"]
        if prompt is None:
            raise ConfigError(f"{at}: needs a text in column 'prompt'", "Fill it in.")
        if prompt in first:
            raise ConfigError(f"{at}: the prompt is that of {first[prompt]}", "Remove one of them.")
        first[prompt] = at
        columns = further_columns(values, source.columns, at, QUESTION)
        found.append(Question(prompt, texts["kind"] or "", texts["reference"], columns))
    _check_references(found, first, source.path)
    return found


def dump_questions(questions: Sequence[Question]) -> str:
    """JSONL that ``read_questions`` reads back."""
    rows = (
        whole_row(
            q.prompt, q.columns,
            **{name: text for name, text in (("kind", q.kind), ("reference", q.reference)) if text},
        )
        for q in questions
    )  # fmt: skip
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def copied_questions(path: Path) -> list[Question]:
    """Read a run's own copy."""
    return read_questions(SeedSource(path=str(path.resolve())))


def _text(values: dict[str, object], name: str, at: str) -> str | None:
    value = values.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{at}: column {name!r} must be a text, found {value!r:.60}")
    check_text(value, name, at)
    return value.strip()


def _check_references(found: Sequence[Question], at: dict[str, str], path: str) -> None:
    """All prompts or none have a reference, else a win rate would be about some alone."""
    lacking = [q.prompt for q in found if q.reference is None]
    if lacking and len(lacking) < len(found):
        raise ConfigError(
            f"{path}: {len(lacking)} of {len(found)} prompts have no 'reference', the first is "
            f"{at[lacking[0]]}",
            "Give each prompt one, or none.",
        )
