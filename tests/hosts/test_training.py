"""Training over two hosts is training on one, and ends as one where a host is lost.

Hosts are those of `tests/support/hosts.py`; `tests/support/remote.py` stands for srun.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfreward.inputs import shipped
from selfreward.training.base import Training
from tests.hosts.conftest import MakeHosts
from tests.support import ROOT
from tests.support.hosts import Host
from tests.support.training import dpo_rows, sft_rows, tiny_model, weights

REMOTE = ROOT / "tests" / "support" / "remote.py"
SHARDS = ROOT / "tests" / "support" / "fsdp_on_cpu.py"
OPTIONS = {"learning_rate": 1e-3, "save_steps": 1, "per_device_train_batch_size": 2,
           "gradient_accumulation_steps": 1, "num_train_epochs": 2}  # fmt: skip
LONG = {**OPTIONS, "num_train_epochs": 12}
"""48 steps: enough to do something in the middle."""
RANKS = ("torch.distributed.run", "selfreward.training")
STATIC = "--node-rank=NODEID --master-addr=n1 --master-port=29500"
"""As in docs/scale.md."""
DYNAMIC = "--rdzv-backend=c10d --rdzv-endpoint="
SILENCE_S = 60
ENDS_WITHIN_S = SILENCE_S + 30


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


class Launched:
    """A training that a host has started on several; iterate over what it says."""

    def __init__(
        self,
        on: list[Host],
        model: Path,
        root: Path,
        *,
        method: str = "sft",
        options: dict[str, Any] = OPTIONS,
        script: Path | None = None,
        rendezvous: str = STATIC,
        before: str = "",
        begin_s: float = 660,
        env: dict[str, str] | None = None,
    ) -> None:
        names = ",".join(host.name for host in on)
        command = (
            f"{sys.executable} {REMOTE} {names} {before} {sys.executable} -m torch.distributed.run "
            f"--nnodes={len(on)} --nproc-per-node=1 {rendezvous} {script or ''}"
        )
        settings = {
            "root": str(root), "method": method, "model": str(model), "options": options,
            "launch": {"processes": len(on), "command": command}, "begin_s": begin_s,
        }  # fmt: skip
        root.mkdir(parents=True, exist_ok=True)
        (root / "settings.json").write_text(json.dumps(settings))
        self.logs: dict[int, dict[str, float]] = {}
        self.error = self.hint = ""
        self.steps: list[int] = []
        with open(root / "train.log", "ab") as log:
            self._process = on[0].start(
                [sys.executable, "-m", "tests.support.host_training", root / "settings.json"],
                stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            )  # fmt: skip

    def until_step(self, wanted: int) -> None:
        """Return as soon as so many steps are done."""
        for told in self._told():
            if told.get("step", [-1])[0] == wanted:
                return
        raise AssertionError(f"it ended before step {wanted}: {self.error}")

    def end(self) -> float:
        """Wait for the end; return how many seconds that took."""
        begin = time.monotonic()
        for _ in self._told():
            pass
        self._process.wait()
        return time.monotonic() - begin

    def _told(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "log" in told:
                self.logs[told["log"][0]] = told["log"][1]
            elif "step" in told:
                self.steps.append(told["step"][0])
            else:
                self.error, self.hint = told["error"], told["hint"]
            yield told


def on_one_host(method: str, model: Path, root: Path) -> dict[int, dict[str, float]]:
    from selfreward.training.dpo import train_dpo
    from selfreward.training.sft import train_sft

    logs: dict[int, dict[str, float]] = {}
    options = {**OPTIONS, "gradient_accumulation_steps": 2}
    training = Training(method, model, root / "M1", root / "checkpoints", options, None, 0)
    fit, rows = (train_sft, sft_rows(16)) if method == "sft" else (train_dpo, dpo_rows(16))
    fit(training, rows, on_log=logs.__setitem__, on_step=lambda done, total: None)
    return logs


def farthest(one: Path, other: Path) -> float:
    old, new = weights(one), weights(other)
    assert old.keys() == new.keys()
    return max((old[name] - new[name]).abs().max().item() for name in old)


def nothing_is_left(hosts: list[Host]) -> bool:
    return all(host.is_idle(15, *RANKS, "host_training") for host in hosts)


def assert_same_losses(
    found: dict[int, dict[str, float]], expected: dict[int, dict[str, float]]
) -> None:
    assert list(found) == list(expected) == list(range(1, 9))
    for step, figures in expected.items():
        assert found[step]["loss"] == pytest.approx(figures["loss"], abs=1e-5)


# --- as one ---


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", [STATIC, f"{DYNAMIC}n1:29500"])
def test_two_hosts_have_the_losses_of_one(
    rendezvous: str, start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    both = make_hosts(2)
    training = Launched(both, start, tmp_path / "two", rendezvous=rendezvous)
    training.end()
    assert training.error == ""
    assert_same_losses(training.logs, on_one_host("sft", start, tmp_path / "one"))
    assert farthest(tmp_path / "two" / "M1", tmp_path / "one" / "M1") < 1e-4
    assert nothing_is_left(both)


@pytest.mark.long
def test_shards_on_two_hosts_have_the_losses_of_one(
    start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    settings = yaml.safe_load((shipped.SHARE / "runs/accelerate/fsdp2.yaml").read_text())
    env = {"ACCELERATE_USE_FSDP": "true"}
    for name, value in settings["fsdp_config"].items():
        env[name.upper()] = str(value).lower() if value in (True, False) else str(value)
    both = make_hosts(2)
    training = Launched(both, start, tmp_path / "two", method="dpo", script=SHARDS, env=env)
    training.end()
    assert training.error == ""
    assert_same_losses(training.logs, on_one_host("dpo", start, tmp_path / "one"))
    assert farthest(tmp_path / "two" / "M1", tmp_path / "one" / "M1") < 1e-4
    assert nothing_is_left(both)


# --- a host is lost ---


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed training makes, in one process."""
    from selfreward.training.sft import train_sft

    root = tmp_path_factory.mktemp("whole")
    options = {**LONG, "gradient_accumulation_steps": 2}
    training = Training("sft", start, root / "M1", root / "checkpoints", options, None, 0)
    fit_nothing = {"on_log": lambda step, figures: None, "on_step": lambda done, total: None}
    train_sft(training, sft_rows(16), **fit_nothing)
    return root / "M1"


