"""The batch script of docs/scale.md, as it stands, on a real Slurm: `make slurm-test`.

Whatever ends a job, the run goes on to the records of one that was left alone. The command line is
the real one; its workers are scripted (`tests/support/cli_driver.py`), and so slow that a run takes
a minute.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.inputs.collect import create_run
from selfreward.records import Judgment
from selfreward.storage.directory import Run
from selfreward.training.base import Training
from selfreward.training.sft import train_sft
from tests.hosts.conftest import MakeHosts
from tests.support import ROOT
from tests.support.hosts import Host
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import facts
from tests.support.slurm import Slurm, lacking, script_of, slurm
from tests.support.training import sft_rows, tiny_model

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(lacking() != "", reason=lacking()),
    pytest.mark.timeout(600),
]
CONFIG = {
    "iterations": 2,
    "prompts": {"count": 8, "window": 4, "rouge_l_max": 0.99, "seeds": "seed/ift.jsonl"},
    "responses": {"n": 3},
    "judge": {"form": "written", "votes": 2},
    "engine": {"concurrency": 4},
    "sft": {"max_length": 9999, "ift": {"path": "seed/ift.jsonl", "limit": 5},
            "eft": {"path": "seed/eft.jsonl", "limit": 2}},
    "evaluation": {"limit": 4},
}  # fmt: skip
SELFREWARD = f"""#!/bin/sh
exec env PYTHONPATH={ROOT} {sys.executable} -m tests.support.cli_driver "$@"
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(tmp_path_factory.mktemp("runs")))
        run = create_run(build_config(CONFIG, []), "big")
        launch(run, lambda: None, ScriptedWorkers(run))
    return facts(run)


class Cluster:
    """Slurm on `n1`, its nodes `n2` and `n3`, and the directory from which the script is sent."""

    def __init__(self, slurm: Slurm, directory: Path) -> None:
        self.slurm, self.directory = slurm, directory
        (directory / "job.sh").write_text(script_of(ROOT / "docs" / "scale.md"))
        (directory / "big.yaml").write_text(yaml.safe_dump(CONFIG))
        program = directory / "bin" / "selfreward"
        program.parent.mkdir()
        program.write_text(SELFREWARD)
        program.chmod(0o755)
        self.run = Run(directory / "runs" / "big")

    def submit(self, *options: str, delay_s: float = 1.0) -> int:
        """Submit the script, with options that go before its own; return the job's number."""
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        env = {**self.slurm.environment, "PATH": path, "SCRIPTED_DELAY_S": str(delay_s)}
        env.pop("SELFREWARD_RUNS", None)
        told = self.slurm.controller.run(
            ["sbatch", "--parsable", *options, "job.sh"], cwd=self.directory, env=env
        )
        return int(told)

    def until_judged(self, count: int = 3) -> None:
        """Wait until the run has so many judgments, which is in the middle of it."""

        def is_judged() -> bool:
            if not self.run.records.exists():
                return False
            with self.run.store() as store:
                return len(store.records(Judgment, 1)) >= count

        self.slurm.wait("judged", is_judged, 120)

    def node_of(self, job: int) -> Host:
        name = self.slurm.job(job)["NodeList"]
        return next(node for node in self.slurm.nodes if node.name == name)

    def output(self) -> str:
        return "".join(path.read_text() for path in sorted(self.directory.glob("slurm-*.out")))


@pytest.fixture
def cluster(tmp_path: Path, make_hosts: MakeHosts) -> Iterator[Cluster]:
    controller, *nodes = make_hosts(3)
    submit = tmp_path / "submit"
    submit.mkdir()
    with slurm(tmp_path / "slurm", controller, nodes) as made:
        yield Cluster(made, submit)


def test_the_script_starts_a_run_and_ends_with_it(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    job = cluster.slurm.wait_for_job(cluster.submit(), "COMPLETED", "FAILED", within_s=200)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "0"), cluster.output()
    assert facts(cluster.run) == undisturbed


