"""Child processes: the parent holds no model, so each piece of work gives all its memory back.

A child takes jobs, one JSON line each, on standard input. On standard output it answers each with
one JSON line, ``{}`` or ``{"error"}``, and before that with any number of lines ``{"said"}``;
whatever libraries print goes to its log. It ends after a job that failed, and when it is told to.
Standard input stays open: when it closes, the parent is gone and the child ends its own process
group. It writes under the run's owner epoch, so even an orphan that lives on can commit nothing.

While one child does its job the next one is started and imports what it will need, which takes
seconds: a child begins by reading files and weights, and one that trains ends by writing them,
which keeps one core busy. One that is not needed after all is ended.
"""

import os
from collections.abc import Callable

from selfreward.engines.kinds import TRANSFORMERS, engine_imports
from selfreward.storage.changes import PREPARED, is_unchecked
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.workers.process import Child

_JOBS = "selfreward.workers.jobs:"
_TRL = ("trl:DPOTrainer", "trl:SFTTrainer")
"""What a child imports before it has its job: what is always installed, and slow to import."""


class Children:
    """Does the loop's work in child processes; see ``controller.Workers``.

    Args:
        tick: Called a few times a second while a child works.
    """

    def __init__(self, run: Run, store: Store, tick: Callable[[], None]) -> None:
        self._run, self._store, self._tick = run, store, tick
        self._kept: Child | None = None
        self._next: Child | None = None
        self._kept_prints = False
        """Whether the kept one has its log: that of its first work, as its engine prints there."""

    def prepare(self) -> None:
        """Resolve the base model and check the config, unless an earlier launch did.

        The child that does so is there for what comes next.
        """
        changed = is_unchecked(self._store.events())
        if changed or not os.path.isdir(self._run.base_model().get("path", "")):
            self._next = self._new(trains=self._run.config.sft is not None)
            self._work(self._next, "prepare", 0)
        if changed:
            self._store.add_event(PREPARED, "with the config of now")

    def generate(self, iteration: int) -> None:
        """Make prompts, responses and judgments, in a child that may live on for the next."""
        if self._kept is None:
            self._kept = self._open(self._run.config.launch.engine_devices)
        self._work(self._kept, "generate", iteration)
        if not self._run.config.engine_is_kept:
            self._end_kept()

    def train(self, iteration: int, stage: str = "train") -> None:
        """Train and publish the next model."""
        if self._kept is not None and self._run.config.engine_sleeps:
            self._work(self._kept, "sleep", iteration)
        with self._open(self._run.config.launch.train_devices) as child:
            self._work(child, stage, iteration)

    def evaluate(self, iteration: int) -> None:
        """Measure the new model, in the child that goes on to generate with it, if it does."""
        if self._kept is None:
            self._kept = self._open(self._run.config.launch.engine_devices)
        self._work(self._kept, "evaluate", iteration)

    def close(self) -> None:
        """End all children. Idempotent."""
        self._end_next()
        self._end_kept()

    def _end_kept(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept, self._kept_prints = None, False

    def _end_next(self) -> None:
        if self._next is not None:
            self._next.kill(grace_s=0)
            self._next = None

    def _open(self, devices: str | None = None) -> Child:
        """The child that was started for this, or another where that is dead or sees others."""
        if self._next is not None and self._next.is_alive and self._next.devices == devices:
            child, self._next = self._next, None
            return child
        self._end_next()
        return Child(devices)

    def _start_next(self, work: str, iteration: int) -> None:
        """Start the child that comes after one that does this work; a guess that may be wrong."""
        config = self._run.config
        is_over = iteration == config.iterations and not config.evaluation.is_on
        if work in ("evaluate", "sleep"):  # the same child goes on, or another is there already
            return
        if work in ("sft", "train") and (is_over or self._kept is not None):
            return
        self._next = self._new(trains=work == "generate")

    def _new(self, *, trains: bool) -> Child:
        """A child that imports what training takes, or what asking an engine does."""
        config, launch = self._run.config, self._run.config.launch
        if not trains:
            return Child(launch.engine_devices, (_JOBS, *engine_imports(config.engine.kind)))
        # Where several processes train, the child starts these and has no use for TRL itself.
        alone = launch.processes == 1 and launch.command is None
        return Child(launch.train_devices, (_JOBS, *TRANSFORMERS, *(_TRL if alone else ())))

    def _work(self, child: Child, work: str, iteration: int) -> None:
        job = {"run": str(self._run.path.resolve()), "epoch": self._store.epoch}
        job |= {"work": work, "iteration": iteration}
        if child is not self._kept or not self._kept_prints:
            job["log"] = str(self._run.log_path(iteration, work).resolve())
        self._kept_prints |= child is self._kept

        def start_next(said: object = None) -> None:
            if self._next is None:
                self._start_next(work, iteration)

        if work not in ("sft", "train"):  # whose steps take the most memory; it says when they end
            start_next()
        child.work(job, f"{work} process of iteration {iteration}", self._tick, start_next)
