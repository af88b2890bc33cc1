"""Runs whose prompts are given topics and rewritten: what they came from, whatever kills them."""

from collections import Counter
from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.inputs.collect import create_run
from selfreward.inputs.columns import values_of
from selfreward.records import Prompt
from selfreward.stages.base import seed_of
from selfreward.stages.evolve import Parent, drawn_order
from selfreward.storage.directory import Run
from selfreward.verbs.examples import examples_of
from selfreward.verbs.show import prompt_of, prompt_text
from selfreward.viewer.pages import prompt_page
from tests.support.loop_driver import ScriptedWorkers
from tests.support.rollout import cut_off_after
from tests.support.runs import SMALL, facts
from tests.support.scripted import scripted_words

TOPICS = [f"topic number {n}" for n in range(9)]
WORDS = [
    *SMALL, "sft=null", "prompts.count=6", "prompts.window=3", "evaluation.questions=null",
    "evaluation.canaries=false", "evaluation.ranked=null", "prompts.template=instruct/topic.jinja",
    f"prompts.topics=[{', '.join(TOPICS)}]", "prompts.evolve.share=0.5", "engine.concurrency=3",
    "judge.form=expected", "judge.template=judge/expected.jinja",
]  # fmt: skip


def make(name: str, *words: str) -> Run:
    keep = [word for word in WORDS if not word.startswith("sft.")]
    keep = [word for word in keep if not word.startswith("judge.votes")]
    return create_run(build_config({}, [*keep, *words]), name)


def finish(run: Run) -> Run:
    launch(run, lambda: None, ScriptedWorkers(run))
    return run


def prompts(run: Run) -> dict[int, list[Prompt]]:
    with run.store() as store:
        return {t: store.records(Prompt, t) for t in (1, 2)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(tmp_path_factory.mktemp("runs")))
        return finish(make("whole"))


def test_every_attempt_keeps_its_topic_or_its_parent(whole: Run) -> None:
    for attempts in prompts(whole).values():
        for prompt in attempts:
            assert set(values_of(prompt.columns)) in ({"topic"}, {"operation", "parent"})


def test_half_of_the_attempts_rewrite_and_at_most_half_of_the_prompts_are_rewrites(
    whole: Run,
) -> None:
    for attempts in prompts(whole).values():
        evolved = ["parent" in values_of(prompt.columns) for prompt in attempts]
        assert evolved[:4] == [False, True, False, True]
        kept = [e for e, prompt in zip(evolved, attempts, strict=True) if prompt.dropped is None]
        assert len(kept) == 6 and 1 <= sum(kept) <= 3


def test_every_rewrite_names_a_seed_or_an_accepted_prompt_of_the_iteration_before(
    whole: Run,
) -> None:
    first, second = prompts(whole).values()
    accepted = {prompt.attempt for prompt in first if prompt.dropped is None}
    seeds = [values_of(p.columns)["parent"] for p in first if "parent" in values_of(p.columns)]
    assert seeds and all(0 <= parent["seed"] < 165 for parent in seeds)
    found = [values_of(p.columns)["parent"] for p in second if "parent" in values_of(p.columns)]
    assert found
    assert all(p["iteration"] == 1 and p["attempt"] in accepted for p in found)


def test_all_topics_of_a_run_come_once_before_any_comes_twice(whole: Run) -> None:
    given = [
        values_of(prompt.columns)["topic"]
        for attempts in prompts(whole).values()
        for prompt in attempts
        if "topic" in values_of(prompt.columns)
    ]
    assert len(given) > 5
    for end in range(1, len(given) + 1):
        times = Counter(dict.fromkeys(TOPICS, 0))
        times.update(given[:end])
        assert max(times.values()) - min(times.values()) <= 1


def test_a_prompt_is_asked_for_with_its_topic_or_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run, asked = make("run", "iterations=1"), []

    def reply(prompt: str, number: int):  # type: ignore[no-untyped-def]
        asked.append(prompt)
        return scripted_words(number), "stop"

    launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
    with run.store() as store:
        made = store.records(Prompt, 1)
        shown = [prompt_of(run, 1, prompt.attempt) for prompt in made]
    for prompt, page in zip(made, shown, strict=True):
        origin = page.origin
        assert origin is not None
        said = origin.topic or f"Request: {' '.join((origin.parent or '').split())}\n"
        assert any(said in text for text in asked), prompt
        assert (origin.topic or origin.parent or "?").split()[0] in prompt_text(page)


@pytest.mark.parametrize("by", ["spread", "uniform"])
def test_what_is_rewritten_is_drawn_by_best_minus_worst_score_of_the_iteration_before(
    whole: Run, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole
    if by == "uniform":
        monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
        run = finish(make("uniform", "prompts.evolve.by=uniform"))
    parents = []
    for prompt in prompts(run)[1]:
        if prompt.dropped is None:
            scores = [r.score for r in prompt_of(run, 1, prompt.attempt).responses]
            known = [score for score in scores if score is not None]
            spread = max(known) - min(known)
            parents.append(Parent("", 1, prompt.attempt, spread if by == "spread" else 1.0))
    assert by == "uniform" or len({parent.weight for parent in parents}) == 6
    order = drawn_order(parents, seed_of(0, "evolve", 2))
    made = [values_of(p.columns).get("parent") for p in prompts(run)[2]]
    taken = [parent["attempt"] for parent in made if parent]
    expected = [parent.number for parent in order]
    assert taken[:6] == expected[: len(taken)]


def test_the_viewer_and_the_report_say_what_a_prompt_was_made_from(whole: Run) -> None:
    facts = []
    with whole.store() as store:
        for examples in examples_of(whole, store, 2, 999):
            facts += [example.facts for example in examples.answers]
    assert facts and all("topic: topic number" in said or "rewritten (" in said for said in facts)
    for prompt in prompts(whole)[2]:
        page, values = prompt_page(whole, 2, prompt.attempt), values_of(prompt.columns)
        if "topic" in values:
            assert page["origin"]["topic"] == values["topic"]
            assert len(page["demonstrations"]) == whole.config.prompts.shots
        else:
            parent = prompt_page(whole, 1, values["parent"]["attempt"])
            assert page["origin"]["parent"] == parent["prompt"]["text"]
            assert page["demonstrations"] is None


def test_a_run_cut_off_after_any_commit_goes_on_to_the_same_records(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    expected = facts(whole)["records"]
    for stop in range(1, 1000, 5):
        run = make(f"run-{stop}")
        with cut_off_after(stop) as cut:
            finish(run)
        if not cut:
            break
        assert facts(finish(run))["records"] == expected
    assert stop > 20
