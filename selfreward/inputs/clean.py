"""Hygiene of data that people bring, as InstructGPT has it (arXiv 2203.02155).

    rows -> what compares nothing, what names people, what comes again, what one user sent too
    much of: dropped, each with its reason -> the rest by user: train.jsonl, test.jsonl

rows in = rows out + dropped. Rows are written as they were read. Those of one prompt that rank or
score answers, or prefer one, belong together: they stay or go, and are split, as one.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.conversations import kept_messages, requests_of
from selfreward.inputs.personal import kinds_in
from selfreward.inputs.rankings import TEXTS
from selfreward.inputs.rows import Row, read_rows
from selfreward.inputs.shapes import as_number, having, our_row
from selfreward.storage import durable

PREFIX = 100
"""Characters that two prompts share at their beginning to be one. Ours: the paper says long."""
PER_USER = 200
"""Prompts of one user (the paper's)."""
Drop = Callable[[Row, str, str], None]
"""Told a row, the reason and a detail."""
_COMPARED = ("responses", "response_a", "chosen", "rank", "score", "quality")
"""Columns of rows that belong to the others of their prompt."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is done to the rows."""

    user: str | None = None
    """Column that says whose a prompt is; None: nobody knows, and each prompt is its own user."""
    per_user: int = PER_USER
    prefix: int = PREFIX
    test: float = 0.0
    """Share of the users whose rows are held out, 0 to 1."""
    keep_personal: bool = False
    seed: int = 0
    """Decides which users are held out: by a hash, so that one stays where it is as data grows."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What came of it."""

    read: int
    """Rows."""
    files: dict[str, int]
    """Rows by path."""
    dropped: dict[str, int]
    """Rows by reason."""
    personal: dict[str, int]
    """Rows dropped as ``personal data`` by kind; one may hold several."""
    users: int | None
    """Of the rows that are kept; None where nobody knows."""


@dataclass(slots=True)
class _Prompt:
    """The rows of one prompt of a user, or one row that stands alone."""

    text: str
    user: str
    asked: str
    """What the user says in it: a system turn is shared by all prompts of an application."""
    rows: list[tuple[Row, dict[str, Any]]]
    """As found, and by our own names."""
    said: dict[str, str] = field(default_factory=dict)
    """Where each stands, by what it says of which answers."""


def clean(source: SeedSource, out: Path, how: Cleaning) -> Cleaned:
    """Write ``out/train.jsonl``, ``out/test.jsonl`` if it is asked for, and ``out/dropped.jsonl``.

    Args:
        out: A directory that is not there yet.

    Raises:
        ConfigError: A row without a prompt or a user, a value that is no JSON, nothing that is
            left, nobody who is held out; or the directory is in the way.
        PreflightError: The hub cannot be reached.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; nothing was written", "Choose another directory.")
    dropped: list[Row] = []
    personal: Counter[str] = Counter()

    def drop(row: Row, reason: str, detail: str) -> None:
        at, found = row
        dropped.append((at, {"at": at, "reason": reason, "detail": detail, "row": found}))

    kept: list[_Prompt] = []
    begun: dict[str, str] = {}
    per_user: Counter[str] = Counter()
    for prompt in _prompts(source, how, drop):
        first = begun.get(_beginning(prompt.asked, how.prefix))
        kinds = [] if how.keep_personal else _personal(prompt)
        if kinds:
            reason, detail = "personal data", ", ".join(kinds)
            personal.update(dict.fromkeys(kinds, len(prompt.rows)))
        elif _is_tied(prompt):
            reason, detail = "all tied", ""
        elif first is not None:
            reason, detail = "duplicate", f"begins as {first}"
        elif how.user is not None and per_user[prompt.user] >= how.per_user:
            reason, detail = "too many of a user", f"over {how.per_user}"
        else:
            begun[_beginning(prompt.asked, how.prefix)] = prompt.rows[0][0][0]
            per_user[prompt.user] += 1
            kept.append(prompt)
            continue
        for row, _ in prompt.rows:
            drop(row, reason, detail)
    counts = dict(Counter(row["reason"] for _, row in dropped).most_common())
    files = _split(kept, how, ", ".join(f"{reason} {n}" for reason, n in counts.items()))
    written = _write(out, files | {"dropped.jsonl": dropped})
    read = sum(written.values())
    users = None if how.user is None else len({prompt.user for prompt in kept})
    return Cleaned(read, written, counts, dict(personal.most_common()), users)


def _prompts(source: SeedSource, how: Cleaning, drop: Drop) -> Iterator[_Prompt]:
    """All prompts with their rows, in the order in which each begins; what is empty is dropped."""
    together: dict[tuple[str, str], _Prompt] = {}
    alone = 0
    for at, row in read_rows(source):
        ours = our_row(row, source.columns, at, TEXTS)
        text = ours.get("prompt")
        if not isinstance(text, str):
            found = f"found {text!r:.40}" if "prompt" in ours else having(row)
            raise ConfigError(
                f"{at}: needs a text in column {source.columns.get('prompt', 'prompt')!r}, {found}",
                "Name the column that has it: --column prompt=THEIRS; docs/data.md has the shapes.",
            )
        if reason := _nothing_in(ours):
            drop((at, row), reason, "")
            continue
        user = _user(at, row, how.user)
        is_compared = any(ours.get(name) not in (None, "") for name in _COMPARED)
        key = (user, text.strip()) if is_compared else ("", f"\0{alone}")
        alone += 1
        asked = requests_of(text.strip(), kept_messages(ours))
        prompt = together.setdefault(key, _Prompt(text.strip(), user, asked, []))
        said = json.dumps([ours.get(name) for name in (*TEXTS, *_COMPARED, "label")], default=str)
        if (first := prompt.said.setdefault(said, at)) == at:
            prompt.rows.append(((at, row), ours))
        else:
            drop((at, row), "duplicate", f"says what {first} does")
    yield from together.values()


def _nothing_in(ours: Mapping[str, Any]) -> str | None:
    """Why a row teaches nothing by itself; None if it does."""
    for name in TEXTS:
        if isinstance(ours.get(name), str) and not ours[name].strip():
            return "empty"
    for one, other in (("chosen", "rejected"), ("response_a", "response_b")):
        a, b = ours.get(one), ours.get(other)
        if isinstance(a, str) and isinstance(b, str) and a.strip() == b.strip():
            return "equal texts"
    if str(ours.get("label")).strip().casefold() == "tie" and "response_a" in ours:
        return "all tied"
    return None


def _user(at: str, row: Mapping[str, Any], column: str | None) -> str:
    if column is None:
        return ""
    if row.get(column) in (None, ""):
        has = "which is empty" if column in row else having(row)
        raise ConfigError(
            f"{at}: says nothing of its user in column {column!r}, {has}",
            "Name another column with --user, or leave it out.",
        )
    return str(row[column])


def _beginning(text: str, length: int) -> str:
    """What near duplicates share: case and white space do not tell prompts apart."""
    return " ".join(text.casefold().split())[:length]


def _personal(prompt: _Prompt) -> list[str]:
    """Kinds of personal data in any text of a prompt's rows."""
    return list(dict.fromkeys(k for _, o in prompt.rows for t in _texts(o) for k in kinds_in(t)))


def _texts(ours: Mapping[str, Any]) -> Iterator[str]:
    for name in (*TEXTS, "text"):
        if isinstance(ours.get(name), str):
            yield ours[name]
    nested = ours.get("responses")
    for answer in nested if isinstance(nested, list) else ():
        if isinstance(answer, dict):
            yield from _texts(answer)


def _is_tied(prompt: _Prompt) -> bool:
    """Whether people ranked two or more answers, and all alike.

    Equal scores are no tie: they still say how good each answer is.
    """
    ranks: list[float] = []
    for _, ours in prompt.rows:
        nested = ours.get("responses")
        answers = nested if isinstance(nested, list) else [ours]
        found = (as_number(answer.get("rank")) for answer in answers if isinstance(answer, dict))
        ranks += [rank for rank in found if rank is not None]
    return len(ranks) > 1 and len({*ranks}) == 1


def _split(kept: list[_Prompt], how: Cleaning, reasons: str) -> dict[str, list[Row]]:
    """The rows of each file.

    Raises:
        ConfigError: Nothing is left, or one of the two parts is empty.
    """
    if not kept:
        raise ConfigError(
            f"no row is left; dropped: {reasons}",
            "Look at the reasons; a smaller --prefix finds more duplicates, a larger one fewer.",
        )
    parts: defaultdict[bool, list[Row]] = defaultdict(list)
    for prompt in kept:
        who = prompt.user if how.user is not None else prompt.text
        digest = hashlib.sha256(f"{how.seed}/{who}".encode("utf-8", "surrogatepass")).digest()
        is_test = int.from_bytes(digest[:8]) < how.test * 2**64
        parts[is_test] += [row for row, _ in prompt.rows]
    if how.test and len(parts) < 2:
        empty = "train" if parts[True] else "test"
        of = "prompts" if how.user is None else "users"
        raise ConfigError(
            f"--test {how.test:g} of so few {of} leaves nobody for {empty}.jsonl",
            "Choose another share, or another --seed.",
        )
    return {"train.jsonl": parts[False]} | ({"test.jsonl": parts[True]} if how.test else {})


def _write(out: Path, files: Mapping[str, list[Row]]) -> dict[str, int]:
    """Write all files or none; how many rows each has, by path."""
    texts = {name: "".join(map(_line, rows)) for name, rows in files.items()}
    with durable.publish_directory(out) as directory:
        for name, text in texts.items():
            durable.write_file(directory / name, text)
    return {str(out / name): len(rows) for name, rows in files.items()}


def _line(row: Row) -> str:
    at, found = row
    try:
        return json.dumps(found, allow_nan=False) + "\n"
    except ValueError as error:
        raise ConfigError(
            f"{at}: cannot be written as JSON ({error})",
            "JSON has no NaN and no infinity: write null, or leave the column out.",
        ) from None
    except TypeError as error:
        raise ConfigError(
            f"{at}: cannot be written as JSON ({error})",
            "Write dates and bytes as text, or leave the column out.",
        ) from None
