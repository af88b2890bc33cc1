"""Reward models in a run: the only judge, one of a jury, and a judge of contests."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from selfreward.config.load import build_config
from selfreward.config.run import Config
from selfreward.controller import launch
from selfreward.errors import ConfigError
from selfreward.inputs.collect import create_run
from selfreward.inputs.questions import Question
from selfreward.measures.reports import Answer, Answers, Contests, FunctionValues, Rewards
from selfreward.records import Judgment, Prompt, Response
from selfreward.storage.directory import Run, open_run
from selfreward.verbs.maintenance import verify
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.workers.rewards import rewards_job
from tests.support import plain
from tests.support.families import make_reward_model
from tests.support.loop_driver import ScriptedWorkers

SMALL = [
    "iterations=1", "prompts.count=4", "prompts.window=2", "prompts.rouge_l_max=1.0", "sft=null",
    "evaluation.ranked=null", "evaluation.canaries=false", "prompts.seeds=seed/ift.jsonl",
]  # fmt: skip
QUESTIONS = "evaluation.questions={path: seed/questions.jsonl, limit: 12}"
ONLY = ["judge.model=org/reward", "judge.form=reward", "judge.scale=[0, 100]"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return tmp_path


def config(*words: str) -> Config:
    return build_config({}, [*SMALL, *words])


def loop(*words: str) -> Run:
    run = create_run(config(*words), "run")
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run))
    return open_run("run")


def reward(prompt: str, answer: str) -> float:
    """What the scripted engine gives: a tenth of the tokens of the conversation."""
    return len(f"<user>{prompt}<assistant>{answer}.") / 10


def test_the_only_judge_may_be_a_reward_model_and_the_raw_reward_is_kept() -> None:
    run = loop(*ONLY, "evaluation.questions=null")
    with run.store() as store:
        votes = store.records(Judgment, 1)
        prompts = {p.attempt: p.text for p in store.records(Prompt, 1)}
        texts = {(r.attempt, r.sample): r.text for r in store.records(Response, 1)}
    assert votes and {vote.form for vote in votes} == {"reward"}
    for vote in votes:
        raw = reward(prompts[vote.attempt], texts[vote.attempt, vote.sample])
        assert float(vote.raw) == pytest.approx(raw)
        assert vote.score == pytest.approx(5 * raw / 100)
    assert all(check["ok"] for check in verify(run))


def test_a_reward_off_the_scale_is_no_vote_and_counted() -> None:
    jury = "judge.jury=[{model: org/reward, form: reward, scale: [0, 1]}]"
    run = loop("judge.min_parse_rate=0", "judge.votes=2", jury, "evaluation.questions=null")
    with run.store() as store:
        votes = [vote for vote in store.records(Judgment, 1) if vote.juror == 1]
    assert {(vote.form, vote.score, vote.reason) for vote in votes} == {
        ("reward", None, "off the scale")
    }
    jury_figures = scores_of(run).iterations[-1].jury
    assert jury_figures is not None and [each.parsed for each in jury_figures.judges][1] == 0


def test_in_contests_the_higher_reward_wins_and_all_rewards_are_kept() -> None:
    judge = "evaluation.contests=[{model: org/reward, form: reward}]"
    run = loop("judge.min_parse_rate=0", "judge.votes=2", QUESTIONS, judge, "iterations=2")
    with run.store() as store:
        answers = [store.report(t, "answers", Answers) for t in range(3)]
        given = [store.report(t, "rewards", Rewards) for t in range(3)]
        found = store.report(2, "contests", Contests)
    assert found is not None
    assert [(c.model, c.opponent, c.judge) for c in found.contests] == [
        ("M3", "M1", "org/reward"), ("M3", "M2", "org/reward"),
    ]  # fmt: skip
    for one, values in zip(answers, given, strict=True):
        assert one is not None and values is not None
        [judged] = values.judges
        assert [v is None for v in judged.values] == [bool(a.dropped) for a in one.answers]
    before, mine = given[0], given[2]
    assert before is not None and mine is not None
    for result, a, b in zip(
        found.contests[0].results, mine.judges[0].values, before.judges[0].values, strict=True
    ):
        if a is not None and b is not None:
            assert result == (0.5 if a == b else float(a > b))
    text = plain(scores_text(scores_of(run)))
    assert "Rewards by org/reward, mean over held-out questions: M1 " in " ".join(text.split())
    assert "reward, by reward" in text and "wins v M1, by reward" in text


def test_outside_of_a_run_each_contestant_gets_its_rewards(tmp_path: Path) -> None:
    path = make_reward_model(tmp_path / "reward")
    questions = [Question("Why?"), Question("How?")]
    long = Answer("long " * 20, 20, False, None)
    answers = [[Answer("So.", 2, False, None), long], [Answer("", 0, False, "empty")] * 2]
    said: list[Any] = []
    job = {"model": str(path), "questions": msgspec.to_builtins(questions),
           "answers": msgspec.to_builtins(answers)}  # fmt: skip
    rewards_job(job, said.append)
    *counts, found = said
    assert counts == [0, 1, 2, 3, 4]
    mine, other = msgspec.convert(found, list[FunctionValues])
    assert mine.values[0] is not None and mine.reasons == (None, "too long")
    assert (other.values, other.reasons) == ((None, None), ("empty", "empty"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["judge.jury=[{model: org/r, form: reward}]"], "form=reward needs scale"),
        (["judge.form=reward", "judge.scale=[0, 1]"], "model=policy is none"),
        (["evaluation.contests=[{form: reward}]"], "model=M1 is none"),
        (["evaluation.contests=[{model: bundled:smollm2-135m, form: reward}]"], "135m is none"),
        (["evaluation.contests=[{model: org/r, form: reward, engine: {kind: vllm}}]"],
         "engine goes without form=reward"),
        ([*ONLY, "judge.break_ties=true"], "set judge.break_ties=false"),
        ([*ONLY, "evaluation.ranked=seed/heldout.jsonl"], "set evaluation.ranked=null"),
        ([*ONLY, "judge.jury=[{}]"], "judge.jury.0 is a model that is asked in words"),
    ],
)  # fmt: skip
def test_a_reward_model_that_cannot_judge_is_refused_in_one_line(
    words: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        config(*words)
    assert said in refused.value.message and "\n" not in refused.value.message
