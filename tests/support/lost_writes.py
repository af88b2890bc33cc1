"""What may lie on a disk after the power failed, by the steps that were taken before.

A write counts once its file is synced, and a name (one made, renamed or removed) once its directory
is. Of all else a file system may keep any part: ALICE (Pillai et al., OSDI 2014) found bugs of this
kind in most systems that it looked at, and no kill -9 can find one, as the page cache lives on.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.steps import Step

Keeps = Literal["synced", "names", "some", "all"]
"""What of the rest is kept: nothing; all names, no content; a part that is drawn; all of it."""


@dataclass(eq=False)
class _File:
    data: bytes = b""
    """What was synced."""
    later: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes since then: offset and bytes; None cuts the file there."""


@dataclass(eq=False)
class _Directory:
    names: dict[str, "_File | _Directory"] = field(default_factory=dict)
    synced: dict[str, "_File | _Directory"] = field(default_factory=dict)


class Disk:
    """A directory on a disk.

    Args:
        root: What is in it to begin with, all of it synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = _read(root)

    def after(self, steps: Iterable[Step]) -> Iterator["Disk"]:
        """The disk after each of the steps; it is always the same object."""
        for step in steps:
            self._take(step)
            yield self

    def write(self, root: Path, keeps: Keeps, draw: random.Random) -> str:
        """Make ``root`` what the disk may be after the power failed; a digest of what it is."""
        sha = hashlib.sha256()
        self._write(self._root, root, keeps, draw, sha)
        return sha.hexdigest()

    def _write(
        self, directory: _Directory, path: Path, keeps: Keeps, draw: random.Random, sha: "_Sha"
    ) -> None:
        path.mkdir()
        for name in sorted({*directory.names, *directory.synced}):
            by_name = keeps in ("names", "all") or (keeps == "some" and draw.random() < 0.5)
            found = (directory.names if by_name else directory.synced).get(name)
            sha.update(f"{path.name}/{name} {type(found).__name__}".encode())
            if isinstance(found, _Directory):
                self._write(found, path / name, keeps, draw, sha)
            elif found is not None:
                data = _content(found, keeps, draw)
                sha.update(data)
                (path / name).write_bytes(data)

    def _take(self, step: Step) -> None:
        directory, name = self._place(step.path)
        match step.primitive.removeprefix("sqlite "):
            case "create":
                directory.names[name] = _File()
            case "mkdir":
                directory.names[name] = _Directory()
            case "unlink" | "rmdir" | "delete":
                directory.names.pop(name, None)  # links, which are no steps, may go too
            case "rename" | "link":
                there, other = self._place(step.other)
                there.names[other] = directory.names[name]
                if step.primitive == "rename":
                    del directory.names[name]
            case "fsync":
                found = directory.names[name] if name else directory
                if isinstance(found, _Directory):
                    found.synced = dict(found.names)
                else:
                    found.data, found.later = step.data, []
            case "write" if step.primitive == "sqlite write":
                _file(directory, name).later.append((step.at, step.data))
            case "truncate":
                _file(directory, name).later.append((step.at, None))
            case "sync":
                file = _file(directory, name)
                file.data, file.later = _written(file.data, file.later), []
                is_new = directory.synced.get(name) is not file
                if is_new and name.endswith(("-wal", "-journal")):
                    # SQLite syncs the directory of a journal that is new (os_unix.c, DIRSYNC).
                    directory.synced = dict(directory.names)

    def _place(self, path: str) -> tuple[_Directory, str]:
        directory = self._root
        *parents, name = Path(path).parts or ("",)
        for parent in parents:
            found = directory.names[parent]
            assert isinstance(found, _Directory)
            directory = found
        return directory, name


_Sha = type(hashlib.sha256())


def _file(directory: _Directory, name: str) -> _File:
    found = directory.names[name]
    assert isinstance(found, _File)
    return found


def _read(path: Path) -> _Directory:
    names: dict[str, _File | _Directory] = {}
    for inner in path.iterdir():
        names[inner.name] = _read(inner) if inner.is_dir() else _File(inner.read_bytes())
    return _Directory(names, dict(names))


def _content(file: _File, keeps: Keeps, draw: random.Random) -> bytes:
    if keeps == "all":
        return _written(file.data, file.later)
    if keeps != "some":
        return file.data
    kept = [write for write in file.later if draw.random() < 0.5]
    return _written(file.data, kept)


def _written(data: bytes, writes: Iterable[tuple[int, bytes | None]]) -> bytes:
    found = bytearray(data)
    for at, more in writes:
        if more is None:
            del found[at:]
            continue
        found.extend(bytes(max(0, at - len(found))))
        found[at : at + len(more)] = more
    return bytes(found)
