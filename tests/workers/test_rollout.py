"""From stages to committed records: what an earlier launch committed is never asked again."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from selfreward.config import EngineConfig
from selfreward.engines.base import Generation, Request, RequestError
from selfreward.engines.sessions import Session, Sessions
from selfreward.errors import PreflightError
from selfreward.records import FORMS, FinishReason, Judgment, Prompt, Response
from selfreward.stages.pairs import build_pairs
from selfreward.storage.directory import Run
from selfreward.workers.rollout import generate_iteration
from tests.support import rollout
from tests.support.rollout import cut_off_after
from tests.support.scripted import ScriptedChat, ScriptedEngine, scripted_reply

SMALL = ["sft=null", "prompts.count=4", "prompts.window=2", "responses.n=2", "judge.votes=2"]
KINDS: tuple[type, ...] = (Prompt, Response, Judgment)


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *overrides: str) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return rollout.make_run(name, *SMALL, "judge.min_parse_rate=0", *overrides)


def generate(run: Run, engine: ScriptedEngine | None = None) -> ScriptedEngine:
    return rollout.generate(run, engine or ScriptedEngine(delay_s=0.002))


def records(run: Run) -> dict[str, list]:
    return rollout.records(run, *KINDS)


def dataset(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {i}?"}) + "\n" for i in range(9)))
    return f"prompts.dataset={path}"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["written", "dataset"])
def test_work_cut_off_after_any_commit_goes_on_to_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    words = ["engine.concurrency=2", *([dataset(tmp_path)] if source == "dataset" else [])]
    whole = make(tmp_path, monkeypatch, "whole", *words)
    asked = len(generate(whole).requests)
    expected = records(whole)
    assert all(expected.values())

    for stop in range(1, 100):
        run = make(tmp_path, monkeypatch, f"run-{stop}", *words)
        with cut_off_after(stop) as cut:
            generate(run)
        if not cut:
            break
        assert len(generate(run).requests) < asked or (source == "dataset" and stop == 1)
        assert records(run) == expected
    assert stop > 5


def test_finished_work_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, monkeypatch, "run")
    generate(run)
    before = records(run)
    assert generate(run).requests == []
    assert records(run) == before


def test_records_do_not_depend_on_how_many_requests_are_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for number in (1, 3, 64):
        run = make(tmp_path, monkeypatch, f"run-{number}", f"engine.concurrency={number}")
        generate(run)
        made.append(records(run))
    assert made[0] == made[1] == made[2]


def test_every_accepted_prompt_is_answered_n_times_and_every_kept_answer_judged_k_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, monkeypatch, "run", "responses.n=3", "judge.votes=3")
    generate(run)
    made = records(run)
    accepted = [prompt.attempt for prompt in made["Prompt"] if prompt.dropped is None]
    assert len(accepted) == 4
    assert [(r.attempt, r.sample) for r in made["Response"]] == [
        (attempt, sample) for attempt in accepted for sample in range(3)
    ]
    kept = [(r.attempt, r.sample) for r in made["Response"] if r.dropped is None]
    whole = [(r.attempt, r.sample) for r in made["Response"] if not (r.dropped or r.truncated)]
    assert [(j.attempt, j.sample, j.vote) for j in made["Judgment"]] == [
        (*key, vote) for key in whole for vote in range(3)
    ]
    with run.store() as store:
        stages = {stage.stage: (stage.rows, stage.drops) for stage in store.stages()}
    assert stages == {
        "prompts": (4, len(made["Prompt"]) - 4),
        "responses": (len(kept), 12 - len(kept)),
        "judgments": (len(made["Judgment"]), 0),
    }


def cut_off(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Every third answer is, and no prompt or verdict."""
    text, _ = scripted_reply(prompt, 32 * number + 5)
    is_answer = prompt.startswith("<user>Question") and "Score: <" not in prompt
    return text, "length" if is_answer and number % 3 == 0 else "stop"


