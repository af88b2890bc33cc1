"""What a message tells a user to do can be done: its commands, keys and files exist."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import typer
from peft import LoraConfig
from trl import DPOConfig, SFTConfig
from typer.exceptions import TyperException

import selfreward
from selfreward.cli.main import app
from selfreward.config.reference import explain
from selfreward.config.run import RUNTIME_KEYS, Config
from selfreward.engines import kinds
from selfreward.errors import ConfigError
from selfreward.training.options import DEFAULTS
from tests.support import ROOT

PACKAGE = Path(selfreward.__file__).parent
OPTIONS = {
    "dpo": [field.name for field in fields(DPOConfig)],
    "sft": [field.name for field in fields(SFTConfig)],
    "lora": [field.name for field in fields(LoraConfig)],
    "engine": {name for names in kinds.OPTIONS.values() for name in names}
    | {key.removeprefix("engine.") for key in RUNTIME_KEYS if key.startswith("engine.")},
}
"""Options that go by the names of others, by group."""
HOLE = "\0"
"""Stands for what a message fills in."""


def texts() -> Iterator[tuple[str, str]]:
    """Every text of the package that is no docstring, with its place; f-strings with holes."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                silent |= {id(part) for part in parts}
                text = "".join(
                    str(part.value) if isinstance(part, ast.Constant) else HOLE for part in parts
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if id(node) not in silent:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


def commands(text: str) -> Iterator[str]:
    """Command lines of ours in a text: in backticks, or to its end or that of the sentence."""
    for found in re.finditer(r"(`?)selfreward ((?:[a-z]|--)[^`\n]*)", text):
        rest = found[2] if found[1] else re.split(r"[;)]|\. |\.$", found[2])[0]
        yield re.sub(r"\[[^\]]*\]", "", rest).rstrip(". ")  # what may be left out


def of_docs() -> Iterator[tuple[str, str]]:
    """Command lines in the blocks of the documentation."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(
            r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S
        ):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(
                    r"\s*\$? ?(?:\S*=\S* )*(?:\.venv/bin/)?selfreward ([^#|>&]*)", line
                ):
                    yield f"{path.name}: {line.strip()}", found[1]


def understood(line: str) -> None:
    """Have the command line parsed, and nothing done."""
    line = re.sub(rf"{HOLE}|\b(ATTEMPT|T|N)\b", "1", line)
    words = [word for word in shlex.split(line) if word not in ("...", "&&")]
    command = typer.main.get_command(app)
    context = command.make_context("selfreward", words)
    while hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(context, words)
        assert command is not None
        context = command.make_context(command.name, list(words), parent=context)


def test_every_command_line_that_a_message_names_is_understood() -> None:
    found = [(at, line) for at, text in texts() for line in commands(text)]
    assert len(found) > 20
    wrong = []
    for at, line in found:
        try:
            understood(line)
        except TyperException as error:
            wrong.append(f"{at}: selfreward {line}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)


GROUPS = [name for name, field in Config.model_fields.items() if not isinstance(field.default, str)]
KEY = re.compile(
    rf"(?<![\w./{HOLE}-])(?:judge\.jury\.\d+|{'|'.join(GROUPS)})(?:\.[a-z][a-z_0-9]*)+(?![\w/{HOLE}])"
)
FILES = (".py", ".md", ".jinja", ".jsonl", ".yaml", ".ids", ".model")
FILE = re.compile(rf"(?<![\w./{HOLE}-])(?:docs|runs|prompts|chat|seed|judge|instruct)/[\w./-]+\w")


def exists(key: str) -> bool:
    """Whether the config has the key, be it an option of TRL, peft or an engine."""
    try:
        explain(key)
    except ConfigError:
        group, _, name = key.rpartition(".")
        engine = re.sub(r"^judge(\.jury\.\d+)?\.engine$", "engine", group)
        return name in OPTIONS.get(engine, ()) or name in DEFAULTS.get(group, ())
    return True


def test_every_key_that_a_message_names_exists() -> None:
    found = [(at, key) for at, text in texts() for key in KEY.findall(text)]
    found = [(at, key) for at, key in found if not key.endswith(FILES)]
    assert len(found) > 50
    wrong = [f"{at}: {key}" for at, key in found if not exists(key)]
    assert not wrong, "\n".join(wrong)


def test_every_file_that_a_message_names_exists() -> None:
    found = [(at, path) for at, text in texts() for path in FILE.findall(text)]
    assert len(found) > 5
    places = (ROOT, ROOT / "prompts")
    wrong = [f"{at}: {path}" for at, path in found if not any((p / path).exists() for p in places)]
    assert not wrong, "\n".join(wrong)


def test_every_command_line_in_the_documentation_is_understood() -> None:
    wrong, found = [], list(of_docs())
    assert len(found) > 15
    for at, line in found:
        try:
            understood(line)
        except TyperException as error:
            wrong.append(f"{at}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)
