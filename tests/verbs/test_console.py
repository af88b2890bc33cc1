"""Nothing that a model wrote reaches a terminal as a command."""

import ast
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import selfreward
from selfreward.verbs import console
from tests.support.runs import HOSTILE, PAYLOADS, UNSAFE

PACKAGE = Path(selfreward.__file__).parent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_control_characters_are_spelled_out(payload: str) -> None:
    shown = console.sanitize(payload)
    assert not UNSAFE & set(shown)
    assert "\\x" in shown or "\\u" in shown or "\\U" in shown


@given(st.text())
def test_sanitized_text_holds_no_unsafe_character_and_can_be_encoded(text: str) -> None:
    shown = console.sanitize(text)
    shown.encode()
    assert all(c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0) for c in shown)
    assert console.sanitize(shown) == shown


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_ordinary_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert console.sanitize(text) == text


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_text_can_spell_the_marks_of_emphasis(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", printed := stream())
    console.data("\ufdd0bold\ufdd2 \ufdd1dim\ufdd2 \ufdef")
    assert printed.getvalue() == "\\ufdd0bold\\ufdd2 \\ufdd1dim\\ufdd2 \\ufdef\n"


def test_tabs_and_newlines_stay_and_windows_line_ends_become_newlines() -> None:
    assert console.sanitize("a\tb\r\nc") == "a\tb\nc"


def test_emphasis_is_escape_sequences_only_on_a_terminal_without_no_color(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def printed(stream: io.StringIO) -> str:
        monkeypatch.setattr(sys, "stdout", stream)
        console.data(console.bold("title"))
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert printed(Terminal()) == "\x1b[1mtitle\x1b[0m\n"
    assert printed(io.StringIO()) == "title\n"
    monkeypatch.setenv("TERM", "dumb")
    assert printed(Terminal()) == "title\n"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(Terminal()) == "title\n"


def test_json_is_ascii_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.data_json({"text": HOSTILE})
    assert capsys.readouterr().out.replace("\n", "").isprintable()
    with pytest.raises(ValueError):
        console.data_json(float("nan"))


def test_nothing_else_in_the_package_prints() -> None:
    """Child processes answer on their own pipe; everything that people read goes through here."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "console.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("print", "typer.echo", "typer.secho") or name.endswith(
                ("stdout.write", "stderr.write", "print_exc")
            ):
                found.append(f"{path.name}:{node.lineno} {name}")
    assert not found
