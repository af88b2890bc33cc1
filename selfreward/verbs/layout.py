"""Numbers, tables and places as people read them."""

import math
import os
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from selfreward.errors import PreflightError
from selfreward.measures.reports import Estimate
from selfreward.verbs.console import sanitize, unmarked

MISSING = "-"
"""Where there is nothing to show."""
_BARS = "▁▂▃▄▅▆▇█"


def estimated(estimate: Estimate, form: str, scale: float = 1, unit: str = "") -> str:
    """Such as ``72.1% [68.0, 76.3]``.

    Args:
        form: How a number is written.
        scale: 100 for percent.
    """
    if estimate.value is None:
        return "n/a"
    text = f"{scale * estimate.value:{form}}{unit}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"


def percent(estimate: Estimate | None, bare: bool = False) -> str:
    """Such as ``72.1% [68.0, 76.3]``, or ``72.1%`` alone; empty for None."""
    if estimate is None:
        return ""
    return estimated(replace(estimate, low=None) if bare else estimate, ".1f", 100, "%")


def table(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Columns two spaces apart, as wide as their widest cell; short rows may end in a wider one."""
    num_columns = max(map(len, rows), default=0)
    widths = [0] * num_columns
    for row in rows:
        for i, cell in enumerate(row):
            if i + 1 < len(row) or len(row) == num_columns:
                widths[i] = max(widths[i], _width(cell))
    lines = []
    for row in rows:
        cells = [
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=False)
        ]
        lines.append(indent + "  ".join(cells).rstrip())
    return "\n".join(lines)


def table_width(rows: Sequence[Sequence[str]]) -> int:
    """Columns of a terminal that ``table`` takes."""
    return max(map(_width, sanitize(table(rows)).split("\n")))


def fitted(rows: Sequence[Sequence[str]], width: int) -> str:
    """A table of two columns at most ``width`` wide, cells wrapped where they have to be.

    One of more columns, or one that fits, is as ``table`` makes it.
    """
    if table_width(rows) <= width or max(map(len, rows)) != 2:
        return table(rows)
    labels = max(_width(sanitize(row[0])) for row in rows)
    first = min(labels, width // 2)
    lines: list[list[str]] = []
    for label, cell in rows:
        parts = (wrapped(label, first), wrapped(cell, width - first - 2))
        lines += [[a, b] for a, b in zip_longest(*parts, fillvalue="")]
    return table(lines)


def filled(text: str, width: int, hang: str = "") -> str:
    """Text of at most ``width`` columns, lines but the first behind ``hang``."""
    return f"\n{hang}".join(wrapped(text, width - len(hang)))


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns as they will be shown, marks left out where it breaks."""
    text = sanitize(text)
    if _width(text) <= width:
        return [text]
    lines = [""]
    for word in unmarked(text).split():
        if lines[-1] and _width(lines[-1]) + 1 + _width(word) <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if _width(lines[-1]) + _width(character) > width:
                lines.append("")
            lines[-1] += character
    indent = unmarked(text)[: len(unmarked(text)) - len(unmarked(text).lstrip(" "))]
    return [indent + lines[0], *lines[1:]] if _width(indent + lines[0]) <= width else lines


def bars(counts: Sequence[int]) -> str:
    """One character per count, as high as the count; a blank for none."""
    most = max(counts, default=0)
    return "".join(_BARS[math.ceil(8 * count / most) - 1] if count else " " for count in counts)


def indented(text: str, indent: str, width: int = 100) -> str:
    """Text wrapped to ``width`` columns behind an indent; its own line breaks stay."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines += textwrap.wrap(
            line, width - len(indent), replace_whitespace=False, drop_whitespace=True
        ) or [""]
    return "\n".join((indent + line).rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Such as ``3.2 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(num_bytes: float) -> str:
    """Such as ``538 MB``; powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def listed(counts: Mapping[str, int]) -> str:
    """Such as ``tie 3, margin 1``; empty for no counts."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def counted(number: int, noun: str) -> str:
    """Such as ``1 row``, ``2 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """Such as ``98.4%``; nothing of nothing is ``n/a``."""
    return f"{part / whole:.1%}" if whole else "n/a"


def existing(path: Path) -> Path:
    """The path or its nearest ancestor that exists.

    Raises:
        PreflightError: What there is of it is a link to nowhere, so nothing can be made there.
        OSError: It cannot be asked for, such as a name that is too long.
    """
    path = path.absolute()
    place = next(place for place in (path, *path.parents) if _is_there(place))
    if not place.exists():
        raise PreflightError(
            f"{place}: is a link to {os.readlink(place)}, and nothing is there",
            "Make the directory that it leads to, or remove the link.",
        )
    return place


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _width(cell: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in unmarked(cell)
    )
