"""Reading configs: a YAML file and ``dotted.key=value`` words become a ``Config``.

Errors are one line: where the value stands, which key, what is wrong, and what was meant.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from selfreward.config.run import Config
from selfreward.config.secrets import check_secrets
from selfreward.config.yamlfile import Path_, dump_yaml, parse_overrides, place_of, read_yaml
from selfreward.errors import ConfigError

_EARLIER = {
    "judge.truncated": "true",
    "sft.selection.combine": "true",
    "evaluation.questions": "null",
}
"""What runs did before there was the key, where that is not its default now."""
_SURROGATES = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..")
"""How JSON writes a character beyond the first 65,536."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply ``dotted.key=value`` words.

    Raises:
        ConfigError: With file, line, key and what to do.
    """
    data, places = read_yaml(path)
    check_secrets(data, places, str(path))
    return build_config(data, overrides, places, str(path))


def load_copy(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the copy of its config that a run keeps, whatever it holds; see ``load_config``.

    Every value was written there when the run was made. A key that is not there is younger than
    the run, which goes on as it began.
    """
    data, places = read_yaml(path)
    return build_copy(data, places, str(path), overrides)


def build_copy(
    data: dict[str, object], places: dict[Path_, str], name: str, overrides: Sequence[str] = ()
) -> Config:
    """What ``load_copy`` makes of what ``read_yaml`` read."""
    earlier = [f"{key}={value}" for key, value in _EARLIER.items() if _lacks(data, key)]
    return build_config(override(data, earlier), overrides, places, name)


def build_config(
    data: dict[str, object],
    overrides: Sequence[str] = (),
    places: dict[Path_, str] | None = None,
    name: str = "config",
) -> Config:
    """Make a Config of plain data; see ``load_config``."""
    places = dict(places or {})
    check_secrets(list(overrides), {}, "override")  # first: all other errors repeat the word
    for word in overrides:
        check_secrets(override({}, [word]), {}, "override")
    data = override(data, overrides)
    for (key, _), word in zip(parse_overrides(overrides), overrides, strict=True):
        places[key] = f"override {word}"
        for end in range(1, len(key)):
            places.setdefault(key[:end], f"override {word}")
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise _explain(error, places, name) from None
    for dotted, value in flatten(data).items():  # options of libraries, which have no type here
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            where = place_of(tuple(dotted.split(".")), places, name)
            raise ConfigError(f"{where}: {dotted}: found {value}, expected a finite number")
    return config


