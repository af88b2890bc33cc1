"""What a stage made, and the digest of it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from selfreward.errors import IntegrityError
from selfreward.records import (
    REPORTS,
    TRAINING,
    Comparison,
    Criterion,
    Drop,
    Judgment,
    PreferencePair,
    Prompt,
    R,
    Record,
    Response,
    judge_stage,
    kept,
)
from selfreward.storage import seals
from selfreward.storage.tables import RESTORE, TABLES, digest

T = TypeVar("T")
_COLUMNS = {
    name: (", ".join(field.name for field in fields(kind)), ", ".join(key))
    for kind, (name, key) in TABLES.items()
}
"""Columns and key of each table."""
_JUDGES = re.compile(r"judgments(/[0-9]{1,4})?")


class Rows(Protocol):
    """What is asked of a ``Store``."""

    path: Path

    def records(self, kind: type[R], iteration: int) -> list[R]:
        """See ``Store.records``."""

    def report(self, iteration: int, name: str, kind: type[T]) -> T | None:
        """See ``Store.report``."""

    def query(self, sql: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """See ``Store.query``."""


def made_by(store: Rows, iteration: int, stage: str) -> Sequence[Record] | dict[str, Any]:
    """What a stage made: records but drops in key order, of a judge, criteria first; or reports.

    Of ``selection`` the judgments that were selected; none of a training, which makes a model.
    """
    if stage == "evaluate":
        found = {name: store.report(iteration, name, dict) for name in REPORTS}
        return {name: report for name, report in found.items() if report is not None}
    if stage == "selection":
        return kept(store.records(Judgment, iteration), store.records(Drop, iteration))
    if stage == "prompts":
        return [*store.records(Prompt, iteration)]
    if stage in ("responses", "anchors"):
        responses = store.records(Response, iteration)
        return [r for r in responses if r.is_anchor == (stage == "anchors")]
    if stage == "comparisons":
        return [*store.records(Comparison, iteration)]
    if stage == "pairs":
        return [*store.records(PreferencePair, iteration)]
    criteria, judgments = store.records(Criterion, iteration), store.records(Judgment, iteration)
    return [
        *(criterion for criterion in criteria if judge_stage(criterion.juror) == stage),
        *(judgment for judgment in judgments if judge_stage(judgment.juror) == stage),
    ]


def made_digest(store: Rows, iteration: int, stage: str) -> str:
    """What ``digest(made_by(...))`` gives, from the rows as they lie there and without keeping any.

    A million records take seconds, see docs/benchmarks.md.
    """
    if stage in ("evaluate", "selection"):  # reports, and a few of the judgments
        return digest(made_by(store, iteration, stage))
    return seals.digest_rows(_made_rows(store, iteration, stage))


def _made_rows(store: Rows, iteration: int, stage: str) -> Iterator[tuple[object, ...]]:
    def rows(table: str, where: str = "TRUE") -> Iterator[tuple[object, ...]]:
        columns, key = _COLUMNS[table]
        query = f"SELECT {columns} FROM {table} WHERE iteration = ? AND {where} ORDER BY {key}"
        return store.query(query, (iteration,))

    if stage in ("responses", "anchors"):
        for row in rows("responses", f"author {'=' if stage == 'anchors' else '<>'} 'M1'"):
            yield row if row[-1] is not None else row[:-1]  # as before there was the column
    elif _JUDGES.fullmatch(stage):
        juror = int(stage.partition("/")[2] or 0)
        yield from rows("criteria", f"juror = {juror}")
        yield from rows("judgments", f"juror = {juror}")
    elif stage in _COLUMNS:
        yield from rows(stage)
    elif stage not in TRAINING:
        raise IntegrityError(f"{store.path}: table stages: no stage is named {stage!r}", RESTORE)
