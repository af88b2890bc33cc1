"""Several training processes work as one, fail as one and end as one."""

import contextlib
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from selfreward.config import LaunchConfig
from selfreward.errors import (
    ConfigError,
    LockedError,
    PreflightError,
    SelfRewardError,
    StoppedError,
)
from selfreward.inputs import shipped
from selfreward.storage import durable
from selfreward.training import distributed
from selfreward.training.base import Fit, Method, ShareStarts, Training
from selfreward.training.distributed import _ending, _num_cores, launch_command, train_processes
from tests.support import ROOT
from tests.support.training import dpo_rows, sft_rows, tiny_model, weights

TWO = LaunchConfig(processes=2)
ALONE = f"{sys.executable}"
"""A launcher that starts one process, which has no sister."""
Logs = dict[int, dict[str, float]]


def train(
    model: Path,
    root: Path,
    rows: list,
    launch: LaunchConfig | None,
    on_step: Any = None,
    lora: dict | None = None,
    eft_weight: float = 1.0,
    share_starts: ShareStarts = "auto",
    **options: Any,
) -> Logs:
    """Train in this process, or in those of ``launch``; return the figures by step."""
    from selfreward.training.dpo import train_dpo
    from selfreward.training.sft import train_sft

    logs: Logs = {}
    method: Method = "sft" if hasattr(rows[0], "completion_ids") else "dpo"
    chosen = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, **options}
    checkpoints = root / "checkpoints" / "M1"
    training = Training(
        method, model, root / "M1", checkpoints, chosen, lora, 0, eft_weight=eft_weight,
        share_starts=share_starts,
    )  # fmt: skip
    fit: Fit = (
        partial(train_processes, launch, Path("logs/0-train.log"))
        if launch
        else (train_sft if method == "sft" else train_dpo)
    )
    fit(training, rows, on_log=logs.__setitem__, on_step=on_step or (lambda done, total: None))
    return logs


def processes_of(root: Path) -> list[psutil.Process]:
    """Launchers and ranks whose job lies under ``root``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(word.startswith(f"{root}/") for word in process.cmdline()[1:]):
                found.append(process)
    return found


def nothing_is_left(root: Path) -> bool:
    deadline = time.monotonic() + 30
    while processes_of(root) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(root)


def farthest(one: Path, other: Path) -> float:
    """Largest difference of two models' weights, which are of size 0.02 (1 for norms)."""
    old, new = weights(one), weights(other)
    assert old.keys() == new.keys()
    return max((old[name] - new[name]).abs().max().item() for name in old)


# --- as one ---

OPTIONS = {"learning_rate": 1e-3, "save_steps": 1, "num_train_epochs": 2}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Logs]:
    """Eight steps of SFT in two processes."""
    root = tmp_path_factory.mktemp("whole")
    return root, train(start, root, sft_rows(16), TWO, **OPTIONS)


@pytest.mark.slow
def test_two_processes_train_as_one_that_accumulates_twice_as_much(
    start: Path,
    whole: tuple[Path, Logs],
    tmp_path: Path,
) -> None:
    root, logs = whole
    alone = train(start, tmp_path, sft_rows(16), None, **OPTIONS, gradient_accumulation_steps=2)
    assert list(logs) == list(alone) == list(range(1, 9))
    for step, figures in alone.items():
        assert logs[step]["loss"] == pytest.approx(figures["loss"], abs=1e-5)
        assert logs[step]["grad_norm"] == pytest.approx(figures["grad_norm"], rel=1e-4)
        assert logs[step].keys() == figures.keys()
    # Adam divides by the size of a gradient, so where that is near 0, rounding decides.
    assert farthest(root / "M1", tmp_path / "M1") < 1e-4
    assert durable.is_whole(root / "M1")
    assert os.listdir(root / "checkpoints") == []
    assert nothing_is_left(root)


CLOCKED = """
import sys
from selfreward.training import distributed, loop
loop.CHECKPOINT_S = 0
sys.argv = [sys.argv[0], sys.argv[-1]]
distributed.main()
"""


