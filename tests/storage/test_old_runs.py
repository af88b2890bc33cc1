"""Runs that an earlier version began are read and finished as that version would have."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from selfreward.controller import launch
from selfreward.records import (
    Comparison,
    Criterion,
    Drop,
    FinishReason,
    Judgment,
    PreferencePair,
    Prompt,
    Response,
)
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.tables import digest
from selfreward.verbs.maintenance import verify
from selfreward.verbs.scores import scores_of
from tests.support import DATA, plain
from tests.support.loop_driver import ScriptedWorkers
from tests.support.scripted import scripted_reply

OLD = DATA / "old_runs"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
KINDS = (Prompt, Response, Judgment, Criterion, Comparison, PreferencePair, Drop)
TIMES = {"seconds", "layout"}
"""What differs from one day to the next, in the figures of an iteration."""


def reply(prompt: str, number: int) -> tuple[str, FinishReason]:
    if prompt.endswith("[3] The answer"):
        return f" names it.\n[2] Is kind {number % 7}.\n[1] Is short.\n", "stop"
    return scripted_reply(prompt, number)


@pytest.fixture(params=sorted(EXPECTED))
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    with tarfile.open(OLD / f"{request.param}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return Run(tmp_path / request.param)


def facts(run: Run) -> dict[str, Any]:
    iterations = range(run.config.iterations + 1)
    with run.store() as store:
        return {
            "records": {
                f"{kind.__name__} {t}": digest(store.records(kind, t))  # type: ignore[type-var]
                for t in iterations
                for kind in KINDS
            },
            "stages": [[s.iteration, s.stage, s.rows, s.drops, s.digest] for s in store.stages()],
            "models": {
                f"M{t + 1}": durable.verify_directory(run.model_directory(t + 1))
                for t in iterations
            },
        }


def timeless(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in TIMES}


def test_it_is_finished_as_the_earlier_version_would_have(run: Run) -> None:
    launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
    expected = EXPECTED[run.name]
    assert facts(run) == {name: expected[name] for name in ("records", "stages", "models")}
    scores = plain(scores_of(run))["iterations"]
    then = expected["scores"]["iterations"]
    assert list(map(timeless, scores)) == list(map(timeless, then))
    assert [check for check in verify(run) if not check["ok"]] == []


def test_it_can_be_read_before_it_is_resumed_and_reading_changes_no_byte(run: Run) -> None:
    before = run.records.read_bytes()
    scores = plain(scores_of(run))["iterations"]
    then = EXPECTED[run.name]["scores"]["iterations"]
    finished = [f for f in scores if "evaluate" in f["stages"]]
    assert list(map(timeless, finished)) == [timeless(figures) for figures in then[: len(finished)]]
    assert run.records.read_bytes() == before
