"""Comparisons where scores tie: who is compared, what the pairs make of it, and the stage."""

import asyncio
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import PairsConfig
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs.collect import create_run
from selfreward.measures.figures import iteration_figures
from selfreward.measures.paired import ComparisonFigures
from selfreward.measures.sampled import num_sampled, sampled
from selfreward.records import Comparison, Judgment, PreferencePair, Prompt, Response
from selfreward.stages.jury import mean_scores
from selfreward.stages.pairs import build_pairs, tied_responses
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.console import unmarked
from selfreward.verbs.maintenance import verify
from selfreward.verbs.pairs import compare_rules
from selfreward.verbs.plan import plan_of
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.show import ShownPrompt, prompt_of, prompt_text
from selfreward.workers.rollout import generate_iteration
from tests.stages.test_pairs import SETTINGS, rounds
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL
from tests.support.scripted import ScriptedChat, ScriptedEngine, scripted_reply

BROKEN = [*SMALL, "judge.break_ties=true", "judge.votes=1", "responses.n=4", "iterations=2"]


# Pairs


def both(attempt: int, first: int, second: int, winner: int | None) -> list[Comparison]:
    return [
        Comparison(1, attempt, *order, "written", "", winner)
        for order in ((first, second), (second, first))
    ]


def scored(*scores: float) -> tuple[list[Prompt], list[Response], list[Judgment]]:
    """One prompt with a response and a vote for each score."""
    return (
        [Prompt(1, 7, "p", "p", None)],
        [Response(1, 7, i, "abcdefgh"[i] * 3, "stop", 3) for i in range(len(scores))],
        [Judgment(1, 7, i, 0, "written", "", score) for i, score in enumerate(scores)],
    )


def pair(made: tuple, comparisons: list[Comparison], **settings: object) -> tuple[int, int] | None:
    pairs, _ = build_pairs(*made, PairsConfig(**settings), comparisons=comparisons)  # type: ignore[arg-type]
    assert len(pairs) < 2
    return (pairs[0].chosen, pairs[0].rejected) if pairs else None


def test_the_preferred_of_the_best_is_chosen_and_the_least_of_the_worst_rejected() -> None:
    made = scored(5, 5, 3, 1, 1)
    assert pair(made, []) == (0, 3)
    assert pair(made, [*both(7, 0, 1, 1), *both(7, 3, 4, 3)]) == (1, 4)
    assert pair(made, [*both(7, 0, 1, None), *both(7, 3, 4, None)]) == (0, 3)


def test_a_prompt_whose_scores_all_tie_is_paired_by_comparisons_alone() -> None:
    made = scored(4, 4, 4)
    comparisons = [*both(7, 0, 1, 1), *both(7, 1, 2, 1), *both(7, 0, 2, 2)]
    assert pair(made, []) is None
    assert pair(made, comparisons) == (1, 0)
    circle = [*both(7, 0, 1, 0), *both(7, 1, 2, 1), *both(7, 0, 2, 2)]
    assert pair(made, circle) is None


def test_a_pair_of_equal_scores_has_no_margin_and_no_agreement_to_pass_a_filter() -> None:
    made, comparisons = scored(4, 4), both(7, 0, 1, 1)
    assert pair(made, comparisons, min_agreement=0.5, min_jurors=0.5) == (1, 0)
    for over in ({"min_margin": 0.1}, {"min_agreement": 0.6}, {"min_jurors": 0.6}):
        assert pair(made, comparisons, **over) is None


def test_an_answer_is_never_paired_over_an_anchor_of_its_score() -> None:
    prompts, responses, judgments = scored(4, 4, 4)
    responses[2] = Response(1, 7, 2, "m1", "stop", 3, author="M1")
    made = prompts, responses, judgments
    assert [(a.sample, b.sample) for a, b in tied(made, PairsConfig(rule="anchored"))] == [(0, 1)]
    assert pair(made, both(7, 0, 1, 1), rule="anchored") is None
    judgments[2] = Judgment(1, 7, 2, 0, "written", "", 3)
    assert pair(made, both(7, 0, 1, 1), rule="anchored") == (1, 2)


def tied(made: tuple, settings: PairsConfig) -> list[tuple[Response, Response]]:
    return tied_responses(made[1], made[2], settings)


@given(rounds(), SETTINGS)
def test_those_that_share_the_best_or_the_worst_score_of_what_can_be_paired_are_tied(
    made: tuple, settings: PairsConfig
) -> None:
    _, drops = build_pairs(*made, settings)
    out = {drop.item for drop in drops}
    scores: dict[int, dict[int, float]] = {}
    for (attempt, sample), score in mean_scores(made[1], made[2]).items():
        if f"{attempt}/{sample}" not in out:
            scores.setdefault(attempt, {})[sample] = score
    expected = [
        (attempt, a, b)
        for attempt, of_prompt in sorted(scores.items())
        for a, b in combinations(sorted(of_prompt), 2)
        if of_prompt[a] == of_prompt[b]
        and of_prompt[a] in (max(of_prompt.values()), min(of_prompt.values()))
    ]
    assert [(a.attempt, a.sample, b.sample) for a, b in tied(made, settings)] == expected


