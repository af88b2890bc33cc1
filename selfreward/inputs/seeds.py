"""Seed data: the human rows that a run starts from.

Three kinds, in any file of ``rows.py``, one row per line:

    prompts  {"prompt"}
    IFT      {"prompt", "response"}
    EFT      {"prompt", "responses": [{"text", "score", "justification"?}, ...]}
         or  {"prompt", "response", "score", "justification"?}

or in another shape of ``shapes.py``. A prompt may be a conversation, whose last turn is answered;
``columns`` then has its ``messages``. Other columns are ignored here; ``columns.py`` keeps them.
``columns`` in the config maps our names to theirs. A run keeps its own normalized copy, so that
nothing outside can change or vanish under it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.conversations import is_conversation, kept_messages, written
from selfreward.inputs.rows import read_rows
from selfreward.inputs.shapes import (
    READ,
    READ_SCORED,
    as_number,
    check_names,
    check_text,
    having,
    instead,
    our_row,
    seen,
)
from selfreward.records import MAX_SCORE


@dataclass(frozen=True, slots=True)
class IftExample:
    """An instruction with a good answer."""

    prompt: str
    response: str
    columns: str | None = None
    """``messages`` of a conversation, see ``conversations.py``."""


@dataclass(frozen=True, slots=True)
class EftExample:
    """An answer with what a careful judge says of it."""

    prompt: str
    response: str
    score: float
    """0 to 5 points."""
    justification: str | None
    """Needed for the ``written`` form only."""
    columns: str | None = None
    """``messages`` of a conversation, see ``conversations.py``."""

    def teaches(self, *, writes: bool) -> bool:
        """Whether a judge can be trained on it.

        Args:
            writes: Whether the judge writes reasons before its score, and so has to learn to.
        """
        return self.justification is not None or not writes


def read_prompts(source: SeedSource, beside: Path | None = None) -> list[str]:
    """Read the prompts of a source, in order, each once, but for conversations.

    They are what new prompts are written after, which are single requests.
    """
    rows = _Rows(source, beside, ("prompt",))
    return single_requests((row.text("prompt"), row.columns_kept) for row in rows)


def single_requests(prompts: Iterable[tuple[str, str | None]]) -> list[str]:
    """The texts, given with their columns, of prompts that are no conversations, each once."""
    return list(dict.fromkeys(text for text, columns in prompts if not is_conversation(columns)))


def shown(prompts: list[str], *, multiline: bool = False) -> list[str]:
    """Those that serve as demonstrations: of one line, or all where none is, or ``multiline``."""
    if multiline:
        return prompts
    return [prompt for prompt in prompts if "\n" not in prompt] or prompts


def read_ift(source: SeedSource, beside: Path | None = None) -> list[IftExample]:
    """Read instruction data."""
    rows = _Rows(source, beside, ("prompt", "response"))
    return [IftExample(row.text("prompt"), row.text("response"), row.columns_kept) for row in rows]


def read_eft(source: SeedSource, beside: Path | None = None) -> list[EftExample]:
    """Read evaluation data; nested rows become one example per answer.

    Raises:
        ConfigError: Among others, a score that is no number from 0 to 5.
    """
    examples = []
    for row in _Rows(source, beside, ("prompt", "response")):
        prompt = row.text("prompt")
        nested = row.values.get("responses")
        if nested is None:
            examples.append(_eft(row, prompt, "response", row.columns_kept))
            continue
        if not isinstance(nested, list) or not all(isinstance(answer, dict) for answer in nested):
            raise ConfigError(
                f"{row.at}: 'responses' must be a list of objects, found {nested!r:.60}"
            )
        if not nested:
            raise ConfigError(
                f"{row.at}: 'responses' is an empty list", "Give the answers, or remove the row."
            )
        examples += [
            _eft(replace(row, values=answer), prompt, "text", row.columns_kept) for answer in nested
        ]
    return examples


def _eft(answer: "_Row", prompt: str, text: str, columns: str | None) -> EftExample:
    """One scored answer; ``text`` is our name for the column that holds it."""
    response = answer.text(text)
    found = answer.values.get("score")
    score = as_number(found)
    if score is None or not 0 <= score <= MAX_SCORE:
        raise ConfigError(
            f"{answer.at}: 'score' must be a number from 0 to {MAX_SCORE}, found {found!r:.60}",
            answer.hint("score") if score is None else "Bring points of another scale to this one.",
        )
    justified = answer.values.get("justification") not in (None, "")
    why = answer.text("justification") if justified else None
    return EftExample(prompt, response, score, why, columns)


def plain(prompt: str) -> str:
    """The same for prompts that differ in case and white space only."""
    return " ".join(prompt.casefold().split())


def dump_rows(rows: list[str] | list[IftExample] | list[EftExample]) -> str:
    """JSONL of seed rows, as the readers of this module take it."""
    plain = [{"prompt": row} if isinstance(row, str) else _plain_row(row) for row in rows]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain)


def _plain_row(row: IftExample | EftExample) -> dict[str, Any]:
    named = {name: value for name, value in asdict(row).items() if name != "columns"}
    return {**named, "prompt": written(row.prompt, row.columns)}


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a source, which are asked for these texts."""

    source: SeedSource
    beside: Path | None
    needs: tuple[str, ...]

    def __iter__(self) -> "Iterator[_Row]":
        columns = self.source.columns
        check_names(columns, self.source.path)
        for at, row in read_rows(self.source, self.beside):
            yield _Row(at, our_row(row, columns, at, self.needs), row, columns)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row, or one of its nested answers."""

    at: str
    values: dict[str, Any]
    """By our own names."""
    found: dict[str, Any]
    """The whole row as it was found."""
    columns: dict[str, str]

    @property
    def columns_kept(self) -> str | None:
        """The ``columns`` of the example."""
        return kept_messages(self.values)

    def text(self, column: str) -> str:
        """The text in a column of ours, which must have one."""
        return text_of(self.at, self.values, self.found, self.columns, column)

    def hint(self, column: str) -> str:
        """How to have the column read, what the row looks like, and what is read without."""
        return _hint(self.found, column)


def text_of(
    at: str,
    values: Mapping[str, Any],
    found: Mapping[str, Any],
    columns: Mapping[str, str],
    column: str,
) -> str:
    """The text in a column of ours, which must have one.

    Args:
        at: Where the row stands.
        values: The row by our own names.
        found: The whole row as it was found.
        columns: Our names -> theirs.
    """
    theirs = columns.get(column, column)
    value = values.get(column)
    if not isinstance(value, str) or not value.strip():
        has, hint = instead(value), _hint(found, column)
        if isinstance(value, str):
            hint = "Nothing can be learned from it: fill it in, or remove the row."
        elif column not in values:
            has = having(values if column == "text" else found)
        raise ConfigError(f"{at}: needs a text in column {theirs!r}, {has}", hint)
    check_text(value, theirs, at)
    return value.strip()


def _hint(found: Mapping[str, Any], column: str) -> str:
    read = READ_SCORED if column in ("score", "text", "justification") else READ
    return (
        f"Map it in the config, such as columns: {{{column}: their_name}}. "
        f"The row looks like {seen(found)}; read are {read}."
    )
