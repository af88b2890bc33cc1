"""One vLLM server over several hosts, without Ray, which its CPU build refuses."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts.conftest import MakeHosts
from tests.support import ROOT

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]


def test_a_server_over_three_hosts_is_proved_and_takes_other_weights(
    untied_dir: Path, other_untied_dir: Path, tmp_path: Path, make_hosts: MakeHosts
) -> None:
    made = make_hosts(3)  # the 135M model has 9 heads: they go into three
    first = made[0]
    for rank, host in enumerate(made):
        place = ["--port", "8000"] if rank == 0 else ["--headless"]
        with (tmp_path / f"{host.name}.log").open("wb") as log:
            host.start(
                [sys.executable, ROOT / "tests" / "support" / "vllm_cli.py", "serve", untied_dir,
                 "--served-model-name", "policy", "--dtype", "float32", "--enforce-eager",
                 "--block-size", "32", "--kv-cache-memory-bytes", "300000000",
                 "--max-model-len", "2048", "--tensor-parallel-size", "3", "--nnodes", "3",
                 "--node-rank", str(rank), "--master-addr", first.address,
                 "--distributed-executor-backend", "mp", *place],
                stdout=log, stderr=log,
                env={**os.environ, "VLLM_HOST_IP": host.address, "GLOO_SOCKET_IFNAME": "eth0",
                     "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
    is_up = ["curl", "--silent", "--fail", "--max-time", "3", f"http://{first.name}:8000/health"]
    until = time.monotonic() + 500
    while first.start(is_up, stdout=subprocess.DEVNULL).wait():
        assert time.monotonic() < until, (tmp_path / "n1.log").read_text()[-3000:]
        time.sleep(2)
    asked = made[1].run(
        [sys.executable, "-m", "tests.support.host_proving", f"http://{first.name}:8000/v1",
         untied_dir, other_untied_dir],
        timeout_s=400, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SELFREWARD_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    one, other = (json.loads(line) for line in asked.splitlines() if line.startswith("{"))
    assert one["told"] == other["told"] == []  # nothing was left unproved
    assert one["text"] and other["text"] and one["text"] != other["text"]