@pytest.mark.long
def test_two_processes_read_common_starts_once_and_save_by_the_clock_of_the_first(
    start: Path, tmp_path: Path
) -> None:
    (tmp_path / "rank.py").write_text(CLOCKED)
    command = shlex.join([*launch_command(TWO), str(tmp_path / "rank.py")])
    launch, rows = LaunchConfig(processes=2, command=command), dpo_rows(20)
    options = {"learning_rate": 1e-3, "num_train_epochs": 2}
    alone = train(
        start, tmp_path / "alone", rows, None, share_starts=False, gradient_accumulation_steps=2,
        **options,
    )  # fmt: skip

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(start, tmp_path / "two", rows, launch, stop, share_starts=True, **options)
    resumed = train(start, tmp_path / "two", rows, launch, share_starts=True, **options)
    assert list(alone) == list(range(1, 11))
    assert min(resumed) in (5, 7, 9)  # after a checkpoint, each fifth of the steps
    assert list(resumed) == list(range(min(resumed), 11))
    for step, figures in resumed.items():
        assert figures["loss"] == pytest.approx(alone[step]["loss"], abs=1e-5)
    assert farthest(tmp_path / "two" / "M1", tmp_path / "alone" / "M1") < 1e-3


@pytest.mark.long
def test_dpo_in_two_processes_has_the_right_reference_for_an_odd_number_of_pairs(
    start: Path,
    tmp_path: Path,
) -> None:
    rows, options = dpo_rows(15), {"learning_rate": 1e-3}
    logs = train(start, tmp_path / "two", rows, TWO, **options)
    alone = train(start, tmp_path / "one", rows, None, **options, gradient_accumulation_steps=2)
    assert logs[1]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert logs[1]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert list(logs) == list(alone) == [1, 2, 3, 4]
    for step in (1, 2, 3):  # the last one lacks a row, which two processes take from the next epoch
        for name in ("loss", "rewards/margins", "logps/chosen", "logps/rejected"):
            assert logs[step][name] == pytest.approx(alone[step][name], rel=1e-5, abs=1e-5)


# --- resume and failure ---


@pytest.mark.long
def test_a_killed_rank_ends_all_is_named_and_a_resume_gives_the_same_weights(
    start: Path,
    whole: tuple[Path, Logs],
    tmp_path: Path,
) -> None:
    def kill_rank_1(done: int, total: int) -> None:
        if done == 5:
            for process in psutil.Process().children(recursive=True):
                if process.environ().get("RANK") == "1":
                    process.kill()

    rows = sft_rows(16)
    with pytest.raises(SelfRewardError, match=r"rank 1 on \S+ was killed by signal 9") as raised:
        train(start, tmp_path, rows, TWO, on_step=kill_rank_1, **OPTIONS)
    assert raised.value.hint == "Its log: logs/0-train.log"
    assert nothing_is_left(tmp_path)
    assert not (tmp_path / "M1").exists()
    steps: list[int] = []
    logs = train(
        start, tmp_path, rows, TWO, on_step=lambda done, total: steps.append(done), **OPTIONS
    )
    assert steps[0] >= 4
    for step, figures in logs.items():
        assert figures["loss"] == pytest.approx(whole[1][step]["loss"], rel=1e-6)
    assert farthest(whole[0] / "M1", tmp_path / "M1") < 1e-6


@pytest.mark.long
def test_a_loss_that_is_not_finite_is_the_same_error_as_in_one_process(
    start: Path,
    tmp_path: Path,
) -> None:
    options = {"learning_rate": 1e30, "max_grad_norm": 0.0}
    with pytest.raises(StoppedError, match=r"(loss|grad_norm) is (nan|inf) at step 2") as stopped:
        train(start, tmp_path, sft_rows(16), TWO, **options)
    assert "learning_rate" in stopped.value.hint
    assert not (tmp_path / "M1").exists()
    assert nothing_is_left(tmp_path)


@pytest.mark.slow
def test_an_error_of_the_caller_ends_all_processes(start: Path, tmp_path: Path) -> None:
    def taken_over(done: int, total: int) -> None:
        raise LockedError("the run was taken over")

    with pytest.raises(LockedError):
        train(start, tmp_path, sft_rows(16), TWO, on_step=taken_over)
    assert nothing_is_left(tmp_path)


