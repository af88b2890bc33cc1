"""Whether an answer keeps the constraints that its prompt states, after IFEval (arXiv 2311.07911).

A row carries them in its column ``constraints``, an object, or its JSON as text:

    {"prompt": "Name three fruits in a list.", "constraints": {"format": "bullets", "items": 3}}

``strict`` and ``loose`` give the share of them that is kept (IFEval's accuracy by instruction,
section 2.2), ``strict_all`` and ``loose_all`` 1 where all are (its accuracy by prompt), else 0; all
on a scale of 0 to 1, and no value for a row that has none. Loose forgives a frame around the
answer: asterisks, a first and a last line (section 2.2, equation 2).
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from selfreward import DISTRIBUTION
from selfreward.stages.words import count_words

_BULLET = re.compile(r"^\s*[*\-\u2022]\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n```$", re.DOTALL | re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|[\u3002\uff01\uff1f]+")


def strict(completions: Sequence[str], constraints: Sequence[Any], **_: Any) -> list[float | None]:
    """The share of the constraints that each answer keeps."""
    return [_share(text, of) for text, of in zip(completions, constraints, strict=True)]


def loose(completions: Sequence[str], constraints: Sequence[Any], **_: Any) -> list[float | None]:
    """The share that it keeps without a frame around it."""
    return [
        _share(text, of, frames=True) for text, of in zip(completions, constraints, strict=True)
    ]


def strict_all(
    completions: Sequence[str], constraints: Sequence[Any], **_: Any
) -> list[float | None]:
    """1 where an answer keeps all constraints, else 0."""
    return [*map(_whole, strict(completions, constraints))]


def loose_all(
    completions: Sequence[str], constraints: Sequence[Any], **_: Any
) -> list[float | None]:
    """1 where it keeps all without a frame around it, else 0."""
    return [*map(_whole, loose(completions, constraints))]


def check(constraints: Any) -> None:
    """Check what a row has in its column ``constraints``, before any answer is there.

    Raises:
        ValueError: There is no such constraint, or not of such a value.
        ImportError: It needs a package that is not installed; the message says how it is.
    """
    _share("", constraints)


def keeps(text: str, name: str, value: Any) -> bool:
    """Whether a text keeps one constraint.

    Args:
        name: One of ``CONSTRAINTS``.
        value: What it is held to.

    Raises:
        ValueError: There is no such constraint, or not of such a value.
    """
    if name not in CONSTRAINTS:
        raise ValueError(f"no constraint {name!r}; there are {', '.join(CONSTRAINTS)}")
    kind, check = CONSTRAINTS[name]
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of parquet that has gaps
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"constraint {name} takes a {kind.__name__}, found {value!r:.60}")
    return check(text.strip(), value)


def _share(text: str, constraints: Any, frames: bool = False) -> float | None:
    found = json.loads(constraints) if isinstance(constraints, str) else constraints
    if not found:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"constraints are an object, found {found!r:.60}")
    texts = _without_frames(text) if frames else [text]
    asked = {name: value for name, value in found.items() if value is not None}  # as in parquet
    kept = [any(keeps(one, name, value) for one in texts) for name, value in asked.items()]
    return sum(kept) / len(kept) if kept else None


def _whole(share: float | None) -> float | None:
    return None if share is None else float(share == 1)


def _without_frames(text: str) -> list[str]:
    """The eight texts of IFEval; an empty one, which keeps what forbids, is left out."""
    lines = text.strip().split("\n")
    found = []
    for first, last, stars in product((0, 1), (0, 1), (False, True)):
        left = "\n".join(lines[first : len(lines) - last]).strip()
        left = left.replace("*", "") if stars else left
        found += [left] if left else []
    return found or [text]


def _format(text: str, name: str) -> bool:
    match name:
        case "json":
            fenced = _FENCE.match(text)
            try:
                json.loads(fenced[1] if fenced else text)
            except (ValueError, RecursionError):
                return False
            return True
        case "bullets":
            return bool(_BULLET.search(text))
        case "numbers":
            return bool(_NUMBERED.search(text))
    raise ValueError(f"format is json, bullets or numbers, found {name!r:.60}")


def _case(text: str, name: str) -> bool:
    if name not in ("upper", "lower"):
        raise ValueError(f"case is upper or lower, found {name!r:.60}")
    return text.isupper() if name == "upper" else text.islower()


def _has(text: str, keyword: str) -> bool:
    """Whether a text holds a keyword, as a word of its own and in any case."""
    return re.search(rf"(?<!\w){re.escape(keyword)}(?!\w)", text, re.IGNORECASE) is not None


def _sentences(text: str) -> int:
    return sum(bool(part.strip()) for part in _SENTENCE_END.split(text))


def _paragraphs(text: str) -> int:
    return sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text))


def _language(text: str, code: str) -> bool:
    """Whether a text is in a language, as py3langid finds; one without a letter is in none."""
    try:
        from py3langid import classify, rank
    except ImportError:
        install = f"pip install '{DISTRIBUTION}[language]'"
        raise ImportError(f"language: py3langid is not installed: {install}") from None
    if code not in {known for known, _ in rank("")}:
        raise ValueError(f"language takes a code such as de or zh, found {code!r:.60}")
    return any(map(str.isalpha, text)) and classify(text)[0] == code


def _items(text: str) -> int:
    return len(_BULLET.findall(text)) + len(_NUMBERED.findall(text))


CONSTRAINTS: dict[str, tuple[type, Callable[[str, Any], bool]]] = {
    "min_words": (int, lambda text, n: count_words(text) >= n),
    "max_words": (int, lambda text, n: count_words(text) <= n),
    "min_sentences": (int, lambda text, n: _sentences(text) >= n),
    "max_sentences": (int, lambda text, n: _sentences(text) <= n),
    "min_paragraphs": (int, lambda text, n: _paragraphs(text) >= n),
    "max_paragraphs": (int, lambda text, n: _paragraphs(text) <= n),
    "format": (str, _format),
    "items": (int, lambda text, n: _items(text) == n),
    "keywords": (list, lambda text, words: all(_has(text, word) for word in words)),
    "no_keywords": (list, lambda text, words: not any(_has(text, word) for word in words)),
    "case": (str, _case),
    "language": (str, _language),
    "starts_with": (str, lambda text, start: text.casefold().startswith(start.casefold())),
    "ends_with": (str, lambda text, end: text.casefold().endswith(end.casefold())),
}
"""The type of the value of each constraint, and whether a text keeps it. Ours; IFEval has more."""
