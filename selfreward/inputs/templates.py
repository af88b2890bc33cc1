"""The only place that touches Jinja.

A template is a file whose block ``user`` is what the model is told and whose optional block
``started`` is the beginning of the model's own turn. Templates come from files, never from
records; model text is only ever a value. The sandbox does not bound work (a filter or three nested
assignments fill all memory), so a template may use only the few parts of Jinja whose output grows
no faster than the template and the text put into it, and only so often. No text put into a template
can end the tags around it (see ``selfreward.inputs.delimiters``).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfreward.errors import ConfigError
from selfreward.inputs import shipped
from selfreward.inputs.conversations import messages_of, transcript
from selfreward.inputs.delimiters import Delimiters

MAX_CHARACTERS = 256_000
_MOST_OPERATIONS = 200
"""Filters and comparisons of a template; each may read a whole text of ``MAX_CHARACTERS``."""
HISTORY = "history"
"""What a template that gets a ``prompt`` may use beside it: the turns of a conversation before its
last one, as one text; empty where there are none."""
_LISTS = {"demonstrations"}
"""Variables that are lists; a loop over a text would go character by character."""
_ALLOWED = (
    nodes.Template, nodes.Block, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const,
    nodes.For, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.Add, nodes.Sub, nodes.Filter, nodes.Getattr, nodes.Getitem,
)  # fmt: skip
_FILTERS = {"length", "trim", "upper", "lower", "capitalize", "first", "last"}
_LOOP = {"index", "index0", "revindex", "revindex0", "first", "last", "length"}
_DEEPEST = 40
"""Jinja's optimizer takes seconds for an expression of 200 levels."""

TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, LookupError)
"""What rendering raises where a template and what it is given do not fit."""

_environment = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)
_environment.globals.clear()


class TooLongError(ConfigError):
    """What is put into a template makes it too long; other texts may not."""


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template."""

    name: str
    source: str

    @property
    def sha256(self) -> str:
        """Checksum of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def render(self, **variables: str | list[str]) -> tuple[str, str]:
        """Return the user turn and the start of the assistant turn (empty if there is none).

        Where no ``history`` is given there is none; see ``asked``.

        Where a variable spells a tag of the template, its ``<`` comes out as ``&lt;``.

        Raises:
            TooLongError: The text passes 256,000 characters.
            ConfigError: A variable is missing.
        """
        template, escape = _compile(self.source), _delimiters(self.source).escape
        if sum(map(len, _texts(variables))) > MAX_CHARACTERS:
            raise TooLongError(f"{self.name}: is given over {MAX_CHARACTERS:,} characters")
        values: dict[str, str | list[str]] = {HISTORY: ""}
        for name, value in variables.items():
            values[name] = (
                escape(value) if isinstance(value, str) else [escape(text) for text in value]
            )
        try:
            user = self._block(template, "user", values).strip()
            started = self._block(template, "started", values).strip("\n")
        except TEMPLATE_ERRORS as error:
            raise ConfigError(f"{self.name}: {error}") from None
        return user, started

    def asked(self, text: str, columns: str | None) -> dict[str, str]:
        """The variables that say what was asked, of which nothing is left out.

        ``prompt`` is the text, all turns of a conversation; in a template that uses ``history``
        this has the turns before the last, and ``prompt`` the last alone.

        Args:
            text: Of the prompt.
            columns: See ``records.Prompt``.
        """
        if HISTORY not in _variables(self.source):
            return {"prompt": text}
        *earlier, last = messages_of(text, columns)
        return {"prompt": last["content"], HISTORY: transcript(earlier)}

    def _block(
        self, template: jinja2.Template, block: str, variables: dict[str, str | list[str]]
    ) -> str:
        if block not in template.blocks:
            return ""
        pieces, length = [], 0
        for piece in template.blocks[block](template.new_context(variables)):
            length += len(piece)
            if length > MAX_CHARACTERS:
                raise TooLongError(f"{self.name}: renders to over {MAX_CHARACTERS:,} characters")
            pieces.append(piece)
        return "".join(pieces)


def _texts(variables: dict[str, str | list[str]]) -> Iterator[str]:
    for value in variables.values():
        yield from [value] if isinstance(value, str) else value


