"""Models against each other: who answers what, who is compared with whom, and by whom."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.config import SeedSource
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.sessions import Session, Sessions
from selfreward.errors import ConfigError
from selfreward.inputs import shipped
from selfreward.inputs.collect import create_run
from selfreward.inputs.questions import copied_questions, read_questions
from selfreward.records import FinishReason
from selfreward.storage.directory import Run
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.status import is_complete, status_of, status_text
from selfreward.workers.checks import check_run
from selfreward.workers.evaluate import evaluate_iteration
from tests.support import plain
from tests.support.loop_driver import ScriptedWorkers
from tests.support.scripted import ScriptedChat, ScriptedEngine, scripted_reply

SMALL = [
    "iterations=2", "prompts.count=4", "prompts.window=2", "prompts.rouge_l_max=1.0",
    "judge.votes=2", "judge.min_parse_rate=0", "evaluation.ranked=null", "sft=null",
    "evaluation.canaries=false", "prompts.seeds=seed/ift.jsonl",
    "evaluation.questions={path: seed/questions.jsonl, limit: 12}",
]  # fmt: skip


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return tmp_path


class Workers(ScriptedWorkers):
    """Answers at greater length the later the model is, and notes which model is asked."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.asked: list[tuple[int, str]] = []

    def evaluate(self, iteration: int) -> None:
        def reply(prompt: str, number: int) -> tuple[str, FinishReason]:
            return scripted_reply(prompt, number)[0] + "!" * iteration, "stop"

        workers = self

        class Engine(ScriptedEngine):
            async def load(self, model: Path) -> None:
                workers.asked.append((iteration, model.name))

        def open_(settings: object, model: Path | str) -> Session:
            self.asked.append((iteration, Path(model).name))
            return Session(Engine(reply), ScriptedChat())

        with self._epoch_store() as store:
            asyncio.run(evaluate_iteration(self.run, store, iteration, Sessions(open_)))


def make(*overrides: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*SMALL, *overrides]), name)


def loop(run: Run) -> Workers:
    workers = Workers(run)
    launch(run, tick=lambda: None, workers=workers)
    return workers


def report(run: Run, iteration: int, name: str) -> dict[str, Any] | None:
    with run.store() as store:
        return store.report(iteration, name, dict)


def met(run: Run, iteration: int) -> list[tuple[str, str, str]]:
    found = report(run, iteration, "contests") or {"contests": []}
    return [(c["model"], c["opponent"], c["judge"]) for c in found["contests"]]


def test_each_model_answers_and_meets_m1_and_the_model_before_it() -> None:
    run = make()
    loop(run)
    for iteration in range(3):
        found = report(run, iteration, "answers")
        assert found is not None
        assert found["model"] == f"M{iteration + 1}" and len(found["answers"]) == 12
        assert all(answer["text"].endswith("!" * iteration) for answer in found["answers"])
    assert [met(run, t) for t in range(3)] == [
        [], [("M2", "M1", "M1")], [("M3", "M1", "M1"), ("M3", "M2", "M1")],
    ]  # fmt: skip


def test_the_judge_is_the_frozen_m1_and_never_the_model_that_is_measured() -> None:
    workers = loop(make("sft={ift: {path: seed/ift.jsonl, limit: 3}, eft: null}"))
    assert workers.asked == [(0, "M1"), (1, "M2"), (1, "M1"), (2, "M3"), (2, "M1")]


def test_references_are_an_opponent_of_every_model(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i}?", "reference": f"It is {i}."} for i in range(11)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = make(f"evaluation.questions={path}", "iterations=1")
    loop(run)
    assert [met(run, t) for t in range(2)] == [
        [("M1", "reference", "M1")], [("M2", "M1", "M1"), ("M2", "reference", "M1")],
    ]  # fmt: skip


def test_the_same_answers_are_a_tie_that_no_judge_is_asked_about() -> None:
    run = make("iterations=1")

    class Same(Workers):
        def evaluate(self, iteration: int) -> None:
            ScriptedWorkers.evaluate(self, iteration)

    launch(run, tick=lambda: None, workers=Same(run))
    found = report(run, 1, "contests")
    assert found is not None and found["contests"][0]["results"] == [0.5] * 12


def test_scores_say_first_what_the_loop_does_not_train_and_which_model_is_best() -> None:
    run = make()
    loop(run)
    text = scores_text(scores_of(run), 100)
    lines = text.splitlines()
    assert lines[1].startswith("M3 is not told from M1 on 12 held-out questions") or (
        lines[1].startswith("M3 is better than M1") or lines[1].startswith("M3 is worse than M1")
    )
    assert "as the frozen M1 compares them: wins " in " ".join(lines[:4])
    assert re.search(r"Of 3 models M\d is the best by this: ", " ".join(lines[:6]))
    assert "wins v M1, by M1" in text and "wins v M(t), by M1" in text
    assert plain(scores_of(run))["iterations"][2]["contests"][1]["opponent"] == "M2"


def test_a_run_made_before_there_were_questions_goes_on_without() -> None:
    run = make("iterations=1")
    text = run.resolved.read_text()
    start = text.index("  questions:")
    end = text.index("  temperature:", start)
    run.resolved.write_text(text[:start] + text[end:])
    run.seed_file("questions").unlink()
    again = Run(run.path)
    assert again.config.evaluation.questions is None
    loop(again)
    assert report(again, 1, "answers") is None