CHILD = """
import sys
from pathlib import Path
from tests.support import ROOT
from tests.support.training import sft_rows
from tests.training.test_distributed import TWO, train
train(Path(sys.argv[1]), Path(sys.argv[2]), sft_rows(16), TWO, num_train_epochs=1000,
    on_step=lambda done, total: print(done, flush=True))
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_child_that_started_it(
    number: signal.Signals,
    start: Path,
    tmp_path: Path,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(start), str(tmp_path / "root")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"0\n"
    assert len(processes_of(tmp_path / "root" / "checkpoints")) == 3  # torchrun and two ranks
    os.killpg(child.pid, number)
    child.communicate()
    assert nothing_is_left(tmp_path / "root" / "checkpoints")


RANK = """
import os, sys
from pathlib import Path
from selfreward.training.distributed import _end_with_launcher
launcher = os.getppid()  # before the test, which waits for the line, may end it
print(os.getpid(), flush=True)
_end_with_launcher(Path(sys.argv[1]), launcher)
"""


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["launcher", "job"])
def test_a_rank_ends_with_its_launcher_and_with_its_job(gone: str, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.touch()
    # A shell for a launcher, which would not end its child.
    launcher = subprocess.Popen(
        ["sh", "-c", '"$@" & wait', "launcher", sys.executable, "-c", RANK, str(job)],
        stdout=subprocess.PIPE,
    )
    assert launcher.stdout is not None
    rank = psutil.Process(int(launcher.stdout.readline()))
    if gone == "launcher":
        launcher.kill()
    else:
        job.unlink()
    with contextlib.suppress(psutil.NoSuchProcess):
        rank.wait(timeout=30)
    launcher.communicate()
    assert not rank.is_running()


def test_a_command_must_start_as_many_processes_as_the_config_says(tmp_path: Path) -> None:
    launch = LaunchConfig(processes=3, command=ALONE)
    with pytest.raises(ConfigError, match="started 1 processes, but") as raised:
        train(tmp_path / "M0", tmp_path, sft_rows(2), launch)
    assert raised.value.hint.startswith("Set launch.processes=1")
    assert os.listdir(tmp_path / "checkpoints") == []


def test_a_command_that_cannot_be_started_or_fails_is_one_line(tmp_path: Path) -> None:
    launch = LaunchConfig(command="no-such-launcher --nodes 2")
    with pytest.raises(PreflightError, match="cannot start no-such-launcher"):
        train(tmp_path / "M0", tmp_path, sft_rows(2), launch)
    with pytest.raises(SelfRewardError, match=r"started ended with code 1$") as raised:
        train(tmp_path / "M0", tmp_path, sft_rows(2), LaunchConfig(command="false"))
    assert raised.value.hint == "Its log: logs/0-train.log"


def test_a_launcher_under_which_no_process_begins_is_ended_with_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_BEGIN_S", 2)
    launch = LaunchConfig(processes=4, command="sh -c 'echo joining n9; exec sleep 100'")
    with pytest.raises(PreflightError) as raised:
        train(tmp_path / "M0", tmp_path, sft_rows(2), launch)
    assert raised.value.message == (
        "none of 4 training processes has begun within 2 s after their launcher was started on "
        f"{socket.gethostname()}; it said last: joining n9"
    )
    assert raised.value.hint.endswith("The log: logs/0-train.log")


def test_a_launcher_is_ended_also_where_what_it_started_holds_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_BEGIN_S", 2)
    monkeypatch.setattr(distributed, "_GRACE_S", 1)
    script, pid = tmp_path / "launch.sh", tmp_path / "pid"
    script.write_text(f"sleep 600 &\necho $! > {pid}\nprintf 'joining n9'\nwait\n")
    launch = LaunchConfig(processes=4, command=f"sh {script}")
    try:
        with pytest.raises(PreflightError, match=r"it said last: joining n9$"):
            train(tmp_path / "M0", tmp_path, sft_rows(2), launch)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_what_an_earlier_launch_left_behind_is_removed(tmp_path: Path) -> None:
    abandoned = tmp_path / "checkpoints" / f"{durable.TEMPORARY}launch-0"
    abandoned.mkdir(parents=True)
    (abandoned / "job.json").touch()
    with pytest.raises(SelfRewardError):
        train(tmp_path / "M0", tmp_path, sft_rows(2), LaunchConfig(command="false"))
    assert os.listdir(tmp_path / "checkpoints") == []


REPORT = """
selfreward.training.distributed FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-22_09:00:00
  host      : there
  rank      : 1 (local_rank: 1)
  exitcode  : {other} (pid: 12)
  error_file: <N/A>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_09:00:00
  host      : here
  rank      : 0 (local_rank: 0)
  exitcode  : {root} (pid: 11)
  error_file: <N/A>
