"""The loop: M0 -> M1 -> M2 -> ... (Self-Rewarding Language Models, arXiv 2401.10020).

    M0 --SFT on IFT + EFT--> M1                                    iteration 0
      with sft.selection: M0 --SFT--> SFT, which judges what people ranked; where it agrees with
      them its judgments are EFT rows too, from which M0 --SFT--> M1
    M(t) writes prompts, answers each N times, judges the answers  |
    best v worst of each prompt                                     | iteration t
    M(t) --DPO on the pairs, reference M(t)--> M(t+1)               |  or another train.method
    M(t+1) judges what people ranked: how good a judge is it?      |
      with best.continue_from=best an iteration starts from the best model so far, not from M(t)

Everything is committed to ``records.db`` as it is made and a stage is entered only while it is not
finished, so running the loop again continues where it ended, whatever ended it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from selfreward.config.run import asked_models
from selfreward.errors import IntegrityError, SelfRewardError, StoppedError, WaitingError
from selfreward.inputs import models
from selfreward.inputs.functions import run_functions
from selfreward.inputs.rankings import rankings_of
from selfreward.measures.best import best_model
from selfreward.measures.diversity import data_figures
from selfreward.measures.figures import figures_of, iteration_figures
from selfreward.measures.health import (
    AFTER_EVALUATION,
    BEFORE_TRAINING,
    finding,
    gates,
    key_of,
    remedy,
)
from selfreward.measures.reports import Health
from selfreward.measures.selection import selection_figures
from selfreward.records import (
    JUDGE_PAIRS,
    Comparison,
    GateName,
    Judgment,
    MetaJudgment,
    PreferencePair,
    Prompt,
    Response,
    judge_key,
    judge_stage,
)
from selfreward.sigterm import Terminated, sigterm_raises
from selfreward.stages.pairs import build_pairs, few_pairs_remedy
from selfreward.stages.selection import opinions_on, select
from selfreward.storage.awaited import awaited
from selfreward.storage.changes import ENDED
from selfreward.storage.committed import check_launch
from selfreward.storage.directory import Run
from selfreward.storage.leftovers import clean
from selfreward.storage.made import has_made
from selfreward.storage.starts import keep_start, start_of
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker


class Workers(Protocol):
    """What needs a model. Each call ends with its stages committed, or raises."""

    def prepare(self) -> None:
        """Find the base model and check everything that can be checked before the work."""

    def generate(self, iteration: int) -> None:
        """Make the prompts, responses and judgments that are still missing."""

    def train(self, iteration: int, stage: str = "train") -> None:
        """Publish ``models/M<iteration + 1>``: SFT in iteration 0, else by ``train.method``.

        Stage ``sft`` publishes ``models/SFT`` instead, which is trained without selected rows.
        """

    def evaluate(self, iteration: int) -> None:
        """Measure ``models/M<iteration + 1>`` as a judge, and by its answers."""

    def close(self) -> None:
        """Free whatever was kept for the next call. Idempotent."""


def run_loop(run: Run, store: Store, workers: Workers) -> None:
    """Do all that is left of a run.

    Raises:
        IntegrityError: The run's inputs or models are not what they were.
        StoppedError: The method cannot go on: too few prompts, verdicts or pairs, a health gate
            that stops, or a loss that is not finite. What was made is kept.
    """
    check_launch(run, store)
    store.plan({t: run.config.stages(t) for t in range(run.config.iterations + 1)})
    workers.prepare()
    run.check_fingerprints(store)
    check_base(run, store)
    run_functions(run)

    if run.config.sft is not None:
        if run.config.sft.selection is not None:
            if not store.finished(0, "sft"):
                workers.train(0, "sft")
            if not store.finished(0, "judgments"):
                workers.generate(0)
            if not store.finished(0, "selection"):
                select_judgments(run, store)
        if not store.finished(0, "train"):
            require_selected(run, store)
            workers.train(0)
    if run.config.sft is not None or run.config.evaluation.is_on:
        end_iteration(run, store, workers, 0)

    for iteration in range(1, run.config.iterations + 1):
        if not all(
            store.finished(iteration, stage) for stage in run.config.rollout_stages(iteration)
        ):
            choose_start(run, store, iteration)
            roll_out(run, store, workers, iteration)
        if not store.finished(iteration, "pairs"):
            pair_iteration(run, store, iteration)
        if JUDGE_PAIRS in run.config.stages(iteration) and not store.finished(
            iteration, JUDGE_PAIRS
        ):
            pair_judgments(run, store, iteration)
        if not store.finished(iteration, "train"):
            if run.config.train.takes_own_pairs:
                require_pairs(run, store, iteration)
            check_health(run, store, iteration, BEFORE_TRAINING)
            workers.train(iteration)
        end_iteration(run, store, workers, iteration)
        if ended := why_ended(run, store, iteration):
            store.add_event(ENDED, ended)
            return


def check_base(run: Run, store: Store) -> None:
    """Read the base model anew where it goes on to be used, and hold it against the digest kept.

    Raises:
        IntegrityError: It is not the model that the records were made with.
    """
    first = 0 if run.config.sft is not None else 1
    is_done = store.finished(first, "train") is not None
    named = asked_models(run.config) | {run.config.train.base}
    is_m1 = first == 1 and ("M1" in named or bool(run.config.responses.anchors))
    if not store.has_records() or (is_done and not is_m1 and "M0" not in named):
        return
    base = run.base_model()
    if models.digest(Path(base["path"])) != base["digest"]:
        raise IntegrityError(
            f"{base['path']}: not the model that this run began with",
            "Put the former model back, or start a new run.",
        )


def select_judgments(run: Run, store: Store) -> None:
    """Commit which judgments of iteration 0 become EFT rows, and the figures of the choice."""
    selection = run.config.selection
    assert selection is not None
    with Tracker(store, 0, "selection", total=1) as tracker:
        human = rankings_of(run)
        responses, judgments = store.records(Response, 0), store.records(Judgment, 0)
        opinions = opinions_on(human.rankings, responses)
        rows, drops = select(
            judgments,
            opinions,
            max_share=selection.max_share,
            run_seed=run.config.seed,
            combine=selection.combine,
        )
        figures = selection_figures(
            responses, judgments, opinions, drops, human.left_out, combine=selection.combine
        )
        tracker.finish(
            run,
            rows=len(rows),
            drops=len(drops),
            records=drops,
            reports={"selection": figures},
        )


def require_selected(run: Run, store: Store) -> None:
    """Refuse to train M1 where too few judgments agree with people.

    Raises:
        StoppedError: With the counts and the reasons.
    """
    selection = run.config.sft.selection if run.config.sft else None
    stage = store.finished(0, "selection")
    if selection is None or stage is None or stage.rows >= selection.min_rows:
        return
    drops = Counter(store.drop_reasons(0, "selection"))
    why = ", ".join(f"{reason} {count}" for reason, count in drops.most_common())
    raise StoppedError(
        f"iteration 0: {stage.rows} of {stage.rows + stage.drops} judgments selected, but "
        f"sft.selection.min_rows is {selection.min_rows}; dropped: {why or 'none'}",
        f"Read them with `selfreward show {run.name} --iteration 0`. More votes "
        "(sft.selection.votes), more ranked prompts or more written EFT rows (sft.eft) give more; "
        "judge.form=expected needs none of this: see docs/eft.md. Resume with "
        "sft.selection.min_rows=0 to go on all the same.",
    )


def choose_start(run: Run, store: Store, iteration: int) -> None:
    """Keep that an iteration starts from an older model, where ``best.continue_from`` says so.

    One that has begun goes on from the model that it began with.

    Raises:
        IntegrityError: The model is gone or damaged.
    """
    settings = run.config.best
    if settings.continue_from == "last" or has_made(store, iteration, "prompts"):
        return
    closed = (figures_of(store, before) for before in range(iteration))
    best = best_model(closed, settings.by, settings.margin)
    if best is None or best.number == iteration or start_of(store, iteration) != iteration:
        return
    run.policy(best.number)
    keep_start(store, iteration, best.number)
    store.add_event("start", f"iteration {iteration}: from {best.model}, the best by {settings.by}")


def roll_out(run: Run, store: Store, workers: Workers, iteration: int) -> None:
    """Make all that comes before the pairs: by models, and by those whose votes are imported.

    Raises:
        StoppedError: Votes from elsewhere are missing; the message says whose.
    """
    imported = {judge_stage(juror) for juror in run.config.judge.imported_jurors}

    def is_left() -> bool:
        """Whether a model has something to make that does not wait for votes from elsewhere."""
        open_ = [
            s for s in run.config.rollout_stages(iteration) if not store.finished(iteration, s)
        ]
        waits = not imported.isdisjoint(open_)
        return any(s not in imported and not (waits and s == "comparisons") for s in open_)

    take_imported(run, store, iteration)
    if is_left():
        workers.generate(iteration)
        take_imported(run, store, iteration)  # there may have been nothing to wait for
    if imported and is_left():
        workers.generate(iteration)
    require_imported(run, store, iteration)


def take_imported(run: Run, store: Store, iteration: int) -> None:
    """Finish the stages of those judges from elsewhere who have judged all that they were to."""
    judge = run.config.judge
    for juror in judge.imported_jurors:
        if awaited(store, iteration, juror, judge.truncated) != []:
            continue
        query = "SELECT count(*) FROM judgments WHERE iteration = ? AND juror = ?"
        [(count,)] = store.query(query, (iteration, juror))
        with Tracker(store, iteration, judge_stage(juror), total=count) as tracker:
            tracker.advance(count)
            tracker.finish(run, rows=count, drops=0)


def require_imported(run: Run, store: Store, iteration: int) -> None:
    """Stop until the votes from elsewhere are there.

    Raises:
        WaitingError: With how many are missing of whom, and how they come in.
    """
    judge = run.config.judge
    waits = [
        f"{name} ({judge_key(juror)}) on {len(left)} responses"
        for juror, name in judge.imported_jurors.items()
        if (left := awaited(store, iteration, juror, judge.truncated))
    ]
    if waits:
        target = f"{run.name}-wanted-{iteration}"
        raise WaitingError(
            f"iteration {iteration} waits for votes of {', '.join(waits)}",
            f"`selfreward export {run.handle} --what wanted --format csv --output {target}` writes "
            "these responses; fill in the column score, then `selfreward import "
            f"{run.handle} --judgments {target}/wanted.csv` and `selfreward resume {run.handle}`.",
        )


def pair_iteration(run: Run, store: Store, iteration: int) -> None:
    """Build and commit the preference pairs of an iteration."""
    with Tracker(store, iteration, "pairs", total=1) as tracker:
        pairs, drops = build_pairs(
            store.records(Prompt, iteration),
            store.records(Response, iteration),
            store.records(Judgment, iteration),
            run.config.pairs,
            run.config.judge.weights,
            store.records(Comparison, iteration),
        )
        tracker.finish(
            run,
            rows=len(pairs),
            drops=len(drops),
            records=[*pairs, *drops],
        )


def pair_judgments(run: Run, store: Store, iteration: int) -> None:
    """Build and commit the pairs of judgments of an iteration, by Elo."""
    from selfreward.stages.meta import judge_pairs

    assert run.config.meta is not None
    with Tracker(store, iteration, JUDGE_PAIRS, total=1) as tracker:
        pairs, drops = judge_pairs(
            store.records(Prompt, iteration),
            store.records(Response, iteration),
            store.records(Judgment, iteration),
            store.records(MetaJudgment, iteration),
            run.config.meta,
        )
        tracker.finish(run, rows=len(pairs), drops=len(drops), records=[*pairs, *drops])


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
    fewer = ""
    if pairs:
        fewer = f" Go on with so few: `selfreward resume {run.name} pairs.min_pairs={len(pairs)}`."
    raise StoppedError(
        f"iteration {iteration}: {len(pairs)} pairs, but pairs.min_pairs is {least}; "
        f"dropped: {why}",
        f"{few_pairs_remedy(run.config, run.name, drops)} Look at them with "
        f"`selfreward pairs {run.name}`.{fewer}",
    )


def check_health(run: Run, store: Store, iteration: int, names: Sequence[GateName]) -> None:
    """Hold an iteration against ``config.health``; keep all gates, and warn of these that fail.

    Raises:
        StoppedError: One of these fails and is in ``health.stop_on``.
    """
    figures = iteration_figures(store, iteration)
    found = gates(figures, run.config.health)
    if iteration == 0:  # has no pairs, and judgments of people's responses alone
        found = [gate for gate in found if gate.name in AFTER_EVALUATION]
    store.save_report(iteration, "health", Health(tuple(found)))
    failed = [gate for gate in found if gate.passed is False and gate.name in names]
    for gate in failed:
        store.add_event("warning", f"iteration {iteration}: {finding(gate)}")
    if stopping := [gate for gate in failed if gate.stops]:
        gate = stopping[0]
        raise StoppedError(
            f"iteration {iteration}: {finding(gate)}, and {gate.name} is in health.stop_on",
            f"{remedy(gate, figures)} To go on nonetheless: selfreward resume {run.name} "
            f"{key_of(gate)}=...",
        )


def end_iteration(run: Run, store: Store, workers: Workers, iteration: int) -> None:
    """Measure the new model, check what that shows, and keep the figures of the iteration."""
    if run.config.evaluation.is_on and not store.finished(iteration, "evaluate"):
        workers.evaluate(iteration)
    if store.figures(iteration, dict) is None:
        check_health(run, store, iteration, AFTER_EVALUATION)
        close_iteration(store, iteration)


def why_ended(run: Run, store: Store, iteration: int) -> str | None:
    """Why the run ends after an iteration, as its models are no longer better; None: it goes on."""
    settings = run.config.best
    if settings.patience is None or iteration == run.config.iterations:
        return None
    if any(stage.iteration > iteration for stage in store.stages()):
        return None  # it went on, before patience was asked for
    closed = (figures_of(store, before) for before in range(iteration + 1))
    best = best_model(closed, settings.by, settings.margin)
    if best is None or best.later < settings.patience:
        return None
    return (
        f"after iteration {iteration}: no model is better than {best.model} by {settings.by} since "
        f"{best.later} iterations (best.patience={settings.patience})"
    )


def close_iteration(store: Store, iteration: int) -> None:
    """Compute the figures of a finished iteration and keep them."""
    if iteration > 0 and (data := data_figures(store, iteration)):
        store.save_report(iteration, "data", data)
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
    with run.locked():  # before anything is written: the disk may be full of what goes here
        clean(run)
    with run.owned() as store, sigterm_raises() as raise_again:
        if workers is None:
            from selfreward.workers.children import Children

            def heed() -> None:
                raise_again()
                tick()

            workers = Children(run, store, heed)
        store.add_event("launched", f"epoch {store.epoch}")
        try:
            with closing(workers):
                run_loop(run, store, workers)
        except SelfRewardError as error:
            if isinstance(error, WaitingError):
                store.add_event("waiting", f"{error.message}. {error.hint}")
            else:
                store.add_event("error", f"{type(error).__name__}: {error.message}")
            raise
        except (KeyboardInterrupt, Terminated) as stop:
            store.add_event("stopped", type(stop).__name__)
            raise
        store.add_event("finished", f"{run.config.iterations} iterations")
