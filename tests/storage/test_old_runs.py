"""Runs that an earlier version began are read and finished as that version would have."""

import json
import socket
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from selfreward.controller import launch
from selfreward.records import (
    FinishReason,
)
from selfreward.storage.directory import Run
from selfreward.storage.tables import SCHEMA_VERSION
from selfreward.verbs.maintenance import verify
from selfreward.verbs.scores import scores_of
from selfreward.verbs.status import status_of
from tests.support import DATA, plain
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import facts
from tests.support.scripted import scripted_reply

OLD = DATA / "old_runs"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
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


def timeless(figures: dict[str, Any]) -> dict[str, Any]:
    assert figures.get("contests", []) == []  # there were none
    assert figures.get("verified") is None
    assert figures.get("start", figures["iteration"]) == figures["iteration"]
    assert not figures.get("benchmarks") and not figures.get("rewards")
    assert figures.get("meta") is None
    later = ("contests", "verified", "start", "data", "benchmarks", "rewards", "meta", "answers")
    figures = {k: v for k, v in figures.items() if k not in (*TIMES, *later)}
    training = dict(figures["training"])
    assert training.pop("consistency", None) is None
    assert training.pop("online", None) is None
    figures["training"] = training
    if figures.get("comparisons"):  # whose tokens were not counted
        figures["comparisons"] = {k: v for k, v in figures["comparisons"].items() if k != "tokens"}
    if figures["selection"]:
        later = ("prompts_agreeing", "chance")
        figures["selection"] = {k: v for k, v in figures["selection"].items() if k not in later}
    return figures


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


def version(run: Run) -> int:
    db = sqlite3.connect(f"file:{run.records}?mode=ro", uri=True)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


def test_the_order_of_its_stages_is_that_of_its_config_and_written_once_it_is_owned(
    run: Run,
) -> None:
    with run.store() as store:
        begun = {row.iteration for row in store.progress()}
        planned = {t: tuple(store.planned(t)) for t in begun}
    assert planned == {t: run.config.stages(t) for t in begun}
    assert status_of(run).stages
    assert version(run) == 4
    with run.owned() as store:
        assert {t: tuple(store.planned(t)) for t in begun} == planned
    assert version(run) == SCHEMA_VERSION
    with run.owned() as store, run.store() as reader:
        assert reader.planned(max(begun)) == store.planned(max(begun))


def test_one_that_is_cut_off_while_it_is_brought_up_to_date_stays_as_it_was(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        """Stands for a kill before the commit."""

    def stop() -> str:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", stop)  # what comes after the upgrade
        with pytest.raises(Killed), run.owned():
            pass
    assert version(run) == 4
    with run.owned():
        assert version(run) == SCHEMA_VERSION
