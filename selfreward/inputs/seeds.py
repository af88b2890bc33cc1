"""Seed data: the human rows that a run starts from.

Three kinds, each JSONL, parquet or a hub data set, one row per line:

    prompts  {"prompt"}
    IFT      {"prompt", "response"}
    EFT      {"prompt", "responses": [{"text", "score", "justification"?}, ...]}
         or  {"prompt", "response", "score", "justification"?}

Other columns are ignored; ``columns`` in the config maps our names to theirs. A run keeps its own
normalized copy, so that nothing outside can change or vanish under it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfreward.config import SeedSource
from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs import shipped


@dataclass(frozen=True, slots=True)
class IftExample:
    """An instruction with a good answer."""

    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class EftExample:
    """An answer with what a careful judge says of it."""

    prompt: str
    response: str
    score: float
    """0 to 5 points."""
    justification: str | None
    """Needed for the ``written`` form only."""


def read_prompts(source: SeedSource, beside: Path | None = None) -> list[str]:
    """Read the prompts of a source, in order, each once."""
    rows = _Rows(source, beside)
    prompts = dict.fromkeys(rows.text(row, "prompt", at) for at, row in rows)
    return list(prompts)


def read_ift(source: SeedSource, beside: Path | None = None) -> list[IftExample]:
    """Read instruction data."""
    rows = _Rows(source, beside)
    return [
        IftExample(rows.text(row, "prompt", at), rows.text(row, "response", at)) for at, row in rows
    ]


def read_eft(source: SeedSource, beside: Path | None = None) -> list[EftExample]:
    """Read evaluation data; nested rows become one example per answer.

    Raises:
        ConfigError: Among others, a score that is no number from 0 to 5.
    """
    rows = _Rows(source, beside)
    examples = []
    for at, row in rows:
        prompt = rows.text(row, "prompt", at)
        nested = row.get(rows.columns.get("responses", "responses"))
        if nested is None:
            examples.append(_eft(rows, row, prompt, "response", at))
            continue
        if not isinstance(nested, list) or not all(isinstance(answer, dict) for answer in nested):
            raise ConfigError(f"{at}: 'responses' must be a list of objects, found {nested!r:.60}")
        examples += [_eft(rows, answer, prompt, "text", at) for answer in nested]
    return examples


def _eft(rows: "_Rows", answer: dict[str, Any], prompt: str, text: str, at: str) -> EftExample:
    """One scored answer; ``text`` is our name for the column that holds it."""
    response = rows.text(answer, text, at)
    score = answer.get(rows.columns.get("score", "score"))
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 5:
        raise ConfigError(f"{at}: 'score' must be a number from 0 to 5, found {score!r:.60}")
    column = rows.columns.get("justification", "justification")
    justified = answer.get(column) not in (None, "")
    why = rows.text(answer, "justification", at) if justified else None
    return EftExample(prompt, response, float(score), why)


def plain(prompt: str) -> str:
    """The same for prompts that differ in case and white space only."""
    return " ".join(prompt.casefold().split())


def dump_rows(rows: list[str] | list[IftExample] | list[EftExample]) -> str:
    """JSONL of seed rows, as the readers of this module take it."""
    plain = [{"prompt": row} if isinstance(row, str) else asdict(row) for row in rows]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain)


def read_rows(
    source: SeedSource, beside: Path | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where it stands, row) of any source, unchecked.

    Raises:
        ConfigError: The source is missing, unreadable, not what its name says, or empty.
        PreflightError: The hub cannot be reached.
    """
    path = _find(source.path, beside)
    if path is None:
        rows = _read_hub(source)
    elif path.suffix == ".parquet":
        rows = _read_parquet(path)
    else:
        rows = _read_jsonl(path)
    count = 0
    for at, row in rows:
        if source.limit is not None and count == source.limit:
            return
        count += 1
        yield at, row
    if count == 0:
        raise ConfigError(f"{path or source.path}: holds no rows")


class _Rows:
    """The rows of a source as (place, mapping), with checked access to their columns."""

    def __init__(self, source: SeedSource, beside: Path | None) -> None:
        self.source, self.columns, self._beside = source, source.columns, beside

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return read_rows(self.source, self._beside)

    def text(self, row: dict[str, Any], column: str, at: str) -> str:
        theirs = self.columns.get(column, column)
        value = row.get(theirs)
        if not isinstance(value, str) or not value.strip():
            found = f"found {type(value).__name__}" if theirs in row else f"row has {sorted(row)}"
            raise ConfigError(
                f"{at}: needs a text in column {theirs!r}, {found}",
                f"Map it in the config, such as columns: {{{column}: their_name}}.",
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{at}: column {theirs!r} holds half of a surrogate pair") from None
        return value.strip()


def _find(path: str, beside: Path | None) -> Path | None:
    """The file that ``path`` names, or None for a hub id."""
    for place in (
        *([beside / path] if beside else []), Path(path), shipped.prompts_directory() / path
    ):  # fmt: skip
        if place.is_file():
            return place
    if path.count("/") == 1 and not path.endswith((".jsonl", ".parquet", ".json")):
        return None
    raise ConfigError(f"seed data {path!r}: no such file", "Give a path, or org/name of a hub set.")


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _parse_line(line, f"{path}:{number}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the seed data ({error.strerror})") from None


def _parse_line(line: bytes, at: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        torn = "" if line.endswith(b"\n") else "; the last line looks torn"
        raise ConfigError(f"{at}: not JSON ({error}){torn}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{at}: a row is an object, found {row!r:.40}")
    return row


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{path}: not a readable parquet file ({error})") from None
    for number, row in enumerate(rows, 1):
        yield f"{path} row {number}", row


def _read_hub(source: SeedSource) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows = datasets.load_dataset(source.path, split=source.split, revision=source.revision)
    except (datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise ConfigError(f"seed data {source.path!r}: {_line(error)}") from None
    except (ConnectionError, OSError, HfHubHTTPError) as error:
        raise PreflightError(
            f"seed data {source.path!r}: the hub cannot be reached ({_line(error)})",
            "Download it once and give the file's path.",
        ) from None
    for number, row in enumerate(rows, 1):
        yield f"{source.path}[{source.split}] row {number}", dict(row)


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