@given(rounds(), SETTINGS, st.integers(0, 99))
def test_comparisons_decide_between_equal_scores_and_nothing_else(
    made: tuple, settings: PairsConfig, seed: int
) -> None:
    rng = random.Random(seed)
    order = {(r.attempt, r.sample): rng.random() for r in made[1]}
    comparisons = [
        record
        for a, b in tied(made, settings)
        for record in both(
            a.attempt, a.sample, b.sample,
            max(a.sample, b.sample, key=lambda sample: order[a.attempt, sample]),
        )
    ]  # fmt: skip
    plain, plain_drops = build_pairs(*made, settings)
    pairs, _ = build_pairs(*made, settings, comparisons=rng.sample(comparisons, len(comparisons)))
    for found in pairs:
        if found.margin == 0:
            assert order[found.attempt, found.chosen] > order[found.attempt, found.rejected]
    had = {p.attempt for p in plain}
    assert had <= {p.attempt for p in pairs}
    without = {int(d.item): d.reason for d in plain_drops if "/" not in d.item}
    more = {p.attempt for p in pairs} - had
    assert all(without[attempt] == "tie" for attempt in more)
    assert all(p.margin == 0 for p in pairs if p.attempt in more)
    if settings.rule == "best_worst":
        scores = {p.attempt: (p.chosen_score, p.rejected_score) for p in pairs}
        assert all(scores[p.attempt] == (p.chosen_score, p.rejected_score) for p in plain)


# The stage


def reply(prompt: str, number: int) -> tuple:
    """Scores of 2 and 4 alone; of two responses the one that sorts first is better."""
    if "<response_a>" in prompt:
        a, b = re.search(
            r"<response_a>\n(.*)\n</response_a>\n<response_b>\n(.*)\n</resp", prompt, re.S
        ).groups()  # type: ignore[union-attr]
        return f"Better: {'A' if a < b else 'B'}", "stop"
    if "Score: <" in prompt[-200:]:
        return f"Fine.\nScore: {2 + 2 * (number // 32 % 2)}", "stop"
    return scripted_reply(prompt, number)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return tmp_path


def plain_text(shown: ShownPrompt) -> str:
    """Without the marks of bold and dim text."""
    return unmarked(prompt_text(shown))


def finished(name: str, *words: str) -> Run:
    run = create_run(build_config({}, [*BROKEN, *words]), name)
    launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
    return run


def test_ties_are_compared_in_both_orders_after_all_judges_and_before_the_pairs(
    runs: Path,
) -> None:
    run = finished("x")
    with run.store() as store:
        names = [s.stage for s in store.stages() if s.iteration == 1]
        assert names == [
            "prompts", "responses", "judgments", "comparisons", "pairs", "train", "evaluate",
        ]  # fmt: skip
        responses, judgments = store.records(Response, 1), store.records(Judgment, 1)
        comparisons, pairs = store.records(Comparison, 1), store.records(PreferencePair, 1)
    expected = tied_responses(responses, judgments, run.config.pairs)
    asked = Counter((c.attempt, c.first, c.second) for c in comparisons)
    assert expected and asked == Counter(
        (a.attempt, *order) for a, b in expected for order in permutations((a.sample, b.sample))
    )
    texts = {(r.attempt, r.sample): r.text for r in responses}
    broken = [p for p in pairs if p.margin == 0]
    assert broken
    for found in broken:
        assert texts[found.attempt, found.chosen] < texts[found.attempt, found.rejected]
    assert all(check["ok"] for check in verify(run))


def test_every_reader_tells_what_was_compared(runs: Path) -> None:
    run = finished("x")
    with run.store() as store:
        figures = iteration_figures(store, 1)
        comparisons = store.records(Comparison, 1)
    n = len(comparisons) // 2
    wrote = sum(comparison.num_tokens for comparison in comparisons)
    assert wrote > 0
    assert figures.comparisons == ComparisonFigures(n, n, n, wrote)
    without = replace(figures, comparisons=None)
    assert num_sampled(figures) == num_sampled(without) + wrote
    assert sampled(figures).get("comparisons", 0) == wrote
    assert f"{n} of {n} told apart" in scores_text(scores_of(run))
    shown = prompt_of(run, 1, comparisons[0].attempt)
    low, high = sorted((comparisons[0].first, comparisons[0].second))
    line = f"responses {low} and {high} compared: {comparisons[0].winner} is better"
    assert line in plain_text(shown)
    [own] = [row for row in compare_rules(run, 1)["rules"] if row["own"]]
    assert own["overlap"] == 1 and own["identical"] == figures.pairs.n


