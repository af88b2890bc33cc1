"""One child process, as its parent sees it; ``selfreward.workers.main`` is what runs in it."""

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from selfreward.errors import KINDS, SelfRewardError

GRACE_S = 5
"""Seconds between asking a child to end and ending it."""
_TICK_S = 0.3
_PREFIX, _HELD = "selfreward-", ".selfreward-scratch"
"""How the name of a scratch directory begins, and the file in it that is locked while it is used;
no directory without that file is ever removed."""
_SETTLED_S = 60
"""Seconds after which a directory that nobody has locked is not one that is just being made."""
_TAIL = 20
"""Lines of the log that are shown of a child that died."""


class Child:
    """One child process, as a context manager that ends it.

    Args:
        devices: Its ``CUDA_VISIBLE_DEVICES``; None leaves the parent's.
        imports: What it imports at once, before it has a job; see ``pkgutil.resolve_name``.
    """

    def __init__(self, devices: str | None = None, imports: Sequence[str] = ()) -> None:
        self.devices = devices
        # Engines put sockets there, which they would leave behind when killed.
        self._scratch, held = _new_scratch()
        self._logs = [Path(self._scratch.name, "log")]
        """Where it prints to: first one that goes with it, then those of its jobs."""
        visible = {"CUDA_VISIBLE_DEVICES": devices} if devices else {}
        with open(self._logs[0], "ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selfreward.workers.main", self._scratch.name, *imports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                bufsize=0,
                pass_fds=(held,),
                env=os.environ | {"TMPDIR": self._scratch.name} | visible,
            )
        self._held: int | None = held

    @property
    def is_alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    def work(
        self,
        job: dict[str, Any],
        name: str,
        tick: Callable[[], None] = lambda: None,
        hear: Callable[[Any], None] = lambda said: None,
    ) -> None:
        """Have a job done.

        Args:
            job: A line for ``children``. ``log``: file to which all that it prints is appended
                from now on.
            name: What the process is called where it dies.
            tick: Called a few times a second meanwhile.
            hear: Gets what the child says while it works.

        Raises:
            SelfRewardError: What the child raised, or that it died.
        """
        if "log" in job:
            self._logs.append(Path(job["log"]))
            self._logs[-1].parent.mkdir(exist_ok=True)
            self._logs[-1].touch()  # it may die before it opens it
        try:
            answer = self.do(job, tick, hear)
        except BaseException:
            self.kill()
            raise
        if answer is None:
            where = f", {self._logs[-1]}," if self._logs[1:] else ""
            said = "".join(log.read_text(errors="replace") for log in self._logs)
            tail = "\n".join(said.splitlines()[-_TAIL:])
            code = self.kill()
            ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            raise SelfRewardError(
                f"the {name} {ending}{memory}", f"Its log{where} ends with:\n{tail}"
            )
        if error := answer.get("error"):
            raise KINDS[error["kind"]](error["message"], error["hint"])

    def do(
        self, job: dict[str, Any], tick: Callable[[], None], hear: Callable[[Any], None]
    ) -> dict[str, Any] | None:
        """Have a job done; return the answer, or None if the process ended without one."""
        assert self._process.stdin is not None
        line = json.dumps(job).encode() + b"\n"
        with suppress(BrokenPipeError):  # it is dead already, as reading will show
            while line:  # a signal may cut a write short
                line = line[self._process.stdin.write(line) :]
        for answer in self._answers(tick):
            if "said" not in answer:
                return answer
            hear(answer["said"])
        return None

    def _answers(self, tick: Callable[[], None]) -> Iterator[dict[str, Any]]:
        """Yield each line that the process answers, and call ``tick`` while there is none.

        It is over when the pipe is closed. Where a process that the child started still holds the
        pipe open, it is over when the child has ended and the pipe is empty.
        """
        assert self._process.stdout is not None
        begun = b""
        while True:
            ended = self._process.poll() is not None  # asked first: what it wrote before is there
            if not select.select([self._process.stdout], [], [], _TICK_S)[0]:
                if ended:
                    return
                tick()
                continue
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(GRACE_S)
                return
            *lines, begun = (begun + part).split(b"\n")
            tick()
            yield from map(json.loads, lines)

    def close(self) -> None:
        """Let the process free its engine and end; end it if that takes long. Idempotent."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(b"\n")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2 * GRACE_S)
        self.kill()

    def kill(self, grace_s: float = GRACE_S) -> int:
        """End the process and all that it started; return its exit code. Idempotent.

        Args:
            grace_s: How long it may take to free what it holds; 0 where it had no job yet.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
        code = self._process.wait()
        # An engine has processes of its own: those that clean up after it get time to, but no more.
        until = time.monotonic() + GRACE_S
        while self._signal(0) and time.monotonic() < until:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._process.stdin.close()
        self._process.stdout.close()
        self._scratch.cleanup()
        if self._held is not None:
            os.close(self._held)
            self._held = None
        return code

    def _signal(self, number: int) -> bool:
        """Signal the process and all it started; False if there is none."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _new_scratch() -> tuple[TemporaryDirectory[str], int]:
    """A directory for a child and all it starts, and the lock that each of these holds.

    Those of processes that were all killed are removed: nobody holds their locks.
    """
    _sweep(Path(gettempdir()))
    directory = TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    held = os.open(Path(directory.name, _HELD), os.O_RDONLY | os.O_CREAT, 0o600)
    with suppress(OSError):  # a file system without locks: then nothing is swept either
        fcntl.flock(held, fcntl.LOCK_SH)
    return directory, held


def _sweep(place: Path) -> None:
    """Remove the scratch directories there that nobody holds."""
    for file in place.glob(f"{_PREFIX}*/{_HELD}"):
        try:
            found = os.stat(file)
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _SETTLED_S:
                continue
            held = os.open(file, os.O_RDONLY)
        except OSError:
            continue  # it goes just now, or is not ours
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # somebody holds it
        else:
            shutil.rmtree(file.parent, ignore_errors=True)
        finally:
            os.close(held)