"""


@pytest.mark.parametrize(
    ("other", "root", "said"),
    [
        # the other lost its peer
        ("-9", "1", "of rank 1 on there was killed by signal 9 (out of memory?)"),
        ("-15", "1", "of rank 0 on here ended with code 1"),  # the other was ended by torchrun
        ("-15", "-11", "of rank 0 on here was killed by signal 11"),
    ],
)
def test_the_rank_that_failed_first_is_named(other: str, root: str, said: str) -> None:
    assert _ending(REPORT.format(other=other, root=root), 1).endswith(said)


def test_a_launcher_that_gives_no_report_is_quoted() -> None:
    ending = _ending("srun: job 7 queued\nsrun: error: no such partition\n\n", 1)
    assert ending == (
        f"the training processes that {socket.gethostname()} started ended with code 1: "
        "srun: error: no such partition"
    )
    cause = "torch.distributed.DistNetworkError: The client socket has timed out (n9, 29500)"
    assert _ending(f"{cause}\nRendezvousConnectionError: See inner exception\n", 1).endswith(cause)


def test_a_host_that_does_not_see_the_job_or_the_model_is_named(tmp_path: Path) -> None:
    hidden = tmp_path / "checkpoints"
    command = shlex.join(["sh", "-c", f'rm -r {hidden}/.tmp-*; exec {ALONE} "$@"', "launcher"])
    with pytest.raises(PreflightError, match=f"^host {socket.gethostname()} does not see .*job"):
        train(tmp_path / "M0", tmp_path, sft_rows(2), LaunchConfig(command=command))
    with pytest.raises(PreflightError, match=r"does not see .*/M0$"):
        train(tmp_path / "M0", tmp_path, sft_rows(2), LaunchConfig(command=ALONE))


# --- launchers ---


def test_processes_alone_mean_torchrun_on_this_machine() -> None:
    command = launch_command(LaunchConfig(processes=4))
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[-2:] == ["--nproc-per-node", "4"]
    assert _num_cores() >= 1


def test_a_shipped_file_in_a_command_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "accelerate launch --config_file runs/accelerate/fsdp2.yaml --tee '0:3 1:3'"
    words = launch_command(LaunchConfig(processes=8, command=line))
    assert Path(words[3]) == shipped.SHARE / "runs/accelerate/fsdp2.yaml"
    assert Path(words[3]).is_file()
    assert words[-1] == "0:3 1:3"
    own = tmp_path / "runs" / "accelerate" / "fsdp2.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert launch_command(LaunchConfig(command=line))[3] == "runs/accelerate/fsdp2.yaml"


@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_a_shipped_accelerate_config_is_valid_and_marked_as_not_run(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    path = shipped.SHARE / "runs" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))  # refuses unknown keys at the top
    assert config.num_processes == 8
    options = {o for action in launch_command_parser()._actions for o in action.option_strings}
    given = (config.fsdp_config or {}) | (config.deepspeed_config or {})
    assert {f"--{key}" for key in given} - options == set()
    assert path.read_text().startswith("# Run on GPUs only; not yet run by us")


# What `accelerate launch` would tell a process, and what the plugin in that process makes of it.
FSDP = """
import json, os, sys
from accelerate.commands.launch import launch_command_parser, _validate_launch_command
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
parser = launch_command_parser()
args = parser.parse_args(["--config_file", sys.argv[1], "-m", "module"])
args, *_ = _validate_launch_command(args)
os.environ.update(prepare_multi_gpu_env(args))
plugin = FullyShardedDataParallelPlugin()
print(json.dumps([args.use_fsdp, os.environ["ACCELERATE_MIXED_PRECISION"],
    plugin.fsdp_version, plugin.cpu_ram_efficient_loading, str(plugin.state_dict_type)]))
"""


@pytest.mark.long
def test_accelerate_reads_the_fsdp2_config_as_it_is_meant() -> None:
    path = shipped.SHARE / "runs" / "accelerate" / "fsdp2.yaml"
    done = subprocess.run(
        [sys.executable, "-c", FSDP, str(path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [True, "bf16", 2, True, "StateDictType.SHARDED_STATE_DICT"]


FSDP_ON_CPU = LaunchConfig(
    processes=2,
    command=shlex.join(
        [*launch_command(TWO), str(ROOT / "tests" / "support" / "fsdp_on_cpu.py")],
    ),
)


@pytest.fixture
def fsdp2(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `accelerate launch` sets by the shipped config, but for bfloat16."""
    path = shipped.SHARE / "runs" / "accelerate" / "fsdp2.yaml"
    settings = yaml.safe_load(path.read_text())["fsdp_config"]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, value in settings.items():
        monkeypatch.setenv(
            name.upper(), str(value).lower() if value in (True, False) else str(value)
        )