def test_what_comparing_found_is_shown_if_it_is_no_preference(runs: Path) -> None:
    def undecided(prompt: str, number: int) -> tuple:
        if "<response_a>" not in prompt:
            return reply(prompt, number)
        return ("Better: A" if number % 2 else "No idea."), "stop"

    run = create_run(build_config({}, [*BROKEN, "pairs.min_pairs=1"]), "x")
    launch(run, lambda: None, ScriptedWorkers(run, reply=undecided))
    with run.store() as store:
        compared = iteration_figures(store, 1).comparisons
        assert compared is not None
        attempts = {c.attempt for c in store.records(Comparison, 1)}
    assert compared.told_apart == 0 < compared.with_verdict < compared.n
    text = "\n".join(plain_text(prompt_of(run, 1, attempt)) for attempt in sorted(attempts))
    assert re.search(r"compared: a tie \(by order: (\d), (?!\1)\d\)", text)
    assert "compared: no verdict (no verdict line)" in text


def test_a_run_that_does_not_ask_for_it_compares_nothing(runs: Path) -> None:
    run = finished("x", "judge.break_ties=false", "evaluation.contests=[]")
    with run.store() as store:
        assert "comparisons" not in [s.stage for s in store.stages()]
        assert (
            store.records(Comparison, 1) == [] and iteration_figures(store, 1).comparisons is None
        )
    assert "ties compared" not in scores_text(scores_of(run))
    assert not (run.path / "templates" / "compare.jinja").exists()


def test_where_nothing_ties_the_stage_is_empty(runs: Path) -> None:
    run = finished("x", "judge.form=expected", "judge.template=judge/expected.jinja")
    with run.store() as store:
        rows = {s.stage: s.rows for s in store.stages() if s.iteration == 1}
    assert rows["comparisons"] == 0 < rows["pairs"]


def test_comparing_cut_off_after_any_commit_goes_on_to_the_same_records(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished("whole", "iterations=1", "engine.concurrency=1")
    with whole.store() as store:
        expected, pairs = store.records(Comparison, 1), store.records(PreferencePair, 1)

    class Stopped(Exception):
        """Stands for a kill right after a commit."""

    run = create_run(build_config({}, [*BROKEN, "iterations=1", "engine.concurrency=1"]), "cut")
    add, launches = Store.add, 0

    def add_and_stop(store: Store, rows: list) -> None:
        add(store, rows)
        if any(isinstance(row, Comparison) for row in rows):
            raise Stopped

    monkeypatch.setattr(Store, "add", add_and_stop)
    done = False
    while not done:
        launches += 1
        try:
            launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
            done = True
        except Stopped:
            assert launches <= len(expected)
    assert launches == len(expected) // 2 + 1
    with run.store() as store:
        assert (
            store.records(Comparison, 1) == expected and store.records(PreferencePair, 1) == pairs
        )


def test_the_first_judge_compares_once_the_jury_has_voted(runs: Path) -> None:
    jury = "judge.jury=[{model: M1, form: written}]"
    run = create_run(build_config({}, [*BROKEN, "sft=null", jury, "judge.model=org/judge"]), "x")
    ScriptedWorkers(run).prepare()
    asked: list[tuple[str, str]] = []

    def opened(settings: object, model: Path | str) -> Session:
        def tell(prompt: str, number: int) -> tuple:
            compares = "<response_a>" in prompt
            if compares or "Score: <" in prompt[-200:]:
                asked.append((str(model), "compare" if compares else "score"))
            return reply(prompt, number)

        return Session(ScriptedEngine(tell), ScriptedChat())  # type: ignore[arg-type]

    with run.owned() as store:
        asyncio.run(generate_iteration(run, store, 1, Sessions(opened)))
        assert store.finished(1, "comparisons")
        made = store.records(Response, 1), store.records(Judgment, 1)
        assert len(store.records(Comparison, 1)) == 2 * len(
            tied_responses(*made, run.config.pairs, run.config.judge.weights)
        )
    kinds = [kind for _, kind in asked]
    assert "score" not in kinds[kinds.index("compare") :]
    assert {model for model, kind in asked if kind == "compare"} == {"org/judge"}


def test_a_plan_counts_comparisons_as_if_all_tied(runs: Path) -> None:
    plan = plan_of(build_config({}, BROKEN), None)
    [row] = [row for row in plan["per_iteration"] if row["stage"] == "comparisons"]
    assert row["records"] == 6 * 4 * 3 and row["sampled"] == row["records"] * 256
    expected = build_config(
        {}, [*BROKEN, "judge.form=expected", "judge.template=judge/expected.jinja"]
    )
    [row] = [r for r in plan_of(expected, None)["per_iteration"] if r["stage"] == "comparisons"]
    assert row["sampled"] == 0 < row["read"]
    stages = [r["stage"] for r in plan_of(build_config({}, SMALL), None)["per_iteration"]]
    assert "comparisons" not in stages
