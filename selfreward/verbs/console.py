"""The one place that prints.

Data goes to standard output, progress and messages to standard error, so that either can be piped.
Models write what they like, escape sequences included, so every text passes ``sanitize`` here,
whatever its origin. Emphasis is asked for with marks of our own (``bold``, ``dim``), which become
escape sequences after that, and only on a terminal without ``NO_COLOR``.
"""

import json
import os
import re
import shutil
import sys
from typing import IO

_BOLD, _DIM, _PLAIN = "\ufdd0", "\ufdd1", "\ufdd2"  # noncharacters, for internal use alone
_ESCAPES = {_BOLD: "\x1b[1m", _DIM: "\x1b[2m", _PLAIN: "\x1b[0m"}
_MARKS = re.compile(f"[{''.join(_ESCAPES)}]")
# C0 but tab and newline, DEL, C1, bidirectional controls, line separators, tags, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


def sanitize(text: str) -> str:
    r"""Make text safe for a terminal: each control character is spelled out, as ``\x1b``.

    Newlines and tabs stay; a carriage return before a newline goes.
    """
    return _UNSAFE.sub(_spell, text.replace("\r\n", "\n"))


def bold(text: str) -> str:
    """Mark text as important."""
    return f"{_BOLD}{text}{_PLAIN}"


def dim(text: str) -> str:
    """Mark text as secondary."""
    return f"{_DIM}{text}{_PLAIN}"


def unmarked(text: str) -> str:
    """Text without marks, as wide as it will be shown."""
    return _MARKS.sub("", text)


def data(text: str) -> None:
    """Print what was asked for, to standard output."""
    _write(sys.stdout, text)


def data_json(value: object, *, lines: bool = False) -> None:
    """Print a value as JSON to standard output, in ASCII, so that it needs no sanitizing.

    Args:
        lines: On one line, as one of many.
    """
    import msgspec  # `--help` needs none

    plain = msgspec.to_builtins(value)
    text = json.dumps(plain, indent=None if lines else 1, allow_nan=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print progress or a message to standard error."""
    _write(sys.stderr, text)


def set_up() -> None:
    """Let no text fail to print because of the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person watches the stream on something that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal, at least 40; 80 where there is none, and no ``COLUMNS``."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def _write(stream: IO[str], text: str) -> None:
    color = is_terminal(stream) and not os.environ.get("NO_COLOR")
    stream.write(_MARKS.sub(lambda m: _ESCAPES[m[0]] if color else "", sanitize(text)) + "\n")
    stream.flush()


def _spell(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
