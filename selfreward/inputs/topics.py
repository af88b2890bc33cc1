"""Topics or personas, one of which each attempt at a new prompt is given.

    a list in the config, or rows of ``topic``, ``persona`` or ``prompt`` (each line of a .txt is)

``columns: {topic: THEIRS}`` in the config takes any other column.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.rows import read_rows
from selfreward.inputs.seeds import text_of

_COLUMNS = ("topic", "persona", "prompt")
_HINT = (
    "A row has a text in topic, persona or prompt; prompts.topics: {path: FILE, columns: "
    "{topic: THEIRS}} takes another column."
)


def read_topics(source: Sequence[str] | SeedSource, beside: Path | None = None) -> list[str]:
    """The topics of a source or a list, in order, each once and on one line.

    Args:
        beside: Directory that relative paths are also looked for in.

    Raises:
        ConfigError: A row without a topic, or see ``read_rows``.
    """
    if not isinstance(source, SeedSource):
        return list(dict.fromkeys(" ".join(topic.split()) for topic in source))
    found: dict[str, None] = {}
    for at, row in read_rows(source, beside):
        theirs = next((name for name in _COLUMNS if name in row), "topic")
        columns = {"topic": source.columns.get("topic", theirs)}
        values = {"topic": row.get(columns["topic"])}
        try:
            topic = text_of(at, values, row, columns, "topic")
        except ConfigError as error:  # whose hint is about prompts
            raise ConfigError(error.message, _HINT) from None
        found[" ".join(topic.split())] = None
    return list(found)


def dump_topics(topics: Sequence[str]) -> str:
    """JSONL that ``read_topics`` reads back."""
    return "".join(json.dumps({"topic": topic}, ensure_ascii=False) + "\n" for topic in topics)
