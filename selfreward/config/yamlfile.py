"""YAML as people mean it: duplicate keys refused, ``1e-6`` a number, every key with its line.

PyYAML follows YAML 1.1, where ``1e-6`` is a string and ``2024-01-01`` is not, and silently keeps
the last of two equal keys. A config holds what JSON can hold, so that its copy reads back equal.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from selfreward.errors import ConfigError

Path_ = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_KEY_TAGS = (f"{_TAG}str", f"{_TAG}merge")
_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_CLOSES = {"{": "}", "[": "]"}
_MAX_BYTES = 1_000_000
_SURROGATES = r"Write the character itself, or as \U0001f600, eight digits of hexadecimal."
_MAX_NODES = 20_000
"""A config has hundreds of nodes; more are a bomb of nested aliases."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and an end to nesting, in which it is quadratic."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > 100:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)


class _FastLoader(getattr(yaml, "CSafeLoader", _Loader)):  # type: ignore[misc]
    """The same by libyaml, if PyYAML has it: six times as fast, errors less well told."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes strings that ``_Loader`` would take for numbers; escapes Unicode's line ends."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if set(data) & set("\x85\u2028\u2029") else None
        node: yaml.ScalarNode = self.represent_scalar(f"{_TAG}str", data, style)
        return node


_Dumper.add_representer(str, _Dumper.represent_str)

_READ_ANEW = {f"{_TAG}{name}" for name in ("timestamp", "int", "float")}
_Loader.yaml_implicit_resolvers = {  # a date is text
    first: [(tag, form) for tag, form in resolvers if tag not in _READ_ANEW]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# In YAML 1.1 016 is 14 and 1:30 is 90: neither is a number here.
_Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)?\.[0-9_]+|[-+]?[0-9][0-9_]*\.|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        f"{_TAG}float",
        re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )

_FastLoader.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(data: dict[str, object]) -> str:
    """YAML that ``read_yaml`` reads back to equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> tuple[dict[str, object], dict[Path_, str]]:
    """Read a mapping and where each of its keys stands.

    Returns:
        The mapping, and ``file:line`` by key path, such as ``("dpo", "beta")``.

    Raises:
        ConfigError: No such file, over 1 MB, not UTF-8, not YAML, not a mapping, or a key twice.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(
                f"{path}: over {_MAX_BYTES:,} bytes, which is no config",
                "Data belongs into files of its own, such as sft.ift: seeds/ift.jsonl.",
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    places: dict[Path_, str] = {}
    data = _parse(text, str(path), places)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys, found {type(data).__name__}")
    return data, places


def place_of(key: Path_, places: dict[Path_, str], name: str) -> str:
    """Where a key stands, or the innermost group around it that stands anywhere, else ``name``."""
    return next((places[key[:i]] for i in range(len(key), 0, -1) if key[:i] in places), name)


def parse_overrides(
    overrides: Sequence[str],
) -> list[tuple[tuple[str, ...], object]]:
    """Split ``dotted.key=value`` words; values are YAML.

    Raises:
        ConfigError: A word without ``=`` or with a value that is not YAML.
    """
    parsed = []
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{word!r}: overrides look like dpo.learning_rate=5e-7",
                "No space around the =; a value with spaces stands in quotes: 'key=a value'.",
            )
        if value.startswith(("{", "[")) and value.count(value[0]) > value.count(_CLOSES[value[0]]):
            raise ConfigError(
                f"override {word}: does not end",
                f"The shell parts words at spaces: quote the whole, '{key}={value[0]}..."
                f"{_CLOSES[value[0]]}'.",
            )
        if _is_torn(word):
            raise ConfigError(f"{word!r}: not UTF-8 text")
        parsed.append((tuple(key.split(".")), _parse(value, f"override {word}", {})))
    return parsed


def _parse(text: str, name: str, places: dict[Path_, str]) -> object:
    try:
        loader: Any = _FastLoader(text)
        try:
            node = loader.get_single_node()
        except yaml.YAMLError:  # which PyYAML's own parser says better, or knows how to read
            loader = _Loader(text)
            node = loader.get_single_node()
        if node is None:
            return None
        _walk(node, (), name, places, [0])
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML ({str(error).splitlines()[0]})") from None
    except ConfigError:  # of ours, which is a ValueError as well
        raise
    except (ValueError, LookupError, AttributeError) as error:
        # PyYAML lets these out for values that do not fit their tag, such as the date 2026-13-01.
        raise ConfigError(f"{name}: not valid YAML ({error})") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None


def _walk(
    node: yaml.Node, at: Path_, name: str, places: dict[Path_, str], count: list[int]
) -> None:
    """Note the line of every key below ``node`` and refuse duplicates."""
    count[0] += 1
    if count[0] > _MAX_NODES:
        raise ConfigError(f"{name}: more than {_MAX_NODES} values; are its aliases nested?")
    if node.tag not in _TAGS:
        line, what = node.start_mark.line + 1, node.tag.removeprefix(_TAG)
        raise ConfigError(
            f"{name}:{line}: a value of type {what}; a config holds text, numbers, true, false, "
            "null, lists and mappings",
            "Write it without the tag.",
        )
    if isinstance(node, yaml.ScalarNode) and _is_torn(node.value):
        line = node.start_mark.line + 1
        raise ConfigError(f"{name}:{line}: a text with half of a surrogate pair", _SURROGATES)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEY_TAGS:
                what = f"of type {key.tag.rpartition(':')[2]}"
                if isinstance(key, yaml.ScalarNode):
                    what = f"{key.value!r:.40} {what}"
                raise ConfigError(f"{name}:{line}: a key must be a word, found {what}")
            if _is_torn(key.value):
                raise ConfigError(f"{name}:{line}: key {key.value!r} is no text", _SURROGATES)
            if key.value in seen:
                raise ConfigError(
                    f"{name}:{line}: key {key.value!r} is already on line {seen[key.value]}",
                    "Keep one of the two.",
                )
            seen[key.value] = line
            places[(*at, key.value)] = f"{name}:{line}"
            _walk(value, (*at, key.value), name, places, count)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            places[(*at, i)] = f"{name}:{item.start_mark.line + 1}"
            _walk(item, (*at, i), name, places, count)


def _is_torn(text: str) -> bool:
    """Whether it holds half of a surrogate pair, which no file and no record can."""
    return any("\ud800" <= character <= "\udfff" for character in text)
