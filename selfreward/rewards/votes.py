r"""How many of the answers to a prompt agree with one: self-consistency, without a right one.

The final answer of a text is what stands in its last ``\boxed{...}``; else after the last "answer
is", "answer:" or ``####``, up to the end of the clause; else its last number. Where it holds one
number, and no formula or letter of a choice, it is that number. Two are the same if they differ in
no more than case, spaces, thousands separators, marks around them, or zeros at the end.
"""

import re
from collections.abc import Sequence
from typing import Any

_BOXED = re.compile(r"\\boxed\s*\{")
_SAID = re.compile(r"(?:\banswer\s*(?:is|:|=)\s*:?|####)\s*([^\n]+)", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.;!?](?:\s|$)|,\s|\s(?:because|since|as)\s", re.IGNORECASE)
_NUMBER = re.compile(
    r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])\.\d+|(?<=[-+])\.\d+)(?:/\d+)?"
)
_DRESS = re.compile(
    r"\\[$%,;:! ]|\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\^\s*(?:\{\s*\\circ\s*\}|\\circ)"
    r"|\\(?:left|right)\b"
)
"""What LaTeX puts around a number without making a formula of it."""
_FORMULA = re.compile(r"[\\^]|\d[xyzn]\b|\b[xyzn]\d|\(\s*[a-z]\s*\)", re.IGNORECASE)
"""What makes it one, or the letter of a choice: there the number alone is not the answer."""
_FRAME = "*_`$()[]\"' "


def share(
    completions: Sequence[str], candidates: Sequence[Sequence[str]], **_: Any
) -> list[float | None]:
    """The share of all that was sampled for a prompt whose final answer is this one's, 0 to 1.

    Source: Self-Consistency Preference Optimization (ScPO), arXiv 2411.04109. No value for an
    answer without a final answer; it counts among all that was sampled.
    """
    return [_share(text, of) for text, of in zip(completions, candidates, strict=True)]


def final_answer(text: str) -> str | None:
    """What a text comes to, in the one form in which equal answers are equal; None if nothing."""
    if boxed := [*_BOXED.finditer(text)]:
        return _plain(_braced(text[boxed[-1].end() :]))
    if said := _SAID.findall(text):
        return _plain(_CLAUSE_END.split(said[-1], maxsplit=1)[0])
    numbers = _NUMBER.findall(text)
    return _plain(numbers[-1]) if numbers else None


def _share(text: str, candidates: Sequence[str]) -> float | None:
    final = final_answer(text)
    if final is None:
        return None
    return [final_answer(other) for other in candidates].count(final) / len(candidates)


def _braced(text: str) -> str:
    """What comes before the brace that closes one that was open."""
    depth = 1
    for at, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[:at]
    return text


def _plain(answer: str) -> str | None:
    shown = _DRESS.sub(" ", answer)
    numbers = _NUMBER.findall(shown)
    if len(numbers) == 1 and not _FORMULA.search(shown):
        number: str = numbers[0].replace(",", "").lstrip("+")
        number = re.sub(r"^(-?)\.", r"\g<1>0.", number)
        return number.rstrip("0").rstrip(".") if "." in number and "/" not in number else number
    return " ".join(answer.casefold().split()).strip(_FRAME).rstrip(".").strip(_FRAME) or None
