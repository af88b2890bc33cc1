"""Files and directories that exist whole or not at all.

Every file that the project writes for keeps goes through here; rows go through ``store.py``.
A directory is complete if and only if it holds a ``MANIFEST.json`` that fits its files: the
manifest is written last, under a temporary name of the directory, before the rename.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from selfreward.errors import IntegrityError, PreflightError, SelfRewardError

MANIFEST = "MANIFEST.json"
EXPORTED = "exported"
"""In the manifest of what ``export`` wrote."""
QUANTIZATION = "quantization"
"""In the manifest of a model: how the one that it was trained from was held in 4 bits."""
ADAPTER = "adapter"
"""Folder in a model directory for the adapter that was merged into the weights. The manifest lists
its files; the digest is that of the model without them."""
TEMPORARY = ".tmp-"
"""Prefix of what a killed process may leave behind; ``gc`` removes it."""


def write_file(path: Path, data: str | bytes) -> None:
    """Replace ``path`` by ``data`` in one step that a crash cannot split."""
    data = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
    try:
        with _told_of(path, temporary):
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


def append(path: Path, text: str) -> None:
    """Add to the end of a file, or begin it; a crash may leave a part of what is added."""
    is_new = not path.exists()
    with open(path, "ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _fsync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, for good: the names reach the disk."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        _fsync_directory(directory.parent)


@contextmanager
def publish_directory(
    target: Path, *, facts: dict[str, object] | None = None, replace: bool = False
) -> Iterator[Path]:
    """Yield an empty directory to fill; on success seal it and rename it to ``target``.

    Nothing appears under ``target`` if the body raises. An earlier ``target`` that is whole is
    kept as it is and the new one thrown away: finished work is never rewritten.

    Args:
        target: Where the directory shall be; its parent is made.
        facts: Kept in the manifest beside the checksums, such as where a model came from.
        replace: Take the place of an earlier one all the same, which goes last.
    """
    make_directory(target.parent)
    temporary, aside = (target.parent / f"{TEMPORARY}{uuid.uuid4().hex}" for _ in range(2))
    try:
        with _told_of(target, temporary):
            temporary.mkdir()
            yield temporary
            seal_directory(temporary, facts=facts)
            if replace and target.is_dir() and not target.is_symlink():
                os.rename(target, aside)
            elif os.path.lexists(target):
                if is_whole(target):
                    return
                if target.is_symlink() or target.is_file():  # what a link leads to is not ours
                    target.unlink()
                else:
                    shutil.rmtree(target)
            try:
                rename(temporary, target)
            except OSError:
                if not is_whole(target):  # else another process has just published the same
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside.exists() and not os.path.lexists(target):
            os.rename(aside, target)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _told_of(target: Path, temporary: Path) -> Iterator[None]:
    """Have an error name what was to be made, not the temporary name that it is made under."""
    try:
        yield
    except OSError as error:
        if (at := str(error.filename)).startswith(str(temporary)):
            error.filename = str(target) + at.removeprefix(str(temporary))
            del error.filename2
        raise


def rename(source: Path, target: Path) -> None:
    """Give a finished directory its name, for good: the new name has reached the disk."""
    os.rename(source, target)
    _fsync_directory(target.parent)


def seal_directory(directory: Path, *, facts: dict[str, object] | None = None) -> str:
    """Flush every file of ``directory`` to disk, write its manifest last, return its digest."""
    files: dict[str, dict[str, object]] = {}
    for name, path in sorted(_files(directory).items()):
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        files[name] = {"bytes": path.stat().st_size, "sha256": checksum}
    for path in [directory, *(p for p in directory.rglob("*") if p.is_dir())]:
        _fsync_directory(path)
    write_file(directory / MANIFEST, json.dumps({"files": files, **(facts or {})}, indent=1))
    return _digest(files)


def verify_directory(directory: Path, *, deep: bool = True) -> str:
    """Return the digest of a whole directory: sha256 over its files' names and checksums.

    Those in ``ADAPTER`` are checked, too, and are no part of the digest.

    Args:
        directory: One that ``publish_directory`` or ``seal_directory`` wrote.
        deep: Whether to read every byte; else only names and sizes are compared.

    Raises:
        IntegrityError: No manifest, or a file is missing, added, cut or altered; the message
            names it. Hidden files may be added: nothing loads them, and desktops drop them.
    """
    files = _listed(directory)
    for name in sorted(_files(directory)):
        if name not in files and not any(part.startswith(".") for part in Path(name).parts):
            raise IntegrityError(f"{directory / name}: not listed in {MANIFEST}, so added later")
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise IntegrityError(f"{path}: listed in {MANIFEST} but missing")
        if path.stat().st_size != expected["bytes"]:
            raise IntegrityError(
                f"{path}: {path.stat().st_size} bytes, {MANIFEST} says {expected['bytes']}"
            )
        if deep:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    raise IntegrityError(f"{path}: content differs from its checksum")
    return _digest(files)


def is_whole(directory: Path) -> bool:
    """Whether ``verify_directory`` would pass."""
    try:
        verify_directory(directory)
    except IntegrityError:
        return False
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy a file into a directory that is being filled."""
    shutil.copyfile(source, target)


