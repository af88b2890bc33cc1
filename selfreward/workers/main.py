"""A child process: takes jobs, one JSON line each, and answers each; see ``children``."""

import gc
import json
import logging
import os
import pkgutil
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from selfreward.errors import SelfRewardError
from selfreward.sigterm import raise_at
from selfreward.storage.directory import Run
from selfreward.storage.durable import full_disk_named
from selfreward.storage.store import Store
from selfreward.workers.process import GRACE_S

if TYPE_CHECKING:
    from selfreward.workers.jobs import Generator


_LOG = logging.getLogger(__name__)


def main() -> None:
    """Entry point of a child process: ``main SCRATCH [IMPORT ...]``, to be imported at once."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not spoil the answers

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    signal.signal(signal.SIGTERM, _terminate)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs, *sys.argv[1:2]), daemon=True).start()
    code = 0
    try:
        with full_disk_named(os.getcwd()):
            _import(sys.argv[2:])
            _serve(jobs, say)
    except SelfRewardError as error:
        plain = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        say({"error": plain})
        code = error.exit_code
    except _Terminated:
        code = 128 + signal.SIGTERM
    except Exception:
        _LOG.exception("this is a bug")
        code = 1
    # Everything is closed. To take an interpreter with torch and TRL apart takes a second more.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _import(names: Sequence[str]) -> None:
    """Import what the jobs will; what cannot be imported fails in the job that needs it."""
    for name in names:
        try:
            pkgutil.resolve_name(name)
        except Exception as error:  # whatever a broken installation raises
            _LOG.warning("%s cannot be imported: %s: %s", name, type(error).__name__, error)
    gc.freeze()  # what libraries define stays; to go through it takes half a second


class _Terminated(SystemExit):
    """SIGTERM arrived. asyncio lets a ``SystemExit`` through; other errors stay in their task."""


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
    """Do a job, which names its ``work``; if that belongs to a run, also the run and its epoch."""
    from selfreward.workers import jobs as work
    from selfreward.workers.benchmark import likelihood_job, lm_eval_job
    from selfreward.workers.rewards import rewards_job
    from selfreward.workers.train_reward import reward_job

    match job["work"]:
        case "judge":
            return generator.judge(job, say)
        case "parity":
            return generator.parity(job, say)
        case "likelihood":
            return likelihood_job(job, say)
        case "lm_eval":
            return lm_eval_job(job, say)
        case "rewards":
            return rewards_job(job, say)
        case "train_reward":
            return reward_job(job, say)
    if "log" in job:
        _print_to(job["log"])
    run = Run(Path(job["run"]))
    with full_disk_named(job["run"]), Store(run.records, epoch=job["epoch"]) as store:
        match job["work"]:
            case "prepare":
                work.prepare(run)
            case "generate":
                generator.generate(run, store, job["iteration"])
            case "evaluate":
                generator.evaluate(run, store, job["iteration"])
            case "sleep":
                generator.sleep()
            case "sft" | "train" as stage:
                work.train(run, store, job["iteration"], stage, say)


def _print_to(log: str) -> None:
    """Append to a file what anything here prints from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(log, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)


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
    raise_at(frame, _Terminated())  # through all that frees engines and closes files


if __name__ == "__main__":
    main()
