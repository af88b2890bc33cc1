"""The loop on the real 135M model, with real engines and TRL: killed, resumed, kept alive."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.inputs.heldout import read_held_out
from selfreward.inputs.judge_templates import run_template
from selfreward.inputs.rankings import texts_of
from selfreward.measures.reports import JudgeReport
from selfreward.measures.sample import judged_responses, votes_of
from selfreward.stages.evaluate import judge_texts
from selfreward.storage import durable
from selfreward.storage.directory import Run

# One request at a time: then no batch depends on what was in flight, and the real engine is as
# deterministic as the scripted one.
SMALL = [
    "iterations=1", "engine.concurrency=1", "prompts.window=1", "prompts.count=3",
    "responses.n=3", "responses.max_new_tokens=80", "sft.ift.limit=4", "sft.eft.limit=1",
    "sft.max_steps=2", "sft.save_steps=1", "dpo.max_steps=2", "dpo.save_steps=1",
    "evaluation.limit=2", "evaluation.questions.limit=2", "evaluation.canaries=false",
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


@pytest.mark.long
def test_three_kills_over_the_real_loop_leave_the_records_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    long = ["responses.max_new_tokens=300"]  # of nine, 80 cut off all but one
    subprocess.run([*command("whole", fresh=True), *long], check=True)
    run = Run(tmp_path / "killed")
    moments = [
        "SELECT 1 FROM train_log WHERE iteration = 0",
        "SELECT 1 FROM responses WHERE attempt >= 1",
        "SELECT 1 FROM stages WHERE iteration = 1 AND stage = 'pairs'",
    ]
    for i, moment in enumerate(moments):
        words = long if i == 0 else []
        process = subprocess.Popen([*command("killed", fresh=i == 0), *words])
        wait_for(run, moment, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed", fresh=False), check=True)
    assert facts(run, 1, 2) == facts(Run(tmp_path / "whole"), 1, 2)


SHORT = [
    *SMALL, "sft=null", "responses.max_new_tokens=300", "judge.form=function",
    "judge.function=my_rewards:varied",
    "train.sft.max_steps=2", "train.sft.save_steps=1", "rloo.save_steps=1", "rloo.max_steps=2",
    "grpo.save_steps=1", "grpo.max_steps=2", "grpo.num_generations=4",
    "rloo.max_completion_length=12", "grpo.max_completion_length=12", "evaluation.ranked=null",
    "evaluation.questions=null",
]  # fmt: skip
VARIED = """
def varied(completions, **rest):
    return [len(set(text)) / (len(text) or 1) for text in completions]
"""
REAL_KILLS = int(os.environ.get("SELFREWARD_REAL_KILLS", "50"))


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("engine", ["ctranslate2", "openvino"])
@pytest.mark.parametrize("method", ["dpo", "sft", "none", "rloo", "grpo"])
def test_random_kills_over_real_engines_and_trainers_change_nothing(
    method: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFREWARD_RUNS", "runs")
    (tmp_path / "my_rewards.py").write_text(VARIED)
    words = [*SHORT, f"engine.kind={engine}", f"train.method={method}"]
    words += ["responses.n=6"] if engine == "openvino" else []  # of nine it cut off each

    def begin(*line: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "selfreward", *line])

    def go_on() -> subprocess.Popen[bytes]:
        first = ["run", "quickstart", "--name", "killed", *words]
        return begin(*(["resume", "killed"] if run.records.is_file() else first))

    before = time.monotonic()
    assert begin("run", "quickstart", "--name", "whole", *words).wait() == 0
    seconds, kills, draw = time.monotonic() - before, 0, random.Random(f"{method} {engine}")
    run = Run(Path("runs", "killed"))
    while kills < max(1, REAL_KILLS // 10):
        process = go_on()
        until = time.monotonic() + draw.uniform(0.1, 0.9) * seconds
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        if process.poll() is None:
            family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children())]
            os.kill(draw.choice(family), signal.SIGKILL)
            kills += 1
        if process.wait() == 0 and kills < max(1, REAL_KILLS // 10):
            shutil.rmtree(run.path)  # it was whole before its moment came: another one
    assert go_on().wait() == 0
    assert begin("verify", "killed").wait() == 0
    assert facts(run, 2) == facts(Run(Path("runs", "whole")), 2)
    print(f"{method}, {engine}: {kills} kills")


@pytest.mark.long
def test_an_engine_that_lives_on_judges_with_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    words = ["sft=null", "responses.n=4", "dpo.max_steps=1", "dpo.save_steps=100"]
    words += ["engine.kind=ctranslate2"]  # which gives the same score in any company
    subprocess.run([*command("kept", fresh=True), *words, "launch.keep_engine=true"], check=True)
    run = Run(tmp_path / "kept")
    logs = {path.name for path in (run.path / "logs").iterdir()}
    # One process judged with M1, sampled, and judged with M2.
    assert logs == {"0-prepare.log", "0-evaluate.log", "1-train.log"}
    with run.store() as store:
        report = store.report(1, "judge", JudgeReport)
    assert report is not None
    scores = [response.score for response in report.responses]
    assert scores == rejudged(run, 2)
    assert scores != rejudged(run, 1)


def rejudged(run: Run, policy: int) -> list[float | None]:
    """Scores of what is held out, by an engine that is opened for a policy."""
    rankings = read_held_out(run.seed_file("heldout"), run.config.evaluation.limit)
    texts = texts_of(rankings)
    chat, votes = Chat(run.policy(policy)), {}

    async def judge() -> None:
        engine = open_engine("ctranslate2", chat.model, chat, {})
        await judge_texts(
            engine, chat, run_template(run, "judge"), texts, run.config.judge,
            lambda at, judgments: votes.update({texts[at]: votes_of(judgments)}), concurrency=1,
        )  # fmt: skip
        await engine.close()

    asyncio.run(judge())
    return [response.score for response in judged_responses(rankings, votes)]


@pytest.mark.slow
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
