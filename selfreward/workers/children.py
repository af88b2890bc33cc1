"""Child processes: the parent holds no model, so each piece of work gives all its memory back.

A child takes jobs, one JSON line each, on standard input. On standard output it answers each with
one JSON line, ``{}`` or ``{"error"}``, and before that with any number of lines ``{"said"}``;
whatever libraries print goes to its log. It ends after a job that failed, and when it is told to.
Standard input stays open: when it closes, the parent is gone and the child ends its own process
group. It writes under the run's owner epoch, so even an orphan that lives on can commit nothing.
"""

import os
from collections.abc import Callable

from selfreward.storage.changes import PREPARED, is_unchecked
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.workers.process import Child


class Children:
    """Does the loop's work in child processes; see ``controller.Workers``.

    Args:
        tick: Called a few times a second while a child works.
    """

    def __init__(self, run: Run, store: Store, tick: Callable[[], None]) -> None:
        self._run, self._store, self._tick = run, store, tick
        self._kept: Child | None = None

    def prepare(self) -> None:
        """Resolve the base model and check the config, unless an earlier launch did."""
        changed = is_unchecked(self._store.events())
        if changed or not os.path.isdir(self._run.base_model().get("path", "")):
            with self._open("prepare", 0) as child:
                self._work(child, "prepare", 0)
        if changed:
            self._store.add_event(PREPARED, "with the config of now")

    def generate(self, iteration: int) -> None:
        """Make prompts, responses and judgments, in a child that may live on for the next."""
        if self._kept is None:
            self._kept = self._open("generate", iteration, self._run.config.launch.engine_devices)
        self._work(self._kept, "generate", iteration)
        if not self._run.config.launch.engine_is_kept:
            self.close()

    def train(self, iteration: int, stage: str = "train") -> None:
        """Train and publish the next model."""
        with self._open(stage, iteration, self._run.config.launch.train_devices) as child:
            self._work(child, stage, iteration)

    def evaluate(self, iteration: int) -> None:
        """Measure the new model, in the child that goes on to generate with it, if it does."""
        if self._kept is None:
            self._kept = self._open("evaluate", iteration, self._run.config.launch.engine_devices)
        self._work(self._kept, "evaluate", iteration)

    def close(self) -> None:
        """End the child that was kept. Idempotent."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _open(self, work: str, iteration: int, devices: str | None = None) -> Child:
        return Child(self._run.log_path(iteration, work), devices)

    def _work(self, child: Child, work: str, iteration: int) -> None:
        job = {"run": str(self._run.path.resolve()), "epoch": self._store.epoch}
        job |= {"work": work, "iteration": iteration}
        child.work(job, f"{work} process of iteration {iteration}", self._tick)
