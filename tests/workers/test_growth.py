"""How much of a rollout stays in memory: what later steps need, and not what was committed."""

import asyncio
import gc
import tracemalloc
from itertools import count
from pathlib import Path

import pytest

from selfreward.engines.base import Generation, Request
from selfreward.engines.sessions import Session, Sessions
from selfreward.errors import IntegrityError
from selfreward.records import Judgment, Record, Response
from selfreward.storage.store import Store
from selfreward.workers.rollout import generate_iteration
from tests.support.rollout import make_run
from tests.support.scripted import ScriptedChat

RESPONSES, VOTES = 4, 2
WORDS = "Bread rises because yeast eats sugar and gives off gas. " * 6
ALLOWED = 300
"""Bytes a judgment at most, of two votes. A response that waits to be judged is a key and a call,
about 250 bytes; a prompt of a data set and what is known of it 1,000, over the votes on all its
answers. The records themselves, which once stayed, are 900 and more, by the length of texts."""


class Talker:
    """An engine whose texts are long, all different, and not kept."""

    def __init__(self) -> None:
        self.count = 0

    async def generate(self, request: Request) -> list[Generation]:
        await asyncio.sleep(0)
        self.count += 1
        end = "\nScore: 3" if request.n == VOTES else ""
        texts = [f"{self.count} {i} {WORDS}{end}" for i in range(request.n)]
        return [Generation(text, (), "stop", -9.0) for text in texts]

    async def load(self, model: Path) -> None:
        pass

    async def close(self) -> None:
        pass


def peak(root: Path, num_prompts: int) -> int:
    """Bytes that were held right after a commit, at most."""
    rows = root / f"{num_prompts}.jsonl"
    rows.write_text("".join(f'{{"prompt": "Tell me fact {i}."}}\n' for i in range(num_prompts)))
    words = [f"prompts.count={num_prompts}", f"prompts.dataset={rows}", "iterations=1", "sft=null"]
    words += [f"responses.n={RESPONSES}", f"judge.votes={VOTES}", "engine.concurrency=2"]
    words += ["responses.max_new_tokens=1000", "judge.max_new_tokens=1000", "judge.form=written"]
    run = make_run(f"run{num_prompts}", *words)
    sessions = Sessions(lambda settings, model: Session(Talker(), ScriptedChat()))  # type: ignore[arg-type,return-value]
    held, add, commits = [0], Store.add, count()

    def add_and_look(store: Store, new: list[Record]) -> None:
        add(store, new)
        if next(commits) % 8 == 0:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    with run.owned() as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "add", add_and_look)
        tracemalloc.start(1)
        try:
            asyncio.run(generate_iteration(run, store, 1, sessions))
        finally:
            tracemalloc.stop()
        made = store.records(Judgment, 1)
    assert len(made) == num_prompts * RESPONSES * VOTES
    return max(held)


@pytest.mark.slow
def test_a_rollout_grows_by_what_waits_and_not_by_what_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    peak(tmp_path, 5)  # what is loaded the first time
    few, many = 10, 60
    more = peak(tmp_path, many) - peak(tmp_path, few)
    assert more / ((many - few) * RESPONSES * VOTES) < ALLOWED


def test_a_rollout_that_goes_on_reads_what_is_committed_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("selfreward.storage.store._PART", 16)
    run = make_run("run", "prompts.count=1", "sft=null", "iterations=1")
    with run.owned() as store:
        store.add([Response(1, a, 0, f"{a} {WORDS}", "stop", 9) for a in range(600)])
        tracemalloc.start(1)
        try:
            held = [len(r.text) for r in store.each(Response, 1)]
            assert tracemalloc.get_traced_memory()[1] < 600 * len(WORDS) / 2
        finally:
            tracemalloc.stop()
        assert [r.text for r in store.each(Response, 1)] == [
            r.text for r in store.records(Response, 1)
        ]
    assert len(held) == 600


def test_a_record_is_found_by_its_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    run = make_run("run")
    made = [Response(1, a, s, f"{a}/{s}", "stop", 9) for a in range(3) for s in range(3)]
    with run.owned() as store:
        store.add(made)
        assert [store.record(Response, 1, r.attempt, r.sample) for r in made] == made
        with pytest.raises(IntegrityError, match="table responses: 0 rows have the key"):
            store.record(Response, 1, 7, 0)