def test_the_shipped_questions_are_sixty_of_ten_kinds_and_new_to_all_seeds() -> None:
    questions = read_questions(SeedSource(path="seed/questions.jsonl"))
    kinds = [question.kind for question in questions]
    assert len(questions) == 60 and {kinds.count(kind) for kind in kinds} == {6}
    assert len(set(kinds[:10])) == len(set(kinds)) == 10  # so that the first few are of all kinds
    mine = {" ".join(question.prompt.casefold().split()) for question in questions}
    for path in shipped.prompts_directory().glob("seed/*.jsonl"):
        if path.name != "questions.jsonl":
            others = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
            assert not mine & {" ".join(other.casefold().split()) for other in others}, path
    run = make()
    assert copied_questions(run.seed_file("questions")) == questions[:12]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": ""}], "needs a text in column 'prompt'"),
        ([{"prompt": "a?"}, {"prompt": "a?"}], "own.jsonl:2: the prompt is that of"),
        ([{"prompt": "a?", "reference": "b"}, {"prompt": "c?"}], "1 of 2 prompts have no"),
        ([{"prompt": "a?", "reference": 7}], "column 'reference' must be a text, found 7"),
        ([{"prompt": "a?", "reference": "\ud800"}], "half of a surrogate pair"),
    ],
)
def test_questions_that_say_nothing_sure_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=message):
        read_questions(SeedSource(path=str(path)))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("evaluation.contests=[{model: policy}]", "model=policy is a model that is measured"),
        ("evaluation.contests=[{model: hosted}]", r"evaluation.contests.0.model=hosted, but"),
        ("evaluation.contests=[{model: /nowhere}]", "evaluation.contests.0.model"),
        ("evaluation.contests=[{engine: {kind: fast}}]", "evaluation.contests.0.engine.kind"),
        ("evaluation.questions=seed/ift.jsonl", "evaluation.questions: 165 of its 165 prompts"),
        ("evaluation.temperature=-1", "evaluation.temperature"),
    ],
)
def test_judges_and_questions_that_cannot_serve_are_refused_before_anything_runs(
    word: str, message: str
) -> None:
    words = [*SMALL, "sft={ift: seed/ift.jsonl, eft: null}", word]
    with pytest.raises(ConfigError, match=message):
        check_run(build_config({}, words), None)


class Worse(Workers):
    """From M3 on all answers lose: they are empty."""

    def evaluate(self, iteration: int) -> None:
        def reply(prompt: str, number: int) -> tuple[str, FinishReason]:
            text = scripted_reply(prompt, number)[0]
            return ("" if iteration > 1 and "<assistant>Better" not in prompt else text), "stop"

        open_ = Session(ScriptedEngine(reply), ScriptedChat())
        with self._epoch_store() as store:
            sessions = Sessions(lambda settings, model: open_)
            asyncio.run(evaluate_iteration(self.run, store, iteration, sessions))


def test_a_run_whose_models_get_worse_ends_with_the_reason_and_goes_on_when_told_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make("iterations=6", "best.patience=2")
    launch(run, tick=lambda: None, workers=Worse(run))
    with run.store() as store:
        last = store.stages()[-1]
    assert (last.iteration, last.stage) == (2, "evaluate")  # M2 ties with M1, M3 loses
    found = status_of(run)
    assert found.state == "finished" and is_complete(run)
    assert found.ended is not None and "no model is better than M1 by win_rate" in found.ended
    assert "ended after iteration 2" in status_text(found)
    assert invoke(["resume", run.name]) == 0
    assert "go on nonetheless with: selfreward resume run best.patience=null" in (
        capsys.readouterr().err
    )
    run.configure(["best.patience=null", "iterations=3"])
    assert not is_complete(run)
    launch(run, tick=lambda: None, workers=Worse(run))
    assert is_complete(run) and status_of(run).ended is None
    with run.store() as store:
        assert store.stages()[-1].iteration == 3


def test_an_interrupted_run_ends_where_one_that_was_not_does() -> None:
    whole, cut = make("iterations=5", "best.patience=2", name="whole"), make(
        "iterations=5", "best.patience=2", name="cut"
    )  # fmt: skip
    launch(whole, tick=lambda: None, workers=Worse(whole))

    class Dies(Worse):
        def evaluate(self, iteration: int) -> None:
            if iteration == 2 and not self.asked:
                self.asked.append((2, "died"))
                raise KeyboardInterrupt
            super().evaluate(iteration)

    workers = Dies(cut)
    with pytest.raises(KeyboardInterrupt):
        launch(cut, tick=lambda: None, workers=workers)
    launch(cut, tick=lambda: None, workers=workers)
    assert status_of(cut).ended == status_of(whole).ended is not None


def test_patience_without_a_measure_is_refused() -> None:
    for words in (["evaluation.questions=null"], ["evaluation.contests=[]"],
                  ["best.by=judge_agreement"]):  # fmt: skip
        with pytest.raises(ConfigError, match=r"best.patience with best.by=.* needs"):
            build_config({}, [*SMALL, "best.patience=1", *words])
