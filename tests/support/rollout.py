"""Generation of an iteration by scripted engines, in this process, cut off where a test likes."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs import models
from selfreward.inputs.collect import create_run
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.workers.rollout import generate_iteration
from tests.support.scripted import ScriptedChat, ScriptedEngine


def make_run(name: str, *words: str) -> Run:
    """A run whose base model is known by name alone, under the runs directory in force."""
    run = create_run(build_config({}, words), name)
    (run.path / "models" / "M0.json").write_text(json.dumps({"path": "m", "digest": "d"}))
    return run


def run_on_bytes(base: Path, *words: str) -> Run:
    """A run, without a seed step, whose base model is a file that no library could load."""
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    run = create_run(build_config({"model": str(base), "sft": None}, list(words)), "run")
    facts = {"path": str(base), "digest": models.digest(base)}
    (run.path / "models" / "M0.json").write_text(json.dumps(facts))
    return run


def generate(run: Run, engine: ScriptedEngine) -> ScriptedEngine:
    """Do iteration 1 up to its judgments with one engine, which is returned."""
    sessions = Sessions(lambda settings, model: Session(engine, ScriptedChat()))  # type: ignore[arg-type]
    with run.owned() as store:
        asyncio.run(generate_iteration(run, store, 1, sessions))
    return engine


def records(run: Run, *kinds: type) -> dict[str, list]:
    """The records of iteration 1, by the name of their kind."""
    with run.store() as store:
        return {kind.__name__: store.records(kind, 1) for kind in kinds}  # type: ignore[type-var]


@contextmanager
def cut_off_after(commits: int) -> Iterator[list[int]]:
    """End what is done within right after so many commits, as a kill would.

    Yields:
        A list that holds ``commits`` once that happened, and is empty where all was done before.
    """

    class Stopped(Exception):
        """Stands for the kill."""

    add, done, cut = Store.add, 0, list[int]()

    def add_and_stop(store: Store, rows: list) -> None:
        nonlocal done
        add(store, rows)
        done += 1
        if done == commits:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "add", add_and_stop)
        try:
            yield cut
        except Stopped:
            cut.append(commits)
