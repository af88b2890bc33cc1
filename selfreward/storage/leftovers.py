"""What killed processes leave behind, and how to remove it and leave nothing by half.

All that is unfinished has a temporary name (``durable.TEMPORARY``). Whoever owns a run may remove
what its folders hold of them; a runs directory is swept where nobody makes a run in it. Symbolic
links are removed, never followed: what they lead to belongs to someone else.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from selfreward.storage import durable
from selfreward.storage.directory import Run


def leftovers(run: Run) -> Iterator[Path]:
    """The unfinished files and directories of a run, which is owned meanwhile."""
    checkpoints = run.path / "checkpoints"
    folders = (
        run.path,
        run.path / "models",
        run.path / "tracking",
        checkpoints,
        *checkpoints.glob("*"),
    )
    for folder in (folder for folder in folders if not folder.is_symlink()):
        yield from sorted(folder.glob(f"{durable.TEMPORARY}*"))


def remove(path: Path) -> None:
    """Remove a file, a link or a directory; what a kill leaves of it is a leftover."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    temporary = path
    if not path.name.startswith(durable.TEMPORARY):
        temporary = path.with_name(f"{durable.TEMPORARY}{uuid.uuid4().hex}")
        durable.rename(path, temporary)
    shutil.rmtree(temporary)


def clean(run: Run) -> None:
    """Remove all leftovers of a run, which is owned meanwhile, and of runs that were never made."""
    for path in leftovers(run):
        remove(path)
    sweep(run.path.parent)


def sweep(root: Path) -> None:
    """Remove what makers of runs that were killed have left, unless one is at work."""
    try:
        descriptor = os.open(root, os.O_RDONLY)
    except OSError:
        return  # whoever needs the directory will say what is wrong with it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # a maker is at work, or there are no locks here
    else:
        for leftover in root.glob(f"{durable.TEMPORARY}*"):
            with suppress(OSError):  # it is not ours to remove; who lists the directory sees it
                remove(leftover)
    finally:
        os.close(descriptor)


@contextmanager
def making(root: Path) -> Iterator[None]:
    """Hold the lock of those who make something in a runs directory."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then nothing is swept either
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