@pytest.mark.parametrize("form", ["written", "expected"])
def test_a_truncated_answer_is_judged_only_where_asked_for_and_pairs_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    words = ["responses.n=6", f"judge.form={form}", f"judge.template={FORMS[form].template}"]
    pairs, judgments = [], []
    for name in ("left", "judged", "earlier"):
        override = ["judge.truncated=true"] if name == "judged" else []
        run = make(tmp_path, monkeypatch, name, *words, dataset(tmp_path), *override)
        if name == "earlier":  # made before there was the key
            text = run.resolved.read_text()
            run.resolved.write_text(text.replace("  truncated: false\n", ""))
            assert run.resolved.read_text() != text
        generate(Run(run.path), ScriptedEngine(cut_off))
        made = records(run)
        answers = {(r.attempt, r.sample): r.truncated for r in made["Response"] if not r.dropped}
        assert 0 < sum(answers.values()) < len(answers)
        expected = {key for key, truncated in answers.items() if name != "left" or not truncated}
        assert {(j.attempt, j.sample) for j in made["Judgment"]} == expected
        judgments.append(made["Judgment"])
        pairs.append(
            build_pairs(made["Prompt"], made["Response"], made["Judgment"], run.config.pairs)
        )
        with run.store() as store:
            finished = store.finished(1, "judgments")
            [progress] = [p for p in store.progress() if p.stage == "judgments"]
        assert finished is not None
        assert progress.done == progress.total == finished.rows == len(made["Judgment"])
    assert pairs[0] == pairs[1] == pairs[2]
    assert judgments[1] == judgments[2]


@pytest.mark.parametrize("source", ["written", "dataset"])
def test_a_stream_and_stages_one_after_another_make_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    made, digests = [], []
    words = [dataset(tmp_path)] if source == "dataset" else []
    for staged in ("false", "true"):
        run = make(tmp_path, monkeypatch, f"staged-{staged}", f"engine.staged={staged}", *words)
        generate(run)
        made.append(records(run))
        with run.store() as store:
            digests.append([(s.stage, s.rows, s.drops, s.digest) for s in store.stages()])
    assert made[0] == made[1]
    assert digests[0] == digests[1]
    assert [stage for stage, *_ in digests[0]] == ["prompts", "responses", "judgments"]


def test_a_run_never_asks_for_answers_to_what_its_models_are_measured_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "Explain to a ten-year-old why the sky turns red at sunset."  # of the shipped ones
    rows = [f"Now, {question}", *(f"Question {i}?" for i in range(20))]
    path = tmp_path / "near.jsonl"
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    words = [f"prompts.dataset={path}", "evaluation.questions=seed/questions.jsonl"]
    for name, more in (("kept-back", []), ("off", ["prompts.overlap_words=null"])):
        run = make(tmp_path, monkeypatch, name, *words, *more)
        generate(run)
        with run.store() as store:
            first = store.records(Prompt, 1)[0]
            answered = {response.attempt for response in store.records(Response, 1)}
        dropped = None if more else "held out"
        assert (first.dropped, first.detail) == (dropped, "" if more else question)
        assert (0 in answered) == bool(more)


@pytest.mark.parametrize(("staged", "streams"), [("false", True), ("true", False)])
def test_in_a_stream_judging_begins_before_the_last_prompt_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staged: str, streams: bool
) -> None:
    run = make(tmp_path, monkeypatch, "run", f"engine.staged={staged}", "prompts.count=12")
    asked = ["".join(map(chr, r.token_ids)) for r in generate(run).requests]
    judging = [i for i, text in enumerate(asked) if "Score: <" in text[-200:]]
    writing = [i for i, text in enumerate(asked) if text.endswith("9.")]
    assert judging and writing
    assert (judging[0] < writing[-1]) == streams


def test_no_more_requests_are_in_flight_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = generate(make(tmp_path, monkeypatch, "run", "engine.concurrency=3"))
    assert engine.most_in_flight == 3
    assert engine.in_flight == 0


def test_requests_that_fail_are_recorded_and_the_stream_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            if request.seed % 3 == 0:
                self.requests.append(request)
                raise RequestError("too long", "9000 tokens")
            return await super().generate(request)

    run = make(tmp_path, monkeypatch, "run", "prompts.count=9")
    generate(run, Failing())
    made = records(run)
    assert sum(prompt.dropped is None for prompt in made["Prompt"]) == 9
    for kind, field in ("Prompt", "dropped"), ("Response", "dropped"), ("Judgment", "reason"):
        assert any(getattr(record, field) == "too long" for record in made[kind]), kind
    with run.store() as store:
        assert len(store.stages()) == 3


