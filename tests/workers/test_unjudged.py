"""SPIN and ScPO: runs in which what people wrote, or what samples agree on, stands for a judge."""

import json
from pathlib import Path

import pytest

from selfreward.config.load import build_config, load_config
from selfreward.controller import launch
from selfreward.errors import ConfigError
from selfreward.inputs.collect import create_run
from selfreward.inputs.shipped import prompts_directory, recipes
from selfreward.measures.figures import iteration_figures
from selfreward.records import FinishReason, Judgment, PreferencePair, Prompt, Response
from selfreward.storage.directory import Run
from selfreward.training.rows import dpo_rows
from selfreward.verbs.maintenance import verify
from selfreward.workers.checks import check_run
from tests.support.loop_driver import ScriptedWorkers
from tests.support.rollout import cut_off_after
from tests.support.runs import facts
from tests.support.scripted import ScriptedChat, scripted_reply

FEW = ["iterations=1", "evaluation.questions=null", "evaluation.contests=[]", "best.by=win_rate"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(recipe: str, *words: str, name: str = "run") -> Run:
    return create_run(load_config(recipes()[recipe], [*FEW, *words]), name)


def finished(recipe: str, *words: str, name: str = "run") -> Run:
    run = made(recipe, *words, name=name)
    launch(run, lambda: None, ScriptedWorkers(run, reply=counting))
    return run


def counting(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Answers to one prompt that end in 1, 2 or 3."""
    said, _ = scripted_reply(prompt, number)
    return f"{said}\nThe answer is {1 + number % 3}.", "stop"


def test_in_spin_the_answer_of_a_person_is_chosen_over_the_one_of_the_policy() -> None:
    run = finished("spin", "prompts.count=6")
    with run.store() as store:
        prompts = {p.attempt: p for p in store.records(Prompt, 1)}
        responses = store.records(Response, 1)
        pairs, votes = store.records(PreferencePair, 1), store.records(Judgment, 1)
        rows, _ = dpo_rows(run, store, 1, ScriptedChat())  # type: ignore[arg-type]
        figures = iteration_figures(store, 1)
    human = {r.attempt: r.text for r in responses if r.author == "human"}
    assert len(prompts) == 6
    assert [(p.chosen, p.rejected, p.margin) for p in pairs] == [(1, 0, 5)] * 6
    assert {(v.sample, v.score) for v in votes} == {(0, 0.0), (1, 5.0)}
    for row, pair in zip(rows, pairs, strict=True):
        assert "".join(map(chr, row.chosen_ids[:-1])) == human[pair.attempt]
    # the figures of the policy are of what the policy said
    assert (figures.responses.n, figures.scores.n, figures.scores.mean) == (6, 6, 0.0)
    assert all(check["ok"] for check in verify(run))


def test_what_a_person_wrote_is_judged_beside_the_rest_if_a_model_judges() -> None:
    words = ["judge={form: expected, template: judge/expected.jinja}", "prompts.count=4"]
    run = finished("spin", *words, "responses.n=2", "responses.anchors=1", "iterations=2")
    with run.store() as store:
        by_author = {
            t: [(r.sample, r.author) for r in store.records(Response, t, 0)] for t in (1, 2)
        }
        assert len(store.records(Judgment, 1)) == 4 * 3
    assert by_author[1] == [(0, "policy"), (1, "policy"), (3, "human")]
    assert by_author[2] == [(0, "policy"), (1, "policy"), (2, "M1"), (3, "human")]


def test_an_answer_that_is_the_persons_own_makes_no_pair() -> None:
    run = made("spin", "prompts.count=4")
    rows = {p["prompt"]: p["response"] for p in shipped()}

    def parrot(prompt: str, number: int) -> tuple[str, FinishReason]:
        said = prompt.removeprefix("<user>").removesuffix("<assistant>")
        return (rows[said] if number % 2 else "No."), "stop"

    launch(run, lambda: None, ScriptedWorkers(run, reply=parrot))
    with run.store() as store:
        same = {r.attempt for r in store.records(Response, 1) if r.sample == 0 and r.text != "No."}
        pairs = {p.attempt for p in store.records(PreferencePair, 1)}
    assert same and pairs and not same & pairs


def shipped() -> list[dict[str, str]]:
    text = (prompts_directory() / "seed" / "ift.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_score_of_scpo_is_the_share_of_samples_with_the_same_answer_and_weighs_the_pair() -> None:
    run = finished("scpo", "prompts.count=6", "pairs.min_margin=0")
    with run.store() as store:
        responses, votes = store.records(Response, 1), store.records(Judgment, 1)
        pairs = store.records(PreferencePair, 1)
        rows, _ = dpo_rows(run, store, 1, ScriptedChat())  # type: ignore[arg-type]
    ends: dict[int, list[str]] = {}
    for response in responses:
        ends.setdefault(response.attempt, []).append(response.text[-2])
    assert len(votes) == 6 * 8
    for vote in votes:
        of_prompt = ends[vote.attempt]
        assert vote.score == 5 * of_prompt.count(of_prompt[vote.sample]) / 8
    assert pairs
    for row, pair in zip(rows, pairs, strict=True):
        of_prompt = ends[pair.attempt]
        counts = [of_prompt.count(of_prompt[s]) for s in (pair.chosen, pair.rejected)]
        every = [of_prompt.count(answer) for answer in {*of_prompt}]
        assert counts == [max(every), min(every)]
        assert (row.weight, row.turned) == (pytest.approx((counts[0] - counts[1]) / 8), 0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["spin", "scpo"])
@pytest.mark.parametrize("commits", [2, 9])
def test_one_that_was_cut_off_ends_as_if_it_had_not_been(recipe: str, commits: int) -> None:
    words = ["prompts.count=4", "engine.concurrency=1", "pairs.min_margin=0"]
    whole = facts(finished(recipe, *words, name="whole"))
    run = made(recipe, *words, name="cut")
    with cut_off_after(commits) as cut:
        launch(run, lambda: None, ScriptedWorkers(run, reply=counting))
    assert cut
    launch(run, lambda: None, ScriptedWorkers(run, reply=counting))
    assert facts(run) == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompts.dataset=null"], "needs prompts that a person answered"),
        (["responses.demonstrations=false"], "n=1 makes no pair"),
        (["prompts.dataset={path: seed/ift.jsonl}"], "no text in column 'demonstration'"),
        (["prompts.count=100"], "iterations of prompts.count=100 draw 200"),
    ],
)
def test_a_config_without_what_people_wrote_is_refused_in_one_line(
    words: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_run(load_config(recipes()["spin"], words), recipes()["spin"])
    assert said in error.value.message and "\n" not in str(error.value)


def test_one_sample_is_enough_only_beside_what_a_person_wrote() -> None:
    with pytest.raises(ConfigError, match="n=1 makes no pair"):
        build_config({}, ["responses.n=1"])