def test_at_the_end_of_its_time_it_stops_queues_up_again_and_goes_on(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    # The signal comes 120 s before the end, or up to a minute earlier: here in the second minute.
    number = cluster.submit("--time=4", delay_s=2.5)
    job = cluster.slurm.wait_for_job(number, "COMPLETED", "FAILED", "TIMEOUT", within_s=500)
    assert job["JobState"] == "COMPLETED", cluster.output()
    assert int(job["Restarts"]) >= 1
    assert facts(cluster.run) == undisturbed


def test_scancel_ends_the_run_and_the_next_submission_goes_on(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    number = cluster.submit()
    cluster.until_judged()
    node = cluster.node_of(number)
    cluster.slurm.do("scancel", str(number))
    cluster.slurm.wait_for_job(number, "CANCELLED", within_s=60)
    assert node.is_idle(30, "cli_driver")
    time.sleep(10)
    assert cluster.slurm.job(number)["JobState"] == "CANCELLED"  # and is not queued again
    again = cluster.slurm.wait_for_job(cluster.submit(), "COMPLETED", "FAILED", within_s=200)
    assert again["JobState"] == "COMPLETED", cluster.output()
    assert facts(cluster.run) == undisturbed


def test_a_preempted_run_is_queued_again_and_goes_on(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    number = cluster.submit()
    cluster.until_judged()
    cluster.slurm.do(
        "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null",
        "--chdir=/", "--wrap=sleep 2",
    )  # fmt: skip
    cluster.slurm.wait("restarted", lambda: cluster.slurm.job(number)["Restarts"] == "1", 60)
    job = cluster.slurm.wait_for_job(number, "COMPLETED", "FAILED", "CANCELLED", within_s=300)
    assert job["JobState"] == "COMPLETED", cluster.output()
    assert facts(cluster.run) == undisturbed


def test_a_run_whose_node_fails_goes_on_at_another(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    number = cluster.submit()
    cluster.until_judged()
    node = cluster.node_of(number)
    node.power_off()
    cluster.slurm.wait("restarted", lambda: cluster.slurm.job(number)["Restarts"] == "1", 120)
    job = cluster.slurm.wait_for_job(number, "COMPLETED", "FAILED", "NODE_FAIL", within_s=300)
    assert job["JobState"] == "COMPLETED", cluster.output()
    assert job["NodeList"] != node.name
    assert facts(cluster.run) == undisturbed


def test_a_node_that_is_cut_off_keeps_the_run_while_it_works_on_it_and_is_named(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    number = cluster.submit(delay_s=4)
    cluster.until_judged()
    node = cluster.node_of(number)
    node.cut()
    job = cluster.slurm.wait_for_job(number, "FAILED", within_s=200)
    assert job["ExitCode"] == "4:0"
    assert "run big is in use by process" in cluster.output()
    assert f" on {node.name} since " in cluster.output()
    assert node.is_idle(200, "cli_driver")  # it works on the disk that both see
    assert facts(cluster.run) == undisturbed


def test_srun_starts_a_training_on_two_nodes_by_the_script_for_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    script = script_of(ROOT / "docs" / "scale.md", "torchrun")
    assert "--nproc-per-node=8" in script
    (tmp_path / "launch.sh").write_text(script.replace("per-node=8", "per-node=1"))
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    settings = tmp_path / "settings.json"
    told = {
        "root": str(tmp_path), "method": "sft", "model": str(tmp_path / "M0"), "options": options,
        "launch": {"processes": 2, "command": f"bash {tmp_path}/launch.sh"}, "begin_s": 200,
    }  # fmt: skip
    settings.write_text(json.dumps(told))
    environment = {
        **cluster.slurm.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with tiny_model(tmp_path / "M0"):
        number = cluster.slurm.controller.run(
            ["sbatch", "--parsable", "--nodes=2", f"--output={tmp_path}/slurm.out",
             f"--chdir={ROOT}", f"--wrap=exec python -m tests.support.host_training {settings}"],
            env=environment,
        )  # fmt: skip
        job = cluster.slurm.wait_for_job(int(number), "COMPLETED", "FAILED", within_s=250)
        said = (tmp_path / "slurm.out").read_text()
        assert job["JobState"] == "COMPLETED", said
        by_srun = [json.loads(line)["log"] for line in said.splitlines() if '"log"' in line]
        alone: list[Any] = []
        training = Training(
            "sft", tmp_path / "M0", tmp_path / "alone", tmp_path / "checkpoints" / "alone",
            {**options, "gradient_accumulation_steps": 2}, None, 0,
        )  # fmt: skip
        train_sft(
            training, sft_rows(16),
            on_log=lambda step, figures: alone.append([step, figures]),
            on_step=lambda done, total: None,
        )  # fmt: skip
    assert len(by_srun) == len(alone) > 1
    for (step, figures), (expected_step, expected) in zip(by_srun, alone, strict=True):
        assert step == expected_step
        assert figures["loss"] == pytest.approx(expected["loss"], abs=1e-5)


LAUNCHED = """
import sys
from pathlib import Path
from selfreward.config import LaunchConfig
from selfreward.errors import SelfRewardError
from selfreward.training.base import Training
from selfreward.training.distributed import train_processes
root = Path(sys.argv[1])
training = Training("sft", root / "M0", root / "M1", root / "checkpoints" / "M1", {}, None, 0)
nothing = {"on_log": lambda step, figures: None, "on_step": lambda done, total: None}
try:
    train_processes(LaunchConfig(command=sys.argv[2]), root / "log", training, [], **nothing)
except SelfRewardError as error:
    print(error.message)
"""


def test_a_host_whose_munge_is_gone_is_named_with_what_slurm_says(
    cluster: Cluster, tmp_path: Path
) -> None:
    host = cluster.slurm.controller
    for process in host.processes("munged"):
        process.kill()
    # sbatch gives up after 50 s, srun, which says the same, after 265 s.
    told = host.run(
        [sys.executable, "-c", LAUNCHED, tmp_path, f"sbatch {cluster.directory}/job.sh"],
        timeout_s=300,
        env={**cluster.slurm.environment, "PYTHONPATH": str(ROOT)},
    )
    assert told.splitlines()[-1] == (
        "the training processes that n1 started ended with code 1: sbatch: error: Batch job "
        "submission failed: Protocol authentication error"
    )
