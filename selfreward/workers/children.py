"""Child processes: the parent holds no model, so each piece of work gives all its memory back.

A child takes jobs, one JSON line each, on standard input. On standard output it answers each with
one JSON line, ``{}`` or ``{"error"}``, and before that with any number of lines ``{"said"}``;
whatever libraries print goes to its log. It ends after a job that failed, and when it is told to.
Standard input stays open: when it closes, the parent is gone and the child ends its own process
group. It writes under the run's owner epoch, so even an orphan that lives on can commit nothing.
"""

import json
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from selfreward.errors import PreflightError, SelfRewardError
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.workers.process import GRACE_S, Child

if TYPE_CHECKING:
    from selfreward.workers.jobs import Generator

_LOW_DISK = 64_000_000
"""Bytes; who fails to write with less than this left has most likely filled the disk."""


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

    def train(self, iteration: int, stage: str = "train") -> None:
        """Train and publish the next model."""
        with self._open(stage, iteration, self._run.config.launch.train_devices) as child:
            self._work(child, stage, iteration)

    def evaluate(self, iteration: int) -> None:
        """Measure the new model, in the child that goes on to generate with it, if it does."""
        if self._kept is None:
            self._kept = self._open("evaluate", iteration, self._run.config.launch.engine_devices)
        self._work(self._kept, "evaluate", iteration)

    def close(self) -> None:
        """End the child that was kept. Idempotent."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _open(self, work: str, iteration: int, devices: str | None = None) -> Child:
        return Child(self._run.log_path(iteration, work), devices)

    def _work(self, child: Child, work: str, iteration: int) -> None:
        job = {"run": str(self._run.path.resolve()), "epoch": self._store.epoch}
        job |= {"work": work, "iteration": iteration}
        child.work(job, f"{work} process of iteration {iteration}", self._tick)


def main() -> None:
    """Entry point of a child process, whose argument is its scratch directory."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not spoil the answers

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    signal.signal(signal.SIGTERM, _terminate)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs, *sys.argv[1:]), daemon=True).start()
    error = None
    try:
        _serve(jobs, say)
    except SelfRewardError as raised:
        error = raised
    if error is not None:
        plain = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        say({"error": plain})
        sys.exit(error.exit_code)


def _serve(jobs: "queue.SimpleQueue[str]", say: Callable[[dict[str, Any]], None]) -> None:
    """Do jobs until an empty line comes, with one generator for all of them."""
    line = jobs.get()
    from selfreward.workers.jobs import Generator

    with Generator() as generator:
        while line:
            _do(json.loads(line), generator, lambda said: say({"said": said}))
            say({})
            line = jobs.get()


def _do(job: dict[str, Any], generator: "Generator", say: Callable[[Any], None]) -> None:
    """Do a job: a ``work``, and but for ``judge`` its ``run``, ``epoch`` and ``iteration``."""
    from selfreward.workers import jobs as work

    if job["work"] == "judge":
        generator.judge(job, say)
        return
    run = Run(Path(job["run"]))
    with full_disk_named(job["run"]), Store(run.records, epoch=job["epoch"]) as store:
        match job["work"]:
            case "prepare":
                work.prepare(run)
            case "generate":
                generator.generate(run, store, job["iteration"])
            case "evaluate":
                generator.evaluate(run, store, job["iteration"])
            case "sft" | "train" as stage:
                work.train(run, store, job["iteration"], stage)


def _read_jobs(jobs: "queue.SimpleQueue[str]", *scratch: str) -> None:
    """Pass jobs on until the parent is gone, then end everything and clean up in its place."""
    for line in os.fdopen(0, closefd=False):
        jobs.put(line.strip())
    for directory in scratch:
        shutil.rmtree(directory, ignore_errors=True)
    os.killpg(os.getpgid(0), signal.SIGTERM)
    time.sleep(GRACE_S)
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
