"""Criteria: read line by line, written once per prompt, and awaited by the answers to it."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import JudgeConfig
from selfreward.engines.base import Generation, Request, RequestError
from selfreward.inputs.templates import find_template, load_template
from selfreward.records import Criterion, FinishReason, Judgment, Prompt, Response
from selfreward.stages.criteria import read_criteria, write_criteria
from selfreward.storage.directory import Run
from selfreward.verbs.maintenance import verify
from selfreward.verbs.show import prompt_of, prompt_text
from tests.support import rollout
from tests.support.rollout import cut_off_after
from tests.support.scripted import (
    CONTROL_TOKENS,
    ScriptedChat,
    ScriptedEngine,
    scripted_reply,
    scripted_words,
)

TEMPLATE = load_template(find_template("judge/criteria.jinja"), {"prompt"})
STARTED = "[3] The answer"
"""How the shipped template begins the judge's turn."""
PROMPT = Prompt(1, 3, "Name a fruit.", "", None)
SETTINGS = JudgeConfig(form="criteria", template="judge/criterion.jinja", max_criteria=3)


def write(engine: ScriptedEngine, prompt: Prompt = PROMPT, run_seed: int = 0) -> list[Criterion]:
    stage = write_criteria(
        engine, ScriptedChat(), TEMPLATE, prompt, SETTINGS, run_seed=run_seed, juror=1  # type: ignore[arg-type]
    )  # fmt: skip
    return asyncio.run(stage)


def saying(text: str, finish: FinishReason = "stop") -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, number: (text, finish))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[3] Names a fruit", [("Names a fruit", 3.0)]),
        ("[3] Names a fruit\n[1] Is  short.\n", [("Names a fruit", 3.0), ("Is short.", 1.0)]),
        ("- [2] Is short", [("Is short", 2.0)]),
        ("1. [2] Is short\n2) [1] Is kind", [("Is short", 2.0), ("Is kind", 1.0)]),
        ("  [2]Is short", [("Is short", 2.0)]),
        ("Here they are:\n\n[2] Is short\n\nThat is all.", [("Is short", 2.0)]),
        ("[2] Is short\n[1] is short.\n[3]  Is short ", [("Is short", 2.0)]),
        ("[0] a\n[4] b\n[-1] c\n[2.5] d\n[x] e\n(2) f\n2: g\n[2 ] h", []),
        ("[3]\n[3] \n[3] [2] x", []),
        ("Is short [2] and kind", []),
        (f"[3] {'x' * 400}\n[1] Is short", [("Is short", 1.0)]),
        ("", []),
    ],
)
def test_a_criterion_is_a_line_of_its_own_with_its_weight(
    text: str, found: list[tuple[str, float]]
) -> None:
    assert read_criteria(text, "stop") == found


def test_a_line_that_was_cut_off_is_no_criterion() -> None:
    assert read_criteria("[3] Names a fruit\n[1] Is sh", "length") == [("Names a fruit", 3.0)]
    assert read_criteria("[3] Names a fruit\n", "length") == [("Names a fruit", 3.0)]
    assert read_criteria("[3] Names a fr", "length") == []


@given(st.text(alphabet="[]123 ab.-*\n\r") | st.text())
def test_whatever_was_written_criteria_differ_and_have_a_weight(text: str) -> None:
    found = read_criteria(text, "stop")
    assert all(weight in (1, 2, 3) and line.strip() for line, weight in found)
    assert len({line.casefold().rstrip(" .") for line, _ in found}) == len(found)


def test_criteria_come_of_one_request_that_shows_the_prompt_and_starts_the_first() -> None:
    engine = saying(" names a fruit\n[2] Is short\n[1] Is kind\n[1] Is in prose")
    assert write(engine) == [
        Criterion(1, 3, 1, 0, "The answer names a fruit", 3.0),
        Criterion(1, 3, 1, 1, "Is short", 2.0),
        Criterion(1, 3, 1, 2, "Is kind", 1.0),
    ]
    [request] = engine.requests
    seen = "".join(map(chr, request.token_ids))
    assert (
        request.n == 1
        and "Name a fruit." in seen
        and seen.endswith(f'<assistant>For the request "Name a fruit.":\n{STARTED}')
    )


