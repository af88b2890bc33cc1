"""What each key of the config is for, as the classes that declare it say."""

import ast
import difflib
import inspect
import json
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from selfreward.config.base import SeedSource
from selfreward.config.judging import JurorConfig
from selfreward.config.readers import decides, is_copied
from selfreward.config.run import Config
from selfreward.errors import ConfigError

_BOUNDS = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the config."""

    name: str
    """Dotted, such as ``dpo.beta``."""
    type: str
    """What it takes, such as ``int, 1 or more``."""
    default: str
    """As it would stand in a file; empty for a group."""
    doc: str
    """Markdown; empty where the name says it all."""
    changes: Literal["always", "unused", "never"]
    """When ``resume`` may change it: at any time, while nothing was made with it, or not at all,
    as the run has its own copy of what it names."""


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[Key]:
    """All keys of a group, in order; a group within it comes before what it holds.

    Of a list of groups the first entry stands for all.

    Groups that stand in several places are held back: ``source`` (``SeedSource``), an engine of
    a judge (as ``engine``) and the judges of a jury (as ``judge``).
    """
    docs = _docs(model)
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        group = None if key.endswith(".engine") else _group(field)
        about = "" if group is None else _text(group.__doc__ or "")
        doc = " ".join(filter(None, (about, docs.get(name))))
        yield Key(key, _type(field), _default(field), doc, _changes(key))
        if group is not None:
            yield from keys(group, f"{key}.0." if _is_list(field) else f"{key}.")


def explain(name: str) -> Key:
    """The key of a name, which may stand in a group that ``keys`` holds back.

    Raises:
        ConfigError: There is none; the message has the nearest.
    """
    known = {key.name: key for key in keys()}
    place = re.sub(r"^judge\.jury\.\d+\.", "judge.", name)
    place = re.sub(r"^(evaluation\.(?:contests|benchmarks))\.\d+\.", r"\1.0.", place)
    place = re.sub(r"^(judge|evaluation\.contests\.0)\.engine\.", "engine.", place)
    is_of_juror = place.startswith("judge.") and place != name and "engine" not in place
    if place in known and not (is_of_juror and place[6:] not in JurorConfig.model_fields):
        return replace(known[place], name=name, changes=_changes(name))
    group, _, last = place.rpartition(".")
    if group in known and known[group].type.startswith("source"):
        inner = {key.name: key for key in keys(SeedSource)}
        if last in inner:
            return replace(inner[last], name=name, changes=_changes(name))
    near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
    hint = "`selfreward config show CONFIG` lists all."
    if near:
        hint = f"Did you mean {near[0]}?"
    elif group in known:  # of a library, such as TRL
        hint = f"{group}: {known[group].doc}"
    raise ConfigError(f"no key {name!r} of ours", hint)


def _changes(name: str) -> Literal["always", "unused", "never"]:
    if not decides(name):
        return "always"
    return "never" if is_copied(name) else "unused"


def _group(field: FieldInfo) -> type[BaseModel] | None:
    """The group that a field is, unless it is one of those that stand in several places."""
    kinds = [field.annotation, *get_args(field.annotation)]
    found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return found[0] if found and found[0] not in (SeedSource, JurorConfig) else None


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _default(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if field.is_required() or (isinstance(value, BaseModel) and not isinstance(value, SeedSource)):
        return ""
    value = value.path if isinstance(value, SeedSource) else value
    return json.dumps(
        value, ensure_ascii=False, default=lambda group: group.model_dump(exclude_unset=True)
    )


def _type(field: FieldInfo) -> str:
    bounds = [
        form.format(getattr(rule, at))
        for rule in field.metadata
        for at, form in _BOUNDS.items()
        if getattr(rule, at, None) is not None
    ]
    return ", ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inner[0])
    if annotation is types.NoneType:
        return "null"
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is tuple:
        return f"list of {_words(inner[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "source" if annotation is SeedSource else "group"
    names = {"str": "text", "int": "int", "float": "number", "bool": "true or false"}
    return names.get(getattr(annotation, "__name__", ""), "any")


@cache
def _docs(model: type[BaseModel]) -> dict[str, str]:
    """What is said below each field, those of base classes included."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not kind.__module__.startswith("selfreward."):
            continue
        [tree] = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                said = below.value if isinstance(below, ast.Expr) else None
                doc = said.value if isinstance(said, ast.Constant) else ""
                found[field.target.id] = _text(str(doc))
    return found


def _text(doc: str) -> str:
    """A docstring as one line of Markdown."""
    return re.sub(r"\s*\n\s*", " ", inspect.cleandoc(doc)).replace("``", "`")
