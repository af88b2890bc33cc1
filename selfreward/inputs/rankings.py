"""Reading what people think of responses: ranks, scores or choices between two.

Rows of any source of ``rows.py``, in any of these shapes or those of ``shapes.py``:

    ranked   {"prompt", "responses": [{"text", "rank"?, "score"?}, ...]}
    flat     {"prompt", "response", "rank"?, "score"?}; rows of one prompt belong together
    labeled  {"prompt", "response_a", "response_b", "label": "A", "B" or "tie"}
    pair     {"prompt", "chosen", "rejected"}

The lower rank is the better one; only the order counts, so ranks may start anywhere and have gaps.
A score is 0 to 5 points; Open Assistant's ``quality`` label, 0 to 1, counts as five times itself.
Where a prompt has ranks they give the order, else the scores do. What cannot be used is left out
and counted by reason.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs import seeds
from selfreward.inputs.conversations import MESSAGES, kept_messages
from selfreward.inputs.rows import read_rows
from selfreward.inputs.shapes import (
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
from selfreward.storage.directory import Run

_COLUMNS = (
    "prompt", "responses", "text", "response", "rank", "score", "quality",
    "response_a", "response_b", "label", "chosen", "rejected",
)  # fmt: skip
TEXTS = ("prompt", "response", "response_a", "response_b", "chosen", "rejected")
"""Columns that hold a text, or messages that become one."""
_LABELS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.0, 0.0)}


@dataclass(frozen=True, slots=True)
class RankedResponse:
    """A response and what people think of it."""

    text: str
    preference: float
    """More is better, within its ranking; has no unit."""
    score: float | None = None
    """Points from people, 0 to 5; None where they only compared."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Responses to one prompt that people compared with each other."""

    prompt: str
    responses: tuple[RankedResponse, ...]
    columns: str | None = None
    """``messages`` of a conversation, see ``conversations.py``."""

    @property
    def is_ordered(self) -> bool:
        """Whether people preferred any response to another."""
        return len({response.preference for response in self.responses}) > 1


@dataclass(frozen=True, slots=True)
class HumanData:
    """Rankings that were read, and what was not."""

    rankings: list[Ranking]
    left_out: dict[str, int]
    """By reason: responses (``empty``, ``no rank or score``, ``duplicate``, ``score off the
    scale``) and rankings that neither order nor score anything (``no response``, ``one response``,
    ``all tied``, ``label ...``)."""
    num_gaps: int
    """Rankings whose ranks skip a place; they are used."""


def read_ranked(
    source: SeedSource,
    beside: Path | None = None,
    limit: int | None = None,
    *,
    needs_order: bool = True,
) -> HumanData:
    """Read human-ranked data.

    Args:
        source: See ``seeds.read_rows``; ``columns`` maps our names to theirs.
        beside: Directory that relative paths are also looked for in.
        limit: Rankings to take, the first ones; all if None.
        needs_order: Whether points alone, of responses that nothing compares, will not do.

    Raises:
        ConfigError: Among others, a row in none of the shapes, a text that is none, or nothing
            that could be compared.
    """
    check_names(source.columns, source.path)
    reader = _Reader(source.columns)
    for at, row in read_rows(source, beside):
        reader.read(at, row)
    rankings = list(islice(reader.rankings(), limit))
    if not any(ranking.is_ordered or not needs_order for ranking in rankings):
        why = ", ".join(f"{reason} {count}" for reason, count in reader.left_out.items())
        raise ConfigError(
            f"{source.path}: holds no two responses of which people preferred one"
            + (f"; left out: {why}" if why else ""),
            f"A rank is a number, lower is better; a score is 0 to {MAX_SCORE} points.",
        )
    return HumanData(rankings, dict(reader.left_out), reader.num_gaps)


def copy_ranked(source: SeedSource, beside: Path | None = None) -> str:
    """JSONL of the rows of a source, which was read, by our own names of its columns."""

    def known(row: dict[str, Any]) -> dict[str, Any]:
        copied = {name: row[name] for name in _COLUMNS if name in row}
        copied |= {"prompt": row[MESSAGES]} if MESSAGES in row else {}
        if isinstance(answers := copied.get("responses"), list):
            copied["responses"] = [known(answer) for answer in answers]
        return copied

    rows = (known(our_row(row, source.columns, at, TEXTS)) for at, row in read_rows(source, beside))
    # What is neither text nor a number, such as a date, was left out, and is from the copy too.
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    rank: float | None
    score: float | None


