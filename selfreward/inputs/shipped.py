"""Where the files that come with the package are: recipes, templates and seed data.

A wheel carries ``prompts/`` and the recipes of ``runs/`` under ``selfreward/share``; in a checkout
they lie at its top.
"""

import os
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
        ConfigError: Neither; the message lists the recipes.
    """
    path, known = Path(name), recipes()
    if path.is_file() or path.suffix in (".yaml", ".yml"):  # what is missing, its reader says
        return path
    if name not in known:
        raise ConfigError(f"{name}: no such config file or recipe", f"Recipes: {', '.join(known)}.")
    return known[name]


def cache_directory() -> Path:
    """Directory of converted models: ``$SELFREWARD_CACHE``, else ``~/.cache/selfreward``."""
    chosen = os.environ.get("SELFREWARD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "selfreward"
