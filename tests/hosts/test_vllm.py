"""vLLM's servers on several hosts, asked by a run: one over all of them, and one on each.

One over all goes without Ray, which vLLM's CPU build refuses.
"""

import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.conftest import MakeHosts
from tests.support import ROOT
from tests.support.hosts import Host

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
SERVED = "policy"
RUN = [
    "iterations=1", "sft=null", "prompts.count=6", "responses.n=4", "responses.max_new_tokens=200",
    "dpo.max_steps=2", "dpo.learning_rate=1e-4", "evaluation.limit=2", "evaluation.canaries=false",
    "evaluation.questions.limit=4", "engine.kind=server", "engine.concurrency=6",
    f"engine.model={SERVED}",
]  # fmt: skip
TAKEN, GIVEN = "POST /v1/completions", "POST /update_weight_version"
"""Lines of a server's log: it answered a request, and it has taken weights."""


def serve(host: Host, model: Path, log: Path, *options: str, is_asked: bool = True) -> None:
    """Start a server there, or a part of one that nobody asks."""
    place = ["--port", "8000"] if is_asked else ["--headless"]
    with log.open("wb") as output:
        host.start(
            [sys.executable, ROOT / "tests" / "support" / "vllm_cli.py", "serve", model,
             "--served-model-name", SERVED, "--dtype", "float32", "--enforce-eager",
             "--block-size", "32", "--kv-cache-memory-bytes", "300000000",
             "--max-model-len", "2048", *options, *place],
            stdout=output, stderr=output,
            env={**os.environ, "VLLM_HOST_IP": host.address, "GLOO_SOCKET_IFNAME": "eth0",
                 "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def serve_over(made: list[Host], model: Path, directory: Path) -> None:
    """Start one server over three hosts: the 135M model has 9 heads, which go into three."""
    for rank, host in enumerate(made):
        parts = f"--tensor-parallel-size 3 --nnodes 3 --node-rank {rank} --master-addr"
        options = [*parts.split(), made[0].address, "--distributed-executor-backend", "mp"]
        serve(host, model, directory / f"{host.name}.log", *options, is_asked=rank == 0)


def wait_until_up(host: Host, log: Path) -> None:
    is_up = ["curl", "--silent", "--fail", "--max-time", "3", f"http://{host.name}:8000/health"]
    until = time.monotonic() + 500
    while host.start(is_up, stdout=subprocess.DEVNULL).wait():
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(2)


class Asked:
    """A run of the real loop on a host, whose engine is servers on others."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.records = runs, runs / "over" / "records.db"

    def start(self, host: Host, *line: str) -> "subprocess.Popen[bytes]":
        return host.start(
            [sys.executable, "-m", "selfreward", *line],
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SELFREWARD_RUNS": str(self.runs)},
        )

    def rows(self, query: str) -> list[Any]:
        if not self.records.is_file():
            return []
        database = sqlite3.connect(f"file:{self.records}?mode=ro", uri=True)
        try:
            return database.execute(query).fetchall()
        except sqlite3.OperationalError:  # its tables are just being made
            return []
        finally:
            database.close()

    def responses(self) -> dict[tuple[Any, ...], Any]:
        rows = self.rows("SELECT iteration, attempt, sample, text FROM responses")
        assert len({row[:3] for row in rows}) == len(rows)
        return {row[:3]: row[3] for row in rows}

    def wait(
        self, process: "subprocess.Popen[bytes]", is_so: Callable[[], bool], within_s: float = 600
    ) -> None:
        until = time.monotonic() + within_s
        while not is_so():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)

    def end(self, process: "subprocess.Popen[bytes]", within_s: float = 900) -> tuple[int, str]:
        _, said = process.communicate(timeout=within_s)
        return process.returncode, said.decode()


def test_a_server_over_three_hosts_is_proved_and_takes_other_weights(
    untied_dir: Path, other_untied_dir: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    made = make_hosts(3)
    first = made[0]
    serve_over(made, untied_dir, tmp_path)
    wait_until_up(first, tmp_path / "n1.log")
    asked = made[1].run(
        [sys.executable, "-m", "tests.support.host_proving", f"http://{first.name}:8000/v1",
         untied_dir, other_untied_dir],
        timeout_s=400, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SELFREWARD_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    one, other = (json.loads(line) for line in asked.splitlines() if line.startswith("{"))
    assert one["told"] == other["told"] == []  # nothing was left unproved
    assert one["text"] and other["text"] and one["text"] != other["text"]


def test_a_run_over_two_servers_goes_on_while_one_is_cut_off_and_asks_it_again_afterwards(
    untied_dir: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    asker, second, third = made = make_hosts(3)
    logs = {host.name: tmp_path / f"{host.name}.log" for host in made[1:]}
    for host in made[1:]:
        serve(host, untied_dir, logs[host.name])
    for host in made[1:]:
        wait_until_up(host, logs[host.name])

    def answered(host: Host) -> int:
        return logs[host.name].read_text().count(TAKEN)

    asked = Asked(tmp_path / "runs")
    urls = [f"http://{host.name}:8000/v1" for host in made[1:]]
    process = asked.start(
        asker, "run", "quickstart", "--name", "over", *RUN,
        f"model={untied_dir}", f"engine.endpoints={json.dumps(urls)}",
    )  # fmt: skip
    asked.wait(process, lambda: len(asked.responses()) >= 4)
    third.cut()
    before = answered(third)
    asked.wait(process, lambda: len(asked.responses()) >= 12)
    third.put_back()
    code, said = asked.end(process)
    assert code == 0, said
    assert answered(second) > before and answered(third) > before
    assert len(asked.responses()) == 24
    assert asked.end(asked.start(asker, "verify", "over"))[0] == 0
    for host in made[1:]:  # each was given M1 and M2, and asked after that
        done = re.findall(f"{TAKEN}|{GIVEN}", logs[host.name].read_text())
        assert done.count(GIVEN) == 2 and done[-1] == TAKEN


def test_a_server_that_loses_a_host_ends_the_run_within_its_time_and_resume_goes_on(
    untied_dir: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    made = make_hosts(4)
    serve_over(made[:3], untied_dir, tmp_path)
    wait_until_up(made[0], tmp_path / "n1.log")
    asked = Asked(tmp_path / "runs")
    line = ["engine.endpoints=[http://n1:8000/v1]", "engine.timeout_s=150", "engine.max_retries=1"]
    line += ["engine.concurrency=2"]
    process = asked.start(
        made[3], "run", "quickstart", "--name", "over", *RUN, f"model={untied_dir}", *line
    )
    asked.wait(process, lambda: len(asked.responses()) >= 4)
    made[2].power_off()
    begin = time.monotonic()
    code, said = asked.end(process)
    assert time.monotonic() - begin < 400  # two times 150 s, and what was on its way
    assert code == 7, said
    assert "no endpoint answers: http://n1:8000/v1: " in said
    kept = asked.responses()
    for host in made:
        host.power_off()
    again = make_hosts(4)
    serve_over(again[:3], untied_dir, tmp_path)
    wait_until_up(again[0], tmp_path / "n1.log")
    code, said = asked.end(asked.start(again[3], "resume", "over"))
    assert code == 0, said
    assert kept.items() <= asked.responses().items() and len(asked.responses()) == 24
    assert asked.end(asked.start(again[3], "verify", "over"))[0] == 0
