"""A launch builds on nothing that ``verify`` would refuse, and ``verify`` sees every table."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import IntegrityError
from selfreward.inputs import models
from selfreward.inputs.collect import create_run
from selfreward.measures.figures import figures_of
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.storage.directory import Run
from selfreward.storage.made import has_made, made_digest
from selfreward.storage.tables import digest
from selfreward.verbs.maintenance import verify
from selfreward.workers.fixed import hold_fixed
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL

KINDS: dict[str, Any] = {
    "prompts": Prompt, "responses": Response, "judgments": Judgment, "pairs": PreferencePair,
}  # fmt: skip
QUICK = [
    *SMALL,
    "iterations=1",
    "evaluation.ranked=null",
    "evaluation.questions=null",
    "evaluation.canaries=false",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        run = create_run(build_config({}, QUICK), "run")
        launch(run, lambda: None, ScriptedWorkers(run))
    return run.path


@pytest.fixture
def run(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    shutil.copytree(original, tmp_path / "run")
    return Run(tmp_path / "run")


def change(run: Run, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(run.records)) as db, db:
        assert db.execute(statement).rowcount, statement


def failures(run: Run) -> list[str]:
    return [check["name"] for check in verify(Run(run.path)) if not check["ok"]]


def extend(run: Run) -> None:
    """Resume the finished run for one more iteration."""
    anew = Run(run.path)
    anew.configure(["iterations=2"])
    launch(anew, lambda: None, ScriptedWorkers(anew))


def test_the_digest_of_the_rows_is_that_of_the_records(run: Run) -> None:
    with run.store() as store:
        stages = [stage for stage in store.stages() if stage.stage != "train"]
        assert len(stages) == 4
        for stage in stages:
            made = store.records(KINDS[stage.stage], stage.iteration)
            assert made_digest(store, stage.iteration, stage.stage) == digest(made) == stage.digest
            assert has_made(store, stage.iteration, stage.stage) is bool(made) is True
            assert not has_made(store, stage.iteration + 1, stage.stage)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE responses SET text = 'other' WHERE rowid = 2",
        "UPDATE judgments SET raw = raw || ' ' WHERE rowid = 3",
        "DELETE FROM prompts WHERE rowid = 1",
        "DELETE FROM pairs WHERE rowid = 1",
        "INSERT INTO drops VALUES (1, 'pairs', '0/9', 'forged', '')",
        "UPDATE train_log SET value = 4.999",
        "DELETE FROM train_log WHERE iteration = 1",
        "UPDATE stages SET rows = rows + 1 WHERE stage = 'pairs'",
        "UPDATE stages SET seconds = 9e9 WHERE stage = 'train'",
        "DELETE FROM seals WHERE what = 'train' AND iteration = 1",
        "UPDATE events SET text = 'epoch 7' WHERE kind = 'launched'",
        "DELETE FROM events WHERE kind = 'finished'",
        "INSERT INTO events VALUES ('2026-01-01T00:00:00Z', 'warning', 'forged')",
        "DELETE FROM seals WHERE what = 'events'",
    ],
)
def test_what_verify_refuses_no_launch_builds_on(run: Run, statement: str) -> None:
    assert failures(run) == []
    change(run, statement)
    assert failures(run) != []
    with pytest.raises(IntegrityError):
        extend(run)
    assert not run.model_directory(3).exists()


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE figures SET data = replace(data, \'"mean":\', \'"mean":4.999,"x":\')',
        "DELETE FROM figures WHERE iteration = 1",
        "DELETE FROM seals WHERE what = 'figures'",
        "UPDATE reports SET data = '{\"gates\":[]}' WHERE name = 'health'",
    ],
)
def test_forged_figures_are_found_and_never_shown(run: Run, statement: str) -> None:
    with run.store() as store:
        true = figures_of(store, 1).scores
    change(run, statement)
    assert any("figures" in name for name in failures(run))
    with run.store() as store:
        assert figures_of(store, 1).scores == true


def test_a_byte_of_the_model_to_train_is_seen_before_it_is_trained(run: Run) -> None:
    weights = run.model_directory(2) / "weights"
    weights.write_bytes(b"?" + weights.read_bytes()[1:])
    with pytest.raises(IntegrityError, match="M2 is not whole"):
        extend(run)


def test_a_base_model_swapped_before_dpo_is_seen_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))

    class Stops(ScriptedWorkers):
        def train(self, iteration: int, stage: str = "train") -> None:
            raise KeyboardInterrupt

    class Kept(ScriptedWorkers):
        def prepare(self) -> None:
            """An earlier launch did."""

    words = [word for word in QUICK if not word.startswith("sft.")]
    run = create_run(build_config({"sft": None}, words), "run")
    with pytest.raises(KeyboardInterrupt):
        launch(run, lambda: None, Stops(run))
    (run.path / "models" / "M0" / "weights").write_text("??")
    with pytest.raises(IntegrityError):
        launch(run, lambda: None, Kept(run))
    assert not run.model_directory(2).exists()


def test_a_fixed_model_stays_the_one_that_was_asked_first(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "judge"
    path.mkdir()
    (path / "config.json").write_text("{}")
    judge = models.Model(path, models.digest(path), "org/judge", None)
    with run.owned() as store:
        for _ in range(2):
            hold_fixed(store, judge)
        assert [kind for _, kind, _ in store.events()].count("fixed model") == 1
    assert failures(run) == []
    (judge.path / "config.json").write_text("{ }")
    assert failures(run) == ["fixed models"]
    other = models.Model(judge.path, models.digest(judge.path), judge.source, None)
    with run.owned() as store, pytest.raises(IntegrityError, match="not the model that this run"):
        hold_fixed(store, other)


def test_a_stage_that_nobody_knows_is_damage(run: Run) -> None:
    with run.store() as store, pytest.raises(IntegrityError, match="no stage is named"):
        made_digest(store, 1, "owner; --")
