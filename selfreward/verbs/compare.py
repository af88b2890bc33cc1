"""What ``selfreward compare`` does: the arms of an experiment run, then held against each other.

    Arms -> their reward models -> every run that is not finished, one after the other -> figures

Each arm and seed is a run like any other, so all verbs take it, and what cuts this off is gone on
from by the same command. A run begins with what another of its seed has made, where both would make
the same.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Protocol

from selfreward.errors import SelfRewardError, StoppedError
from selfreward.inputs.shared import Beginning, beginning, create_sharing_run
from selfreward.measures.arms import ArmMeasure, RunValues, arm_measures, run_values
from selfreward.measures.best import best_of
from selfreward.measures.figures import IterationFigures, figures_of
from selfreward.measures.sampled import num_sampled
from selfreward.storage.changes import branch_of
from selfreward.storage.directory import Run
from selfreward.verbs.arm_rewards import reward_reports, train_rewards
from selfreward.verbs.arms import ArmRun, Arms, as_named, brought_up, is_there, planned
from selfreward.verbs.layout import duration
from selfreward.verbs.maintenance import told_as_damage
from selfreward.verbs.plan import plan_of
from selfreward.verbs.status import is_complete
from selfreward.verbs.train_reward import RewardReport

MOST_APART = 0.1
"""By what share of the first arm's another arm's use of something may differ before it is marked;
ours."""
_Took = dict[tuple[str | None, bool, str], float]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run of an arm takes at most; see ``plan``."""

    arm: str
    tokens: int
    """Sampled, over all iterations, without the evaluation."""
    steps: int
    """Of the optimizer."""
    apart: tuple[str, ...]
    """As in ``ComparedArm``."""


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """What an experiment is going to do."""

    experiment: str
    path: str
    budgets: tuple[Budget, ...]
    rewards: Mapping[str, RewardReport | None]
    """The reward models that are trained first; None: still to be made."""
    runs: tuple[ArmRun, ...]
    seconds: float | None
    """That all is going to take, as in those of its runs that have done as much; else None."""


