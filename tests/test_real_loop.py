"""The loop on the real 135M model, with real engines and TRL: killed, resumed, kept alive."""

import asyncio
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
from selfreward.chat import Chat
from selfreward.engines import open_engine
from selfreward.records import Judgment, Prompt, Response
from selfreward.run import Run
from selfreward.stages.judgments import judge_response

pytestmark = pytest.mark.slow

# One request at a time: then no batch depends on what was in flight, and the real engine is as
# deterministic as the scripted one.
SMALL = [
    "iterations=1", "engine.concurrency=1", "prompts.window=1", "prompts.count=4",
    "responses.n=4", "responses.max_new_tokens=120", "sft.ift.limit=4", "sft.eft.limit=1",
    "sft.max_steps=2", "sft.save_steps=1", "dpo.max_steps=2", "dpo.save_steps=1",
    "evaluation.limit=2", "evaluation.canaries=false",
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


def test_an_engine_that_lives_on_judges_with_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    words = ["sft=null", "iterations=2", "prompts.count=3", "responses.max_new_tokens=80"]
    words += ["dpo.max_steps=1", "dpo.save_steps=100", "launch.keep_engine=true"]
    subprocess.run([*command("kept", fresh=True), *words], check=True)
    run = Run(tmp_path / "kept")
    logs = {path.name for path in (run.path / "logs").iterdir()}
    # One process served both iterations.
    assert logs == {"0-prepare.log", "0-evaluate.log", "1-train.log", "2-train.log"}
    with run.store() as store:
        made = store.records(Judgment, 2)
    assert made == rejudged(run, 2)
    assert made != rejudged(run, 1)


def rejudged(run: Run, policy: int) -> list[Judgment]:
    """The judgments of iteration 2 by an engine that is opened for a policy."""
    with run.store() as store:
        prompts = {prompt.attempt: prompt for prompt in store.records(Prompt, 2)}
        responses = [r for r in store.records(Response, 2) if r.dropped is None]
    chat = Chat(run.policy(policy))

    async def judge() -> list[Judgment]:
        engine = open_engine("ctranslate2", chat.model, chat, {})
        found = [
            await judge_response(
                engine, chat, run.template("judge"), prompts[response.attempt], response,
                run.config.judge, run_seed=run.config.seed,
            )
            for response in responses
        ]  # fmt: skip
        await engine.close()
        return [judgment for votes in found for judgment in votes]

    return asyncio.run(judge())


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
