"""The one place that prints.

Data goes to standard output, progress and messages to standard error, so that either can be piped.
Models write what they like, escape sequences included, so every text passes ``sanitize`` here,
whatever its origin. Emphasis is asked for with marks of our own (``bold``, ``dim``), which hold a
number drawn for this process, so that no text can spell one; they become escape sequences after
that, and only on a terminal without ``NO_COLOR``.

Standard output that fails ends the verb; standard error that fails ends nothing, as what it would
say of that could not be read either.
"""

import json
import os
import re
import shutil
import sys
from contextlib import suppress
from typing import IO

from selfreward.text import UNSAFE, spell

_OURS = os.urandom(8).hex()
_BOLD, _DIM, _PLAIN = (f"{mark}{_OURS}" for mark in "\ufdd0\ufdd1\ufdd2")
_ESCAPES = {_BOLD: "\x1b[1m", _DIM: "\x1b[2m", _PLAIN: "\x1b[0m"}
_MARKS = re.compile("|".join(_ESCAPES))
_ANY = re.compile(f"{_MARKS.pattern}|{UNSAFE.pattern}")


def sanitize(text: str) -> str:
    r"""Make text safe for a terminal: each control character is spelled out, as ``\x1b``.

    Newlines and tabs stay, and so do our own marks; a carriage return before a newline goes.
    """
    return _ANY.sub(_spell, text.replace("\r\n", "\n"))


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
    _put(sys.stdout, text)


def note(text: str) -> None:
    """Print progress or a message to standard error, if that takes any."""
    with suppress(OSError):
        _write(sys.stderr, text)


def set_up() -> None:
    """Let no text fail to print because of the terminal's encoding, or of a stream that is closed.

    What is closed is given to nobody: else the next file that is opened, such as a database, would
    take its number, and what a library prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush(stream: IO[str]) -> None:
    """Write what is still to be written, or give it to nobody."""
    try:
        stream.flush()
    except OSError:
        abandon(stream)


def abandon(stream: IO[str]) -> None:
    """Give what is still to be written to nobody, so that the exit does not fail over it."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, stream.fileno())
    os.close(nobody)


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person watches the stream on something that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal, at least 40; 80 where there is none, and no ``COLUMNS``."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def _write(stream: IO[str], text: str) -> None:
    color = is_terminal(stream) and not os.environ.get("NO_COLOR")
    _put(stream, _MARKS.sub(lambda m: _ESCAPES[m[0]] if color else "", sanitize(text)))


def _put(stream: IO[str], line: str) -> None:
    try:
        stream.write(line + "\n")
        stream.flush()
    except OSError as error:
        abandon(stream)
        name = "standard output" if stream is sys.stdout else "standard error"
        raise OSError(error.errno, error.strerror, name) from None


def _spell(match: re.Match[str]) -> str:
    return match[0] if match[0] in _ESCAPES else spell(match[0])