def override(data: dict[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """Apply ``dotted.key=value`` words to a copy of plain data."""
    data = dict(data)
    for (key, value), word in zip(parse_overrides(overrides), overrides, strict=True):
        _set(data, key, value, word)
    return data


def words_of(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Plain data as ``dotted.key=value`` words, so that a group keeps the keys not named."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from words_of(value, f"{prefix}{key}.")
        else:
            yield word_of(f"{prefix}{key}", value)


def word_of(key: str, value: object) -> str:
    """A ``dotted.key=value`` word of plain data, which is read back as it was.

    JSON is YAML but for what it writes as two halves of a surrogate pair.
    """
    text = json.dumps(value, default=str)
    return f"{key}={_SURROGATES.sub(_joined, text)}"


def _joined(match: re.Match[str]) -> str:
    character = json.loads(f'"{match[0]}"')
    return f"\\U{ord(character):08x}"


def dump_config(config: Config) -> str:
    """YAML that ``load_config`` reads back to an equal Config."""
    return dump_yaml(config.model_dump(mode="json"))


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The values in which two configs differ, old and new, by dotted name; None: not there."""
    flat_old, flat_new = (flatten(config.model_dump(mode="json")) for config in (old, new))
    missing = object()
    return {
        key: (flat_old.get(key), flat_new.get(key))
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key, missing) != flat_new.get(key, missing)
    }


def flatten(data: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by dotted name; the items of a list of groups by their numbers."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            flat |= flatten(dict(enumerate(value)), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _lacks(data: Any, key: str) -> bool:
    """Whether the group is there, and the key is not in it."""
    *groups, name = key.split(".")
    for group in groups:
        data = data.get(group) if isinstance(data, dict) else None
    return isinstance(data, dict) and name not in data


def _set(data: Any, key: tuple[str, ...], value: object, word: str, depth: int = 0) -> None:
    part, *rest = key[depth:]
    place: Any = part
    if isinstance(data, list):
        if part not in map(str, range(len(data))):
            raise ConfigError(f"override {word}: no entry {part!r}, there are {len(data)} from 0")
        place = int(part)
    if not rest:
        data[place] = value
        return
    inner = data[place] if isinstance(data, list) else data.get(part)
    if isinstance(inner, str) and "path" in _field_names(key[: depth + 1]):
        inner = {"path": inner}  # a source in its short form
    if not isinstance(inner, dict | list | None):
        raise ConfigError(
            f"override {word}: {part!r} is a value, not a group of keys",
            f"Set the keys of the group one by one, or all at once: ...{part}={{{rest[0]}: ...}}.",
        )
    data[place] = {} if inner is None else copy(inner)  # YAML aliases share their mappings
    _set(data[place], key, value, word, depth + 1)


def _explain(error: ValidationError, places: dict[Path_, str], name: str) -> ConfigError:
    """The first problem as one line: where, which key, what is wrong, what was meant."""
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]  # a misspelt key explains the one that is missing
    loc: Path_ = tuple(problem["loc"])
    where = place_of(loc, places, name)
    key = ".".join(map(str, loc))
    said = said_of(problem)
    if not loc:  # of the config as a whole
        return ConfigError(f"{name}: {said}")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        names = _field_names(loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), names, 1)
        if not near and len(loc) == 1:  # such as learning_rate, of a group
            near = [f"{group}.{loc[0]}" for group in names if loc[0] in _field_names((group,))]
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known keys: {', '.join(names)}."
        return ConfigError(f"{where}: unknown key {key!r}{more}", hint)
    if problem["type"] == "model_type":
        names = _field_names(loc)
        first = "path" if "path" in names else names[0]
        return ConfigError(
            f"{where}: {key}: is a group of keys, found {problem['input']!r:.80}{more}",
            f"Name the key, such as {key}.{first}; it has {', '.join(names)}.",
        )
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):  # keys of a group
        return ConfigError(f"{where}: {key}: {said}{more}")
    found = repr(problem["input"])
    found = found if len(found) <= 80 else found[:77] + "..."
    return ConfigError(f"{where}: {key}: {said}, found {found}{more}", _instead(problem, loc))


def said_of(problem: Mapping[str, Any]) -> str:
    """What pydantic says of a value, in words of YAML."""
    if problem["type"] == "tuple_type":
        return "Input should be a list"
    said: str = problem["msg"]
    return said.removeprefix("Value error, ")


def _instead(problem: Mapping[str, Any], loc: Path_) -> str:
    """What may have been meant by a value, or the default of its key; "" if neither is known."""
    if problem["type"] == "tuple_type" and isinstance(problem["input"], str):
        return f"As a list: [{problem['input']}]."
    choices = re.findall(r"'([^']*)'", problem.get("ctx", {}).get("expected", ""))
    if near := difflib.get_close_matches(str(problem["input"]), choices, 1):
        return f"Did you mean {near[0]}?"
    group = _group(loc[:-1])
    field = group.model_fields.get(str(loc[-1])) if group is not None else None
    if field is None:
        return ""
    default = field.default if isinstance(field.default, tuple) else (field.default,)
    if not all(isinstance(value, str | int | float | None) for value in default):
        return ""  # a group, or what has no default
    return f"Its default is {json.dumps(field.default)}."


def _field_names(loc: Path_) -> list[str]:
    """Keys of a group; of what is no group of ours, none."""
    group = _group(loc)
    return [] if group is None else list(group.model_fields)


def _group(loc: Path_) -> type[BaseModel] | None:
    """The group that lies there; None if there is none of ours."""
    model: Any = Config
    for part in (part for part in loc if not str(part).isdecimal()):
        if part not in model.model_fields:
            return None
        annotation = model.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        options += [inner for option in options for inner in get_args(option)]
        groups = (o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
        if (model := next(groups, None)) is None:
            return None
    found: type[BaseModel] = model
    return found
