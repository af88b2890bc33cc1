"""Runs the whole loop with a scripted engine and trainer, as a process that a test can kill.

    python -m tests.support.loop_driver RUN_DIRECTORY

All records, stages and models go through the real store; only the text and the weights are made up,
as a function of what went in.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from selfreward.config import EngineConfig
from selfreward.controller import launch
from selfreward.engines.sessions import Session, Sessions
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.training.base import OnLog, OnStep, Rewards, Training
from selfreward.workers.evaluate import evaluate_iteration
from selfreward.workers.jobs import train_iteration
from selfreward.workers.rollout import generate_iteration
from tests.support.scripted import Reply, ScriptedChat, ScriptedEngine


def run_until_done(work: Coroutine[Any, Any, None]) -> None:
    """As ``asyncio.run``, but without a word about a task that SIGTERM found."""

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), SystemExit):
            loop.default_exception_handler(context)

    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(tell)
        runner.run(work)


class ScriptedWorkers:
    """Does in this process what children do for a real run."""

    def __init__(self, run: Run, delay_s: float = 0.0, reply: Reply | None = None) -> None:
        self.run, self.delay_s, self.reply = run, delay_s, reply

    def prepare(self) -> None:
        base = self.run.path / "models" / "M0"
        if not base.exists():
            with durable.publish_directory(base) as directory:
                durable.write_file(directory / "weights", "M0")
        facts = {"path": str(base), "digest": durable.verify_directory(base)}
        durable.write_file(self.run.path / "models" / "M0.json", json.dumps(facts))

    def generate(self, iteration: int) -> None:
        sessions = Sessions(lambda settings, model: Session(engine, ScriptedChat()))
        engine = ScriptedEngine(self.reply, self.delay_s)
        with self._epoch_store() as store:
            run_until_done(generate_iteration(self.run, store, iteration, sessions))

    def train(self, iteration: int, stage: str = "train") -> None:
        with self._epoch_store() as store:
            train_iteration(
                self.run, store, iteration, ScriptedChat(), self.open_session, self.fit, stage
            )

    def open_session(self, settings: EngineConfig, model: Path | str) -> Session:
        return Session(ScriptedEngine(self.reply, self.delay_s), ScriptedChat())

    def fit(self, training: Training, rows: Sequence[Any], **told: Any) -> None:
        scripted_fit(training, rows, **told)

    def evaluate(self, iteration: int) -> None:
        sessions = Sessions(lambda settings, model: Session(engine, ScriptedChat()))
        engine = ScriptedEngine(self.reply, self.delay_s)
        with self._epoch_store() as store:
            run_until_done(evaluate_iteration(self.run, store, iteration, sessions))

    def close(self) -> None:
        """Nothing is kept."""

    def _epoch_store(self) -> Store:
        with self.run.store() as reader:
            return Store(self.run.records, epoch=reader.owner()["epoch"])


def scripted_fit(
    training: Training,
    rows: Sequence[Any],
    *,
    on_log: OnLog,
    on_step: OnStep,
    rewards: Rewards | None = None,
) -> None:
    """Weights that are a hash of everything a trainer would see; one checkpoint on the way."""
    seen = [(training.model / "weights").read_text(), training.seed, [str(row) for row in rows]]
    if rewards is not None:
        two = [[*map(ord, f"The answer is {n}."), *rewards.end_ids] for n in (4, 22)]
        seen.append([[v.score for v in rewards([(i, two)])[0]] for i in range(len(rows))])
    text = json.dumps(seen)
    weights = hashlib.sha256(text.encode()).hexdigest()
    checkpoint = training.checkpoints / "checkpoint-1"
    with durable.publish_directory(checkpoint) as directory:
        durable.write_file(directory / "weights", weights)
    on_log(1, {"loss": 0.5})
    on_step(1, 2)
    with durable.publish_directory(training.output) as directory:
        durable.write_file(directory / "weights", (checkpoint / "weights").read_text())
        for path in training.model.iterdir():  # such as a tokenizer, where the base has one
            if path.is_file() and path.name not in ("weights", durable.MANIFEST):
                durable.copy_file(path, directory / path.name)
    on_log(2, {"loss": 0.25})
    on_step(2, 2)


def main() -> None:
    run = Run(Path(sys.argv[1]))
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run, delay_s=0.002))


if __name__ == "__main__":
    main()
