"""Every step that a process takes on the disk: told, failed, or the last one before a kill -9.

A step is a call of one of the few primitives that change a file system: those of ``os`` that
``storage`` calls, what a file object writes, and what SQLite does (``sqlite_steps``). They are
replaced in a process that a test has forked, so that nothing of this is in the package. A step is
named by the primitive and the functions of ``storage`` that led to it.
"""

import builtins
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import sqlite_steps

_FREES = ("unlink", "rmdir", "sqlite delete")
"""What a full disk lets pass."""


@dataclass(frozen=True)
class Step:
    """What happened, in a form that can be done again in a model of the disk."""

    primitive: str
    """``create``, ``write``, ``fsync``, ``rename``, ``link``, ``unlink``, ``mkdir``, ``rmdir``, or
    ``sqlite`` and what ``sqlite_steps`` calls it."""
    path: str
    """From the watched directory on."""
    calls: tuple[tuple[str, str, int], ...]
    """Module, function and line of each call within ``storage`` that led to it, inner first."""
    other: str = ""
    """Where a rename or link leads."""
    at: int = 0
    """Offset of a write, size after a truncation."""
    data: bytes = field(default=b"", repr=False)
    """What is written by SQLite; of a file that is synced, all that is in it."""

    @property
    def name(self) -> str:
        """Such as ``rename in durable.publish_directory``."""
        public = [f"{m}.{f}" for m, f, _ in self.calls if not f.startswith("_")]
        return f"{self.primitive} in {public[0] if public else 'no storage'}"


@dataclass(frozen=True)
class Plan:
    """What is to go wrong; steps are numbered from 1, and 0 is no step."""

    kill: int = 0
    """The process is killed before this step, and so after the one before."""
    tear: int = 0
    """The process is killed when half of what this step writes is written."""
    fail: int = 0
    """This step fails."""
    number: int = 0
    """With this errno."""
    forever: bool = False
    """And so do all that follow, but those that free space."""


class Watch:
    """Tells of all steps below a directory from ``start`` on, in this process, and for good."""

    def __init__(self, root: Path, plan: Plan, keeps_data: bool = False) -> None:
        self.root, self.plan, self.keeps_data = os.path.realpath(root), plan, keeps_data
        self.steps: list[Step] = []
        self.failed: Step | None = None
        """The first step that was made to fail."""

    def start(self) -> None:
        """Replace the primitives; once in a process."""
        sqlite_steps.tell(self._sqlite)
        shutil._use_fd_functions = False  # so that rmtree tells whole paths
        for name in ("rename", "replace", "link"):
            setattr(os, name, self._two_paths(name, getattr(os, name)))
        for name in ("unlink", "mkdir", "rmdir"):
            setattr(os, name, self._one_path(name, getattr(os, name)))
        os.remove = os.unlink
        sync, plain = os.fsync, _plain_open

        def fsync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            data = Path(path).read_bytes() if self.keeps_data and os.path.isfile(path) else b""
            self._do("fsync", path, lambda: sync(descriptor), data=data)

        def open_(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+") or not self._covers(file):
                return plain(file, mode, *rest, **more)
            kind = mode.replace("b", "").replace("t", "")
            is_new = not os.path.exists(file)
            raw = self._do("create" if is_new else "open", file, lambda: _Raw(file, kind))
            raw.watch = self
            buffered = (io.BufferedRandom if "+" in kind else io.BufferedWriter)(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest[1:], **more)

        os.fsync = fsync
        builtins.open = io.open = open_  # type: ignore[assignment]

    def _covers(self, path: Any) -> bool:
        return f"{os.path.realpath(os.fspath(path))}/".startswith(f"{self.root}/")

    def _one_path(self, name: str, plain: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *rest: Any, **more: Any) -> None:
            parent, makes = os.path.dirname(os.path.abspath(path)), name == "mkdir"
            # What fails by itself changes nothing and is no step.
            fails = os.path.lexists(path) == makes or not os.path.exists(parent)
            if fails or not self._covers(parent):
                return plain(path, *rest, **more)
            return self._do(name, path, lambda: plain(path, *rest, **more))

        return call

    def _two_paths(self, name: str, plain: Callable[..., None]) -> Callable[..., None]:
        called = "link" if name == "link" else "rename"

        def call(source: Any, target: Any, *rest: Any, **more: Any) -> None:
            if not self._covers(target):
                return plain(source, target, *rest, **more)
            return self._do(called, source, lambda: plain(source, target, *rest, **more), target)

        return call

    def _do(
        self, primitive: str, path: Any, do: Callable[[], Any], other: Any = "",
        tear: Callable[[], Any] | None = None, at: int = 0, data: bytes = b"",
    ) -> Any:  # fmt: skip
        """Take a step, unless it fails or is the last."""
        if not self._covers(path):
            return do()
        if number := self._begin(primitive, path, other, at, data):
            raise OSError(number, os.strerror(number), os.fspath(path))
        if self.plan.tear == len(self.steps):
            if tear is not None:
                tear()
            _die()
        return do()

    def _begin(self, primitive: str, path: Any, other: Any, at: int, data: bytes) -> int:
        """Note a step; the errno with which it fails, or 0."""
        other = os.path.relpath(os.path.realpath(other), self.root) if other else ""
        inside = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        step = Step(primitive, os.path.relpath(inside, self.root), _calls(), other, at, data)
        self.steps.append(step)
        count, fail = len(self.steps), self.plan.fail
        if count == self.plan.kill:
            _die()
        if count == fail or (
            fail and self.plan.forever and count > fail and primitive not in _FREES
        ):
            self.failed = self.failed or step
            return self.plan.number
        return 0

    def _sqlite(self, primitive: str, path: str, at: int, data: bytes) -> int:
        if not self._covers(path):
            return 0
        kept = data if self.keeps_data else b""
        number = self._begin(f"sqlite {primitive}", path, "", at, kept)
        if not number and self.plan.tear == len(self.steps):
            if data:
                with _plain_open(path, "r+b") as file:
                    file.seek(at)
                    file.write(data[: len(data) // 2])
            _die()
        return number


_plain_open = builtins.open


class _Raw(io.FileIO):
    """A file whose writes are steps."""

    watch: Watch

    def write(self, data: Any) -> int:
        plain = super().write
        return int(
            self.watch._do(
                "write",
                self.name,
                lambda: plain(data),
                tear=lambda: plain(memoryview(data)[: len(data) // 2]),
            )
        )


def _calls() -> tuple[tuple[str, str, int], ...]:
    found = []
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("selfreward.storage."):
            line = frame.f_lineno or 0
            found.append((module.removeprefix("selfreward.storage."), frame.f_code.co_name, line))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