@pytest.mark.long
@pytest.mark.usefixtures("fsdp2")
@pytest.mark.parametrize(
    ("rows", "lora"),
    [(dpo_rows(16), None), (dpo_rows(16), {"r": 4})],
    ids=["dpo", "dpo-lora"],
)
def test_shards_train_and_publish_what_one_process_does(
    rows: list, lora: dict | None, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"learning_rate": 1e-3, "save_steps": 1, "num_train_epochs": 2}
    logs = train(start, tmp_path / "two", rows, FSDP_ON_CPU, lora=lora, **options)
    for name in [*os.environ]:
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.delenv(name)
    options["gradient_accumulation_steps"] = 2
    alone = train(start, tmp_path / "one", rows, None, lora=lora, **options)
    assert list(logs) == list(alone) == list(range(1, 9))
    for step, figures in alone.items():
        assert logs[step]["loss"] == pytest.approx(figures["loss"], abs=1e-5)
    one, two = tmp_path / "one" / "M1", tmp_path / "two" / "M1"
    assert farthest(one, two) < 1e-4
    assert sorted(os.listdir(one)) == sorted(os.listdir(two))
    assert json.loads((one / "config.json").read_bytes()) == json.loads(
        (two / "config.json").read_bytes()
    )


@pytest.mark.long
@pytest.mark.usefixtures("fsdp2")
def test_a_sharded_training_resumes_from_its_shards(start: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    rows = sft_rows(16)
    with pytest.raises(KeyboardInterrupt):
        train(start, tmp_path, rows, FSDP_ON_CPU, on_step=interrupt, **OPTIONS)
    steps: list[int] = []
    train(start, tmp_path, rows, FSDP_ON_CPU, on_step=lambda done, _: steps.append(done), **OPTIONS)
    assert steps[0] >= 5
    train(start, tmp_path / "whole", rows, FSDP_ON_CPU, **OPTIONS)
    assert farthest(tmp_path / "M1", tmp_path / "whole" / "M1") < 1e-6


# --- the real model ---


@pytest.mark.long
def test_the_real_model_has_the_same_losses_in_two_processes_as_in_one(tmp_path: Path) -> None:
    from selfreward.inputs import models
    from selfreward.training.base import SftRow

    model = models.resolve("bundled:smollm2-135m").path
    rows = [SftRow(tuple(range(100 + i, 112 + 2 * i)), (300 + i, 2)) for i in range(8)]
    options = {"learning_rate": 1e-5, "per_device_train_batch_size": 1, "save_steps": 1000}
    two = train(model, tmp_path / "two", rows, TWO, **options, gradient_accumulation_steps=2)
    one = train(model, tmp_path / "one", rows, None, **options, gradient_accumulation_steps=4)
    assert list(two) == list(one) == [1, 2]
    for step, figures in one.items():
        assert two[step]["loss"] == pytest.approx(figures["loss"], abs=1e-5)
    assert farthest(tmp_path / "two" / "M1", tmp_path / "one" / "M1") < 1e-5


@pytest.mark.slow
def test_weighted_rows_train_in_two_processes_as_in_one(start: Path, tmp_path: Path) -> None:
    rows = [replace(row, is_eft=i % 3 == 0) for i, row in enumerate(sft_rows(8))]
    two = train(start, tmp_path / "two", rows, TWO, eft_weight=6.0, learning_rate=1e-3)
    options = {"learning_rate": 1e-3, "gradient_accumulation_steps": 2}
    alone = train(start, tmp_path / "one", rows, None, eft_weight=6.0, **options)
    assert two.keys() == alone.keys()
    for step, figures in alone.items():
        assert two[step]["loss"] == pytest.approx(figures["loss"], abs=1e-5)
        assert two[step]["grad_norm"] == pytest.approx(figures["grad_norm"], rel=1e-4)
        assert two[step]["eft_loss_share"] == pytest.approx(figures["eft_loss_share"], rel=1e-4)
