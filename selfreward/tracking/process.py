"""The processes that follow a run, as the run's own process sees them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from selfreward.errors import PreflightError
from selfreward.storage.directory import Run
from selfreward.storage.durable import disk_problem

WAIT_S = 20.0
"""Seconds that the end of a run waits for trackers."""
HURRY_S = 2.0
"""The same where somebody has stopped it."""
_SHOWN = 200
"""Characters that are shown of what a process that failed said last."""


class Followers:
    """Has a run followed while the body works, whatever trackers do; then waits, but not long.

    Args:
        names: The trackers, see ``config.track``.
    """

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self._run, self._names = run, names
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.behind: list[str] = []
        """After the body: trackers that have not got all."""

    def __enter__(self) -> "Followers":
        for name in self._names:
            with suppress(OSError):  # no process, or no log: it is caught up with later
                self._processes[name] = _start(self._run, name, WAIT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        is_stopped = kind is not None and not issubclass(kind, Exception)
        until = time.monotonic() + (HURRY_S if is_stopped else WAIT_S)
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        codes = {name: _end(process, until) for name, process in self._processes.items()}
        self.behind = [name for name in self._names if codes.get(name) != 0]


def told_behind(run: Run, name: str) -> str:
    """What is said of a tracker that has not got all; it holds for a finished run too."""
    again = f"selfreward track {run.handle} --to {name}"
    return f"{name} has not got all of the run; send it the rest with: {again}"


def send(run: Run, name: str) -> None:
    """Send a tracker all that it has not got, however long that takes.

    Raises:
        PreflightError: It has not got all; with the last line of the log, if that is of now.
    """
    log = _log(run, name)
    before = log.stat().st_size if log.is_file() else 0
    try:
        process = _start(run, name, 0)
    except OSError as error:
        raise disk_problem(error) from None
    assert process.stdin is not None
    process.stdin.close()
    try:
        code = process.wait()
    finally:
        _kill(process)
    if code:
        said = log.read_bytes()[before:].decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        reason = last[:_SHOWN] or f"its process ended with code {code}"
        told = f"{name} did not take all of run {run.name}: {reason}"
        raise PreflightError(told, f"In full: {log}.")


def _start(run: Run, name: str, seconds: float) -> subprocess.Popen[bytes]:
    log = _log(run, name)
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "selfreward.tracking.main"]
    with open(log, "ab") as output:
        return subprocess.Popen(
            [*command, str(run.path.resolve()), name, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is not for it, and its own processes end with it
        )


def _end(process: subprocess.Popen[bytes], until: float) -> int:
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, until - time.monotonic()))
    _kill(process)
    return process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _log(run: Run, name: str) -> Path:
    return run.path / "logs" / f"track-{name}.log"
