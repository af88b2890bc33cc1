"""Reading the score from what a judge wrote, and from what it would write.

Only the judge's own completion is read, never the prompt, so that a response cannot plant a
score. The verdict is the last non-empty line, which must be a score line and nothing else. A
failed reading is None with a reason; it is never a number.
"""

import math
import re
from collections.abc import Sequence

from selfreward.records import MAX_SCORE, FinishReason

_MARKS = r"[*_`\"'“”‘’«»<>()\[\]{}]+"  # noqa: RUF001
_DRESS = re.compile(rf"(?<=[0-9])({_MARKS})(?=[0-9])|{_MARKS}")
"""What may dress a score line. Between two digits it is kept (group 1), or 4*5 would be 45."""
_SCORE_LINE = re.compile(
    r"""(?:-\s|•\s|\#+\s?)?(?:(?:the|my)\s)?(?:(?:final|total|overall)\s)*
    score\s?(?:is\s?:?|[:=])\s?
    (?P<score>[+-]?[0-9]+(?:\.[0-9]+|,[0-9]{1,2})?)(?:\s?points?)?
    (?:\s?(?:/|out\sof)\s?(?P<scale>[0-9]+(?:\.0+)?)(?:\s?points?)?)?\s?\.?""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
"""Matched against lines whose white space is collapsed, so that it takes linear time."""
_CHOICE_LINE = re.compile(
    r"""(?:-\s|•\s|\#+\s?)?(?:(?:the|my)\s)?(?:final\s)?
    better(?:\s(?:response|answer|one))?\s?(?:is\s?:?|[:=])\s?
    (?:(?:response|answer)\s)?(?P<choice>A|B|tie)\s?\.?""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
_CHOICES = {"a": "A", "b": "B", "tie": "tie"}
_LINE_END = re.compile(r"\r\n?|\n")
"""Not the other separators of Unicode: they can stand in a quote, whose rest is no line."""
_LONGEST = 1_000
"""Characters; a longer line is prose."""


def parse_score(text: str, finish_reason: FinishReason) -> tuple[float | None, str | None]:
    """Read the verdict of a written judgment.

    Args:
        text: The judge's completion alone, thinking already split off.
        finish_reason: ``length`` means that the judge was cut off, so there is no verdict.

    Returns:
        (score, None) with a score from 0 to 5, or (None, reason). Reasons: ``cut off``, ``empty``,
        ``no score line``, ``out of range``, ``other scale``, ``two verdicts``.
    """
    if finish_reason == "length":
        return None, "cut off"
    lines = [line for line in _LINE_END.split(text) if line.strip()]
    if not lines:
        return None, "empty"
    last = _score_line(lines[-1])
    if last is None:
        return None, "no score line"
    score, scale = _verdict(last)
    if scale != MAX_SCORE:
        return None, "other scale"
    if not 0 <= score <= MAX_SCORE or last["score"].startswith("-"):
        return None, "out of range"
    earlier = (match for line in lines[:-1] if (match := _score_line(line)))
    if any(_verdict(match) != (score, scale) for match in earlier):
        return None, "two verdicts"
    return score, None


def read_justification(text: str, finish_reason: FinishReason) -> tuple[str, str | None]:
    """Read what a judge wrote before its verdict; whether and what score it gave does not matter.

    Args:
        text: The judge's completion alone, thinking already split off.
        finish_reason: See ``parse_score``.

    Returns:
        (justification, None): the text without score lines and blank space at its end. Or
        ("", reason): ``cut off`` or ``empty``.
    """
    if finish_reason == "length":
        return "", "cut off"
    starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
    end = len(text)
    for start in reversed(starts):
        line = text[start:end]
        if line.strip() and not _score_line(line):
            return text[:end].rstrip(), None
        end = start
    return "", "empty"


def points(score: float) -> int:
    """A score in whole points, halves up."""
    return math.floor(score + 0.5)


def expected_score(probabilities: Sequence[float]) -> tuple[float | None, str | None]:
    """Expected score under the judge's own distribution, renormalized over the scores.

    Source: G-Eval, arXiv 2303.16634, equation 1.

    Args:
        probabilities: Of the scores 0..5, not normalized.

    Returns:
        (score, None), or (None, ``no probability``) if the judge gives the scores none at all.
    """
    assert len(probabilities) == MAX_SCORE + 1
    mass = math.fsum(probabilities)
    if not (math.isfinite(mass) and mass > 0):
        return None, "no probability"
    mean = math.fsum(score * p for score, p in enumerate(probabilities)) / mass
    return min(mean, float(MAX_SCORE)), None  # rounding may pass 5 by the last bit


def parse_choice(text: str, finish_reason: FinishReason) -> tuple[str | None, str | None]:
    """Read the verdict of a written comparison, as strictly as ``parse_score`` reads a score.

    Args:
        text: The judge's completion alone, thinking already split off.
        finish_reason: See ``parse_score``.

    Returns:
        (choice, None) with ``A``, ``B`` or ``tie``, or (None, reason). Reasons: ``cut off``,
        ``empty``, ``no verdict line``, ``two verdicts``.
    """
    if finish_reason == "length":
        return None, "cut off"
    choices = [_choice(line) for line in _LINE_END.split(text) if line.strip()]
    if not choices:
        return None, "empty"
    if choices[-1] is None:
        return None, "no verdict line"
    if set(choices) - {None, choices[-1]}:
        return None, "two verdicts"
    return choices[-1], None


def _choice(line: str) -> str | None:
    if len(line) > _LONGEST or "better" not in line.lower():
        return None
    match = _CHOICE_LINE.fullmatch(" ".join(_DRESS.sub(r"\1", line).split()))
    return _CHOICES[match["choice"].lower()] if match else None


def _score_line(line: str) -> re.Match[str] | None:
    """Match a line that is a score line once its bold marks, quotes and brackets are off."""
    if len(line) > _LONGEST or "score" not in line.lower():
        return None
    return _SCORE_LINE.fullmatch(" ".join(_DRESS.sub(r"\1", line).split()))


def _verdict(match: re.Match[str]) -> tuple[float, float]:
    """(score, scale)"""
    return float(match["score"].replace(",", ".")), float(match["scale"] or MAX_SCORE)
