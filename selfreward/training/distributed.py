"""Training in several processes, on one machine or on several that share a disk.

    train child --starts--> launcher (torchrun, accelerate launch, srun) --starts--> ranks
        job.json, rows.jsonl  ------------------------------------------------>  read by each
        on_log, on_step, error  <-------- lines of the launcher's output ------  rank 0, any rank

The child alone writes to ``records.db``: SQLite is not to be shared between machines. No process
outlives the others. The launcher is in the process group of the child and ends with it. A rank ends
itself when its launcher is gone, or the file of its job.
"""

import codecs
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, NoReturn

from selfreward.config import LaunchConfig
from selfreward.errors import KINDS, ConfigError, PreflightError, SelfRewardError
from selfreward.inputs import shipped
from selfreward.storage import durable
from selfreward.storage.durable import full_disk_named
from selfreward.training.base import OnLog, OnStep, Row, Training, num_processes
from selfreward.training.hosts import Watch, on_several_hosts
from selfreward.training.methods import METHODS, fit_of

_MARK = "selfreward-rank: "
"""Starts a line that a rank has for the child; other lines go to the log."""
_JOB = f"{durable.TEMPORARY}launch-"
_WATCH_S = 0.5
_ENDING_S = 30.0
"""Seconds that all get to end by themselves once one has told an error."""
_GRACE_S = 5
"""Seconds that a launcher gets to end its ranks."""
_BEGIN_S = 660.0
"""Seconds within which a rank has to begin. torchrun gives up after 600 where hosts do not find
each other, but waits for ever on a port at which another program listens and says nothing."""
_REPORT = re.compile(r"host\s*: (\S+)\s*rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+)")
"""A failed process in torchrun's last words (torch 2.13, ``ChildFailedError``)."""
_CAUSE = re.compile(r"torch\.distributed\.Dist\w+Error: ")
"""Its line that names the address which does not answer, where its last one does not."""


def train_processes(
    launch: LaunchConfig,
    log: Path,
    training: Training,
    rows: Sequence[Row],
    *,
    on_log: OnLog,
    on_step: OnStep,
) -> None:
    """Do what a method does in one process in ``launch.processes`` of them.

    Options are TRL's, so batch sizes are per process: two processes train as one that
    accumulates twice as many micro-batches.

    Args:
        log: Where the output of this process goes; for error messages.

    Raises:
        SelfRewardError: What ``train_sft`` raises, or a process that ended otherwise, with its
            rank.
        PreflightError: The launcher cannot be started, or has started none in a time.
    """
    job = {"processes": launch.processes, "training": asdict(training)}
    tail: deque[str] = deque(maxlen=500)
    error: SelfRewardError | None = None
    begun, until = False, time.monotonic() + _BEGIN_S
    with _job_directory(training.checkpoints.parent) as directory:
        lines = [json.dumps(astuple(row)) + "\n" for row in rows]
        durable.write_file(directory / "rows.jsonl", "".join(lines))
        durable.write_file(directory / "job.json", json.dumps(job, default=str))
        with _started(launch, directory / "job.json") as launcher, ExitStack() as stack:
            waiting = stack.enter_context(_ends_within(_BEGIN_S, launcher))
            for told in _told(launcher, tail):
                begun = True
                waiting.cancel()
                if "step" in told:
                    on_step(*told["step"])
                elif "log" in told:
                    on_log(*told["log"])
                elif "kind" in told and error is None:
                    error = KINDS[told["kind"]](told["message"], told["hint"])
                    stack.enter_context(_ends_within(_ENDING_S, launcher))
            code = launcher.wait()
    if error is not None:
        raise error
    if not begun and time.monotonic() > until:
        raise _none_began(launch, tail, log)
    if code != 0:
        raise SelfRewardError(_ending("".join(tail), code), f"Its log: {log}")


