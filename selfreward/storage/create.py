"""Making a run directory, and removing one in which nothing has begun."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from selfreward.errors import ConfigError, PreflightError
from selfreward.storage import database, durable
from selfreward.storage.directory import (
    NAME,
    Run,
    runs_root,
)


def free_directory(name: str) -> Path:
    """Where a run of this name is to lie.

    Args:
        name: Letters, digits, dot, dash and underscore, at most 64.

    Raises:
        ConfigError: Bad name, or name in use.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r}: not a run name", "Use letters, digits, '.', '-' and '_', at most 64."
        )
    target = runs_root() / name
    if target.exists():
        raise ConfigError(
            f"run {name} exists: {target}",
            f"Continue it with `selfreward resume {name}`, or choose another --name.",
        )
    return target


def create_directory(target: Path, files: Mapping[str, str]) -> Run:
    """Make a run directory, which appears whole or not at all.

    Args:
        files: Text of each file that it starts with, by relative path.

    Raises:
        PreflightError: The directory cannot be written.
    """
    temporary = target.parent / f"{durable.TEMPORARY}{uuid.uuid4().hex}"
    try:
        for directory in ("templates", "seeds", "models", "checkpoints", "logs"):
            (temporary / directory).mkdir(parents=True)
        for path, text in files.items():
            durable.write_file(temporary / path, text)
        database.create(temporary / "records.db")
        durable.rename(temporary, target)
    except OSError as error:
        raise PreflightError(f"{target}: cannot make the run directory ({error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(target)


def discard_unbegun(run: Run) -> bool:
    """Remove a run whose base model was never found, so that its name is free for the mended one.

    Returns:
        Whether it was removed; a run that has anything to lose stays.
    """
    if run.base_model():
        return False
    with run.store() as store:
        if store.stages() or store.progress():  # M0.json may have been removed since
            return False
    shutil.rmtree(run.path)
    return True
