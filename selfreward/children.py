"""Child processes: the parent holds no model, so each piece of work gives all its memory back.

A child gets its job as one JSON line on standard input and answers with one JSON line on standard
output; whatever libraries print goes to its log. Standard input stays open: when it closes, the
parent is gone and the child ends its own process group. It writes under the run's owner epoch, so
even an orphan that lives on can commit nothing.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

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

    def prepare(self) -> None:
        """Resolve the base model and check options, unless an earlier launch did."""
        if not os.path.isdir(self._run.base_model().get("path", "")):
            self._work("prepare", 0)

    def generate(self, iteration: int) -> None:
        """Make prompts, responses and judgments."""
        self._work("generate", iteration)

    def train(self, iteration: int) -> None:
        """Train and publish the next model."""
        self._work("train", iteration)

    def _work(self, work: str, iteration: int) -> None:
        job = {
            "run": str(self._run.path.resolve()),
            "epoch": self._store.epoch,
            "work": work,
            "iteration": iteration,
        }
        log_path = self._run.log_path(iteration, work)
        log_path.parent.mkdir(exist_ok=True)
        with open(log_path, "ab") as log:
            answer, code = _run_child(job, log, self._tick)
        if error := answer.get("error"):
            raise KINDS[error["kind"]](error["message"], error["hint"])
        if code != 0:
            ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-20:])
            raise SelfRewardError(
                f"the {work} process of iteration {iteration} {ending}{memory}",
                f"Its log, {log_path}, ends with:\n{tail}",
            )


def _run_child(
    job: dict[str, Any], log: IO[bytes], tick: Callable[[], None]
) -> tuple[dict[str, Any], int]:
    """Run one child to its end; return its answer and exit code. It never outlives the call."""
    process = subprocess.Popen(
        [sys.executable, "-m", "selfreward.children"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        while process.poll() is None:
            tick()
            time.sleep(_TICK_S)
        lines = process.stdout.read().splitlines()
        return (json.loads(lines[-1]) if lines else {}), process.returncode
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    process.stdin.close()
    process.stdout.close()


def main() -> None:
    """Entry point of a child process."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not spoil the answer
    job = json.loads(os.read(0, 1 << 16))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _full_disk_named(job["run"]):
            _dispatch(job)
    except SelfRewardError as error:
        plain = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        answer.write(json.dumps({"error": plain}) + "\n")
        answer.flush()
        sys.exit(error.exit_code)


@contextmanager
def _full_disk_named(directory: str) -> Iterator[None]:
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


def _dispatch(job: dict[str, Any]) -> None:
    from pathlib import Path

    from selfreward import jobs

    run = Run(Path(job["run"]))
    with Store(run.records, epoch=job["epoch"]) as store:
        if job["work"] == "prepare":
            jobs.prepare(run)
        elif job["work"] == "generate":
            jobs.generate(run, store, job["iteration"])
        else:
            jobs.train(run, store, job["iteration"])


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
