"""Branches: a run trained anew from the pairs of another, which is only read."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, NotFoundError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.records import PreferencePair
from selfreward.storage import branch, durable
from selfreward.storage.benchmarks import Benchmark, add_benchmarks, read_benchmarks
from selfreward.storage.branch import create_branch
from selfreward.storage.changes import Branch, branch_of
from selfreward.storage.committed import trainings
from selfreward.storage.directory import Run, list_runs
from selfreward.storage.store import Store
from selfreward.training.base import Training
from selfreward.verbs.card import model_card
from selfreward.verbs.lineage import trained_otherwise
from selfreward.verbs.maintenance import collect, verify
from selfreward.verbs.report import report_of
from selfreward.verbs.show import prompt_of, prompt_text
from selfreward.verbs.status import is_complete, ls_rows, ls_text, status_of, status_text
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL, facts

TWO = [
    *SMALL, "iterations=2", "prompts.rouge_l_max=1.0",
    "evaluation.questions=null",  # M1 compares the answers, and would never be removed
]  # fmt: skip


class Workers(ScriptedWorkers):
    """Models depend on the options too, and the training may be made to fail."""

    fails_at: int | None = None

    def train(self, iteration: int, stage: str = "train") -> None:
        if iteration == self.fails_at:
            raise PreflightError("no memory")
        super().train(iteration, stage)

    def fit(self, training: Training, rows: Sequence[Any], **told: Any) -> None:
        options = json.dumps([training.options, training.lora], sort_keys=True)
        super().fit(training, [*rows, options], **told)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(tmp_path_factory.mktemp("runs")))
        return finish(create_run(build_config({}, TWO), "whole"))


@pytest.fixture
def whole(finished: Run, root: Path) -> Run:
    shutil.copytree(finished.path, root / "whole")
    return Run(root / "whole")


def finish(run: Run) -> Run:
    launch(run, lambda: None, Workers(run))
    return run


def content(run: Run) -> dict[str, bytes]:
    """Every file of a run but the lock, by name; of the records what they hold."""
    paths = [path for path in run.path.rglob("*") if path.is_file()]
    files = {str(p.relative_to(run.path)): p.read_bytes() for p in paths}
    files = {name: data for name, data in files.items() if not name.startswith("records.db")}
    with run.store() as store:
        files["records"] = repr([facts(run), store.events(), store.owner()]).encode()
    return files


@pytest.mark.slow
@pytest.mark.parametrize("iteration", [1, 2])
def test_a_branch_with_the_same_options_makes_the_same_records_and_models(
    whole: Run, iteration: int
) -> None:
    before = content(whole)
    made = create_branch(whole, iteration, "again")
    with made.store() as store:
        stages = [(row.iteration, row.stage) for row in store.stages()]
        assert stages[-1] == (iteration, "pairs")
        assert branch_of(store.events()) == Branch("whole", iteration, store.stages()[-1].digest)
    assert not is_complete(made)
    finish(made)
    assert facts(made) == facts(whole)
    assert content(whole) == before
    assert all(check["ok"] for check in verify(made)), verify(made)


def test_a_branch_has_the_benchmarks_of_the_models_that_it_has(whole: Run) -> None:
    with whole.store() as store:
        digests = {"M0": str(whole.base_model()["digest"])} | {
            f"M{row.iteration + 1}": row.digest for row in trainings(store)
        }
    results = [
        Benchmark(model, digest, "arc", "selfreward", "1", "question", None, 1, {}, {}, 1.0, "")
        for model, digest in digests.items()
    ]
    assert [each.model for each in results] == ["M0", "M1", "M2", "M3"]
    add_benchmarks(whole, results)
    assert read_benchmarks(create_branch(whole, 2, "made")) == results[:3]


def test_with_another_learning_rate_only_what_is_trained_anew_differs(whole: Run) -> None:
    made = finish(create_branch(whole, 2, "faster", ["dpo.learning_rate=1e-5"]))
    mine, theirs = facts(made), facts(whole)
    assert mine["records"] == theirs["records"]
    assert mine["models"]["M3"] != theirs["models"]["M3"]
    differing = {tuple(row[:2]) for row in mine["stages"] if row not in theirs["stages"]}
    assert (2, "train") in differing and differing <= {(2, "train"), (2, "evaluate")}

    with made.store() as store:
        assert trained_otherwise(made, store) == {"M2": {"dpo.learning_rate": 1e-6}}
    text = model_card(made, 3, plot=False, pairs=None)
    assert "changed afterwards: M2 was trained with `dpo.learning_rate` 1e-06." in text
    assert "M3 was trained with" not in text
    rows = dict(report_of(made)[0].settings.rows)
    assert rows["dpo.learning_rate, as M2 was trained"] == "1e-06"
    assert rows["dpo.learning_rate"] == "1e-05"
    assert "changed afterwards" not in model_card(whole, 3, plot=False, pairs=None)

    first = finish(create_branch(whole, 1, "first", ["dpo.beta=0.5", "iterations=1"]))
    assert facts(first)["models"]["M1"] == theirs["models"]["M1"]
    assert facts(first)["models"]["M2"] != theirs["models"]["M2"]
    for run in (made, first, whole):
        assert all(check["ok"] for check in verify(run)), verify(run)
    again = finish(create_branch(made, 2, "back", ["dpo.learning_rate=1e-6"]))  # of a branch
    assert facts(again) == theirs
    assert status_of(again).branch == Branch("faster", 2, status_of(made).branch.digest)


def test_a_run_whose_training_failed_or_that_is_at_work_is_branched_off(whole: Run) -> None:
    run = create_run(build_config({}, TWO), "stopped")
    workers = Workers(run)
    workers.fails_at = 1
    with pytest.raises(PreflightError):
        launch(run, lambda: None, workers)
    with run.owned():
        made = create_branch(run, 1, "made")
    assert facts(finish(made)) == facts(whole)


def test_without_a_seed_step_a_branch_trains_the_base_model() -> None:
    run = finish(create_run(build_config({}, [*SMALL[:5], "sft=null", "iterations=1"]), "plain"))
    made = finish(create_branch(run, 1, "made"))
    assert facts(made) == facts(run)


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["responses.n=9"], IntegrityError, "responses.n: responses of iteration 1"),
        (["judge.votes=9"], IntegrityError, "judge.votes"),
        (["prompts.count=9"], IntegrityError, "prompts.count: prompts of iteration 1"),
        (["pairs.min_margin=1.0"], IntegrityError, "pairs.min_margin: pairs of iteration 1"),
        (["sft.learning_rate=1.0"], IntegrityError, "sft.learning_rate: train of iteration 0"),
        (["seed=7"], IntegrityError, "seed"),
        (["sft.ift.path=mine.jsonl"], IntegrityError, "copies"),
        (["evaluation.limit=3"], IntegrityError, "drift"),
        (["evaluation.temperature=1.0"], IntegrityError, "copied ones of earlier models"),
        (
            ["evaluation.contests=[{function: 'selfreward.rewards.repetition:ended'}]"],
            IntegrityError,
            "copies what it names",
        ),
        (["iterations=1"], ConfigError, "ends before"),
        (["dpo.beta=-1"], ConfigError, "dpo.beta"),
    ],
    ids=str,
)
def test_what_the_copied_records_were_made_with_cannot_change(
    whole: Run, root: Path, words: list[str], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        create_branch(whole, 2, "made", words)
    assert [path.name for path in root.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    "words",
    [["lora={r: 4}"], ["launch.processes=2"], ["evaluation.canaries=false"], ["health.max_ties=1"],
     ["engine.concurrency=2"], ["iterations=5"], ["dpo.loss_type=ipo"], ["evaluation.contests=[]"],
     ["evaluation.contests=[{model: M1, form: expected}, {model: M1, form: written}]"]],
    ids=str,
)  # fmt: skip
def test_what_they_were_not_made_with_can(whole: Run, words: list[str]) -> None:
    made = create_branch(whole, 2, "made", words)
    with made.store() as store:
        made.check_fingerprints(store)


def test_an_iteration_without_finished_pairs_is_refused(whole: Run) -> None:
    with pytest.raises(NotFoundError, match="no finished pairs of iteration 3") as error:
        create_branch(whole, 3, "made")
    assert "1, 2" in error.value.hint
    with pytest.raises(ConfigError, match="whole exists"):
        create_branch(whole, 1, "whole")


def test_cleaning_up_or_removing_either_run_leaves_the_other_whole(whole: Run) -> None:
    made = finish(create_branch(whole, 2, "made"))
    assert collect(whole, 1, dry_run=False)
    assert all(check["ok"] for check in verify(made)), verify(made)
    assert all(check["ok"] for check in verify(whole)), verify(whole)
    with pytest.raises(IntegrityError, match=r"M1, from which iteration 1 .* removed by gc"):
        create_branch(whole, 1, "late")
    last = create_branch(made, 2, "last", ["dpo.beta=0.2"])
    shutil.rmtree(made.path)
    assert all(check["ok"] for check in verify(finish(last))), verify(last)


def test_models_are_linked_and_copied_where_that_cannot_be(
    whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = create_branch(whole, 2, "linked")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copied = create_branch(whole, 2, "copied")
    for run, same in ((linked, True), (copied, False)):
        weights = [at.model_directory(2) / "weights" for at in (whole, run)]
        assert weights[0].samefile(weights[1]) == same
        assert durable.is_whole(run.model_directory(2))


def test_status_ls_and_show_say_from_where_a_branch_is(whole: Run) -> None:
    made = create_branch(whole, 1, "made", ["dpo.beta=0.3"])
    with made.store() as store:
        digest = store.finished(1, "pairs").digest
        attempt = store.records(PreferencePair, 1)[0].attempt
    assert f"branch of whole from the pairs of iteration 1 on ({digest[:12]})" in status_text(
        status_of(made)
    )
    assert status_of(whole).branch is None
    assert "made (of whole)" in ls_text(ls_rows())
    assert "copied from run whole" in prompt_text(prompt_of(made, 1, attempt))
    assert "copied" not in prompt_text(prompt_of(whole, 1, attempt))


MAKE = """
import sys
from pathlib import Path
from selfreward.storage.branch import create_branch
from selfreward.storage.directory import Run
print("go", flush=True)
create_branch(Run(Path(sys.argv[1])), 2, "made")
"""


@pytest.mark.slow
def test_a_kill_leaves_no_half_branch(whole: Run, root: Path) -> None:
    before = content(whole)
    for delay in (0.0, 0.005, 0.02, 0.05, 0.1):
        process = subprocess.Popen(
            [sys.executable, "-c", MAKE, str(whole.path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for run in list_runs():
            assert all(check["ok"] for check in verify(run)), verify(run)
        if (root / "made").exists():
            break
    made = create_branch(whole, 2, "next")
    assert not list(root.glob(".tmp-*"))
    assert content(whole) == before
    assert facts(finish(made)) == facts(whole)


def test_a_disk_that_fills_up_leaves_nothing(
    whole: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(branch.durable, "link_directory", full)
    with pytest.raises(PreflightError, match="No space left"):
        create_branch(whole, 2, "made")
    assert [path.name for path in root.iterdir()] == ["whole"]
    assert Store(whole.records).check() == "ok"
