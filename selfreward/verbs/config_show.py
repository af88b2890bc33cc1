"""Where each value of a config comes from: a line of the file, an override, or the default."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfreward.config.load import override
from selfreward.config.reference import explain
from selfreward.config.run import Config
from selfreward.config.yamlfile import Path_, parse_overrides, read_yaml
from selfreward.verbs.layout import table

DEFAULT = "default"
_CHANGES = {
    "always": "at any time", "unused": "only before anything was made with it",
    "never": "no: the run has its own copy of what it names",
}  # fmt: skip


def origins_of(config: Config, path: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """One mapping per value in the order of the config: ``key``, ``value`` and ``origin``.

    ``config`` is what ``load_config`` made of ``path`` and ``overrides``.
    """
    data, places = read_yaml(path)
    for (key, _), word in zip(parse_overrides(overrides), overrides, strict=True):
        places = {at: place for at, place in places.items() if at[: len(key)] != key}
        places[key] = f"override {word}"
    data = override(data, overrides)
    return [
        {"key": ".".join(key), "value": value, "origin": _origin(key, data, places)}
        for key, value in _leaves(config.model_dump(mode="json"))
    ]


def origins_text(rows: Sequence[dict[str, Any]]) -> str:
    """What ``selfreward config show --sources`` prints."""
    return table([[row["key"], _short(row["value"]), row["origin"]] for row in rows])


def explained(config: Config, name: str) -> dict[str, Any]:
    """What a key is for, and its value in a config.

    Raises:
        ConfigError: There is no such key.
    """
    key = explain(name)
    value: Any = config.model_dump(mode="json")
    for part in name.split("."):
        if isinstance(value, list):
            value = dict(enumerate(value)).get(int(part))
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return {**asdict(key), "value": value}


def explained_text(found: Mapping[str, Any]) -> str:
    """What ``selfreward config show --explain`` prints."""
    rows = [
        ["takes", found["type"]],
        ["default", found["default"] or "see its keys"],
        ["here", _short(found["value"])],
        ["resume may change it", _CHANGES[found["changes"]]],
    ]
    return f"{found['name']}: {found['doc']}\n\n{table(rows)}"


def _origin(key: tuple[str, ...], data: Any, places: dict[Path_, str]) -> str:
    """Place of the given value that decides ``key``: its own, or a short form of its group."""
    for end, part in enumerate(key):
        if not isinstance(data, dict):
            return places[key[:end]]  # such as `ift: FILE` for sft.ift.path
        if part not in data:
            return DEFAULT
        data = data[part]
    return next(places[key[:end]] for end in range(len(key), 0, -1) if key[:end] in places)


def _leaves(data: Any, key: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(data, dict) or not data:
        return [(key, data)]
    return [leaf for name, inner in data.items() for leaf in _leaves(inner, (*key, name))]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value).strip('"')
    return text if len(text) <= 60 else text[:57] + "..."