class Launch(Protocol):
    """Does all that is left of a run."""

    def __call__(self, run: Run, *, is_new: bool) -> None:
        """See ``api.launch``."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a run of an arm takes, mean over its seeds; what it has of others counts as its own."""

    prompts: float
    """Accepted, over all iterations, as in what follows."""
    responses: float
    votes: float
    """Judgments asked of all judges; comparisons count by their tokens alone."""
    tokens: float
    """Sampled for prompts, responses and judgments, and in training by RL; not those of the
    evaluation."""
    steps: float
    """Of the optimizer, those of the seed step among them."""
    seconds: float
    """All stages, the evaluation among them."""


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run of an arm as it is now."""

    run: str
    seed: int
    is_finished: bool
    """Only then is it part of the figures."""
    last: str | None
    """Its newest model that was measured."""
    best: str | None
    """Its best one by ``best.by``."""
    copied: str | None
    """From which run its first stages are; None: it made all itself."""
    stopped: str | None
    """Why it cannot go on, if it was tried just now."""


@dataclass(frozen=True, slots=True)
class ComparedArm:
    """What an arm came to."""

    name: str
    source: str
    """The recipe or config file that it is made of."""
    runs: tuple[ComparedRun, ...]
    use: Use | None
    """None while none of its runs is finished."""
    apart: tuple[str, ...]
    """The fields of ``use`` that differ from the first arm's by more than ``MOST_APART``."""
    measures: tuple[ArmMeasure, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """An experiment as it is now."""

    experiment: str
    path: str
    by: str
    """``best.by`` of its arms."""
    seeds: tuple[int, ...]
    arms: tuple[ComparedArm, ...]
    rewards: Mapping[str, RewardReport | None]
    """The reward models that arms learn from; None: still to be made. What they took is in no
    arm's ``use``."""

    @property
    def measures(self) -> list[str]:
        """All that any arm has, in order."""
        return [*dict.fromkeys(one.measure for arm in self.arms for one in arm.measures)]


def compare_plan(arms: Arms) -> ComparePlan:
    """What is left of an experiment, and what each arm takes at most."""
    plans = [plan_of(arm.checked, arm.lies_by) for arm in arms.arms]
    limits = [{"tokens": p["tokens"]["sampled_at_most"], "steps": p["steps"]} for p in plans]
    budgets = tuple(
        Budget(arm.name, **each, apart=_apart(limits[0], each))
        for arm, each in zip(arms.arms, limits, strict=True)
    )
    runs = tuple(planned(arms))
    left = seconds_left(arms, runs)
    return ComparePlan(arms.name, str(arms.path), budgets, reward_reports(arms), runs, left)


def run_arms(arms: Arms, launch: Launch, say: Callable[[str], None]) -> dict[str, StoppedError]:
    """Do all that is left of an experiment.

    An arm that cannot go on, as for want of pairs, keeps no other from its turn.

    Args:
        launch: Does what is left of one run.
        say: Told before each run which it is, and how long all may take.

    Returns:
        By run why it cannot go on.

    Raises:
        SelfRewardError, KeyboardInterrupt: See ``api.launch``; what is made stays.
    """
    for arm, seed in arms.each:
        if is_there(run := arms.run(arm.name, seed)):
            brought_up(run, arm.with_seed(seed)[0], arms.name)
    is_left = any(row.state != "finished" for row in planned(arms))
    train_rewards(arms, say, is_left=is_left)
    stopped: dict[str, StoppedError] = {}
    for number, (arm, seed) in enumerate(arms.each):
        rows = planned(arms)[number:]
        if rows[0].state == "finished":
            continue
        run = arms.run(arm.name, seed)
        config, files = arm.with_seed(seed)
        is_new = not is_there(run)
        found = beginning(config, files, arms.of_seed(seed)) if is_new else None
        say(_line(arms, rows[0], number + 1, found, seconds_left(arms, rows)))
        if is_new:
            run = create_sharing_run(run.name, files, found)
        try:
            if not is_complete(run):
                launch(run, is_new=is_new)
        except StoppedError as error:
            stopped[run.name] = error
            say(f"{run.name} cannot go on: {error.message}")
            if error.hint:
                say(f"hint: {error.hint}")
    return stopped


def compared(arms: Arms, stopped: dict[str, StoppedError] | None = None) -> Compared:
    """The figures of an experiment, of the runs that are finished.

    Args:
        stopped: What ``run_arms`` told.

    Raises:
        IntegrityError: A run is damaged.
    """
    found: list[ComparedArm] = []
    first: list[RunValues] | None = None
    first_use: Use | None = None
    for arm in arms.arms:
        runs, values, uses = [], [], []
        for seed in arms.seeds:
            run = arms.run(arm.name, seed)
            one, given, use = _run(run, seed, (stopped or {}).get(run.name))
            runs.append(one)
            values += [given] if given else []
            uses += [use] if use else []
        use = _mean(uses) if uses else None
        is_first = arm is arms.arms[0]
        found.append(
            ComparedArm(
                name=arm.name,
                source=arm.source,
                runs=tuple(runs),
                use=use,
                apart=_apart(asdict(first_use), asdict(use)) if first_use and use else (),
                measures=tuple(
                    replace(one, measure=as_named(one.measure, arms.name))
                    for one in arm_measures(values, None if is_first else first or [])
                ),
            )
        )
        if is_first:
            first, first_use = values, use
    by = arms.arms[0].config.best.by
    rewards = reward_reports(arms)
    return Compared(arms.name, str(arms.path), by, arms.seeds, tuple(found), rewards)


def seconds_left(arms: Arms, rows: Sequence[ArmRun]) -> float | None:
    """Seconds that the stages left will take, as long as they took before in runs of these arms.

    Returns:
        None while a stage is left that none of them has finished.
    """
    took = _took(arms)
    left = 0.0
    for row in rows:
        for t, stage in row.left:
            needs = took.get((row.arm, t > 0, stage), took.get((None, t > 0, stage)))
            if needs is None:
                return None
            left += needs
    return left


def _took(arms: Arms) -> _Took:
    """Seconds by arm, whether it is of a later iteration, and stage; without an arm over all."""
    found: defaultdict[tuple[str | None, bool, str], list[float]] = defaultdict(list)
    for arm, seed in arms.each:
        if not is_there(run := arms.run(arm.name, seed)):
            continue
        with run.store() as store:
            for row in store.stages():
                for name in (arm.name, None):
                    found[name, row.iteration > 0, row.stage].append(row.seconds)
    return {key: fmean(seconds) for key, seconds in found.items()}


def _line(arms: Arms, row: ArmRun, number: int, found: Beginning | None, left: float | None) -> str:
    """Such as ``run 3 of 6: arm rpo, seed 1 (quick-rpo-1); about 4 min 05 s left for all``."""
    begins = f"; begins as {found.run.name} up to {place(*found.stages[-1])}" if found else ""
    time = "" if left is None else f"; about {duration(left)} left for all"
    count = len(arms.arms) * len(arms.seeds)
    return f"run {number} of {count}: arm {row.arm}, seed {row.seed} ({row.run}){begins}{time}"


def place(iteration: int, stage: str) -> str:
    """Such as ``M1``, or ``pairs of iteration 1``."""
    if stage == "train":
        return f"M{iteration + 1}"
    return f"{stage} of M{iteration + 1}" if stage == "evaluate" else f"{stage} {iteration}"


def _run(
    run: Run, seed: int, stopped: SelfRewardError | None
) -> tuple[ComparedRun, RunValues | None, Use | None]:
    """A run, what its models are given, and what it took; the last two where it is finished."""
    said = stopped.message if stopped else None
    if not is_there(run):
        return ComparedRun(run.name, seed, False, None, None, None, said), None, None
    with told_as_damage(run):
        with run.store() as store:
            branch = branch_of(store.events())
            figures = [figures_of(store, t) for t in store.closed]
        copied = branch.run if branch else None
        if not is_complete(run):
            return ComparedRun(run.name, seed, False, None, None, copied, said), None, None
        best = best_of(run, figures)
        values = run_values(run, seed, best.number if best else None)
    last = f"M{values.last}" if values.models else None
    row = ComparedRun(run.name, seed, True, last, best.model if best else None, copied, said)
    return row, values if values.models else None, _use(figures)


def _use(figures: Sequence[IterationFigures]) -> Use:
    return Use(
        prompts=sum(f.prompts.accepted for f in figures if f.iteration),
        responses=sum(f.responses.n for f in figures if f.iteration),
        votes=sum(_votes(f) for f in figures),
        tokens=sum(map(num_sampled, figures)),
        steps=sum(f.training.steps for f in figures),
        seconds=math.fsum(spent for f in figures for spent in f.seconds.values()),
    )


def _votes(figures: IterationFigures) -> int:
    others = figures.jury.judges[1:] if figures.jury else ()  # the first is in ``judgments``
    return figures.judgments.n + sum(juror.n for juror in others)


def _mean(uses: Sequence[Use]) -> Use:
    rows = [asdict(use) for use in uses]
    return Use(**{name: fmean(row[name] for row in rows) for name in rows[0]})


def _apart(first: Mapping[str, float], other: Mapping[str, float]) -> tuple[str, ...]:
    """What another arm uses notably more or less of than the first."""
    return tuple(
        name for name, used in first.items() if abs(other[name] - used) > MOST_APART * used
    )
