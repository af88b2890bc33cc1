"""From stages to committed records: what an earlier launch committed is never asked again."""

import asyncio
import json
from pathlib import Path

import pytest

from selfreward.configfile import build_config
from selfreward.creation import create_run
from selfreward.records import Judgment, Prompt, Response
from selfreward.rollout import Session, generate_iteration
from selfreward.run import Run
from selfreward.store import Store

from scripted import ScriptedChat, ScriptedEngine  # isort: skip

SMALL = ["sft=null", "prompts.count=4", "prompts.window=2", "responses.n=2", "judge.votes=2"]
KINDS: tuple[type, ...] = (Prompt, Response, Judgment)


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *overrides: str) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({}, [*SMALL, "judge.min_parse_rate=0", *overrides]), name)
    (run.path / "models" / "M0.json").write_text(json.dumps({"path": "m", "digest": "d"}))
    return run


def generate(run: Run, engine: ScriptedEngine | None = None) -> ScriptedEngine:
    engine = engine or ScriptedEngine(delay_s=0.002)

    def open_session(model: Path | str) -> Session:
        return Session(engine, ScriptedChat())  # type: ignore[arg-type]

    with run.owned() as store:
        asyncio.run(generate_iteration(run, store, 1, open_session))
    return engine


def records(run: Run) -> dict[str, list]:
    with run.store() as store:
        return {kind.__name__: store.records(kind, 1) for kind in KINDS}  # type: ignore[type-var]


def dataset(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {i}?"}) + "\n" for i in range(9)))
    return f"prompts.dataset={path}"


@pytest.mark.parametrize("source", ["written", "dataset"])
def test_work_cut_off_after_any_commit_goes_on_to_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    words = ["engine.concurrency=2", *([dataset(tmp_path)] if source == "dataset" else [])]
    whole = make(tmp_path, monkeypatch, "whole", *words)
    asked = len(generate(whole).requests)
    expected = records(whole)
    assert all(expected.values())

    class Stopped(Exception):
        """Stands for a kill right after a commit."""

    commits = 0
    add = Store.add
    for stop in range(1, 100):
        run = make(tmp_path, monkeypatch, f"run-{stop}", *words)
        commits = 0

        def add_and_stop(store: Store, rows: list, stop: int = stop) -> None:
            nonlocal commits
            add(store, rows)
            commits += 1
            if commits == stop:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(Store, "add", add_and_stop)
            try:
                generate(run)
            except Stopped:
                pass
            else:
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
    assert [(j.attempt, j.sample, j.vote) for j in made["Judgment"]] == [
        (*key, vote) for key in kept for vote in range(3)
    ]
    with run.store() as store:
        stages = {stage.stage: (stage.rows, stage.drops) for stage in store.stages()}
    assert stages == {
        "prompts": (4, len(made["Prompt"]) - 4),
        "responses": (len(kept), 12 - len(kept)),
        "judgments": (len(made["Judgment"]), 0),
    }
