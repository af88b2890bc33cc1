r"""Whether the final answer to a problem of mathematics is the right one, by ``math-verify``.

It reads the last ``\boxed{...}``, else the last expression, and compares values and not texts: 1/2
is 0.5. A row carries the right answer in its column ``answer``.
"""

from collections.abc import Sequence
from typing import Any

from selfreward import DISTRIBUTION

try:
    from math_verify import parse, verify
except ImportError:
    install = f"pip install '{DISTRIBUTION}[math]'"
    raise ImportError(f"math-verify is not installed: {install}") from None


def equal(completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float | None]:
    """1 where the final answer equals the right one, else 0; no value for a row without one."""
    return [_equal(text, right) for text, right in zip(completions, answer, strict=True)]


def _equal(text: str, right: Any) -> float | None:
    if right is None:
        return None
    gold = parse(f"${right}$" if "$" not in str(right) else str(right))
    if not gold:
        raise ValueError(f"answer {right!r:.60} is no expression")
    return float(verify(gold, parse(text)))
