"""Commands of a user in processes of their own, on a disk that a test watches, fails or stops.

Each is forked from a process that has everything imported already, so that thousands can be
killed; text and weights are made up (``loop_driver``), all else is the real command line.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from selfreward.cli import main as cli
from selfreward.errors import SelfRewardError
from selfreward.storage.durable import disk_problem
from selfreward.workers import children
from tests.support.cli_driver import Workers, set_clock
from tests.support.steps import Plan, Step, Watch

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.warm"])
SHORT = [
    "model=base", "iterations=1", "prompts.count=3", "prompts.window=2", "responses.n=2",
    "judge.form=written", "judge.template=judge/additive.jinja", "judge.votes=1",
    "judge.min_parse_rate=0", "sft.max_length=9999", "evaluation.ranked=null",
    "evaluation.questions=null", "evaluation.canaries=false",
]  # fmt: skip
"""The quickstart in some 500 steps on the disk."""
LIMIT_S = 120
"""Seconds after which a command hangs."""

Act = Callable[[], int | None]
"""What a user does, to be found by its name; gives the exit code."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; negative: the signal that killed it."""
    said: str
    """Its standard error."""
    steps: list[Step]
    """What it did on the disk; none where it was killed."""
    failed: Step | None
    """The step that was made to fail."""

    @property
    def is_clean(self) -> bool:
        """Whether it failed as errors shall: a line that names it, and no traceback."""
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return self.code > 1 and len(errors) == 1 and "Traceback" not in self.said


@dataclass(frozen=True)
class Words:
    """A command line."""

    arguments: tuple[str, ...]
    scripted: tuple[tuple[str, str], ...] = ()
    """Environment variables for ``cli_driver``."""

    def __call__(self) -> int:
        """Carry it out."""
        os.environ.update(self.scripted)
        if clock := os.environ.get("SCRIPTED_CLOCK"):
            set_clock(clock)
        return cli.invoke([*self.arguments])


def words(*arguments: str, **scripted: str) -> Words:
    """A command line with SCRIPTED_MOOD and others by their names."""
    environment = {f"SCRIPTED_{name.upper()}": value for name, value in scripted.items()}
    return Words(arguments, tuple(environment.items()))


def begin(
    root: Path, act: Act, plan: Plan | None = None, *, keeps_data: bool = False
) -> BaseProcess:
    """Start a command with ``root`` as its working directory and ``root/runs`` as that of runs.

    Args:
        plan: What goes wrong; None: nothing is watched.
        keeps_data: Whether steps hold what was written.
    """
    process = _FORKS.Process(target=_work, args=(root, act, plan, keeps_data))
    process.start()
    return process


def end(root: Path, process: BaseProcess) -> Ended:
    """Wait for a command that was begun."""
    process.join(LIMIT_S)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGABRT)
        process.join()
        raise AssertionError(f"hangs: {_said(root, process)}")
    told, steps, failed = _beside(root, "steps", process.pid), [], None
    if told.exists():
        steps, failed = pickle.loads(told.read_bytes())
        told.unlink()
    return Ended(process.exitcode, _said(root, process, gone=True), steps, failed)


def done(root: Path, act: Act, plan: Plan | None = None, *, keeps_data: bool = False) -> Ended:
    """Carry a command out."""
    return end(root, begin(root, act, plan, keeps_data=keeps_data))


def _beside(root: Path, what: str, pid: int | None) -> Path:
    return root.with_name(f"{root.name}.{what}-{pid}")


def _said(root: Path, process: BaseProcess, gone: bool = False) -> str:
    path = _beside(root, "said", process.pid)
    text = path.read_text(errors="replace") if path.exists() else ""
    if gone:
        path.unlink(missing_ok=True)
    return text


def warm_up() -> None:
    """Have all that a command imports late imported before the forks."""
    children.Children = Workers  # type: ignore[misc,assignment]
    here, out, err = os.getcwd(), os.dup(1), os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ["SELFREWARD_RUNS"] = "runs"
        for number in (1, 2):
            os.dup2(nothing, number)
        for line in (["run", "quickstart", "--name", "run", *SHORT], ["verify", "run"]):
            assert cli.invoke(line) == 0
        os.chdir(here)
    for number, kept in enumerate((out, err), 1):
        os.dup2(kept, number)
        os.close(kept)
    os.close(nothing)


def _work(root: Path, act: Act, plan: Plan | None, keeps_data: bool) -> None:
    """The forked process."""
    with open(_beside(root, "said", os.getpid()), "wb") as said, open(os.devnull, "wb") as nothing:
        os.dup2(said.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
    os.chdir(root)
    os.environ["SELFREWARD_RUNS"] = "runs"
    children.Children = Workers  # type: ignore[misc,assignment]
    signal.signal(signal.SIGTERM, cli._terminate)
    watch = Watch(root, plan or Plan(), keeps_data)
    if plan is not None:
        watch.start()
    code: int | None = 1
    try:
        code = act()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except (SelfRewardError, OSError) as error:  # of an act that is no command line
        problem = disk_problem(error) if isinstance(error, OSError) else error
        print(f"error: {problem.message}", file=sys.stderr)
        code = problem.exit_code
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    told = pickle.dumps((watch.steps, watch.failed))
    _beside(root, "steps", os.getpid()).write_bytes(told)
    os._exit(code or 0)
