"""What a stage made, and the digest of it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from selfreward.errors import IntegrityError
from selfreward.records import REPORTS, TRAINING, Drop, Judgment, R, kept
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


def made_digest(store: Rows, iteration: int, stage: str) -> str:
    """sha256 over what a stage made, as its records lie there and without keeping any.

    Of a judge criteria come first; ``selection`` makes the judgments that it selected, ``evaluate``
    its reports, and a training no records. A million records take seconds, see docs/benchmarks.md.
    """
    if stage == "evaluate":
        return digest(_reports(store, iteration))
    if stage == "selection":
        return digest(kept(store.records(Judgment, iteration), store.records(Drop, iteration)))
    return seals.digest_rows(_made_rows(store, iteration, stage))


def has_made(store: Rows, iteration: int, stage: str) -> bool:
    """Whether a stage has made anything but drops."""
    if stage == "evaluate":
        return bool(_reports(store, iteration))
    if stage == "selection":
        return bool(kept(store.records(Judgment, iteration), store.records(Drop, iteration)))
    return next(_made_rows(store, iteration, stage), None) is not None


def _reports(store: Rows, iteration: int) -> dict[str, Any]:
    found = {name: store.report(iteration, name, dict) for name in REPORTS}
    return {name: report for name, report in found.items() if report is not None}


def tables_of(stage: str) -> list[tuple[str, str]]:
    """The tables into which a stage puts what it makes, each with the condition of its rows."""
    if stage in ("responses", "anchors"):
        return [("responses", f"author {'=' if stage == 'anchors' else '<>'} 'M1'")]
    if _JUDGES.fullmatch(stage):
        juror = int(stage.partition("/")[2] or 0)
        return [(table, f"juror = {juror}") for table in ("criteria", "judgments")]
    return [(stage, "TRUE")] if stage in _COLUMNS else []


def _made_rows(store: Rows, iteration: int, stage: str) -> Iterator[tuple[object, ...]]:
    tables = tables_of(stage)
    if not tables and stage not in TRAINING:
        raise IntegrityError(f"{store.path}: table stages: no stage is named {stage!r}", RESTORE)
    for table, where in tables:
        columns, key = _COLUMNS[table]
        query = f"SELECT {columns} FROM {table} WHERE iteration = ? AND {where} ORDER BY {key}"
        grew = table in ("prompts", "responses")  # by a column, which counts where it holds a value
        for row in store.query(query, (iteration,)):
            yield row[:-1] if grew and row[-1] is None else row
