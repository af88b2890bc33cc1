"""What ``selfreward diff`` says: two iterations, or two runs, side by side.

    RUN:1 RUN:2 -> settings that differ, figures with their differences, prompts that both have

Nothing is made anew: the figures are those that ``scores`` shows. What an interval of a difference
comes from stands beside it, see ``Method``.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from selfreward.errors import ConfigError, NotFoundError
from selfreward.measures.curves import Curve
from selfreward.measures.figures import IterationFigures, figures_of
from selfreward.measures.reports import BenchmarkResults, Estimate, JudgeReport
from selfreward.measures.sampled import num_sampled
from selfreward.measures.statistics import clustered_mean, difference
from selfreward.measures.votes import ALL, scored_responses
from selfreward.storage.directory import Run, open_run
from selfreward.storage.store import Store

Unit = Literal["points", "share", "characters", "prompts", "pairs", "tokens", "s", ""]
Method = Literal["errors", "bootstrap", "paired"]
"""What the interval of a difference is made of, 95% each:

``errors``: standard errors clustered by prompt, the two samples apart (Miller 2024, arXiv
2411.00640, section 4.1). ``bootstrap``: the bootstrap intervals over prompts of both figures, taken
as apart (see ``statistics.difference``). ``paired``: both are about the same prompts, so the
difference is taken prompt by prompt."""
_Z = 1.96
"""Standard errors to each side of a 95% interval of a normal."""
_FEWEST_PROMPTS = 10
"""With fewer, prompts tell no interval; as ``bootstrap.FEWEST_PROMPTS``."""
MOST_PROMPTS = 100
"""So many of the prompts that both have are kept, those furthest apart."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared."""

    run: str
    path: str
    iteration: int
    is_whole: bool
    """Whether all stages of the iteration are finished; else these are figures on the way."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the config, or a file that the config names, that is not the same on both sides."""

    key: str
    a: Any
    """As in ``config.resolved.yaml``; None also where a run of an earlier release lacks the key. Of
    a file in ``templates/`` or ``seeds/`` the first 12 digits of its sha256."""
    b: Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of both sides, and how much larger it is in b."""

    name: str
    unit: Unit
    """A ``share`` goes from 0 to 1."""
    a: float | None
    """None where there is none, as the next two."""
    b: float | None
    difference: float | None
    low: float | None
    """Lower end of the 95% interval of the difference; None where there is no telling."""
    high: float | None
    method: Method | None
    """None without an interval."""


@dataclass(frozen=True, slots=True)
class SharedPrompt:
    """A prompt that both sides answered, word by word the same."""

    text: str
    attempt_a: int
    attempt_b: int
    a: float | None
    """Mean score of its whole responses, 0 to 5; None without any."""
    b: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class Diff:
    """Two iterations side by side."""

    a: Side
    b: Side
    settings: tuple[Setting, ...]
    """Empty for two iterations of one run."""
    figures: tuple[Figure, ...]
    num_prompts: int
    """Prompts that both sides answered."""
    prompts: tuple[SharedPrompt, ...]
    """At most ``MOST_PROMPTS`` of them, those with the largest difference first."""


def diff_of(a: str, b: str) -> Diff:
    """Compare two iterations of one run or of two.

    Args:
        a: ``RUN`` or ``RUN:T``. Where only one side names an iteration, the other has the same;
            where none does, it is the last one that has begun in both.
        b: The same.

    Raises:
        NotFoundError: There is no such run, or no such iteration in it.
        ConfigError: Both are the same iteration of the same run.
        IntegrityError: A run is damaged.
    """
    from selfreward.verbs.maintenance import told_as_damage

    (first, t), (second, u) = _named(a), _named(b)
    with told_as_damage(first), told_as_damage(second):
        t, u = _iterations(first, t, second, u)
        if (first.path.resolve(), t) == (second.path.resolve(), u):
            raise ConfigError(
                f"{a} and {b} are the same iteration of the same run",
                f"Two of its iterations: selfreward diff {first.name}:1 {first.name}:2; two runs: "
                "selfreward diff RUN_A RUN_B.",
            )
        with first.store() as one, second.store() as other:
            sides = (figures_of(one, t), figures_of(other, u))
            shared = _shared(one, sides[0], other, sides[1])
            return Diff(
                a=_side(first, one, sides[0]),
                b=_side(second, other, sides[1]),
                settings=tuple(_settings(first, second)),
                figures=(
                    *_made(*sides),
                    *_scored(*sides, shared),
                    *_paired(*sides),
                    *_trained(*sides),
                    *_judging(first, one, second, other, *sides),
                    *_known(one, t, other, u),
                    *_spent(*sides),
                ),
                num_prompts=len(shared),
                prompts=tuple(sorted(shared, key=_furthest)[:MOST_PROMPTS]),
            )


# Which two


def _named(word: str) -> tuple[Run, int | None]:
    """A run and the iteration that is named with it."""
    name, colon, number = word.rpartition(":")
    if not colon or os.path.isfile(Path(word, "records.db")):
        return open_run(word), None
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise ConfigError(
            f"{word[:60]}: expected RUN or RUN:T, T an iteration such as 1",
            "Models are compared by the iteration that they answer in: RUN:1 is M1 -> M2.",
        )
    return open_run(name), int(number)


def _iterations(a: Run, t: int | None, b: Run, u: int | None) -> tuple[int, int]:
    begun_a, begun_b = _begun(a), _begun(b)
    if t is None and u is None:
        both = set(begun_a) & set(begun_b)
        if not both:
            raise NotFoundError(
                f"runs {a.name} and {b.name} have begun no iteration in common",
                f"Name them: {a.name} has begun {_list(begun_a)}, {b.name} {_list(begun_b)}.",
            )
        t = u = max(both)
    t, u = (u if t is None else t), (t if u is None else u)
    assert t is not None and u is not None
    for run, number, begun in ((a, t, begun_a), (b, u, begun_b)):
        if number not in begun:
            raise NotFoundError(
                f"run {run.name} has no iteration {number}", f"It has begun: {_list(begun)}."
            )
    return t, u


def _begun(run: Run) -> list[int]:
    with run.store() as store:
        begun = {row.iteration for row in store.progress()}
        return sorted(begun | {row.iteration for row in store.stages()})


def _list(iterations: list[int]) -> str:
    return ", ".join(map(str, iterations)) or "none yet"


def _side(run: Run, store: Store, figures: IterationFigures) -> Side:
    planned = store.planned(figures.iteration)
    is_whole = bool(planned) and set(planned) <= set(figures.stages)
    return Side(run.name, str(run.path), figures.iteration, is_whole)


# Settings


def _settings(a: Run, b: Run) -> Iterator[Setting]:
    if a.path.resolve() == b.path.resolve():
        return
    first, second = ({**dict(_leaves(run.settings)), **_inputs(run)} for run in (a, b))
    for key in dict.fromkeys([*first, *second]):
        if first.get(key) != second.get(key):
            yield Setting(key, first.get(key), second.get(key))


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if value != {} else None


def _inputs(run: Run) -> dict[str, str]:
    """Checksums of the copies of what the config names, and of the base model."""
    paths = sorted([*run.path.glob("templates/*.jinja"), *run.path.glob("seeds/*.jsonl")])
    found = {
        path.relative_to(run.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in paths
    }
    base = run.base_model().get("digest")
    return {**found, **({"M0": base[:12]} if base else {})}


# Figures


def _figure(
    name: str,
    unit: Unit,
    sides: Sequence[Estimate],
    method: Method,
    apart: Estimate | None = None,
) -> Figure:
    """A figure whose two sides have intervals, or one whose difference ``apart`` has."""
    a, b = sides
    apart = difference(a, b) if apart is None else apart
    told = None if apart.low is None else method
    return Figure(name, unit, a.value, b.value, apart.value, apart.low, apart.high, told)


def _bare(name: str, unit: Unit, a: float | None, b: float | None) -> Figure:
    """A figure of which nothing says how far chance goes."""
    apart = None if a is None or b is None else b - a
    return Figure(name, unit, a, b, apart, None, None, None)


def _mean(value: float | None, error: float | None, n: int, prompts: int) -> Estimate:
    """A mean with its standard error as an estimate, with an interval if prompts are not few.

    1.96 standard errors hold a normal mean of six prompts in 89% of cases, of two in 70%, by
    Student's t; of ten in 92%.
    """
    if value is None or error is None or prompts < _FEWEST_PROMPTS:
        return Estimate(value, None, None, n)
    return Estimate(value, value - _Z * error, value + _Z * error, n)


def _made(a: IterationFigures, b: IterationFigures) -> Iterator[Figure]:
    counts = [f.prompts.accepted if f.prompts.attempts else None for f in (a, b)]
    yield _bare("prompts accepted", "prompts", *counts)
    kept = [f.prompts.accepted / f.prompts.attempts if f.prompts.attempts else None for f in (a, b)]
    yield _bare("share of tries accepted", "share", *kept)
    lengths = [
        _mean(f.responses.length, f.responses.length_se, f.responses.n, f.prompts.accepted)
        for f in (a, b)
    ]
    yield _figure("response length", "characters", lengths, "errors")
    cut = [f.responses.truncated / f.responses.n if f.responses.n else None for f in (a, b)]
    yield _bare("responses cut off", "share", *cut)


def _scored(
    a: IterationFigures, b: IterationFigures, shared: list[SharedPrompt]
) -> Iterator[Figure]:
    yield _bare("verdicts parsed", "share", a.judgments.parse_rate, b.judgments.parse_rate)
    means = [_mean(f.scores.mean, f.scores.se, f.scores.n, f.scores.prompts) for f in (a, b)]
    yield _figure("mean score", "points", means, "errors")
    both = [(p.a, p.b) for p in shared if p.a is not None and p.b is not None]
    if both:
        n = len(both)
        sides = [Estimate(math.fsum(side) / n, None, None, n) for side in zip(*both, strict=True)]
        mean, error = clustered_mean([[y - x] for x, y in both])
        apart = _mean(mean, error, n, n)
        yield _figure("mean score, same prompts", "points", sides, "paired", apart)
    yield _bare("score deviation in a prompt", "points", a.scores.prompt_std, b.scores.prompt_std)
    yield _bare("share of 5s", "share", a.scores.fives, b.scores.fives)


def _paired(a: IterationFigures, b: IterationFigures) -> Iterator[Figure]:
    yield _bare("pairs", "pairs", *(f.pairs.n if "pairs" in f.stages else None for f in (a, b)))
    yield _bare("ties", "share", a.pairs.tie_rate, b.pairs.tie_rate)
    margins = [_mean(f.pairs.margin, f.pairs.margin_se, f.pairs.n, f.pairs.paired) for f in (a, b)]
    yield _figure("margin", "points", margins, "errors")
    yield _bare("length of chosen", "characters", a.pairs.chosen_length, b.pairs.chosen_length)
    yield _bare(
        "length of rejected", "characters", a.pairs.rejected_length, b.pairs.rejected_length
    )


def _trained(a: IterationFigures, b: IterationFigures) -> Iterator[Figure]:
    def mean(curve: Curve | None) -> float | None:
        return curve.mean if curve else None

    yield _bare("training loss", "", mean(a.training.loss), mean(b.training.loss))
    one, other = mean(a.training.accuracy), mean(b.training.accuracy)
    yield _bare("training accuracy", "share", one, other)
    one, other = mean(a.training.reward_margin), mean(b.training.reward_margin)
    yield _bare("reward margin", "", one, other)


def _judging(
    first: Run, one: Store, second: Run, other: Store, a: IterationFigures, b: IterationFigures
) -> Iterator[Figure]:
    if a.judge and b.judge:
        apart = _on_the_same(first, one, a.iteration, second, other, b.iteration)
        method: Method = "bootstrap" if apart is None else "paired"
        accuracies = a.judge.accuracy, b.judge.accuracy
        yield _figure("judge agrees with people", "share", accuracies, method, apart)
        yield _bare("longer wins", "share", a.judge.longest.value, b.judge.longest.value)
    if a.canaries and b.canaries:
        uplifts = a.canaries.uplift, b.canaries.uplift
        yield _figure("canary uplift", "points", uplifts, "bootstrap")


def _known(one: Store, t: int, other: Store, u: int) -> Iterator[Figure]:
    """Benchmarks that both new models have taken, the same questions in the same style."""
    from selfreward.measures.benchmarks import gained

    reports = [
        store.report(at, "benchmarks", BenchmarkResults) for store, at in ((one, t), (other, u))
    ]
    sides = [{each.name: each for each in (report.results if report else ())} for report in reports]
    for name in [name for name in sides[0] if name in sides[1]]:
        a, b = sides[0][name], sides[1][name]
        if (a.version, a.style) != (b.version, b.style):
            continue
        apart = gained(b.right["acc"], a.right["acc"])
        shares = a.scores["acc"], b.scores["acc"]
        yield _figure(f"benchmark {name}", "share", shares, "paired", apart)


def _on_the_same(
    first: Run, one: Store, t: int, second: Run, other: Store, u: int
) -> Estimate | None:
    """How much more accurate the second judge is, where both judged the same held-out responses."""
    a, b = one.report(t, "judge", JudgeReport), other.report(u, "judge", JudgeReport)
    files = [run.seed_file("heldout") for run in (first, second)]
    limits = {run.settings["evaluation"]["limit"] for run in (first, second)}
    if a is None or b is None or len(limits) > 1 or not all(file.is_file() for file in files):
        return None
    if files[0].read_bytes() != files[1].read_bytes():
        return None
    from selfreward.inputs.heldout import read_held_out
    from selfreward.measures.differences import accuracy_difference

    return accuracy_difference(read_held_out(files[0], limits.pop()), a, b)


def _spent(a: IterationFigures, b: IterationFigures) -> Iterator[Figure]:
    yield _bare("tokens sampled", "tokens", num_sampled(a), num_sampled(b))
    spent = [math.fsum(f.seconds.values()) if f.seconds else None for f in (a, b)]
    yield _bare("time", "s", *spent)


# Prompts that both answered


def _shared(
    one: Store, a: IterationFigures, other: Store, b: IterationFigures
) -> list[SharedPrompt]:
    """Every prompt whose text both sides have, in the order of the first."""
    there = dict(other.query(_ACCEPTED, (b.iteration,)))
    both = [
        (text, attempt, there[text])
        for text, attempt in one.query(_ACCEPTED, (a.iteration,))
        if text in there
    ]
    if not both:
        return []
    scores = _scores(one, a), _scores(other, b)
    return [_prompt(*row, scores[0].get(row[1]), scores[1].get(row[2])) for row in both]


_ACCEPTED = """
SELECT text, min(attempt) FROM prompts WHERE iteration = ? AND dropped IS NULL GROUP BY text
ORDER BY 2"""
_WHOLE = """
SELECT attempt, sample FROM responses
WHERE iteration = ? AND attempt < ? AND finish_reason != 'length'
AND (author = 'policy' OR iteration = 0)"""


def _prompt(text: str, at_a: int, at_b: int, a: float | None, b: float | None) -> SharedPrompt:
    apart = None if a is None or b is None else b - a
    return SharedPrompt(text, at_a, at_b, a, b, apart)


def _scores(store: Store, figures: IterationFigures) -> dict[int, float]:
    """Mean score of the whole responses by prompt, of the prompts that ``figures`` counts."""
    is_part = figures.attempts < figures.prompts.attempts
    key = (figures.iteration, figures.attempts if is_part else ALL)
    whole = set(store.query(_WHOLE, key))
    rows = [row for row in scored_responses(store, *key) if row[:2] in whole]
    means = {}
    for attempt, group in groupby(rows, key=itemgetter(0)):
        scores = [row.score for row in group]
        means[attempt] = math.fsum(scores) / len(scores)
    return means


def _furthest(prompt: SharedPrompt) -> tuple[float, int]:
    return (math.inf if prompt.difference is None else -abs(prompt.difference), prompt.attempt_a)
