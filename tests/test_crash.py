"""kill -9 at random times over the whole loop; what is committed stays, and nothing doubles."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.inputs.collect import create_run
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.tables import digest

OVERRIDES = [
    "iterations=2", "prompts.count=12", "prompts.window=4", "prompts.rouge_l_max=0.99",
    "responses.n=4", "judge.form=written", "judge.votes=3", "engine.concurrency=4",
    "prompts.seeds=seed/ift.jsonl", "sft.max_length=9999",
    "sft.ift={path: seed/ift.jsonl, limit: 5}", "sft.eft={path: seed/eft.jsonl, limit: 2}",
    "evaluation.limit=10",
]  # fmt: skip


def make_run(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(root))
    return create_run(build_config({}, OVERRIDES), name)


def start(run: Run) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.loop_driver", str(run.path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(run: Run) -> None:
    process = start(run)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()


def facts(run: Run) -> dict[str, object]:
    """Everything that must not depend on interruptions."""
    with run.store() as store:
        records = {
            f"{kind.__name__} {t}": digest(store.records(kind, t))  # type: ignore[type-var]
            for t in range(3)
            for kind in (Prompt, Response, Judgment, PreferencePair)
        }
        stages = [(s.iteration, s.stage, s.rows, s.drops, s.digest) for s in store.stages()]
        logs = [store.train_log(t) for t in range(3)]
        assert store.check() == "ok"
    models = {f"M{i}": durable.verify_directory(run.model_directory(i)) for i in (1, 2, 3)}
    return {"records": records, "stages": stages, "logs": logs, "models": models}


@pytest.mark.parametrize("num_kills", [8, pytest.param(50, marks=pytest.mark.long)])
def test_random_kills_leave_the_records_of_an_uninterrupted_run(
    num_kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_run(tmp_path, "whole", monkeypatch)
    begin = time.monotonic()
    finish(whole)
    seconds = time.monotonic() - begin
    expected = facts(whole)
    assert len(expected["stages"]) == 2 + 2 * 6  # type: ignore[arg-type]
    rng = random.Random(num_kills)
    kills, index = 0, 0
    while kills < num_kills:
        run = make_run(tmp_path, f"killed-{index}", monkeypatch)
        index += 1
        for _ in range(12):
            process = start(run)
            time.sleep(rng.uniform(0.3, 1.0) * seconds)
            alive = process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += alive
            if not alive:
                break
        finish(run)
        assert facts(run) == expected, f"after {kills} kills, in {run.path}"


def test_what_a_kill_leaves_committed_is_never_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, "run", monkeypatch)
    process = start(run)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with run.store() as store:
            if len(store.records(Judgment, 1)) > 10:
                break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    query = "SELECT rowid, * FROM judgments ORDER BY rowid"
    before = sqlite3.connect(run.records).execute(query).fetchall()
    finish(run)
    after = sqlite3.connect(run.records).execute(query).fetchall()
    assert len(before) > 10
    assert after[: len(before)] == before