def find_template(name: str, beside: Path | None = None) -> Path:
    """Find a template: beside the config, in the current directory, or among the shipped ones.

    Raises:
        ConfigError: There is none; the message lists where it was looked for.
    """
    places = [*([beside / name] if beside else []), Path(name), shipped.prompts_directory() / name]
    for place in places:
        if place.is_file():
            return place
    root = shipped.prompts_directory()
    known = sorted(p.relative_to(root).as_posix() for p in root.glob("*/*.jinja"))
    raise ConfigError(f"template {name!r}: no such file", f"Shipped: {', '.join(known)}.")


def read_source(path: Path) -> str:
    """The text of a template, which is not looked at.

    Raises:
        ConfigError: It cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the template ({error})") from None


def load_template(path: Path, variables: set[str]) -> Template:
    """Read and check a template.

    Args:
        path: A Jinja file with a block ``user``.
        variables: What the template will be given; it must use all of them and nothing else, but
            ``history`` where there is a ``prompt``.

    Raises:
        ConfigError: Bad syntax, a missing or undeclared variable, nested loops, or a part of Jinja
            that templates may not use.
    """
    source = read_source(path)
    if len(source) > MAX_CHARACTERS:
        raise ConfigError(f"{path}: over {MAX_CHARACTERS:,} characters")
    try:
        tree = _environment.parse(source)
        operations = 0
        for node, depth in _walk(tree):
            operations += isinstance(node, nodes.Filter | nodes.Compare)
            if operations > _MOST_OPERATIONS:
                raise ConfigError(f"{path}: over {_MOST_OPERATIONS} filters and comparisons")
            if depth > _DEEPEST:
                raise ConfigError(f"{path}:{node.lineno}: nested too deeply")
            if reason := _refusal(node):
                raise ConfigError(f"{path}:{node.lineno}: {reason} in templates")
        used = meta.find_undeclared_variables(tree) - (
            {HISTORY} if "prompt" in variables else set()
        )
        _compile(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.message}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    if not any(block.name == "user" for block in tree.find_all(nodes.Block)):
        raise ConfigError(f"{path}: has no {{% block user %}}", "See the shipped templates.")
    if unknown := sorted(used - variables):
        raise ConfigError(
            f"{path}: uses {unknown[0]!r}, which it is not given",
            f"Known variables: {', '.join(sorted(variables))}.",
        )
    if forgotten := sorted(variables - used):
        raise ConfigError(f"{path}: does not use {forgotten[0]!r}, without which it is no use")
    return Template(str(path.name), source)


def _walk(node: nodes.Node, depth: int = 0) -> Iterator[tuple[nodes.Node, int]]:
    yield node, depth
    for child in node.iter_child_nodes():
        yield from _walk(child, depth + 1)


def _refusal(node: nodes.Node) -> str | None:
    """Why a template may not hold ``node``, or None if it may."""
    match node:
        case nodes.Filter() if node.name not in _FILTERS:
            return f"filter {node.name!r} is not allowed"
        case nodes.Getattr() if not (
            isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in _LOOP
        ):
            return f"attribute {node.attr!r} is not allowed"
        case nodes.Getitem() if not (
            isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, int)
        ):
            return "an index that is no whole number is not allowed"
        case nodes.For() if next(node.find_all(nodes.For), None):
            return "a loop within a loop is not allowed"
        case nodes.For() if not (isinstance(node.iter, nodes.Name) and node.iter.name in _LISTS):
            return f"a loop is only allowed over {', '.join(_LISTS)}"
        case nodes.Add() if not (_is_number(node.left) or _is_number(node.right)):
            return "adding texts is not allowed ({{ a }}{{ b }} joins them)"
        case _ if not isinstance(node, _ALLOWED):
            return f"{type(node).__name__} is not allowed"
    return None


def _is_number(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int)


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    return _environment.from_string(source)


@lru_cache(maxsize=16)
def _variables(source: str) -> set[str]:
    return meta.find_undeclared_variables(_environment.parse(source))


@lru_cache(maxsize=16)
def _delimiters(source: str) -> Delimiters:
    own = _environment.parse(source).find_all(nodes.TemplateData)
    return Delimiters("".join(node.data for node in own))
