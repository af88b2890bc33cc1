"""Arms of an experiment held against each other, over questions and over several seeds.

All runs answer the same questions, so a figure of an arm is a mean over questions of the mean over
its seeds. What is drawn in the bootstrap is a question, with the answers of all seeds and of both
arms of a difference: what is hard about a question is no difference between arms. So the interval
says what other questions might have told, and not what other seeds might: three seeds cannot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfreward.inputs.heldout import read_held_out
from selfreward.measures.agreement import RESAMPLES
from selfreward.measures.best import EVEN
from selfreward.measures.bootstrap import Bootstrap, Share
from selfreward.measures.contests import known_means
from selfreward.measures.differences import accuracy_share
from selfreward.measures.reports import (
    Answers,
    BenchmarkResults,
    Contests,
    Estimate,
    JudgeReport,
    Rewards,
    Verified,
)
from selfreward.storage.directory import Run
from selfreward.storage.store import Store

Unit = Literal["share", "characters", "reward"]
Values = Mapping[str, Share]
"""What a model is given, by measure: sums over what is counted, and counts, by question."""

VERIFIABLE, JUDGE, LENGTH = "verifiable", "judge agreement", "answer length"
TRUNCATED = "answers cut off"
WIN_RATE, REWARD, BENCHMARK = "win rate over M1, ", "reward, ", "benchmark "
"""How the measures are named; the last three by what follows: a judge or a benchmark."""


@dataclass(frozen=True, slots=True)
class RunValues:
    """What the models of a run are given."""

    seed: int
    models: Mapping[int, Values]
    """By number, 1 for M1."""
    best: int | None
    """The best of them by ``best.by``; None where it cannot be told."""

    @property
    def last(self) -> int:
        """The newest."""
        return max(self.models)


@dataclass(frozen=True, slots=True)
class ArmMeasure:
    """How the models of an arm do by one measure, over its seeds."""

    measure: str
    unit: Unit
    models: dict[str, Estimate]
    """By name; of a model that not all seeds have, over those that do. ``n`` counts each seed."""
    last: Estimate
    """The newest model of each seed."""
    best: Estimate
    """The best model of each seed by ``best.by``. Where that is this measure, it is chosen by the
    same answers that it is measured by here, which flatters it."""
    seeds: dict[str, float | None]
    """Mean of the newest model by seed: how far apart they are is no part of the intervals."""
    gain: Estimate | None
    """Last less M1; None of a win rate over M1, in whose place it is."""
    over_first: Estimate | None
    """Last less the last of the first arm, over the seeds that both have; None of the first arm."""


def run_values(run: Run, seed: int, best: int | None) -> RunValues:
    """What the evaluations of a run have found of each model so far."""
    with run.store() as store:
        ended = [row.iteration for row in store.stages() if row.stage == "evaluate"]
        models = {t + 1: _values(run, store, t) for t in ended}
    return RunValues(seed, models, best)


def arm_measures(runs: Sequence[RunValues], first: Sequence[RunValues] | None) -> list[ArmMeasure]:
    """The figures of an arm by each measure that its models have.

    Args:
        runs: Of the arm, each with a model at least.
        first: Those of the first arm; None for that arm itself.
    """
    names = dict.fromkeys(
        name for run in runs for number in sorted(run.models) for name in run.models[number]
    )
    return [_measure(name, runs, first) for name in names]


def unit_of(measure: str) -> Unit:
    """What its figures are in."""
    if measure == LENGTH:
        return "characters"
    return "reward" if measure.startswith(REWARD) else "share"


def measure_of(by: str, measures: Sequence[str]) -> str | None:
    """The measure that ``best.by`` names, among those that there are."""
    if by.startswith("benchmark."):
        return next((m for m in measures if m == BENCHMARK + by.split(".")[1]), None)
    names = {"verifiable": VERIFIABLE, "judge_agreement": JUDGE}
    if by in names:
        return names[by] if names[by] in measures else None
    return next((m for m in measures if m.startswith(WIN_RATE)), None)


def _measure(name: str, runs: Sequence[RunValues], first: Sequence[RunValues] | None) -> ArmMeasure:
    def of(number: int, among: Sequence[RunValues] = runs) -> list[Share]:
        return [run.models[number][name] for run in among if name in run.models.get(number, {})]

    def newest(among: Sequence[RunValues]) -> dict[int, Share]:
        return {
            run.seed: run.models[run.last][name] for run in among if name in run.models[run.last]
        }

    numbers = sorted({number for run in runs for number in run.models})
    last, ones = newest(runs), of(1)
    best = [share for run in runs if (share := _of_best(run, name)) is not None]
    both = _paired(last, newest(first)) if first is not None else None
    return ArmMeasure(
        measure=name,
        unit=unit_of(name),
        models={f"M{number}": estimate(shares) for number in numbers if (shares := of(number))},
        last=estimate([*last.values()]),
        best=estimate(best),
        seeds={str(seed): estimate([share]).value for seed, share in last.items()},
        gain=difference([*last.values()], ones) if len(ones) == len(last) else None,
        over_first=difference(*both) if both is not None else None,
    )


def _of_best(run: RunValues, name: str) -> Share | None:
    """What the best model is given; M1 wins a half against itself, which nobody measures."""
    number = run.best or run.last
    if number == 1 and name.startswith(WIN_RATE) and name in run.models[run.last]:
        _, counts = run.models[run.last][name]
        return EVEN * counts, counts
    return run.models.get(number, {}).get(name)


def _paired(
    mine: Mapping[int, Share], theirs: Mapping[int, Share]
) -> tuple[list[Share], list[Share]] | None:
    """Both, of the seeds that both have; None where there is none."""
    seeds = [seed for seed in mine if seed in theirs]
    return ([mine[s] for s in seeds], [theirs[s] for s in seeds]) if seeds else None


def estimate(shares: Sequence[Share]) -> Estimate:
    """The mean over questions, of all seeds together."""
    if not shares:
        return Estimate(None, None, None, 0)
    sums, counts = pooled(shares)
    return Bootstrap(len(counts), RESAMPLES, seed=0).share((sums, counts))


def difference(mine: Sequence[Share], theirs: Sequence[Share]) -> Estimate:
    """How much larger the mean of the first ones is."""
    if not mine or not theirs:
        return Estimate(None, None, None, 0)
    one, other = pooled(mine), pooled(theirs)
    return Bootstrap(len(one[1]), RESAMPLES, seed=0).difference(one, other)


def pooled(shares: Sequence[Share]) -> Share:
    """Sums and counts by question, over seeds."""
    sums, counts = (np.sum(np.stack(part), axis=0) for part in zip(*shares, strict=True))
    return sums, counts


def _values(run: Run, store: Store, iteration: int) -> dict[str, Share]:
    """What the model that an iteration made is given."""
    found: dict[str, Share] = {}
    if verified := store.report(iteration, "verified", Verified):
        found[VERIFIABLE] = known_means([each.values for each in verified.functions])
    if rewards := store.report(iteration, "rewards", Rewards):
        found |= {f"{REWARD}{each.judge}": known_means([each.values]) for each in rewards.judges}
    contests = store.report(iteration, "contests", Contests)
    for contest in contests.contests if contests else ():
        if contest.opponent == "M1":
            found[f"{WIN_RATE}{contest.judge}"] = known_means([contest.results])
    if judge := store.report(iteration, "judge", JudgeReport):
        limit = run.settings["evaluation"]["limit"]
        share = accuracy_share(read_held_out(run.seed_file("heldout"), limit), judge)
        found |= {JUDGE: share} if share is not None else {}
    taken = store.report(iteration, "benchmarks", BenchmarkResults)
    for result in taken.results if taken else ():
        found[f"{BENCHMARK}{result.name}"] = known_means([result.right["acc"]])
    if answers := store.report(iteration, "answers", Answers):
        lengths = [None if a.dropped else float(len(a.text)) for a in answers.answers]
        found[LENGTH] = known_means([lengths])
        found[TRUNCATED] = known_means([[float(a.truncated) for a in answers.answers]])
    return found
