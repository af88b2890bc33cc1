"""``benchmarks.jsonl``: what ``selfreward benchmark`` found of a run's models, beside its records.

It may be written when the run is finished, under its lock, and decides nothing that the run makes.
What its evaluations found by ``evaluation.benchmarks`` does, and is in ``records.db``.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from selfreward.errors import IntegrityError
from selfreward.storage import durable
from selfreward.storage.directory import Run


@dataclass(frozen=True, slots=True)
class Score:
    """A figure with its 95% interval, None where there is none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one task found of one model."""

    model: str
    """``M0``, ``M1``, ..."""
    digest: str
    """sha256 of the model."""
    task: str
    """File name, lm-eval's name, or that of one of ``evaluation.benchmarks``."""
    by: str
    """Who asked, with the version: ``selfreward 0.1`` or ``lm-eval 0.4.13``."""
    version: str
    """Of the task: sha256 of its questions, or what lm-eval says."""
    style: str
    """How questions are put, see ``inputs.choices.Style``; empty where lm-eval decides."""
    limit: int | None
    """Questions taken at most, of each task of a group."""
    n: int
    """Questions; 0 where lm-eval does not say."""
    scores: dict[str, Score]
    """By metric, such as ``acc``."""
    right: dict[str, tuple[int, ...]]
    """By metric 1 for each question that is right, else 0; empty where lm-eval asked."""
    seconds: float | None
    """None of an evaluation, which takes others as well."""
    at: str
    """UTC time."""

    @property
    def asked(self) -> tuple[str, str, str, str, str]:
        """What two results have to have in common to be compared."""
        return (self.task, self.by, self.version, self.style, str(self.cut))

    @property
    def cut(self) -> int | None:
        """``limit``, unless there were fewer; None: all questions were asked."""
        return None if self.limit is None or 0 < self.n < self.limit else self.limit


def benchmarks_path(run: Run) -> Path:
    """Where they are, if there are any."""
    return run.path / "benchmarks.jsonl"


def read_benchmarks(run: Run) -> list[Benchmark]:
    """The latest result of each model and task, in the order in which they came in.

    Raises:
        IntegrityError: A line is no result.
    """
    path = benchmarks_path(run)
    found: dict[tuple[object, ...], Benchmark] = {}
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            each = msgspec.json.decode(line, type=Benchmark)
        except (msgspec.DecodeError, TypeError) as error:
            raise IntegrityError(
                f"{path}:{number}: no result of a benchmark ({error})",
                "Remove the line; `selfreward benchmark RUN:M1 ...` measures again.",
            ) from None
        found[(each.model, each.digest, *each.asked)] = each
    return [*found.values()]


def carry(origin: Run, branch: Run, digests: Collection[str]) -> None:
    """Take the results of models that a branch has over into it.

    Args:
        digests: Of these models.

    Raises:
        IntegrityError: See ``read_benchmarks``.
    """
    lines = [
        msgspec.json.encode(each) + b"\n"
        for each in read_benchmarks(origin)
        if each.digest in digests
    ]
    if lines:
        durable.write_file(benchmarks_path(branch), b"".join(lines))


def add_benchmarks(run: Run, results: Iterable[Benchmark]) -> None:
    """Keep results; the file is whole at any time, and what it held stays in it.

    Raises:
        LockedError: The run is under way.
        IntegrityError: See ``read_benchmarks``.
    """
    with run.locked():
        read_benchmarks(run)
        path = benchmarks_path(run)
        before = path.read_bytes() if path.is_file() else b""
        lines = [msgspec.json.encode(each) + b"\n" for each in results]
        durable.write_file(path, before + b"".join(lines))
