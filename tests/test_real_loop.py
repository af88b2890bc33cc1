"""The loop on the real 135M model, with real engines and TRL: killed, resumed, kept alive."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from selfreward import durable
from selfreward.run import Run

pytestmark = pytest.mark.slow

# One request at a time: then no batch depends on what was in flight, and the real engine is as
# deterministic as the scripted one.
SMALL = [
    "iterations=1", "engine.concurrency=1", "prompts.window=1", "prompts.count=4",
    "responses.n=4", "responses.max_new_tokens=120", "sft.ift.limit=4", "sft.eft.limit=2",
    "sft.save_steps=1", "dpo.save_steps=1",
]  # fmt: skip


def command(name: str, fresh: bool) -> list[str]:
    verb = ["run", "quickstart", "--name", name, *SMALL] if fresh else ["resume", name]
    return [sys.executable, "-m", "selfreward", *verb]


def facts(run: Run, *models: int) -> dict[str, object]:
    tables = ("prompts", "responses", "judgments", "pairs", "drops")
    database = sqlite3.connect(run.records)
    rows = {t: database.execute(f"SELECT * FROM {t} ORDER BY 1, 2, 3").fetchall() for t in tables}
    with run.store() as store:
        stages = [(s.iteration, s.stage, s.rows, s.drops, s.digest) for s in store.stages()]
    digests = [durable.verify_directory(run.model_directory(i)) for i in models]
    return {"records": rows, "stages": stages, "models": digests}


def wait_for(run: Run, condition: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a query over the live records finds a row."""
    while process.poll() is None:
        time.sleep(0.05)
        if run.records.is_file() and sqlite3.connect(run.records).execute(condition).fetchone():
            return
    pytest.fail(f"the run ended (code {process.returncode}) before: {condition}")


def test_three_kills_over_the_real_loop_leave_the_records_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    subprocess.run(command("whole", fresh=True), check=True)
    run = Run(tmp_path / "killed")
    moments = [
        "SELECT 1 FROM train_log WHERE iteration = 0",
        "SELECT 1 FROM responses WHERE attempt >= 1",
        "SELECT 1 FROM stages WHERE iteration = 1 AND stage = 'pairs'",
    ]
    for i, moment in enumerate(moments):
        process = subprocess.Popen(command("killed", fresh=i == 0))
        wait_for(run, moment, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed", fresh=False), check=True)
    assert facts(run, 1, 2) == facts(Run(tmp_path / "whole"), 1, 2)


def test_an_engine_that_lives_on_makes_the_records_of_one_that_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    words = ["sft=null", "iterations=2", "prompts.count=3", "responses.max_new_tokens=80"]
    words += ["dpo.max_steps=1", "dpo.save_steps=100"]
    for name, kept in ("anew", "false"), ("kept", "true"):
        more = [*words, f"launch.keep_engine={kept}"]
        subprocess.run([*command(name, fresh=True), *more], check=True)
    assert facts(Run(tmp_path / "kept"), 2, 3) == facts(Run(tmp_path / "anew"), 2, 3)
    logs = sorted(path.name for path in (tmp_path / "kept" / "logs").glob("*-generate.log"))
    assert logs == ["1-generate.log"]  # one process served both iterations


def test_terminated_runs_exit_143_within_ten_seconds_and_leave_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    process = subprocess.Popen(command("stopped", fresh=True), stderr=subprocess.PIPE)
    run = Run(tmp_path / "stopped")
    wait_for(run, "SELECT 1 FROM train_log", process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    begin = time.monotonic()
    process.terminate()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - begin < 10
    assert b"selfreward resume stopped" in stderr
    assert not psutil.wait_procs(children, timeout=5)[1]
