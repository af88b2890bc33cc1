"""A directory to start from: a commented recipe and copies of the templates it uses, to edit."""

from pathlib import Path

from selfreward.config.load import load_config
from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs import shipped
from selfreward.inputs.templates import find_template
from selfreward.storage import durable


def recipe_rows() -> list[tuple[str, str]]:
    """Name of each shipped recipe, and what its first line says of it."""
    return [
        (name, path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
        for name, path in shipped.recipes().items()
    ]


def write_starter(directory: Path, recipe: str) -> tuple[list[Path], list[Path]]:
    """Copy a shipped recipe and its templates into ``directory``.

    The recipe finds the copies because templates are looked for beside it first. A template that
    another recipe has left there stays as it is, edited or not, and serves both.

    Returns:
        The files written, the recipe first; and the templates that were there.

    Raises:
        ConfigError: No such recipe, or its config exists already; then nothing is written.
        PreflightError: The directory cannot be written.
    """
    known = shipped.recipes()
    if recipe not in known:
        raise ConfigError(f"no recipe is named {recipe!r}", f"Recipes: {', '.join(known)}.")
    config = load_config(known[recipe])
    path = directory / f"{recipe}.yaml"
    if path.exists():
        raise ConfigError(
            f"{path} exists; nothing was written", "Choose another directory, or remove it."
        )
    templates = (config.judge.template, config.prompts.template)
    kept = [directory / name for name in templates if (directory / name).exists()]
    sources = {path: known[recipe]}
    for name in templates:
        if directory / name not in kept:
            sources[directory / name] = find_template(name, known[recipe].parent)
    try:
        for path, source in sources.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.write_file(path, source.read_bytes())
    except OSError as error:
        raise PreflightError(
            f"{directory}: cannot write there ({error.strerror or error})", durable.remedy(error)
        ) from None
    return list(sources), kept
