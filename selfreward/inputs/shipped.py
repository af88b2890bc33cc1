"""Where the files that come with the package are: recipes, templates and seed data.

A wheel carries ``prompts/`` and the recipes of ``runs/`` under ``selfreward/share``; in a checkout
they lie at its top.
"""

import os
from difflib import get_close_matches
from pathlib import Path

from selfreward.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
SHARE = _PACKAGE / "share" if (_PACKAGE / "share").is_dir() else _PACKAGE.parent


def prompts_directory() -> Path:
    """Directory of the shipped templates and seed data."""
    return SHARE / "prompts"


def recipes() -> dict[str, Path]:
    """Shipped recipes by name, such as ``quickstart``."""
    return {path.stem: path for path in sorted((SHARE / "runs").glob("*.yaml"))}


def config_file(name: str) -> Path:
    """The config file that is meant: a path, or a shipped recipe by its name.

    Raises:
        ConfigError: Neither; the hint names what may have been meant.
    """
    path, known = Path(name), recipes()
    if path.is_file():
        return path
    if name in known:
        return known[name]
    folder = path if path.is_dir() else path.parent
    inside = sorted(map(str, [*folder.glob("*.yaml"), *folder.glob("*.yml")]))
    if path.is_dir():
        hint = f"Configs in it: {', '.join(inside) or 'none'}. Recipes: {', '.join(known)}."
        raise ConfigError(f"{name}: is a directory, not a config file", hint)
    near = get_close_matches(name, [*inside, *known], n=2)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Recipes: {', '.join(known)}."
    raise ConfigError(f"{name}: no such config file or recipe", hint)


def cache_directory() -> Path:
    """Directory of converted models: ``$SELFREWARD_CACHE``, else ``~/.cache/selfreward``."""
    chosen = os.environ.get("SELFREWARD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "selfreward"
