"""The columns of a row that are no text of ours, kept with its prompt for who asks for them.

    {"prompt", "answer", "constraints"}  ->  the prompt, and '{"answer": ..., "constraints": ...}'

Reward functions get them as keyword arguments, as in TRL. They are kept as JSON, since every data
set has others. Of a conversation ``messages`` is one of them, see ``conversations.py``.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.conversations import MESSAGES, written
from selfreward.inputs.rows import read_rows
from selfreward.inputs.seeds import text_of
from selfreward.inputs.shapes import our_row

_READ = {
    "prompt", "response", "responses", "instruction", "input", "output", "system", "history",
    "messages", "conversations", "conversation", "completion", "completions", "chosen", "rejected",
}  # fmt: skip
"""What ``shapes.py`` reads texts from."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt of a data set."""

    prompt: str
    columns: str | None = None
    """Its further columns as a JSON object; None without any."""


def read_prompt_rows(source: SeedSource, beside: Path | None = None) -> list[PromptRow]:
    """Read the prompts of a data set with their further columns, in order, each prompt once.

    Raises:
        ConfigError: A row without a prompt, or a column that is no JSON.
    """
    found: dict[str, PromptRow] = {}
    for at, row in read_rows(source, beside):
        values = our_row(row, source.columns, at, ("prompt",))
        prompt = text_of(at, values, row, source.columns, "prompt")
        columns = further_columns(values, source.columns, at)
        found.setdefault(prompt, PromptRow(prompt, columns))
    return list(found.values())


def further_columns(
    values: Mapping[str, Any],
    columns: Mapping[str, str],
    at: str,
    known: frozenset[str] = frozenset(),
) -> str | None:
    """The columns of a row that nothing else is read from, as a JSON object; None without any.

    ``messages`` is among them where the prompt is a conversation.

    Args:
        values: The row by our own names, see ``our_row``.
        columns: Our names -> theirs; what was renamed is not kept under its old name.
        known: Further names that are read.

    Raises:
        ConfigError: A value is no JSON, as are bytes, dates and NaN.
    """
    read = _READ | known | (set(columns.values()) - columns.keys())
    kept = {name: value for name, value in values.items() if name not in read}
    kept |= {MESSAGES: values[MESSAGES]} if MESSAGES in values else {}
    for name, value in kept.items():
        try:
            json.dumps(value, allow_nan=False).encode("ascii")
            json.dumps(value, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{at}: column {name!r} cannot be kept with the prompt ({error})",
                "Write its values as text or numbers, or leave the column out.",
            ) from None
    return json.dumps(kept, ensure_ascii=False, sort_keys=True) if kept else None


def values_of(columns: str | None) -> dict[str, Any]:
    """The columns by name."""
    return dict(json.loads(columns)) if columns else {}


def demonstration_of(columns: str | None) -> str:
    """What a person answered, column ``demonstration``; empty where there is no such text."""
    found = values_of(columns).get("demonstration")
    return found.strip() if isinstance(found, str) else ""


def column_names(jsonl: str, known: frozenset[str] = frozenset({"prompt"})) -> list[str]:
    """Names of the further columns in a run's own copy of its prompts or questions.

    Args:
        jsonl: Its text.
        known: The columns that are none of them.
    """
    rows = [json.loads(line) for line in jsonl.split("\n")[:-1]]
    names = {name for row in rows for name in row} - known
    return sorted(names | {MESSAGES} if any(isinstance(r["prompt"], list) for r in rows) else names)


def whole_row(prompt: str, columns: str | None, **named: str) -> dict[str, Any]:
    """A row of a run's own copy, which reads back as this prompt and these columns."""
    others = {name: value for name, value in values_of(columns).items() if name != MESSAGES}
    return {"prompt": written(prompt, columns), **named, **others}


def dump_prompt_rows(rows: list[PromptRow]) -> str:
    """JSONL that ``read_prompt_rows`` reads back."""
    return "".join(_lines(rows))


def _lines(rows: list[PromptRow]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(whole_row(row.prompt, row.columns), ensure_ascii=False) + "\n"