class _Reader:
    def __init__(self, columns: dict[str, str]) -> None:
        self._columns = columns
        self._groups: dict[tuple[str, str], list[_Answer]] = {}
        """By (row or empty for flat rows, prompt), so that flat rows of a prompt come together."""
        self._refused: dict[tuple[str, str], str] = {}
        self._conversations: dict[str, str | None] = {}
        """Columns by prompt."""
        self.left_out: Counter[str] = Counter()
        self.num_gaps = 0

    def read(self, at: str, row: dict[str, Any]) -> None:
        """Take in a row."""
        whole, row = row, our_row(row, self._columns, at, TEXTS)
        prompt = self._text(at, row, "prompt")
        self._conversations.setdefault(prompt, kept_messages(row))
        if (nested := row.get("responses")) is not None:
            if not isinstance(nested, list) or not all(isinstance(a, dict) for a in nested):
                raise ConfigError(
                    f"{at}: 'responses' must be a list of objects, found {nested!r:.60}",
                    'Each is such as {"text": "A plum.", "rank": 1}, or has a "score".',
                )
            self._groups[at, prompt] = [self._answer(at, answer, "text") for answer in nested]
        elif "response" in row:
            answer = self._answer(at, row, "response")
            self._groups.setdefault(("", prompt), []).append(answer)
        elif row.keys() >= {"response_a", "response_b", "label"}:
            label = self._text(at, row, "label").lower()
            if label not in _LABELS:
                self._groups[at, prompt], self._refused[at, prompt] = [], f"label {label}"
                return
            self._pair(at, row, prompt, ("response_a", "response_b"), _LABELS[label])
        elif row.keys() >= {"chosen", "rejected"}:
            self._pair(at, row, prompt, ("chosen", "rejected"), _LABELS["a"])
        else:
            raise ConfigError(
                f"{at}: no row of human-ranked data, its columns are {sorted(whole)}",
                "It needs chosen and rejected, or responses with ranks or scores; see "
                f"docs/judge.md. The row looks like {seen(whole)}.",
            )

    def rankings(self) -> Iterable[Ranking]:
        """What can be used, in order."""
        for key, answers in self._groups.items():
            if key in self._refused:
                self.left_out[self._refused[key]] += 1
            ranked = tuple(self._ranked(answers))
            ranking = Ranking(key[1], ranked, self._conversations[key[1]])
            scored = any(response.score is not None for response in ranking.responses)
            if ranking.is_ordered or scored:
                yield ranking
            elif ranking.responses:
                self.left_out["one response" if len(ranking.responses) == 1 else "all tied"] += 1
            elif not answers and key not in self._refused:
                self.left_out["no response"] += 1

    def _ranked(self, answers: list[_Answer]) -> Iterable[RankedResponse]:
        ranks = {answer.rank for answer in answers if answer.rank is not None}
        if ranks:
            self.num_gaps += any(b - a > 1 for a, b in pairwise(sorted(ranks)))
        seen: set[str] = set()
        for answer in answers:
            score = answer.score
            if score is not None and not 0 <= score <= MAX_SCORE:
                self.left_out["score off the scale"] += 1
                score = None
            preference = score
            if ranks:
                preference = None if answer.rank is None else -answer.rank
            if not answer.text:
                self.left_out["empty"] += 1
            elif preference is None:
                self.left_out["no rank or score"] += 1
            elif answer.text in seen:
                self.left_out["duplicate"] += 1
            else:
                seen.add(answer.text)
                yield RankedResponse(answer.text, preference, score)

    def _pair(
        self, at: str, row: dict[str, Any], prompt: str, names: tuple[str, str],
        preferences: tuple[float, float],
    ) -> None:  # fmt: skip
        texts = [self._text(at, row, name, may_be_empty=True) for name in names]
        self._groups[at, prompt] = [
            _Answer(text, -preference, None)
            for text, preference in zip(texts, preferences, strict=True)
        ]

    def _answer(self, at: str, row: dict[str, Any], text: str) -> _Answer:
        score = self._number(at, row, "score")
        if score is None and (quality := self._number(at, row, "quality")) is not None:
            score = MAX_SCORE * quality
        found = self._text(at, row, text, may_be_empty=True)
        return _Answer(found, self._number(at, row, "rank"), score)

    def _text(self, at: str, row: dict[str, Any], name: str, may_be_empty: bool = False) -> str:
        value = row.get(name)
        if not isinstance(value, str) or not (may_be_empty or value.strip()):
            theirs = self._columns.get(name, name)
            found = instead(value) if name in row else having(row)
            raise ConfigError(
                f"{at}: needs a text in column {theirs!r}, {found}",
                f"Read are {READ_SCORED}, and chosen and rejected; see docs/judge.md.",
            )
        check_text(value, name, at)
        return value.strip()

    def _number(self, at: str, row: dict[str, Any], name: str) -> float | None:
        value = row.get(name)
        if value is None or value == "":
            return None
        number = as_number(value)
        if number is None:
            raise ConfigError(f"{at}: {name!r} must be a number, found {value!r:.40}")
        return number


Text = tuple[str, str]
"""(prompt, response)"""


def texts_of(rankings: Iterable[Ranking]) -> list[Text]:
    """What is to be judged, each text once, in order."""
    texts = ((ranking.prompt, r.text) for ranking in rankings for r in ranking.responses)
    return list(dict.fromkeys(texts))


def rankings_of(run: Run) -> HumanData:
    """The run's own copy of ``selection.ranked``; without it, the good answers of the IFT rows.

    A ranking's place in the list is its attempt, and a response's place in it its sample.
    """
    sft = run.config.sft
    assert sft is not None and sft.selection is not None
    limit = sft.selection.prompts
    if sft.selection.ranked is not None:
        ranked = SeedSource(path=str(run.seed_file("ranked").resolve()))
        return read_ranked(ranked, limit=limit, needs_order=False)
    rows = seeds.read_ift(SeedSource(path=str(run.seed_file("ift").resolve())))[:limit]
    good = [Ranking(row.prompt, (RankedResponse(row.response, 0.0),), row.columns) for row in rows]
    return HumanData(good, {}, 0)