@pytest.mark.long
@pytest.mark.parametrize("what", ["cut", "power_off"])
def test_a_host_that_is_gone_in_mid_step_ends_the_training_within_90_s_by_its_name(
    what: str, start: Path, whole: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    first, second, third = make_hosts(3)
    root = tmp_path / "run"
    training = Launched([first, second], start, root, options=LONG)
    training.until_step(5)
    getattr(second, what)()
    assert training.end() < ENDS_WITHIN_S
    assert training.error == "nothing was heard of host n2 for 60 s or more on host n1"
    if what == "cut":
        assert nothing_is_left([first, second])
        second.put_back()
        resumed = Launched([first, second], start, root, options=LONG)
    else:
        assert nothing_is_left([first])
        resumed = Launched([first, third], start, root, options=LONG)
    resumed.end()
    assert resumed.error == ""
    assert resumed.steps[0] >= 4
    assert farthest(root / "M1", whole) < 1e-3
    assert nothing_is_left([first] if what == "power_off" else [first, second])


@pytest.mark.long
def test_the_host_that_started_it_ends_the_training_when_it_is_cut_off_itself(
    start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    both = make_hosts(2)
    training = Launched(both, start, tmp_path / "run", options=LONG)
    training.until_step(5)
    both[0].cut()
    assert training.end() < ENDS_WITHIN_S
    assert training.error == "nothing was heard of host n2 for 60 s or more on host n1"
    assert nothing_is_left(both)


@pytest.mark.long
@pytest.mark.parametrize("whose", ["rank", "all"])
def test_a_process_killed_on_another_host_ends_the_training_by_its_name(
    whose: str, start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    both = make_hosts(2)
    training = Launched(both, start, tmp_path / "run", options=LONG)
    training.until_step(5)
    for process in both[1].processes("torch.distributed.run" if whose == "all" else "-u -m"):
        process.kill()
    if whose == "all":
        for process in both[1].processes("selfreward.training"):
            process.kill()
    assert training.end() < 40
    assert "n2" in training.error, (tmp_path / "run" / "train.log").read_text()[-6000:]
    assert nothing_is_left(both)


# --- bad input ---


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_host_whose_clock_is_an_hour_ahead_trains_as_any(
    start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    both = make_hosts(2)
    clock, source = tmp_path / "clock.so", ROOT / "tests" / "support" / "clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", clock, source], check=True)
    clocks = f"env LD_PRELOAD={clock} CLOCK_AHEAD_H=NODEID"
    assert int(both[1].run(["env", f"LD_PRELOAD={clock}", "CLOCK_AHEAD_H=1", "date", "+%s"])) == (
        pytest.approx(time.time() + 3600, abs=10)
    )
    training = Launched(both, start, tmp_path / "two", before=clocks)
    training.end()
    assert training.error == ""
    assert_same_losses(training.logs, on_one_host("sft", start, tmp_path / "one"))


@pytest.mark.long
def test_a_port_that_another_program_has_is_named(
    start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    both = make_hosts(2)
    listen = "import socket, time; s = socket.create_server(('', 29500)); print(flush=True)"
    other = both[0].start(
        [sys.executable, "-c", f"{listen}; time.sleep(600)"], stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"\n"
    training = Launched(both, start, tmp_path / "run")
    assert training.end() < 60
    assert "29500" in training.error and "EADDRINUSE" in training.error
    joining = f"{DYNAMIC}n1:29500"  # which takes whoever listens for the launcher of n1
    training = Launched(both, start, tmp_path / "run", rendezvous=joining, begin_s=30)
    assert training.end() < 60
    assert training.error.startswith("none of 2 training processes has begun within 30 s after ")
    assert "another program has its port" in training.hint
    assert nothing_is_left(both)


@pytest.mark.long
def test_a_host_that_sees_another_directory_is_named(
    start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    both, checkpoints = make_hosts(2), tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    both[1].run(["mount", "-t", "tmpfs", "none", checkpoints])
    training = Launched(both, start, tmp_path / "run")
    training.end()
    assert training.error.startswith(f"host n2 does not see {checkpoints}/")
    assert nothing_is_left(both)


@pytest.mark.long
@pytest.mark.parametrize("address", ["n9:29500", "10.77.0.99:29500"])
def test_an_address_at_which_nobody_answers_is_named(
    address: str, start: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    both = make_hosts(2)
    training = Launched(both, start, tmp_path / "run", rendezvous=DYNAMIC + address)
    training.end()
    assert training.error.startswith("the training processes that n1 started ended with code 1: ")
    assert address.split(":")[0] in training.error
    assert nothing_is_left(both)
