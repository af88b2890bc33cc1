"""What the evaluation of an iteration found of the model that it made, in short."""

from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from selfreward.measures.reports import (
    Answers,
    BenchmarkResults,
    CanaryReport,
    Contest,
    Contests,
    Estimate,
    FunctionValues,
    JudgeReport,
    Positions,
    Rewards,
    Verified,
)
from selfreward.storage.store import Store


@dataclass(frozen=True, slots=True)
class JudgeFigures:
    """Against people, on held-out responses; see ``reports.Agreement``."""

    prompts: int
    responses: int
    pairs: int
    """Of which people preferred one."""
    matched: int
    """Pairs of about the same length."""
    parse_rate: Estimate
    """Share of votes."""
    accuracy: Estimate
    """Share of pairs."""
    accuracy_matched: Estimate
    longest: Estimate
    """Accuracy of the judge that takes the longer response."""
    longest_matched: Estimate
    gain: Estimate
    """``accuracy`` less ``longest``, -1 to 1."""
    spearman: Estimate
    """-1 to 1."""


@dataclass(frozen=True, slots=True)
class WorstAttack:
    """The attack that wins most."""

    kind: str
    uplift: float
    """In points."""


@dataclass(frozen=True, slots=True)
class CanaryFigures:
    """Of responses that ask for a high score."""

    uplift: Estimate
    """Points that they win on average."""
    without_score: int
    """Attacks that have no two scores to compare."""
    worst: WorstAttack | None
    """None where no attack has two."""


@dataclass(frozen=True, slots=True)
class PositionFigures:
    """Of comparisons in both orders; see ``reports.Positions``."""

    consistent: Estimate
    """Share of pairs."""
    names_first: Estimate
    """Share of verdicts."""
    accuracy: Estimate
    """Share of pairs."""


@dataclass(frozen=True, slots=True)
class ContestFigures:
    """A model's answers against those of another; see ``reports.Contest``."""

    opponent: str
    """``M1``, ``M2``, ..., or ``reference``."""
    judge: str
    wins: int
    ties: int
    losses: int
    without_verdict: int
    """Questions of which the judge says nothing, at least in one order."""
    win_rate: Estimate
    """0 to 1, a tie half."""
    length_controlled: Estimate
    longer: Estimate
    """Share of the questions that the model answers at greater length."""


@dataclass(frozen=True, slots=True)
class FunctionFigures:
    """What one function, or reward model, gives a model's answers; see ``reports``."""

    judge: str
    rate: Estimate
    """Mean, 0 to 1; of a reward model on the scale of its rewards."""
    without_value: dict[str, int]
    """Answers that have none, by reason."""


@dataclass(frozen=True, slots=True)
class VerifiedFigures:
    """What the functions of the contests give them."""

    rate: Estimate
    """Mean over the functions, 0 to 1."""
    functions: tuple[FunctionFigures, ...]


@dataclass(frozen=True, slots=True)
class BenchmarkFigures:
    """What a model knows; see ``reports.BenchmarkResult``."""

    scores: dict[str, Estimate]
    """Share of the questions that it answers rightly, by metric."""
    gains: dict[str, Estimate] | None
    """These less those of M1; None of M1 itself."""


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """Of the answers to held-out questions."""

    n: int
    truncated: int
    """Cut off at ``responses.max_new_tokens``."""
    length: float | None
    """Characters, mean; None where there is none that can be compared."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model as a judge, and by its answers; what was not measured is None."""

    judge: JudgeFigures | None
    drift: Estimate | None
    """Points by which the mean score of the held-out responses differs from M1's."""
    canaries: CanaryFigures | None
    positions: PositionFigures | None
    contests: tuple[ContestFigures, ...]
    """Empty where there were none."""
    verified: VerifiedFigures | None
    rewards: tuple[FunctionFigures, ...]
    """By the reward models of the contests; empty where there are none."""
    benchmarks: dict[str, BenchmarkFigures]
    """By name, in the order of the config; empty where there are none."""
    answers: AnswerFigures | None


def evaluated(store: Store, iteration: int) -> Evaluated:
    """What its evaluation found of the model that an iteration made."""
    judge = store.report(iteration, "judge", JudgeReport)
    canaries = store.report(iteration, "canaries", CanaryReport)
    positions = store.report(iteration, "positions", Positions)
    contests = store.report(iteration, "contests", Contests)
    found = store.report(iteration, "verified", Verified)
    rewarded = store.report(iteration, "rewards", Rewards)
    taken = store.report(iteration, "benchmarks", BenchmarkResults)
    answered = store.report(iteration, "answers", Answers)
    return Evaluated(
        judge=_judge(judge) if judge else None,
        drift=judge.drift if judge else None,
        canaries=_canaries(canaries) if canaries else None,
        positions=_positions(positions) if positions else None,
        contests=tuple(map(_contest, contests.contests)) if contests else (),
        verified=_verified(found) if found else None,
        rewards=tuple(map(_values, rewarded.judges)) if rewarded else (),
        benchmarks={
            each.name: BenchmarkFigures(each.scores, each.gains)
            for each in (taken.results if taken else ())
        },
        answers=_answers(answered) if answered else None,
    )


def _answers(report: Answers) -> AnswerFigures:
    lengths = [len(answer.text) for answer in report.answers if answer.dropped is None]
    return AnswerFigures(
        n=len(report.answers),
        truncated=sum(answer.truncated for answer in report.answers),
        length=fmean(lengths) if lengths else None,
    )


def _judge(report: JudgeReport) -> JudgeFigures:
    found = report.agreement
    return JudgeFigures(
        prompts=found.counts.prompts,
        responses=found.counts.responses,
        pairs=found.counts.pairs,
        matched=found.counts.matched,
        parse_rate=found.parse_rate,
        accuracy=found.judge.all.accuracy,
        accuracy_matched=found.judge.matched.accuracy,
        longest=found.longest.all.accuracy,
        longest_matched=found.longest.matched.accuracy,
        gain=found.gain.all,
        spearman=found.judge.all.spearman,
    )


def _canaries(report: CanaryReport) -> CanaryFigures:
    gains = [(a.uplift, a.kind) for a in report.attacks if a.uplift is not None]
    worst = max(gains, default=None)
    return CanaryFigures(
        uplift=report.uplift,
        without_score=len(report.attacks) - len(gains),
        worst=WorstAttack(worst[1], worst[0]) if worst else None,
    )


def _positions(report: Positions) -> PositionFigures:
    return PositionFigures(report.consistent, report.names_first, report.judge.all.accuracy)


def _verified(report: Verified) -> VerifiedFigures:
    return VerifiedFigures(report.rate, tuple(map(_values, report.functions)))


def _values(given: FunctionValues) -> FunctionFigures:
    return FunctionFigures(given.judge, given.rate, dict(Counter(r for r in given.reasons if r)))


def _contest(report: Contest) -> ContestFigures:
    counted = Counter(report.results)
    return ContestFigures(
        opponent=report.opponent,
        judge=report.judge,
        wins=counted[1.0],
        ties=counted[0.5],
        losses=counted[0.0],
        without_verdict=counted[None],
        win_rate=report.win_rate,
        length_controlled=report.length_controlled,
        longer=report.longer,
    )
