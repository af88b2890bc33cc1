"""Reading the score from what a judge wrote, and from what it would write.

Only the judge's own completion is read, never the prompt, so that a response cannot plant a
score. The verdict is the last line (``reply.py`` says what may follow it), which must be a score
line and nothing else. A failed reading is None with a reason; it is never a number.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from selfreward.records import MAX_SCORE, FinishReason
from selfreward.stages.reply import Grammar, Reply

_BEFORE = r"(?:-\s|•\s|\#+\s?|[0-9]{1,2}[.)]\s)?(?:(?:the|my)\s)?"
_IS = r"(?:\s?(?:is\s?:?|[:=])|\s[-–—]\s)\s?(?:\$*\\(?:boxed|text|mathbf|textbf)\s?)?\$*"  # noqa: RUF001
_SCORE_NAME = r"(?:(?:final|total|overall)\s)*(?:score|(?<=total\s)points)"
_PRAISE = r"""(?:(?:very|quite|fairly|mostly|really|pretty|rather|reasonably|generally|overall|
    somewhat|extremely|nearly|almost)\s)*(?:good|great|excellent|outstanding|perfect|superb|
    fair|average|mediocre|decent|solid|strong|adequate|acceptable|satisfactory|okay|ok|poor|weak|
    bad|terrible|unhelpful|helpful|useful|useless|relevant|irrelevant|clear|unclear|concise|
    thorough|complete|incomplete|vague|off-topic|engaging|impressive|well[\s-](?:done|written))"""
_SCORE_LINE = re.compile(
    rf"""{_BEFORE}{_SCORE_NAME}(?:{_IS}score)?{_IS}
    (?:(?P<sum>[0-9](?:\s?\+\s?[0-9]){{1,9}})\s?=\s?)?
    (?P<score>[+-]?[0-9]+(?:\.[0-9]+|,[0-9]{{1,2}})?)(?:\s?points?)?
    (?:\s?(?:/|out\sof)\s?(?P<scale>[0-9]+(?:\.0+)?)(?:\s?points?)?)?\$*
    (?P<remark>(?:\s?[-–—.,;:]\s?|\s){_PRAISE}(?:(?:,\s?|,?\sand\s){_PRAISE}){{0,3}}
        (?:\s(?:answer|response|work|job|effort|overall))?)?\s?[.!]?""",  # noqa: RUF001
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
"""Matched against plain lines, whose white space is collapsed, so that it takes linear time. Behind
the number no word may stand that could mean another one: those that may are listed."""
_SCORE_LABEL = re.compile(
    rf"{_BEFORE}{_SCORE_NAME}\s?(?:is\s?)?[:=]?", re.IGNORECASE | re.VERBOSE | re.ASCII
)
_BETTER = r"(?:final\s)?better(?:\s(?:response|answer|one))?"
_CHOICE_LINE = re.compile(
    rf"""{_BEFORE}{_BETTER}(?:{_IS}better)?{_IS}
    (?:(?:response|answer)\s)?(?P<choice>A|B|tie)\$*\s?[.!]?""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
_CHOICE_LABEL = re.compile(
    rf"{_BEFORE}{_BETTER}\s?(?:is\s?)?[:=]?", re.IGNORECASE | re.VERBOSE | re.ASCII
)
_CHOICES = {"a": "A", "b": "B", "tie": "tie"}


class _Score(NamedTuple):
    score: float
    scale: float
    negative: bool


def _read_score(line: str) -> _Score | None:
    match = _SCORE_LINE.fullmatch(line)
    if match is None:
        return None
    score = float(match["score"].replace(",", "."))
    if match["sum"] and sum(map(int, re.findall("[0-9]", match["sum"]))) != score:
        return None
    return _Score(score, float(match["scale"] or MAX_SCORE), match["score"].startswith("-"))


def _read_choice(line: str) -> str | None:
    match = _CHOICE_LINE.fullmatch(line)
    return _CHOICES[match["choice"].lower()] if match else None


_SCORES = Grammar(("score", "total points"), _SCORE_LABEL, _read_score)
_BETTERS = Grammar(("better",), _CHOICE_LABEL, _read_choice)


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
    if not text.strip():
        return None, "empty"
    verdict, contradicted = Reply(text, _SCORES).verdict()
    if verdict is None:
        return None, "no score line"
    if verdict.scale != MAX_SCORE:
        return None, "other scale"
    if not 0 <= verdict.score <= MAX_SCORE or verdict.negative:
        return None, "out of range"
    return (None, "two verdicts") if contradicted else (verdict.score, None)


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
    before = Reply(text, _SCORES).before()
    return before, None if before else "empty"


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
    if not text.strip():
        return None, "empty"
    choice, contradicted = Reply(text, _BETTERS).verdict()
    if choice is None:
        return None, "no verdict line"
    return (None, "two verdicts") if contradicted else (choice, None)
