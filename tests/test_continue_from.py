"""``best.continue_from``: an iteration goes on from the best model so far, and stays with it."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError
from selfreward.inputs.collect import create_run
from selfreward.measures.contests import contest, contests_of
from selfreward.measures.reports import Answer
from selfreward.storage.branch import create_branch
from selfreward.storage.directory import Run, open_run
from selfreward.storage.starts import START, start_of
from selfreward.storage.tracker import Tracker
from selfreward.training.base import Training
from selfreward.verbs.card import model_card, pairs_card
from selfreward.verbs.lineage import learned_from, lineage
from selfreward.verbs.maintenance import collect, verify
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.status import status_of, status_text
from selfreward.workers.contests import opponents_of
from tests.support import plain
from tests.support.loop_driver import ScriptedWorkers

SMALL = [
    "iterations=4", "prompts.count=3", "prompts.window=2", "prompts.rouge_l_max=1.0",
    "judge.votes=2", "judge.min_parse_rate=0", "evaluation.ranked=null", "sft=null",
    "evaluation.canaries=false", "prompts.seeds=seed/ift.jsonl", "best.continue_from=best",
]  # fmt: skip
RATES = {1: 0.75, 2: 0.25, 3: 1.0}
"""What the model that an iteration makes wins against M1: M2 is better, M3 worse, M4 the best."""


class Rated(ScriptedWorkers):
    """Each new model wins a given share against M1, whatever it answers."""

    def __init__(self, run: Run, rates: Mapping[int, float] = RATES) -> None:
        super().__init__(run)
        self.rates = rates

    def evaluate(self, iteration: int) -> None:
        answers = [Answer("an answer", 2, False, None)] * 12
        wins = round(12 * self.rates.get(iteration, 0.5))
        results = [1.0] * wins + [0.0] * (12 - wins)
        found = [contest(f"M{iteration + 1}", "M1", "M1", results, answers, answers)]
        with self._epoch_store() as store, Tracker(store, iteration, "evaluate", 12) as tracker:
            reports = {"contests": contests_of(found)} if iteration else {}
            tracker.finish(self.run, rows=12, drops=0, reports=reports)


def make(*words: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*SMALL, *words]), name)


def loop(run: Run, rates: Mapping[int, float] = RATES) -> Run:
    launch(run, tick=lambda: None, workers=Rated(run, rates))
    return open_run(run.name)


def bases(run: Run) -> list[tuple[str, str]]:
    with run.store() as store:
        return [(made.model, made.base) for made in lineage(store)]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return tmp_path


def test_each_iteration_starts_from_the_best_model_before_it() -> None:
    assert bases(loop(make())) == [("M2", "M1"), ("M3", "M2"), ("M4", "M2"), ("M5", "M4")]


@pytest.mark.parametrize("sft", ["null", "{ift: {path: seed/ift.jsonl, limit: 3}, eft: null}"])
def test_where_none_is_better_each_iteration_starts_from_m1_also_if_that_is_the_base(
    sft: str,
) -> None:
    run = loop(make(f"sft={sft}", "iterations=3"), {1: 0.25, 2: 0.0, 3: 0.5})
    assert bases(run)[-3:] == [("M2", "M1"), ("M3", "M1"), ("M4", "M1")]
    assert all(check["ok"] for check in verify(run))


def test_by_default_it_starts_from_the_newest() -> None:
    run = loop(make("best.continue_from=last"))
    assert bases(run) == [("M2", "M1"), ("M3", "M2"), ("M4", "M3"), ("M5", "M4")]


def test_the_model_that_it_starts_from_is_trained_and_is_its_reference() -> None:
    seen = []

    class Sees(Rated):
        def fit(self, training: Training, rows: Sequence[Any], **told: Any) -> None:
            seen.append(training.model.name)
            super().fit(training, rows, **told)

    run = make()
    launch(run, tick=lambda: None, workers=Sees(run))
    assert seen == ["M0", "M2", "M2", "M4"]  # without a seed step M1 is M0


def test_a_new_model_meets_m1_and_the_model_that_it_was_made_from() -> None:
    run = loop(make())
    with run.store() as writer:
        assert start_of(writer, 3) == 2
        assert opponents_of(writer, 3, []) == {}  # nothing was asked here
    named = []

    class Asked:
        path = run.records

        def report(self, iteration: int, name: str, kind: type) -> object:
            if name == START:
                with run.store() as store:
                    return store.report(iteration, name, kind)
            named.append(f"M{iteration + 1}")
            return None

    opponents_of(Asked(), 3, [])  # type: ignore[arg-type]
    assert named == ["M1", "M2"]


def test_the_choice_stays_when_the_settings_change_after_it() -> None:
    run = make()

    class Dies(Rated):
        def generate(self, iteration: int) -> None:
            if iteration == 3:
                raise KeyboardInterrupt
            super().generate(iteration)

    with pytest.raises(KeyboardInterrupt):
        launch(run, tick=lambda: None, workers=Dies(run))
    run = open_run(run.name)
    run.configure(["best.continue_from=last"])
    assert bases(loop(run)) == [("M2", "M1"), ("M3", "M2"), ("M4", "M2"), ("M5", "M4")]


def test_an_iteration_that_has_begun_goes_on_from_its_model_when_told_to_take_the_best() -> None:
    run = make("best.continue_from=last")

    class Dies(Rated):
        def train(self, iteration: int, stage: str = "train") -> None:
            if iteration == 3:
                raise KeyboardInterrupt
            super().train(iteration, stage)

    with pytest.raises(KeyboardInterrupt):
        launch(run, tick=lambda: None, workers=Dies(run))
    run = open_run(run.name)
    run.configure(["best.continue_from=best"])
    assert bases(loop(run)) == [("M2", "M1"), ("M3", "M2"), ("M4", "M3"), ("M5", "M4")]


def test_an_extended_run_chooses_as_one_that_was_never_ended() -> None:
    short, whole = make("iterations=3", name="short"), loop(make(name="whole"))
    loop(short).configure(["iterations=4"])
    extended = loop(open_run("short"))
    assert bases(extended) == bases(whole)
    with extended.store() as a, whole.store() as b:
        digests = [[s.digest for s in store.stages() if s.stage != "evaluate"] for store in (a, b)]
    assert digests[0] == digests[1]


def test_a_branch_trains_from_the_model_that_the_pairs_were_made_with() -> None:
    loop(make())
    branch = create_branch(open_run("run"), 3, "anew")
    with branch.store() as store:
        assert start_of(store, 3) == 2 and start_of(store, 4) == 4
    assert bases(loop(branch))[2:] == [("M4", "M2"), ("M5", "M4")]


def test_gc_keeps_the_best_model_and_the_one_that_comes_next() -> None:
    run = loop(make("iterations=3"), {1: 1.0})
    items = [item for item in collect(run, 1, dry_run=True) if "not among" in item["why"]]
    assert [Path(item["path"]).name for item in items] == ["M3"]  # M2 is the best, M4 the newest


def test_scores_and_verify_read_such_a_run() -> None:
    run = loop(make())
    text = plain(scores_text(scores_of(run), everything=True))
    assert "M2 -> M4" in text and "M2 -> M3" in text
    assert all(check["ok"] for check in verify(run))


def test_a_model_learned_from_the_pairs_of_those_that_it_comes_from_alone() -> None:
    run = loop(make())
    with run.store() as store:
        learned = {number: learned_from(store, number) for number in range(1, 6)}
    assert learned == {1: [], 2: [1], 3: [1, 2], 4: [1, 3], 5: [1, 3, 4]}


def test_no_model_is_compared_with_itself() -> None:
    run = loop(make("iterations=3"), {1: 0.25, 2: 0.0, 3: 0.5})  # M1 answers each time
    text = plain(scores_text(scores_of(run), everything=True))
    assert "Only the answers of M1 are scored" in text
    assert "those of M1" not in text


def test_patience_is_not_asked_where_the_run_has_gone_on_already() -> None:
    rates = {1: 0.25, 2: 0.25, 3: 1.0, 4: 0.75}
    loop(make("iterations=3", "best.continue_from=last"), rates)
    open_run("run").configure(["iterations=4", "best.patience=2"])
    assert [model for model, _ in bases(loop(open_run("run"), rates))] == ["M2", "M3", "M4", "M5"]
    assert status_of(open_run("run")).ended is None


def test_a_run_that_patience_ended_has_the_models_that_it_made() -> None:
    run = loop(make("best.patience=2", "best.continue_from=last"), {1: 0.25, 2: 0.25})
    assert "M0 to M3;" in plain(status_text(status_of(run)))


def test_a_start_that_names_no_earlier_model_is_damage() -> None:
    run = loop(make())
    with run.store() as store:
        assert json.loads(next(store.query("SELECT data FROM reports WHERE name='start'"))[0]) == {
            "model": 2
        }
    with sqlite3.connect(run.records) as db:
        db.execute("UPDATE reports SET data = '{\"model\":3}' WHERE name = 'start'")
    with run.store() as store, pytest.raises(IntegrityError, match="starts from M3"):
        start_of(store, 3)


@pytest.mark.parametrize(
    "words",
    [["evaluation.questions=null"], ["evaluation.contests=[]"], ["best.by=judge_agreement"]],
)
def test_without_a_measure_there_is_no_best_to_go_on_from(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"best.continue_from=best with best.by=.* needs"):
        build_config({}, [*SMALL, *words])


def test_cards_name_the_model_that_each_iteration_started_from() -> None:
    run = loop(make())
    said = pairs_card(run, 5, None, {1: 3, 3: 3, 4: 3})
    rows = [line.split(" | ")[1:3] for line in said.splitlines() if "iteration-" in line]
    assert rows == [["M1", "M2"], ["M2", "M4"], ["M4", "M5"]]
    card = model_card(run, 5, plot=False, pairs=None)
    assert "3: M2 -> M4" in card and "M3 -> M4" not in card