def link_directory(source: Path, target: Path) -> None:
    """Make ``target`` a directory of the same files: hard links, or copies where there are none.

    Neither is harmed by what becomes of the other: files are only ever replaced or removed.
    """
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir(parents=True, exist_ok=True)
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except OSError:  # another file system, or one without links
            shutil.copy2(path, to)
            with open(to, "rb") as file:
                os.fsync(file.fileno())
    for directory in [target.parent, target, *(p for p in target.rglob("*") if p.is_dir())]:
        _fsync_directory(directory)


def read_manifest(directory: Path) -> dict[str, object]:
    """Return the manifest of ``directory``.

    Raises:
        IntegrityError: There is none, or it is torn.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise IntegrityError(f"{directory}: no {MANIFEST}, so it was never finished") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: torn ({error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise IntegrityError(f"{path}: not a manifest")
    return manifest


def _files(directory: Path) -> dict[str, Path]:
    """Every file below ``directory`` by its relative name, but for the manifest itself."""
    files = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*") if p.is_file()}
    files.pop(MANIFEST, None)
    return files


def _listed(directory: Path) -> dict[str, dict[str, object]]:
    """The files that the manifest lists."""
    files = read_manifest(directory)["files"]
    assert isinstance(files, dict)
    for name, facts in files.items():
        if not (
            isinstance(facts, dict)
            and isinstance(facts.get("bytes"), int)
            and isinstance(facts.get("sha256"), str)
        ):
            raise IntegrityError(f"{directory / MANIFEST}: torn (entry {name!r})")
    return files


def _digest(files: dict[str, dict[str, object]]) -> str:
    names = sorted(name for name in files if not name.startswith(f"{ADAPTER}/"))
    listing = "".join(f"{name} {files[name]['sha256']}\n" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_LOW_DISK = 64_000_000
"""Bytes; who fails to write with less than this left has most likely filled the disk."""
DISK_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""No space, no quota, over ``ulimit -f``, a failing or a read-only disk."""
_TOLD = re.compile(
    rf"os error ({'|'.join(map(str, DISK_FAILS))})\b|PytorchStreamWriter failed|iostream error"
)
"""How safetensors, as all of Rust, and torch tell the same."""
_FREE = "Free some space (`selfreward gc RUN` may help), then go on."
_REMEDIES = {
    errno.EROFS: "Nothing can be written there: copy it to where files can be, or mount it anew.",
    errno.EACCES: "You may not do that there: ask for the permission, or choose another place.",
    errno.EPERM: "You may not do that there: ask for the permission, or choose another place.",
    errno.EIO: "The disk fails: copy what can be read to another one.",
    errno.EEXIST: "A file, or a link to nowhere, stands in the way: remove it, or choose another "
    "place.",
    errno.ENOTDIR: "A file stands where a directory is needed: remove it, or choose another place.",
    errno.EISDIR: "A directory stands where a file is needed: remove it, or choose another name.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), then go on.",
}


def remedy(error: OSError) -> str:
    """What to do about a file or disk that fails, or empty where nothing is known to help."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _FREE
    return _REMEDIES.get(error.errno or 0, "")


def disk_problem(error: OSError) -> PreflightError:
    """What the machine lacks, with the file where one is named."""
    place = f"{error.filename}: " if error.filename else ""
    return PreflightError(f"{place}{error.strerror or error}", remedy(error))


def keep_if_writable(path: Path, data: str | bytes) -> None:
    """Write what can be had again; where the cache is read-only or full it is left out."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)


@contextmanager
def full_disk_named(directory: str) -> Iterator[None]:
    """Say that the disk is full or fails where it does: torch and others have their own words.

    Raises:
        PreflightError: In place of what a full, failing or read-only disk has caused.
    """
    try:
        yield
    except SelfRewardError:
        raise
    except Exception as error:
        causes = list(_causes(error))
        for cause in causes:
            fails = isinstance(cause, OSError) and cause.errno in DISK_FAILS
            if fails or (cause is error and isinstance(cause, OSError) and cause.filename):
                assert isinstance(cause, OSError)
                logging.getLogger(__name__).exception("failed on files")
                raise disk_problem(cause) from error
        if told := [str(cause) for cause in causes if _TOLD.search(str(cause))]:
            logging.getLogger(__name__).exception("failed on files")
            raise PreflightError(f"{directory}: {told[0].splitlines()[0]}", _FREE) from error
        free = shutil.disk_usage(directory).free
        if free >= _LOW_DISK:
            raise
        logging.getLogger(__name__).exception("failed on a full disk")
        raise PreflightError(
            f"{directory}: the disk is full ({free / 1e6:.0f} MB left)",
            _FREE,
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