@contextmanager
def _ends_within(seconds: float, launcher: subprocess.Popen[bytes]) -> Iterator[threading.Timer]:
    """End a launcher that waits, as for a host that is gone, unless the body ends before."""
    timer = threading.Timer(seconds, _end_launcher, (launcher,))
    timer.daemon = True
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def _none_began(launch: LaunchConfig, tail: Sequence[str], log: Path) -> PreflightError:
    where = (
        "See whether the hosts reach each other at the address that launch.command names, and "
        "whether another program has its port. "
    )
    said = [line.strip() for line in tail if line.strip()]
    last = f"; it said last: {said[-1]}" if said else ""
    return PreflightError(
        f"none of {launch.processes} training processes has begun within {_BEGIN_S:g} s after "
        f"their launcher was started on {socket.gethostname()}{last}",
        f"{where if launch.command else ''}The log: {log}",
    )


def _end_launcher(launcher: subprocess.Popen[bytes]) -> None:
    if launcher.poll() is None:
        launcher.terminate()
        try:
            launcher.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            launcher.kill()


@contextmanager
def _job_directory(parent: Path) -> Iterator[Path]:
    """A new directory that all ranks can read; it is gone afterwards, and with it every rank."""
    parent.mkdir(parents=True, exist_ok=True)
    for abandoned in parent.glob(f"{_JOB}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    directory = (parent / f"{_JOB}{uuid.uuid4().hex}").resolve()
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _started(launch: LaunchConfig, job: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the launcher; it does not outlive the body."""
    command = launch_command(launch)
    environment = dict(os.environ)
    if launch.command is None:  # torchrun would give each process one thread
        threads = max(1, _num_cores() // launch.processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        process = subprocess.Popen(
            [*command, "-m", "selfreward.training.distributed", str(job)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    except OSError as error:
        raise not_started(command[0], str(error.strerror)) from None
    with process:
        try:
            yield process
        finally:
            _end_launcher(process)


def not_started(program: str, why: str) -> PreflightError:
    """The error of a launcher that cannot be started."""
    return PreflightError(
        f"launch.command: cannot start {program} ({why})",
        "Install it in this environment, or correct the command.",
    )


def launch_command(launch: LaunchConfig) -> list[str]:
    """What starts the processes; ``-m``, a module and its arguments follow.

    A file of ``launch.command`` that is not there, but comes with the package, such as
    ``runs/accelerate/fsdp2.yaml``, is taken from the package.
    """
    if launch.command is None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*torchrun, "--nproc-per-node", str(launch.processes)]
    return [
        str(shipped.SHARE / word)
        if "/" in word and not Path(word).exists() and (shipped.SHARE / word).is_file()
        else word
        for word in shlex.split(launch.command)
    ]


def _told(launcher: subprocess.Popen[bytes], tail: deque[str]) -> Iterator[dict[str, Any]]:
    """Yield the messages of ranks that are among the lines of the launcher's output.

    The other lines are written to the log of this process, and the last of them kept in ``tail``.
    """
    for line in _lines(launcher):
        _, mark, told = line.partition(_MARK)
        if mark:
            yield json.loads(told)
        else:
            tail.append(line)
            os.write(2, line.encode())


def _lines(launcher: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield each line of a launcher's output, until it is closed.

    What a launcher that was ended had started, such as torchrun by a shell that waits for it, may
    live on and hold the output open. Then it is over when nothing more comes.
    """
    assert launcher.stdout is not None
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    decoder, begun = io.IncrementalNewlineDecoder(utf8, translate=True), ""
    while True:
        has_failed = bool(launcher.poll())
        if not select.select([launcher.stdout], [], [], _GRACE_S if has_failed else _WATCH_S)[0]:
            if has_failed:
                break
            continue
        part = os.read(launcher.stdout.fileno(), 1 << 16)
        *lines, begun = (begun + decoder.decode(part, final=not part)).split("\n")
        yield from (f"{line}\n" for line in lines)
        if not part:
            break
    if begun:
        yield begun


def _ending(output: str, code: int) -> str:
    """Say how the processes ended, from what the launcher said last."""
    failures = [(host, int(rank), int(how)) for host, rank, how in _REPORT.findall(output)]
    if not failures:
        said = [line.strip() for line in output.splitlines() if line.strip()]
        causes = [line for line in said if _CAUSE.match(line)]
        last = f": {(causes or said)[-1]}" if said else ""
        here = socket.gethostname()
        return f"the training processes that {here} started ended with code {code}{last}"
    # The first to fail is the cause, but the report does not say which it was. A process that was
    # killed is one, unless by SIGTERM: the launcher sends that to all that are left. Where none
    # was, it is the last in the report, torchrun's root cause; the others lost their peer.
    killed = [one for one in failures if one[2] < 0 and one[2] != -signal.SIGTERM]
    host, rank, how = (killed or failures[-1:])[0]
    ending = f"was killed by signal {-how}" if how < 0 else f"ended with code {how}"
    memory = " (out of memory?)" if how == -signal.SIGKILL else ""
    return f"the training process of rank {rank} on {host} {ending}{memory}"


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what this process may use, which macOS does not tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    """Entry point of a rank: ``python -m selfreward.training.distributed JOB.json``."""
    path = Path(sys.argv[1])
    watch = threading.Thread(target=_end_with_launcher, args=(path, os.getppid()), daemon=True)
    hosts = Watch()
    try:
        with full_disk_named(str(path.parent)):
            _check_is_seen(path)
            _tell({"begun": socket.gethostname()})
            watch.start()
            _train(json.loads(path.read_bytes()), path.with_name("rows.jsonl"))
    except SelfRewardError as error:
        tell_error(type(error).__name__, error.message, error.hint)
        _end(error.exit_code)  # the others wait in a collective that never ends
    hosts.close()
    _end(0)  # libraries that fail while the interpreter is torn down fail no training that is done


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(job: dict[str, Any], rows: Path) -> None:
    started, expected = num_processes(), job["processes"]
    if started != expected:
        raise ConfigError(
            f"launch.command started {started} processes, but launch.processes is {expected}",
            f"Set launch.processes={started}, or start as many as it says.",
        )
    _check_devices()
    told = job["training"]
    paths = {name: Path(told[name]) for name in ("model", "output", "checkpoints")}
    training = Training(**told | paths)
    _check_is_seen(training.model)
    fit, kind = fit_of(training.method), METHODS[training.method].row
    with open(rows, encoding="utf-8") as lines:
        read = [kind(*map(_value, json.loads(line))) for line in lines]

    def on_step(done: int, total: int) -> None:
        _tell({"step": [done, total]})

    def on_log(step: int, figures: Mapping[str, float]) -> None:
        _tell({"log": [step, dict(figures)]})

    fit(training, read, on_log=on_log, on_step=on_step)
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_is_seen(path: Path) -> None:
    """Check that this host sees what the ranks read, under the path that it is told.

    Raises:
        PreflightError: It does not.
    """
    if not path.exists():
        raise PreflightError(
            f"host {socket.gethostname()} does not see {path}",
            "All hosts must see the run and its models under the same paths.",
        )


def _value(told: Any) -> Any:
    return tuple(map(_value, told)) if isinstance(told, list) else told


def _check_devices() -> None:
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    check_num_gpus(here, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def check_num_gpus(processes: int, gpus: int) -> None:
    """Check that each training process of this machine has a GPU, where there are any.

    Raises:
        PreflightError: There are fewer.
    """
    if 0 < gpus < processes:
        raise PreflightError(
            f"{processes} training processes on this machine, but {gpus} GPUs",
            "Lower launch.processes, or give more GPUs in launch.train_devices.",
        )


def tell_error(kind: str, message: str, hint: str) -> None:
    """Tell the child, from a rank or beside it, which error ends the training."""
    _tell({"kind": kind, "message": message, "hint": hint})


def _tell(message: dict[str, Any]) -> None:
    # One write of a whole line, and a short one, so that ranks cannot cut into each other.
    os.write(1, f"{_MARK}{json.dumps(message)}\n".encode())


def _end_with_launcher(job: Path, launcher: int) -> None:
    """End this process with the launcher, or where a later launch took over the run."""
    while os.getppid() == launcher and job.exists():
        time.sleep(_WATCH_S)
    if os.getppid() == launcher and on_several_hosts():  # torchrun waits for a host that is cut off
        os.kill(launcher, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