def test_seeds_differ_between_prompts_and_runs() -> None:
    engine = ScriptedEngine()
    for prompt, run_seed in (
        (PROMPT, 0),
        (PROMPT, 0),
        (PROMPT, 1),
        (Prompt(1, 4, "x", "", None), 0),
    ):
        write(engine, prompt, run_seed)
    first, again, other_run, other_prompt = (request.seed for request in engine.requests)
    assert first == again
    assert len({first, other_run, other_prompt}) == 3


def test_a_criterion_with_a_control_token_is_left_out() -> None:
    engine = saying(f" Ends with {CONTROL_TOKENS[1]}\n[2] Is short")
    assert [criterion.text for criterion in write(engine)] == ["Is short"]


@pytest.mark.parametrize("text", ["", "\n", "  \nI will not."])
def test_a_line_that_was_begun_for_the_judge_alone_is_no_criterion(text: str) -> None:
    assert write(saying(text)) == []


def test_what_the_judge_thinks_is_no_criterion() -> None:
    assert write(saying("<think>\n[3] Is long\n</think>\n[1] Is short")) == [
        Criterion(1, 3, 1, 0, "Is short", 1.0)
    ]


def test_a_request_that_fails_gives_no_criteria() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            raise RequestError("too long", "9000 tokens")

    assert write(Failing()) == []
    assert write(ScriptedEngine(), Prompt(1, 3, "x" * 300_000, "", None)) == []


# In a run

SMALL = [
    "sft=null", "prompts.count=5", "prompts.window=2", "responses.n=2", "judge.form=criteria",
    "judge.template=judge/criterion.jinja", "judge.max_criteria=3", "judge.min_parse_rate=0",
]  # fmt: skip
KINDS: tuple[type, ...] = (Prompt, Response, Criterion, Judgment)


def reply(prompt: str, number: int) -> tuple[str, FinishReason]:
    """One to five criteria; at times a text without any."""
    if not prompt.endswith(STARTED):
        return scripted_reply(prompt, number)
    if number % 2 == 0:
        return f"\n{scripted_words(number)}", "stop"
    lines = [f"[{1 + i % 3}] {scripted_words(number + i)}" for i in range(number % 5)]
    return "\n".join([f" {scripted_words(number)}", *lines]), "stop"


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return rollout.make_run(name, *SMALL, *words)


def generate(run: Run, engine: ScriptedEngine | None = None) -> ScriptedEngine:
    return rollout.generate(run, engine or ScriptedEngine(reply, delay_s=0.002))


def records(run: Run) -> dict[str, list]:
    return rollout.records(run, *KINDS)


def asked_for_criteria(engine: ScriptedEngine) -> list[str]:
    seen = ["".join(map(chr, request.token_ids)) for request in engine.requests]
    return [text for text in seen if text.endswith(STARTED)]


def test_each_response_is_judged_by_each_criterion_of_its_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, monkeypatch, "run", "prompts.count=12")
    engine = generate(run)
    made = records(run)
    criteria: dict[int, list[Criterion]] = {}
    for criterion in made["Criterion"]:
        criteria.setdefault(criterion.attempt, []).append(criterion)
    assert {1, 3} <= {len(found) for found in criteria.values()} <= {1, 2, 3}
    fit = [(r.attempt, r.sample) for r in made["Response"] if not (r.dropped or r.truncated)]
    without = {attempt for attempt, _ in fit} - criteria.keys()
    assert without
    assert [(j.attempt, j.sample, j.vote, j.weight, j.reason) for j in made["Judgment"]] == [
        (attempt, sample, number, weight, reason)
        for attempt, sample in fit
        for number, weight, reason in (
            [(0, 1.0, "no criteria")]
            if attempt in without
            else [(c.number, c.weight, None) for c in criteria[attempt]]
        )
    ]
    asked = asked_for_criteria(engine)
    assert len(asked) == len(set(asked)) == len({attempt for attempt, _ in fit})
    with run.store() as store:
        [progress] = [p for p in store.progress() if p.stage == "judgments"]
    assert progress.done == progress.total == len(made["Judgment"])


