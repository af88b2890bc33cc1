"""What each new model is measured by, and what follows from it."""

import re
from typing import Literal

from pydantic import Field, field_validator

from selfreward.config.base import Group, SeedSource, Source
from selfreward.config.judging import REWARD, ContestConfig

Style = Literal["question", "plain"]
"""How a question of a benchmark is put. ``question``: ``Question: ...``, and ``Answer:`` on the
next line, as by lm-eval's ARC; ``plain``: alone, and the choice completes it, as by its
OpenBookQA."""
Metric = Literal["acc", "acc_norm"]
"""The figures of a benchmark, as in lm-eval; see ``measures.benchmarks.answered_right``."""
_BENCHMARK_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"


class BenchmarkConfig(SeedSource):
    """Questions with one right answer among given ones: rows of ``question``, ``choices`` (a list)
    and ``answer`` (its place in the list, from 0).
    """

    name: str = Field(pattern=_BENCHMARK_NAME)
    """What it is called, in ``best.by`` as well: letters, digits, dashes, 40 at most."""
    style: Style = "question"
    """``question``: the question after ``Question:``, and each choice after ``Answer:``. ``plain``:
    each choice right after the question, which it completes."""


class EvaluationConfig(Group):
    """What is asked of each new model at the end of its iteration; no record depends on it."""

    ranked: Source | None = SeedSource(path="seed/heldout.jsonl")
    """Responses that people ranked, held out from training: the judge report; null: none. A prompt
    that is also trained on is refused."""
    limit: int | None = Field(default=20, ge=1)
    """Take only the first so many prompts."""
    compare: bool = False
    """Also have each two responses compared, in both orders."""
    canaries: bool = True
    """Also judge responses that try to talk the judge into a high score."""

    questions: Source | None = SeedSource(path="seed/questions.jsonl")
    """Held-out prompts that every model answers, and by which it is compared with those before it,
    each at most with a ``reference`` answer; null: none. A prompt that is also trained on is
    refused."""
    temperature: float = Field(default=0.0, ge=0)
    """Of these answers; else they are sampled as ``responses`` are. 0: the most probable token each
    time, so that two models differ only where their weights do."""
    contests: tuple[ContestConfig, ...] = Field(
        default=(ContestConfig(model="M1", form="expected"),), strict=False
    )
    """The judges that compare; none of them learns along. ``[]``: the answers are kept, and not
    compared."""
    benchmarks: tuple[BenchmarkConfig, ...] = Field(default=(), strict=False)
    """What each model knows, by the choice that it finds likeliest (docs/benchmarking.md). A
    question that is also trained on is refused."""

    @field_validator("benchmarks")
    @classmethod
    def _check_names(cls, benchmarks: tuple[BenchmarkConfig, ...]) -> tuple[BenchmarkConfig, ...]:
        names = [each.name for each in benchmarks]
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("two of them have one name")
        return benchmarks

    @property
    def is_on(self) -> bool:
        """Whether there is anything to ask."""
        return self.asks or bool(self.benchmarks)

    @property
    def asks(self) -> bool:
        """Whether the model judges or answers, which benchmarks do without."""
        return self.ranked is not None or self.canaries or self.questions is not None

    @property
    def compares(self) -> bool:
        """Whether the new model compares what people ranked."""
        return self.ranked is not None and self.compare

    @property
    def judges(self) -> tuple[ContestConfig, ...]:
        """Who compares the models' answers; none where they are asked nothing."""
        return self.contests if self.questions is not None else ()

    @property
    def functions(self) -> tuple[ContestConfig, ...]:
        """Those of them that are functions."""
        return tuple(judge for judge in self.judges if judge.function is not None)

    @property
    def reward_models(self) -> tuple[ContestConfig, ...]:
        """Those of them that are reward models."""
        return tuple(judge for judge in self.judges if judge.form == REWARD)


class BestConfig(Group):
    """By what the best model is named, what the next iteration starts from, and when a run whose
    models get no better ends.
    """

    by: str = "win_rate"
    """``win_rate``: against M1 on ``evaluation.questions``. ``judge_agreement``: pairs of
    ``evaluation.ranked`` that the model, as a judge, orders as people do. ``verifiable``: what the
    functions of ``evaluation.contests`` give its answers to ``evaluation.questions``, mean.
    ``benchmark.NAME``: accuracy on that one of ``evaluation.benchmarks``; normalized by the length
    of the choices with ``benchmark.NAME.acc_norm``."""
    patience: int | None = Field(default=None, ge=1)
    """End the run (exit code 0) once so many models in a row are no better than the best before
    them; null: after ``iterations``. Scores that rise while this falls are the known end of
    self-rewarding (docs/contests.md)."""
    continue_from: Literal["last", "best"] = "last"
    """Which model the next iteration starts from, and has as its reference. ``last``: the newest,
    as in SRLM. ``best``: the best so far, so that nothing is built upon a bad round. It is chosen
    when the iteration begins, and kept."""
    margin: float = Field(default=0.0, ge=0, le=1)
    """By how much a model has to be better to count as better, in shares of 1."""

    @field_validator("by")
    @classmethod
    def _check_by(cls, by: str) -> str:
        if by not in ("win_rate", "judge_agreement", "verifiable") and benchmark_of(by) is None:
            raise ValueError(
                "Input should be win_rate, judge_agreement, verifiable, benchmark.NAME or "
                "benchmark.NAME.acc_norm"
            )
        return by


def benchmark_of(by: str) -> tuple[str, Metric] | None:
    """Name and metric of the benchmark that ``best.by`` names; None where it names none."""
    kind, _, rest = by.partition(".")
    name, _, metric = rest.partition(".")
    if kind != "benchmark" or not re.match(_BENCHMARK_NAME, name):
        return None
    if metric in ("", "acc"):
        return name, "acc"
    return (name, "acc_norm") if metric == "acc_norm" else None