def test_what_came_in_before_the_engine_died_is_committed_and_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path, monkeypatch, "whole")
    asked = len(generate(whole).requests)

    class Dying(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            if len(self.requests) > 12:
                raise PreflightError("no endpoint answers")
            return await super().generate(request)

    run = make(tmp_path, monkeypatch, "run")
    with pytest.raises(PreflightError, match="no endpoint"):
        generate(run, Dying(delay_s=0.002))
    assert any(records(run).values())
    assert len(generate(run).requests) < asked
    assert records(run) == records(whole)


def test_the_time_of_stages_that_share_a_stream_adds_up_to_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, monkeypatch, "run", "prompts.count=8")
    begin = time.monotonic()
    generate(run, ScriptedEngine(delay_s=0.02))
    took = time.monotonic() - begin
    with run.store() as store:
        spent = [stage.seconds for stage in store.stages()]
    assert all(seconds > 0 for seconds in spent)
    assert 0.5 * took < sum(spent) < took


class Opened:
    """Opens scripted engines and remembers all of them."""

    def __init__(self) -> None:
        self.engines: list[tuple[EngineConfig, Path | str, ScriptedEngine]] = []

    def __call__(self, settings: EngineConfig, model: Path | str) -> Session:
        assert not any(
            not engine.closed and settings.kind != "server" != other.kind
            for other, _, engine in self.engines
        ), "two local models at once"
        engine = ScriptedEngine()
        self.engines.append((settings, model, engine))
        return Session(engine, ScriptedChat())  # type: ignore[arg-type]


def models_of(run: Run, opened: Opened) -> list[tuple[str, str]]:
    sessions = Sessions(opened)

    async def work() -> None:
        with run.owned() as store:
            await generate_iteration(run, store, 1, sessions)
        await sessions.close()

    asyncio.run(work())
    assert all(engine.closed for *_, engine in opened.engines)
    return [(settings.kind, str(model)) for settings, model, _ in opened.engines]


def test_one_engine_serves_all_stages_of_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models_of(make(tmp_path, monkeypatch, "run"), Opened()) == [("auto", "m")]


def test_another_author_is_closed_before_the_policy_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, monkeypatch, "run", "prompts.author=org/author")
    assert models_of(run, Opened()) == [("auto", "org/author"), ("auto", "m")]


def test_a_judge_behind_endpoints_joins_the_stream_of_a_local_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(
        tmp_path, monkeypatch, "run", "prompts.count=12", "judge.model=hosted",
        "judge.engine.kind=server", "judge.engine.endpoints=[http://localhost:1/v1]",
    )  # fmt: skip
    opened = Opened()
    assert models_of(run, opened) == [("auto", "m"), ("server", "hosted")]
    assert all("Score: <" in "".join(map(chr, r.token_ids)) for r in opened.engines[1][2].requests)


def test_a_policy_and_a_judge_on_one_server_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(
        tmp_path, monkeypatch, "run", "prompts.count=12", "judge.model=org/judge",
        "engine.kind=server", "engine.endpoints=[http://localhost:1/v1]",
    )  # fmt: skip
    opened = Opened()
    assert models_of(run, opened) == [("server", "m"), ("server", "org/judge")]
    judged = ["Score: <" in "".join(map(chr, r.token_ids)) for r in opened.engines[0][2].requests]
    assert not any(judged)


def test_checkpoints_of_the_run_follow_each_other_in_place_and_other_models_do_not() -> None:
    opened, settings = Opened(), EngineConfig()
    sessions = Sessions(opened)

    async def work() -> None:
        first = await sessions.get(settings, Path("M1"))
        assert await sessions.get(settings, Path("M1")) is first
        assert (await sessions.get(settings, Path("M2"))).engine is first.engine
        assert opened.engines[0][2].model == Path("M2")
        assert await sessions.get(settings, "org/judge") is not first
        assert opened.engines[0][2].closed
        await sessions.close()

    asyncio.run(work())
    assert [str(model) for _, model, _ in opened.engines] == ["M1", "org/judge"]
    assert opened.engines[1][2].closed