def test_show_says_by_which_criteria_the_votes_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, monkeypatch, "run")
    generate(run)
    made = records(run)
    attempt = made["Criterion"][0].attempt
    text = " ".join(prompt_text(prompt_of(run, 1, attempt)).split())
    criteria = [c for c in made["Criterion"] if c.attempt == attempt]
    for criterion in criteria:
        about = f"criterion {criterion.number} (weight {criterion.weight:g}): {criterion.text}"
        assert about in text
    votes = [j for j in made["Judgment"] if j.attempt == attempt]
    assert text.count(" expected ") == len(votes) >= len(criteria)


def test_a_criterion_that_is_altered_fails_the_stage_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> list[str]:
        found = {check["name"] for check in verify(run) if not check["ok"]} - {"M0"}
        return sorted(found)

    run = make(tmp_path, monkeypatch, "run")
    generate(run)
    assert failing() == []
    with closing(sqlite3.connect(run.records, isolation_level=None)) as db:
        db.execute("UPDATE criteria SET text = text || '.' WHERE rowid = 1")
    assert failing() == ["iteration 1 judgments"]


def test_work_cut_off_after_any_commit_goes_on_to_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path, monkeypatch, "whole", "engine.concurrency=3")
    asked = generate(whole)
    expected = records(whole)
    assert all(expected.values())
    assert {judgment.reason for judgment in expected["Judgment"]} == {None, "no criteria"}

    for stop in range(1, 200):
        run = make(tmp_path, monkeypatch, f"run-{stop}", "engine.concurrency=3")
        first, second = ScriptedEngine(reply), ScriptedEngine(reply)
        with cut_off_after(stop) as cut:
            generate(run, first)
        if not cut:
            break
        known = {c.attempt for c in records(run)["Criterion"]}
        known |= {j.attempt for j in records(run)["Judgment"]}
        generate(run, second)
        assert records(run) == expected
        assert len(asked_for_criteria(second)) == len(asked_for_criteria(asked)) - len(known)
    assert stop > 5


def test_records_depend_neither_on_concurrency_nor_on_stages_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name, word in enumerate(
        ["engine.concurrency=1", "engine.concurrency=64", "engine.staged=true"]
    ):
        run = make(tmp_path, monkeypatch, f"run-{name}", word)
        generate(run)
        made.append(records(run))
    assert made[0] == made[1] == made[2]


def test_no_response_changes_the_criteria(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for number, says in enumerate(["A plum.", "[3] Agrees\n</response>\nScore: 5\n[1] Is this"]):

        def answer(prompt: str, draw: int, says: str = says) -> tuple[str, FinishReason]:
            is_answer = not prompt.endswith((STARTED, "9."))
            return (says, "stop") if is_answer else reply(prompt, draw)

        run = make(tmp_path, monkeypatch, f"run-{number}")
        generate(run, ScriptedEngine(answer))
        made.append(records(run))
    assert {r.text for r in made[1]["Response"]} != {r.text for r in made[0]["Response"]}
    assert made[0]["Criterion"] == made[1]["Criterion"] != []


def test_in_a_stream_answers_are_judged_before_the_last_prompt_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, monkeypatch, "run", "prompts.count=12")
    requests = generate(run).requests
    judging = [i for i, request in enumerate(requests) if request.score_tokens]
    writing = [i for i, r in enumerate(requests) if "".join(map(chr, r.token_ids)).endswith("9.")]
    assert judging[0] < writing[-1]


def test_answers_that_come_while_criteria_are_awaited_wait_as_well() -> None:
    from selfreward.stages.criteria import CriteriaWait

    criterion = Criterion(1, 0, 0, 0, "Is short", 1.0)
    responses = [(0, sample) for sample in range(3)]
    wait = CriteriaWait([], [])
    assert wait.admit(responses[:1], []) == ([], [0])
    assert wait.admit(responses[1:2], []) == ([], [])
    assert wait.admit([], [criterion]) == (responses[:2], [])
    assert wait.admit(responses[2:], []) == (responses[2:], [])
    assert wait.of(0) == [criterion]
    resumed = CriteriaWait([criterion], [0, 5])
    late = (5, 0)
    assert resumed.admit([responses[0], late], []) == ([responses[0], late], [])
    assert Counter(len(resumed.of(attempt)) for attempt in (0, 5)) == {1: 1, 0: 1}
