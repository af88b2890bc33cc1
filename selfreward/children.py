"""Child processes: the parent holds no model, so each piece of work gives all its memory back.

A child takes jobs, one JSON line each, on standard input, and answers each with one JSON line on
standard output; whatever libraries print goes to its log. It ends after a job that failed, and when
it is told to. Standard input stays open: when it closes, the parent is gone and the child ends its
own process group. It writes under the run's owner epoch, so even an orphan that lives on can
commit nothing.
"""

import json
import logging
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, TextIO

from selfreward.errors import KINDS, PreflightError, SelfRewardError
from selfreward.run import Run
from selfreward.store import Store

_TICK_S = 0.3
_LOW_DISK = 64_000_000
"""Bytes; who fails to write with less than this left has most likely filled the disk."""
_GRACE_S = 5
"""Seconds between asking a child to end and ending it."""


class Children:
    """Does the loop's work in child processes; see ``controller.Workers``.

    Args:
        tick: Called a few times a second while a child works.
    """

    def __init__(self, run: Run, store: Store, tick: Callable[[], None]) -> None:
        self._run, self._store, self._tick = run, store, tick
        self._kept: Child | None = None

    def prepare(self) -> None:
        """Resolve the base model and check options, unless an earlier launch did."""
        if not os.path.isdir(self._run.base_model().get("path", "")):
            with self._open("prepare", 0) as child:
                self._work(child, "prepare", 0)

    def generate(self, iteration: int) -> None:
        """Make prompts, responses and judgments, in a child that may live on for the next."""
        if self._kept is None:
            self._kept = self._open("generate", iteration, self._run.config.launch.engine_devices)
        self._work(self._kept, "generate", iteration)
        if not self._run.config.launch.engine_is_kept:
            self.close()

    def train(self, iteration: int) -> None:
        """Train and publish the next model."""
        with self._open("train", iteration, self._run.config.launch.train_devices) as child:
            self._work(child, "train", iteration)

    def close(self) -> None:
        """End the child that was kept. Idempotent."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _open(self, work: str, iteration: int, devices: str | None = None) -> "Child":
        return Child(self._run.log_path(iteration, work), devices)

    def _work(self, child: "Child", work: str, iteration: int) -> None:
        job = {"run": str(self._run.path.resolve()), "epoch": self._store.epoch}
        try:
            answer = child.do({**job, "work": work, "iteration": iteration}, self._tick)
        except BaseException:
            child.kill()
            raise
        if answer is None:
            code = child.kill()
            ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            tail = "\n".join(child.log.read_text(errors="replace").splitlines()[-20:])
            raise SelfRewardError(
                f"the {work} process of iteration {iteration} {ending}{memory}",
                f"Its log, {child.log}, ends with:\n{tail}",
            )
        if error := answer.get("error"):
            raise KINDS[error["kind"]](error["message"], error["hint"])


class Child:
    """One child process, as a context manager that ends it.

    Args:
        log: File that all it prints is appended to.
        devices: Its ``CUDA_VISIBLE_DEVICES``; None leaves the parent's.
    """

    def __init__(self, log: Path, devices: str | None = None) -> None:
        self.log = log
        # Engines put sockets there, which they would leave behind when killed.
        self._scratch = TemporaryDirectory(prefix="selfreward-", ignore_cleanup_errors=True)
        visible = {"CUDA_VISIBLE_DEVICES": devices} if devices else {}
        log.parent.mkdir(exist_ok=True)
        with open(log, "ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selfreward.children"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                bufsize=0,
                env=os.environ | {"TMPDIR": self._scratch.name} | visible,
            )

    def do(self, job: dict[str, Any], tick: Callable[[], None]) -> dict[str, Any] | None:
        """Have a job done; return the answer, or None if the process ended without one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it is dead already, as reading will show
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], _TICK_S)[0]:
                if self._process.poll() is not None:
                    return None  # though what it started may hold the pipe open
                tick()
                continue
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE_S)
                return None
            said += part
        tick()
        answer: dict[str, Any] = json.loads(said)
        return answer

    def close(self) -> None:
        """Let the process free its engine and end; end it if that takes long. Idempotent."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(b"\n")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2 * _GRACE_S)
        self.kill()

    def kill(self) -> int:
        """End the process and all that it started; return its exit code. Idempotent."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
        code = self._process.wait()
        # An engine has processes of its own: those that clean up after it get time to, but no more.
        until = time.monotonic() + _GRACE_S
        while self._signal(0) and time.monotonic() < until:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._process.stdin.close()
        self._process.stdout.close()
        self._scratch.cleanup()
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


def main() -> None:
    """Entry point of a child process."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not spoil the answer
    signal.signal(signal.SIGTERM, _terminate)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    error = None
    try:
        _serve(jobs, lambda: _answer(answer, {}))
    except SelfRewardError as raised:
        error = raised
    if error is not None:
        plain = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        _answer(answer, {"error": plain})
        sys.exit(error.exit_code)


def _serve(jobs: "queue.SimpleQueue[str]", tell_done: Callable[[], None]) -> None:
    """Do jobs until an empty line comes, with one generator for all of them."""
    line = jobs.get()
    job = json.loads(line)
    with full_disk_named(job["run"]):
        from selfreward import jobs as work

        with work.Generator() as generator:
            while line:
                job = json.loads(line)
                run = Run(Path(job["run"]))
                with Store(run.records, epoch=job["epoch"]) as store:
                    if job["work"] == "prepare":
                        work.prepare(run)
                    elif job["work"] == "generate":
                        generator.generate(run, store, job["iteration"])
                    else:
                        work.train(run, store, job["iteration"])
                tell_done()
                line = jobs.get()


def _answer(to: TextIO, answer: dict[str, Any]) -> None:
    to.write(json.dumps(answer) + "\n")
    to.flush()


def _read_jobs(jobs: "queue.SimpleQueue[str]") -> None:
    """Pass jobs on until the parent is gone, then end everything."""
    for line in os.fdopen(0, closefd=False):
        jobs.put(line.strip())
    os.killpg(os.getpgid(0), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _terminate(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)  # through all that frees engines and closes files


@contextmanager
def full_disk_named(directory: str) -> Iterator[None]:
    """Say that the disk is full where it is: torch and safetensors each fail in their own words."""
    try:
        yield
    except SelfRewardError:
        raise
    except Exception as error:
        free = shutil.disk_usage(directory).free
        if free >= _LOW_DISK:
            raise
        logging.getLogger(__name__).exception("failed on a full disk")
        raise PreflightError(
            f"{directory}: the disk is full ({free / 1e6:.0f} MB left)",
            "Free some space (`selfreward gc` may help), then resume the run.",
        ) from error


if __name__ == "__main__":
    main()
