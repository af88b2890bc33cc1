"""What tells a person's answer from the policy's own: the whole judge of SPIN."""

from collections.abc import Sequence
from typing import Any


def written(
    completions: Sequence[str], demonstration: Sequence[Any], **_: Any
) -> list[float | None]:
    """1 for the answer that a person wrote, 0 for any other; no value for a row without one.

    Source: SPIN, arXiv 2401.01335, in which that answer is chosen over the policy's own, always.
    """
    return [
        float(text.strip() == by.strip()) if isinstance(by, str) and by.strip() else None
        for text, by in zip(completions, demonstration, strict=True)
    ]
