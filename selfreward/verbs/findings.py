"""What the figures of a run say, in words: one to three sentences, the intervals with them.

    figures of all iterations -> sentences for the top of ``selfreward scores``

A difference is called one only where its 95% interval excludes none; else it "is not told".
"""

import math
from collections.abc import Sequence

from selfreward.config.evaluation import benchmark_of
from selfreward.measures.best import FIRST, Best
from selfreward.measures.evaluated import ContestFigures, JudgeFigures
from selfreward.measures.figures import IterationFigures
from selfreward.measures.reports import Estimate
from selfreward.verbs.layout import estimated, percent
from selfreward.verbs.score_rows import gain, has_verdicts

_Z = 1.96
"""Standard errors to each side of a 95% interval of a normal."""
_MANY = 0.1
"""Share of answers cut off above which they are spoken of; ours, as ``health.max_truncated``."""
_CHANCE = 0.5


def findings(iterations: Sequence[IterationFigures], best: Best | None = None) -> list[str]:
    """Sentences on contests, answers, judge and lengths, of those that there are figures for.

    Args:
        iterations: In order; the last model that answered is compared with the first.
        best: The best model, see ``measures.best``.
    """
    answered = [f for f in iterations if f.iteration > 0]
    judged = [f for f in answered if f.scores.mean is not None]
    measured = [f for f in iterations if f.judge]
    found = [
        *_outside(iterations),
        *_verifiable(iterations),
        *_rewards(iterations),
        *_cut_off(iterations),
        *_benchmarks(iterations),
        *([_best_sentence(best)] if best else []),
    ]
    if judged and judged[-1].start != judged[0].start:
        found.append(_scores(judged[0], judged[-1]))
    elif judged:
        found.append(
            f"Only the answers of M{judged[0].start} are scored, so there is nothing to "
            "compare them with."
        )
    if measured:
        judge = measured[-1].judge
        assert judge is not None
        found.append(judge_sentence(f"M{measured[-1].iteration + 1}", judge))
    of_length = [f for f in answered if f.responses.length]
    if of_length and of_length[-1].start != of_length[0].start:
        found.append(_lengths(of_length[0], of_length[-1]))
    return found


def _outside(iterations: Sequence[IterationFigures]) -> list[str]:
    """What judges that do not learn along say of the newest model."""
    met = [(f.iteration, c) for f in iterations for c in f.contests if c.opponent == FIRST]
    return [_contest_sentence(f"M{t + 1}", c) for t, c in met if t == met[-1][0]]


def _verifiable(iterations: Sequence[IterationFigures]) -> list[str]:
    """What functions give the answers of each model."""
    rates = [(f.iteration + 1, f.verified.rate) for f in iterations if f.verified]
    given = [f"M{model} {percent(rate)}" for model, rate in rates if rate.value is not None]
    return [f"Verifiable, mean over held-out questions: {', '.join(given)}."] if given else []


def _rewards(iterations: Sequence[IterationFigures]) -> list[str]:
    """What reward models give the answers of each model."""
    names = dict.fromkeys(each.judge for f in iterations for each in f.rewards)
    found = []
    for name in names:
        rates = [
            (f.iteration + 1, e.rate) for f in iterations for e in f.rewards if e.judge == name
        ]
        given = ", ".join(f"M{model} {estimated(rate, '.2f')}" for model, rate in rates)
        found.append(f"Rewards by {name}, mean over held-out questions: {given}.")
    return found


def _cut_off(iterations: Sequence[IterationFigures]) -> list[str]:
    """How many answers were cut off, where they are many: a model may unlearn to end them."""
    shares = [(f.iteration + 1, f.answers.truncated / f.answers.n) for f in iterations if f.answers]
    if max((share for _, share in shares), default=0.0) <= _MANY:
        return []
    given = ", ".join(f"M{model} {share:.0%}" for model, share in shares)
    return [f"Cut off, of the answers to held-out questions: {given}."]


def _benchmarks(iterations: Sequence[IterationFigures]) -> list[str]:
    """What the newest model gained or lost on each benchmark."""
    taken = [f for f in iterations if f.benchmarks]
    gains = {name: found.gains for name, found in taken[-1].benchmarks.items()} if taken else {}
    told = [f"{name} {gain(by['acc'])}" for name, by in gains.items() if by]
    if not told:
        return []
    model = f"M{taken[-1].iteration + 1}"
    return [
        f"Benchmarks, accuracy of {model} less that of {FIRST}, points of %: {', '.join(told)}."
    ]


