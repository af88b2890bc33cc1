"""Runs that begin alike: what one has made is not made again, and nothing comes out otherwise."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import IntegrityError
from selfreward.inputs.collect import create_run, run_inputs
from selfreward.inputs.shared import beginning, copied_files, create_sharing_run
from selfreward.storage.changes import branch_of
from selfreward.storage.directory import Run
from selfreward.verbs.maintenance import collect, verify
from selfreward.verbs.show import prompt_of, prompt_text
from selfreward.verbs.status import status_of, status_text
from tests.storage.test_branch import TWO, Workers
from tests.support.runs import facts

BASE = [*TWO, "evaluation.limit=3", "evaluation.canaries=false"]
STAGES = [
    (0, "train"), (0, "evaluate"),
    *((t, stage) for t in (1, 2)
      for stage in ("prompts", "responses", "judgments", "pairs", "train", "evaluate")),
]  # fmt: skip
_numbers = count()


class Counting(Workers):
    """Notes what is made."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.made: list[tuple[str, int]] = []

    def generate(self, iteration: int) -> None:
        self.made.append(("generate", iteration))
        super().generate(iteration)

    def train(self, iteration: int, stage: str = "train") -> None:
        self.made.append(("train", iteration))
        super().train(iteration, stage)

    def evaluate(self, iteration: int) -> None:
        self.made.append(("evaluate", iteration))
        super().evaluate(iteration)


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("runs")
        patch.setenv("SELFREWARD_RUNS", str(path))
        yield path


@pytest.fixture(scope="module")
def whole(root: Path) -> Run:
    run = create_run(build_config({}, BASE), "whole")
    launch(run, lambda: None, Workers(run))
    return run


def sharing(words: Sequence[str], *others: Run) -> Run:
    config = build_config({}, [*BASE, *words])
    files = run_inputs(config, None)
    found = beginning(config, files, others)
    return create_sharing_run(f"shared-{next(_numbers)}", files, found)


def alone(words: Sequence[str]) -> Run:
    run = create_run(build_config({}, [*BASE, *words]), f"alone-{next(_numbers)}")
    launch(run, lambda: None, Workers(run))
    return run


def prints(run: Run) -> list[str]:
    with run.store() as store:
        return [row.fingerprint for row in store.stages()]


JURY = "judge.jury=[{model: M1, votes: 2, weight: 0.5}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "last"),
    [
        ([], (2, "evaluate")),
        (["iterations=1"], (1, "evaluate")),
        (["iterations=3"], (2, "evaluate")),
        (["dpo.beta=0.2"], (1, "pairs")),
        (["train.method=none"], (1, "pairs")),
        (["pairs.min_margin=0.5"], (1, "judgments")),
        ([JURY], (1, "judgments")),
        (["judge.votes=2"], (0, "train")),  # by which M1 is measured as a judge, and not trained
        (["judge.form=written_expected"], (0, None)),
        (["responses.n=4"], (1, "prompts")),
        (["prompts.temperature=0.5"], (0, "evaluate")),
        (["evaluation.limit=2"], (0, "train")),
        (["responses.max_new_tokens=100"], (0, "train")),
        (["sft.learning_rate=1e-5"], (0, None)),
        (["seed=7"], (0, None)),
        (["health.stop_on=[ties]", "health.max_ties=1"], (0, "evaluate")),
        (["best.by=judge_agreement", "best.continue_from=best"], (1, "evaluate")),
    ],
    ids=str,
)
def test_a_run_that_shares_equals_the_same_run_alone(
    whole: Run, words: list[str], last: tuple[int, str | None]
) -> None:
    run = sharing(words, whole)
    with run.store() as store:
        found = [(row.iteration, row.stage) for row in store.stages()]
        branch = branch_of(store.events())
    assert found == (STAGES[: STAGES.index(last) + 1] if last[1] else [])
    assert (branch is None) == (last[1] is None)
    workers = Counting(run)
    launch(run, lambda: None, workers)
    same = alone(words)
    assert facts(run) == facts(same)
    assert prints(run) == prints(same)
    assert all(check["ok"] for check in verify(run)), verify(run)
    remade = {(t, s) for s, t in workers.made if s != "generate"}
    assert remade.isdisjoint(found)


def test_a_run_without_anything_left_to_make_still_closes_its_iterations(whole: Run) -> None:
    run = sharing(["iterations=1"], whole)
    workers = Counting(run)
    launch(run, lambda: None, workers)
    assert workers.made == []
    with run.store() as store, whole.store() as other:
        assert store.closed == [0, 1]
        assert store.figures(0, dict) == other.figures(0, dict)
        assert store.figures(1, dict) == other.figures(1, dict)


def test_the_other_run_is_only_read_and_may_be_at_work_or_cut_off(whole: Run) -> None:
    before = facts(whole), prints(whole)
    half = create_run(build_config({}, BASE), f"half-{next(_numbers)}")
    workers = Workers(half)
    workers.fails_at = 2
    with pytest.raises(Exception, match="no memory"):
        launch(half, lambda: None, workers)
    with half.owned():
        run = sharing([], half)
    with run.store() as store:
        assert store.stages()[-1].stage == "pairs" and store.stages()[-1].iteration == 2
    launch(run, lambda: None, Workers(run))
    assert facts(run) == facts(whole)
    assert (facts(whole), prints(whole)) == before


def test_the_longest_beginning_is_taken_and_told(whole: Run) -> None:
    other = alone(["dpo.beta=0.2"])
    run = sharing(["dpo.beta=0.2", "iterations=1"], whole, other)
    with run.store() as store, other.store() as of:
        branch = branch_of(store.events())
        end = of.finished(1, "evaluate")
    assert branch is not None and end is not None
    assert (branch.run, branch.iteration, branch.stage) == (other.name, 1, "evaluate")
    assert branch.digest == end.digest
    assert f"branch of {other.name} from stage evaluate of iteration 1 on" in status_text(
        status_of(run)
    )
    assert f"copied from run {other.name}" in prompt_text(prompt_of(run, 1, 0))


def test_a_file_that_was_edited_under_its_name_is_not_taken_for_the_same(whole: Run) -> None:
    config = build_config({}, BASE)
    files = run_inputs(config, None)
    for name, last in (
        ("templates/judge.jinja", None),
        ("seeds/ift.jsonl", None),
        ("seeds/heldout.jsonl", None),
        ("templates/prompts.jinja", (0, "evaluate")),
    ):
        found = beginning(config, files | {name: files[name] + "\n"}, [whole])
        assert (found.stages[-1] if found else None) == last, name


def test_a_run_whose_models_are_gone_or_damaged_is_not_built_upon() -> None:
    other = alone(["iterations=1"])
    gone = sharing([], other)
    launch(gone, lambda: None, Workers(gone))
    assert collect(gone, 1, dry_run=False)
    assert beginning(gone.config, copied_files(gone), [gone]) is None
    (other.model_directory(2) / "weights").write_text("other")
    with pytest.raises(IntegrityError, match="M2"):
        sharing([], other)
