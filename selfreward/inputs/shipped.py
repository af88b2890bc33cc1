"""Where the files that come with the package are: recipes, templates and seed data.

A wheel carries ``prompts/`` and the recipes of ``runs/`` under ``selfreward/share``; in a checkout
they lie at its top.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
SHARE = _PACKAGE / "share" if (_PACKAGE / "share").is_dir() else _PACKAGE.parent


def prompts_directory() -> Path:
    """Directory of the shipped templates and seed data."""
    return SHARE / "prompts"


def recipes() -> dict[str, Path]:
    """Shipped recipes by name, such as ``quickstart``."""
    return {path.stem: path for path in sorted((SHARE / "runs").glob("*.yaml"))}


def cache_directory() -> Path:
    """Directory of converted models: ``$SELFREWARD_CACHE``, else ``~/.cache/selfreward``."""
    chosen = os.environ.get("SELFREWARD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "selfreward"
