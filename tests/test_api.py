"""The Python front door: what a program or a notebook gets of a run, and how it starts one."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import selfreward
from selfreward import Run, api, run
from selfreward.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    PreflightError,
    StoppedError,
)
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.storage.directory import open_run
from selfreward.verbs.status import Status
from selfreward.workers import children
from tests.support import ROOT
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL, at_runs, runs  # noqa: F401


class Workers(ScriptedWorkers):
    """In place of child processes; they tick as those do."""

    def __init__(self, run: Any, store: Any, tick: Any) -> None:
        super().__init__(run)
        self.tick = tick

    def generate(self, iteration: int) -> None:
        super().generate(iteration)
        self.tick()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A runs directory of its own, and runs whose models are made up."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setattr(children, "Children", Workers)
    monkeypatch.setattr(api, "_TOLD_S", 0.0)
    return tmp_path


@pytest.mark.usefixtures("at_runs")
def test_tables_hold_every_record_as_it_is_kept() -> None:
    opened = Run.open("whole")
    with open_run("whole").store() as store:
        for kind, tables in ((Prompt, opened.prompts), (Response, opened.responses),
                             (Judgment, opened.judgments)):  # fmt: skip
            kept = [r for t in (1, 2) for r in store.records(kind, t)]  # type: ignore[type-var]
            rows = tables().to_pylist()
            assert len(rows) == len(kept) > 0
            for row, record in zip(rows, kept, strict=True):
                for name, value in asdict(record).items():
                    if name in row and not (name == "score" and kind is Response):
                        assert row[name] == (list(value) if isinstance(value, tuple) else value)
            [first] = {row["iteration"] for row in tables(iteration=2).to_pylist()}
            assert first == 2


@pytest.mark.usefixtures("at_runs")
def test_pairs_are_messages_whose_scores_are_those_of_their_responses() -> None:
    opened = Run.open("whole")
    answers = {
        (row["iteration"], row["attempt"], row["sample"]): row
        for row in opened.responses().to_pylist()
    }
    with open_run("whole").store() as store:
        kept = [pair for t in (1, 2) for pair in store.records(PreferencePair, t)]
    rows = opened.pairs().to_pylist()
    assert len(rows) == len(kept) > 0
    for row, pair in zip(rows, kept, strict=True):
        for side in ("chosen", "rejected"):
            answer = answers[row["iteration"], row["attempt"], row[f"{side}_sample"]]
            assert row["prompt"] == [{"role": "user", "content": answer["prompt"]}]
            assert row[side] == [{"role": "assistant", "content": answer["text"]}]
            assert row[f"score_{side}"] == answer["score"] == getattr(pair, f"{side}_score")
        assert row["margin"] == pair.margin


def test_the_system_prompt_is_part_of_a_pair(scripted: Path) -> None:
    made = run({}, *SMALL, "iterations=1", name="a", system_prompt="Be brief.")
    for row in made.pairs().to_pylist():
        assert row["prompt"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.usefixtures("at_runs")
def test_scores_have_a_row_per_iteration_and_every_number_of_the_figures() -> None:
    opened = Run.open("whole")
    rows = opened.scores().to_pylist()
    figures = opened.figures()
    assert [row["iteration"] for row in rows] == [f.iteration for f in figures]
    last = figures[-1]
    assert rows[-1]["scores.mean"] == last.scores.mean
    assert rows[-1]["pairs.n"] == last.pairs.n
    assert last.judge is not None
    assert rows[-1]["judge.accuracy.low"] == last.judge.accuracy.low
    assert rows[-1]["seconds.prompts"] == last.seconds["prompts"]
    assert rows[0]["scores.mean"] is None


@pytest.mark.usefixtures("at_runs")
def test_what_is_not_there_is_said_in_a_line(runs: Path) -> None:  # noqa: F811
    with pytest.raises(NotFoundError, match="nobody"):
        Run.open("nobody")
    opened = Run.open(runs / "whole")
    assert (opened.name, opened.path) == ("whole", runs / "whole")
    for table in (opened.prompts, opened.responses, opened.judgments, opened.pairs):
        with pytest.raises(NotFoundError, match="no records of iteration 9"):
            table(iteration=9)
    with pytest.raises(NotFoundError, match="has no model M9"):
        opened.model(9)


@pytest.mark.usefixtures("at_runs")
def test_models_are_found_by_number(runs: Path) -> None:  # noqa: F811
    opened = Run.open("whole")
    assert opened.model(2) == runs / "whole" / "models" / "M2"
    assert str(opened.model(0)) == open_run("whole").base_model()["path"]


def test_damage_is_told_as_damage(scripted: Path) -> None:
    import sqlite3

    made = run({}, *SMALL, "iterations=1", name="a")
    db = sqlite3.connect(made.path / "records.db")
    db.execute("DELETE FROM prompts WHERE dropped IS NULL")
    db.commit()
    db.close()
    with pytest.raises(
        IntegrityError, match=r"run a is damaged: .*there is no such row in prompts"
    ):
        made.responses(iteration=1)


def test_settings_replace_single_keys_of_their_groups(scripted: Path) -> None:
    recipe = scripted / "mine.yaml"
    recipe.write_text("dpo: {learning_rate: 3.0e-6, beta: 0.3}\nsystem_prompt: no\n")
    made = run(
        recipe, *SMALL, "iterations=2", iterations=1, dpo={"beta": 0.2}, system_prompt="a: b #c",
        prompts={"count": 5},
    )  # fmt: skip
    assert made.name == "mine-1"
    assert made.settings["iterations"] == 1
    assert made.settings["dpo"] | {"learning_rate": 3e-6, "beta": 0.2} == made.settings["dpo"]
    assert made.settings["prompts"]["count"] == 5
    assert made.settings["system_prompt"] == "a: b #c"
    assert made.status().state == "finished"


def test_a_run_from_python_is_the_run_from_the_command_line(scripted: Path) -> None:
    made = run({}, *SMALL, "iterations=1", name="python")
    command = subprocess.run(
        [sys.executable, "-m", "tests.support.cli_driver", "run", str(scripted / "empty.yaml"),
         "--name", "words", *SMALL, "iterations=1"],
        capture_output=True, check=False, cwd=ROOT,
        env={"SELFREWARD_RUNS": str(scripted), "PYTHONPATH": str(ROOT), "PATH": "", "HOME": "/"},
    ) if (scripted / "empty.yaml").write_text("seed: 0\n") else None  # fmt: skip
    assert command is not None and command.returncode == 0, command
    words = Run.open("words")
    for table in ("prompts", "responses", "judgments", "pairs"):
        assert getattr(words, table)() == getattr(made, table)()
    text = [yaml.safe_load((r.path / "config.resolved.yaml").read_text()) for r in (made, words)]
    assert text[0] == text[1]


def test_progress_is_told_while_there_is_news(scripted: Path) -> None:
    told: list[Status] = []
    run({}, *SMALL, "iterations=1", name="a", progress=told.append)
    assert told
    assert {status.state for status in told} == {"running"}
    assert "judgments" in {row.stage for row in told[-1].stages if row.state == "finished"}


def test_a_run_that_stops_says_what_it_has_kept_and_resumes(
    scripted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError) as stop:
        run({}, *SMALL, "iterations=1", name="a", pairs={"min_pairs": 18, "rule": "all_pairs"})
    assert stop.value.__notes__ == ["saved; continue with: selfreward resume a"]
    opened = Run.open("a")
    assert opened.status().state == "failed"
    open_run("a").configure(["pairs.min_pairs=1"])
    assert opened.resume().status().state == "finished"
    monkeypatch.setattr(api, "launch", None)  # there is nothing left to launch
    assert opened.resume() is opened


def test_a_run_that_recorded_nothing_leaves_its_name_free(
    scripted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(workers: Workers) -> None:
        raise PreflightError("model: org/m is not in the hub cache")

    monkeypatch.setattr(Workers, "prepare", missing)
    with pytest.raises(PreflightError) as stop:
        run({}, *SMALL, name="a")
    assert stop.value.__notes__ == ["nothing was recorded, so there is no run a; its name is free"]
    with pytest.raises(ConfigError, match="betta"):
        run({}, *SMALL, name="b", judge={"betta": 1})
    assert list(scripted.glob("[!.]*")) == []


def test_importing_loads_no_table_library() -> None:
    code = (
        "import sys, selfreward\n"
        "assert not any(m.startswith('selfreward.') for m in sys.modules), sys.modules\n"
        "from selfreward import Run, run\n"
        "heavy = {'torch', 'transformers', 'pandas', 'pyarrow', 'datasets', 'numpy', 'trl'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="runn"):
        selfreward.runn  # noqa: B018
    assert {"Run", "run"} <= set(selfreward.__all__)


@pytest.mark.slow
def test_the_notebook_shows_a_run(
    runs: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Executed over a small run under the quickstart's name."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    (tmp_path / "quickstart").symlink_to(runs / "whole")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "inspect.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # none of one's own runs
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "scores.mean" in shown
