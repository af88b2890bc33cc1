"""Scoring responses by a reward function in place of a model (TRL's ``reward_funcs``).

A function gives a value on a scale of its own, which becomes 0 to 5 points in proportion. A value
outside of its scale is refused and not clipped: it says that the scale is not the function's, and
clipped values would all tie at an end, where nobody would notice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from selfreward.config import JurorConfig
from selfreward.inputs.columns import values_of
from selfreward.records import MAX_SCORE, Judgment, Prompt, Response

CANDIDATES = "candidates"
"""The column that a judge has beside those of the data, unless these have one of the name."""
_ROUNDING = 1e-9
"""Part of the scale by which a value may miss its ends."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a function gave one response."""

    value: float | None
    """On its own scale; None where there is none."""
    reason: str | None
    """Why there is none, such as ``timed out`` or ``raised ValueError``."""
    raw: str
    """What it returned, or what went wrong, as text."""


class Scorer(Protocol):
    """A function that can be asked."""

    async def score(self, prompt: str, completion: str, columns: Mapping[str, Any]) -> Given:
        """Its value for one completion.

        Raises:
            PreflightError: It cannot be asked any more.
        """


async def judge_by_function(
    scorer: Scorer,
    prompt: Prompt,
    response: Response,
    settings: JurorConfig,
    juror: int = 0,
    candidates: Sequence[str] = (),
) -> list[Judgment]:
    """The one vote of a function on a response; without a score, with the reason, if it fails.

    Args:
        candidates: All texts that the policy sampled for the prompt, in order; see ``CANDIDATES``.
    """
    columns = {CANDIDATES: [*candidates], **values_of(prompt.columns)}
    given = await scorer.score(prompt.text, response.text, columns)
    share, reason = share_of(given, settings.scale)
    score = None if share is None else MAX_SCORE * share
    key = (response.iteration, response.attempt, response.sample)
    return [Judgment(*key, 0, settings.form, given.raw, score, reason, juror=juror)]


def finite(given: Given) -> tuple[float | None, str | None]:
    """The value; or None and why there is none."""
    if given.value is None:
        return None, given.reason or "no value"
    return (given.value, None) if math.isfinite(given.value) else (None, "not a number")


def share_of(given: Given, scale: tuple[float, float]) -> tuple[float | None, str | None]:
    """Where a value lies on its scale, 0 to 1; or None and why there is none.

    Args:
        scale: Its least and greatest value.
    """
    value, reason = finite(given)
    if value is None:
        return None, reason
    low, high = scale
    share = (value - low) / (high - low)
    if not -_ROUNDING <= share <= 1 + _ROUNDING:
        return None, "off the scale"
    return min(max(share, 0.0), 1.0), None
