"""Where the files that come with the package are: recipes, templates and seed data.

A wheel carries ``prompts/`` and the recipes of ``runs/`` under ``selfreward/share``; in a checkout
they lie at its top.
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from selfreward.errors import ConfigError, PreflightError

_PACKAGE = Path(__file__).resolve().parent.parent
SHARE = _PACKAGE / "share" if (_PACKAGE / "share").is_dir() else _PACKAGE.parent


def prompts_directory() -> Path:
    """Directory of the shipped templates and seed data."""
    return SHARE / "prompts"


def recipes() -> dict[str, Path]:
    """Shipped recipes by name, such as ``quickstart``."""
    return {path.stem: path for path in sorted((SHARE / "runs").glob("*.yaml"))}


def experiments() -> dict[str, Path]:
    """Shipped experiments by name, such as ``quick``."""
    return {path.stem: path for path in sorted((SHARE / "runs" / "experiments").glob("*.yaml"))}


def config_file(name: str) -> Path:
    """The config file that is meant: a path, or a shipped recipe by its name.

    Raises:
        ConfigError: Neither; the hint names what may have been meant.
    """
    return _file(name, recipes(), "config", "recipe")


def experiment_file(name: str) -> Path:
    """The experiment file that is meant: a path, or a shipped experiment by its name.

    Raises:
        ConfigError: Neither; the hint names what may have been meant.
    """
    return _file(name, experiments(), "experiment", "shipped experiment")


def _file(name: str, known: Mapping[str, Path], kind: str, shipped: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if name in known:
        return known[name]
    folder = path if path.is_dir() else path.parent
    inside = sorted(map(str, [*folder.glob("*.yaml"), *folder.glob("*.yml")]))
    there = f"{shipped[0].upper()}{shipped[1:]}s: {', '.join(known)}."
    if path.is_dir():
        hint = f"{kind.capitalize()}s in it: {', '.join(inside) or 'none'}. {there}"
        raise ConfigError(f"{name}: is a directory, not {_a(kind)} file", hint)
    near = get_close_matches(name, [*inside, *known], n=2)
    hint = f"Did you mean {' or '.join(near)}?" if near else there
    raise ConfigError(f"{name}: no such {kind} file or {shipped}", hint)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def cache_directory() -> Path:
    """Directory of converted models: ``$SELFREWARD_CACHE``, else ``~/.cache/selfreward``.

    Raises:
        PreflightError: It lies in a home directory of which this machine knows nothing.
    """
    chosen = os.environ.get("SELFREWARD_CACHE") or "~/.cache/selfreward"
    try:
        return Path(chosen).expanduser()
    except RuntimeError:  # no HOME and no entry of the user, or no such user
        raise PreflightError(
            f"the cache, {chosen}: no home directory is known for {Path(chosen).parts[0]}",
            "Set HOME, or set SELFREWARD_CACHE to a directory in full.",
        ) from None
