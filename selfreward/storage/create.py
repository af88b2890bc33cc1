"""Making a run directory, and removing one in which nothing has begun."""

import errno
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from selfreward.errors import ConfigError, LockedError, PreflightError, SelfRewardError
from selfreward.storage import database, durable, leftovers
from selfreward.storage.directory import NAME, Run, runs_root


def free_directory(name: str) -> Path:
    """Where a run of this name is to lie; an earlier one that recorded nothing is removed.

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
    if target.exists() and not (_has_ended(target) and discard_empty(Run(target))):
        raise ConfigError(*_exists(target))
    return target


def _exists(target: Path) -> tuple[str, str]:
    """Message and hint where the name of a run is in use."""
    return (
        f"run {target.name} exists: {target}",
        f"Continue it with `selfreward resume {target.name}`, or choose another --name.",
    )


def create_directory(target: Path, files: Mapping[str, str]) -> Run:
    """Make a run directory, which appears whole or not at all.

    Args:
        files: Text of each file that it starts with, by relative path.

    Raises:
        PreflightError: The directory cannot be written.
    """
    with new_directory(target) as temporary:
        for path, text in files.items():
            durable.write_file(temporary / path, text)
        database.create(temporary / "records.db")
    return Run(target)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield the directory of a run to fill, with its folders; on success it gets its name.

    What makers that were killed have left is removed: all makers share a lock on the runs
    directory, so where nobody holds it no temporary directory belongs to anyone.

    Raises:
        PreflightError: The directory cannot be written.
    """
    temporary = target.parent / f"{durable.TEMPORARY}{uuid.uuid4().hex}"
    try:
        durable.make_directory(target.parent)
        leftovers.sweep(target.parent)
        with leftovers.making(target.parent):
            for directory in ("templates", "seeds", "models", "checkpoints", "logs"):
                (temporary / directory).mkdir(parents=True)
            yield temporary
            durable.rename(temporary, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and target.exists():
            raise ConfigError(*_exists(target)) from None  # made by another process meanwhile
        raise PreflightError(
            f"{target}: cannot make the run directory ({error.strerror or error})",
            durable.remedy(error)
            or "The environment variable SELFREWARD_RUNS says where runs lie.",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard_empty(run: Run) -> bool:
    """Remove a run that has recorded nothing, so that its name is free for the mended one.

    Returns:
        Whether it was removed; a run that has anything to lose stays, and one that is in use.
    """
    try:
        if not is_empty(run):
            return False
        with run.owned() as store:
            if store.has_records() or not is_empty(run):
                return False
            gone = run.path.with_name(f"{durable.TEMPORARY}{uuid.uuid4().hex}")
            durable.rename(run.path, gone)
    except LockedError:
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def is_empty(run: Run) -> bool:
    """Whether there is no model, no checkpoint and no record."""
    made = [*(run.path / "models").glob("*/"), *(run.path / "checkpoints").glob("*/*")]
    if made:
        return False
    with run.store() as store:
        return not store.has_records()


def _has_ended(path: Path) -> bool:
    """Whether a directory is a run that can be read and that no other process is to launch yet."""
    try:
        with Run(path).store() as store:
            launched, maker = bool(store.events()), store.owner()
    except SelfRewardError:
        return False
    if launched or maker["host"] != socket.gethostname() or maker["pid"] in (0, os.getpid()):
        return True
    try:
        os.kill(maker["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, and is somebody else's
    return False
