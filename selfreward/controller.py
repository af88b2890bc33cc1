"""The loop: M0 -> M1 -> M2 -> ... (Self-Rewarding Language Models, arXiv 2401.10020).

    M0 --SFT on IFT + EFT--> M1                                  iteration 0
    M(t) writes prompts, answers each N times, judges the answers  |
    best v worst of each prompt                                     | iteration t
    M(t) --DPO on the pairs, reference M(t)--> M(t+1)               |

Everything is committed to ``records.db`` as it is made and a stage is entered only while it is not
finished, so running the loop again continues where it ended, whatever ended it.
"""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import Protocol

from selfreward.errors import SelfRewardError, StoppedError
from selfreward.records import Judgment, PreferencePair, Prompt, Response, Stage
from selfreward.reporting.figures import iteration_figures
from selfreward.run import Run, versions
from selfreward.stages.pairs import build_pairs
from selfreward.store import Store, digest
from selfreward.tracker import Tracker


class Workers(Protocol):
    """What needs a model. Each call ends with its stages committed, or raises."""

    def prepare(self) -> None:
        """Find the base model and check everything that can be checked before the work."""

    def generate(self, iteration: int) -> None:
        """Make the prompts, responses and judgments that are still missing."""

    def train(self, iteration: int) -> None:
        """Publish ``models/M<iteration + 1>``: SFT in iteration 0, else DPO."""

    def close(self) -> None:
        """Free whatever was kept for the next call. Idempotent."""


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt for Ctrl-C."""


def run_loop(run: Run, store: Store, workers: Workers) -> None:
    """Do all that is left of a run.

    Raises:
        IntegrityError: The run's inputs or models are not what they were.
        StoppedError: The method cannot go on: too few prompts, verdicts or pairs, or the loss
            is not finite. What was made is kept.
    """
    workers.prepare()
    run.check_fingerprints(store)

    if run.config.sft is not None and not store.finished(0, "train"):
        workers.train(0)
        close_iteration(store, 0)

    for iteration in range(1, run.config.iterations + 1):
        if not store.finished(iteration, "judgments"):
            workers.generate(iteration)
        if not store.finished(iteration, "pairs"):
            pair_iteration(run, store, iteration)
        if not store.finished(iteration, "train"):
            require_pairs(run, store, iteration)
            workers.train(iteration)
        if store.figures(iteration) is None:
            close_iteration(store, iteration)


def pair_iteration(run: Run, store: Store, iteration: int) -> None:
    """Build and commit the preference pairs of an iteration."""
    with Tracker(store, iteration, "pairs", total=1) as tracker:
        pairs, drops = build_pairs(
            store.records(Prompt, iteration),
            store.records(Response, iteration),
            store.records(Judgment, iteration),
            run.config.pairs,
        )
        stage = Stage(
            iteration=iteration,
            stage="pairs",
            rows=len(pairs),
            drops=len(drops),
            digest=digest(pairs),
            fingerprint=run.stage_fingerprint(store, iteration, "pairs"),
            seconds=tracker.seconds,
            versions=versions(),
        )
        store.finish_stage(stage, [*pairs, *drops])


def require_pairs(run: Run, store: Store, iteration: int) -> None:
    """Refuse to train on too little.

    Raises:
        StoppedError: With the counts and the reasons.
    """
    pairs = store.records(PreferencePair, iteration)
    least = run.config.pairs.min_pairs
    if len(pairs) >= least:
        return
    drops = Counter(store.drop_reasons(iteration, "pairs"))
    why = ", ".join(f"{reason} {count}" for reason, count in drops.most_common()) or "no prompts"
    raise StoppedError(
        f"iteration {iteration}: {len(pairs)} pairs, but pairs.min_pairs is {least}; "
        f"dropped: {why}",
        f"Look at the scores (`selfreward scores {run.name}`). A judge that always says the same "
        "needs EFT data, judge.form=expected or another template.",
    )


def close_iteration(store: Store, iteration: int) -> None:
    """Compute the figures of a finished iteration and keep them."""
    store.save_figures(iteration, iteration_figures(store, iteration))


def launch(run: Run, tick: Callable[[], None], workers: Workers | None = None) -> None:
    """Own the run, do all that is left of it, and note how that ended.

    Args:
        tick: Called a few times a second while child processes work.
        workers: What does the work; default: child processes.

    Raises:
        LockedError: Another process owns the run.
        KeyboardInterrupt, Terminated: Ctrl-C or SIGTERM; all that was committed stays.
        SelfRewardError: See ``run_loop``.
    """
    with run.owned() as store, _sigterm_raises():
        if workers is None:
            from selfreward.children import Children

            workers = Children(run, store, tick)
        store.add_event("launched", f"epoch {store.epoch}")
        try:
            with closing(workers):
                run_loop(run, store, workers)
        except SelfRewardError as error:
            store.add_event("error", f"{type(error).__name__}: {error.message}")
            raise
        except (KeyboardInterrupt, Terminated) as stop:
            store.add_event("stopped", type(stop).__name__)
            raise
        store.add_event("finished", f"{run.config.iterations} iterations")


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