def _best_sentence(best: Best) -> str:
    of = f"Of {best.measured} models {best.model} is the best by this"
    if best.by == "judge_agreement":
        return f"Of {best.measured} models {best.model} is the best judge: {percent(best.value)}."
    if best.by == "verifiable":
        value = percent(best.value)
        return f"Of {best.measured} models {best.model} is the best by the functions: {value}."
    if benchmark_of(best.by):
        value = percent(best.value)
        return f"Of {best.measured} models {best.model} is the best by {best.by}: {value}."
    if best.value is None:
        return f"{of}: none wins more than half against it."
    return f"{of}: it wins {percent(best.value)} against M1."


def _contest_sentence(model: str, contest: ContestFigures) -> str:
    rate, who = contest.win_rate, f"{model} against {contest.opponent}"
    by = f"as {'the frozen ' if contest.judge == FIRST else ''}{contest.judge} compares them"
    if rate.value is None:
        return f"{who}: no verdict on any held-out question, {by}."
    if not contest.wins + contest.losses:
        return (
            f"{who}: a tie on each of {rate.n} held-out questions, {by}: the answers are the same, "
            "or the judge names another in each order, so this tells nothing."
        )
    equal = contest.length_controlled
    length = f", at equal length {percent(equal)}" if equal.value is not None else ""
    told = _told(rate, _CHANCE, contest.opponent)
    return f"{model} is {told} on {rate.n} held-out questions, {by}: wins {percent(rate)}{length}."


def _scores(first: IterationFigures, last: IterationFigures) -> str:
    before, now = first.scores, last.scores
    assert before.mean is not None and now.mean is not None
    change = now.mean - before.mean
    a, b = f"M{last.start}", f"M{first.start}"
    if before.se is None or now.se is None:
        return f"There is no telling whether the answers of {a} score higher than those of {b}."
    half = _Z * math.hypot(before.se, now.se)
    interval = f"{change:+.2f} points [{change - half:+.2f}, {change + half:+.2f}]"
    if abs(change) <= half:
        return f"The answers of {a} are not told from those of {b} by their judges: {interval}."
    order = "higher" if change > 0 else "lower"
    return f"By their judges the answers of {a} score {order} than those of {b}: {interval}."


def judge_sentence(model: str, judge: JudgeFigures) -> str:
    """Whether a judge is told from chance, and from the one that takes the longer response."""
    who = f"{model} as a judge"
    if not has_verdicts(judge):
        return f"{who} gave no verdict on any of {judge.responses} held-out responses."
    if not judge.pairs:
        return f"{who} cannot be held against people: no held-out pair has a preference."
    chance = _told(judge.accuracy, _CHANCE, "chance")
    length = _told(judge.gain, 0, "the longer response")
    return (
        f"{who} is {chance} (orders {percent(judge.accuracy)} of {judge.pairs} held-out pairs as "
        f"people do) and {length} ({gain(judge.gain)} percentage points)."
    )


def _told(estimate: Estimate, limit: float, what: str) -> str:
    if estimate.low is not None and estimate.low > limit:
        return f"better than {what}"
    if estimate.high is not None and estimate.high < limit:
        return f"worse than {what}"
    return f"not told from {what}"


def _lengths(first: IterationFigures, last: IterationFigures) -> str:
    before, now = first.responses, last.responses
    assert before.length and now.length
    a, b = f"M{last.start}", f"M{first.start}"
    ratio = now.length / before.length
    if before.length_se is None or now.length_se is None:
        return f"There is no telling whether answers grew from {b} to {a} ({ratio - 1:+.0%})."
    half = _Z * math.hypot(before.length_se / before.length, now.length_se / now.length)
    low, high = ratio * math.exp(-half) - 1, ratio * math.exp(half) - 1
    interval = f"[{low:+.0%}, {high:+.0%}]"
    if low <= 0 <= high:
        return (
            f"Answers of {a} are not told from those of {b} in length: {ratio - 1:+.0%} {interval}."
        )
    verb = "grew" if ratio > 1 else "shrank"
    return f"Answers {verb} by {abs(ratio - 1):.0%} from {b} to {a}: {interval}."
