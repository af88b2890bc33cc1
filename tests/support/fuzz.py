"""What people and machines get wrong, drawn by seeded generators: nothing here is a test.

The law that all of it serves: no input whatever gives exit code 1. ``obey`` checks it for a command
line; each ``test_*.py`` of ``tests/fuzz`` draws inputs of one kind.
"""

import contextlib
import json
import random
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from selfreward.cli import main as cli

Draw = random.Random

CODES = {0, 2, 3, 4, 5, 6, 7, 130, 141, 143}
"""Documented in docs/how-it-works.md; 1 is a bug."""

JSON_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 5, 3.5, 6, 1e308, -0.0, 10**30, 10**400, float("nan"),
    float("inf"), "", " ", "a", "5", "4.5", "nan", "\x00", "\ud800", "\ufeff", "\u2028", "a\nb",
    "x" * 5000, [], {}, [[]], [None], ["a"], [{}], {"": ""}, {"a": None}, {"text": "a"},
    [{"role": "user", "content": "a"}], [{"from": "gpt", "value": "b"}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}]}], [{"role": []}],
    {"role": "user"},
    [{"text": "a", "score": 1}], "tie", "A", "<|im_end|>", "Score: 5", "日本語", "😀",
]  # fmt: skip
"""What a value of a JSON row may be."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command line gave."""

    words: list[str]
    code: int
    out: str
    err: str


@dataclass(slots=True)
class Law:
    """Runs command lines in this process and holds them to the law."""

    patch: pytest.MonkeyPatch
    traces: list[str]
    count: int = 0

    def heard(self, words: Iterable[str]) -> Said:
        """Run a command line; streams are strict UTF-8, as those of a terminal may be."""
        words = list(words)
        self.count += 1
        self.traces.clear()
        with contextlib.ExitStack() as stack:
            out, err = (  # files, as some libraries ask for the number of the stream
                stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n"))
                for _ in range(2)
            )
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.invoke(words)
            for stream in (out, err):
                stream.seek(0)
            texts = [out.read(), err.read()]
        return Said(words, code, *texts)

    def obey(self, words: Iterable[str], about: object = "") -> Said:
        """Run a command line, which must end with a documented exit code and plain words."""
        words = list(words)
        said = self.heard(words)
        shown = (about, said.words, said.code, said.err[-1500:], *self.traces)
        assert said.code in CODES, shown
        assert "internal error" not in said.err, shown
        assert "Traceback" not in said.err, shown
        errors = re.findall(r"^error: .*$", said.err, re.MULTILINE)
        if (
            said.code in {2, 3, 4, 5, 6, 7}
            and words
            and said.words[:1] not in (["verify"], ["doctor"])
        ):
            assert len(errors) == 1, shown
            lines = said.err[said.err.index("error: ") :].splitlines()
            assert all(
                line.startswith(("hint: ", "nothing was", "saved;")) for line in lines[1:]
            ), shown
            assert len(errors[0]) < 3000, shown
        no_data = {"--watch", "--version", "--help", "-h"}
        if "--json" in said.words and said.code == 0 and no_data.isdisjoint(said.words):
            json.loads(said.out)
        return said


# Bytes


def damaged_bytes(data: bytes, draw: Draw) -> bytes:
    """A text file as editors, tools and disks leave it."""
    text = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(len(text) + 1)
        how = draw.randrange(9)
        if how == 0:
            del text[at:]
        elif how == 1 and text:
            text[at % len(text)] ^= 1 << draw.randrange(8)
        elif how == 2:
            text[at:at] = draw.choice(
                [
                    b"\0",
                    b"\xff",
                    b"\xef\xbb\xbf",
                    b"\r",
                    b"\t",
                    b"\n",
                    b"\x85",
                    b"\xed\xa0\x80",
                    b"\x1b[2J",
                    b'"',
                    b"'",
                    b"[",
                    b"{",
                    b": ",
                    b"\\",
                    b"- ",
                    b"#",
                    b"&a ",
                    b"*a",
                    b"!!",
                    b"%",
                    b"{%",
                    b"}}",
                ]
            )
        elif how == 3:
            end = min(len(text), at + draw.randrange(40))
            del text[at:end]
        elif how == 4:
            end = min(len(text), at + draw.randrange(200))
            text[at:at] = text[at:end]
        elif how == 5:
            lines = bytes(text).split(b"\n")
            draw.shuffle(lines)
            text = bytearray(b"\n".join(lines))
        elif how == 6:
            lines = bytes(text).split(b"\n")
            line = draw.randrange(len(lines))
            lines[line] = draw.choice([b" ", b"  ", b"\t", b""]) + lines[line].lstrip()
            text = bytearray(b"\n".join(lines))
        elif how == 7:
            encoding = draw.choice(
                ["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp037"]
            )
            with contextlib.suppress(UnicodeError):
                text = bytearray(bytes(text).decode().encode(encoding, "replace"))
        else:
            text = bytearray(bytes(text).replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n"])))
    return bytes(text)


def odd_json(draw: Draw, value: Any, depth: int = 0) -> Any:
    """A JSON value with some of it gone, doubled, renamed or of another type."""
    if draw.random() < 0.12 or depth > 6:
        return draw.choice(JSON_VALUES)
    if isinstance(value, dict):
        made = {}
        for name, inner in value.items():
            how = draw.random()
            if how < 0.06:
                continue
            if how < 0.1:
                name = draw.choice([*value, "", "prompt", "text", "score", "\ud800", "x"])
            made[name] = odd_json(draw, inner, depth + 1) if draw.random() < 0.5 else inner
        return made
    if isinstance(value, list):
        items = [odd_json(draw, inner, depth + 1) for inner in value]
        if items and draw.random() < 0.2:
            draw.choice([items.pop, items.reverse, lambda: items.append(items[0])])()
        return items
    return draw.choice([value, value, *JSON_VALUES[:3], str(value)])
