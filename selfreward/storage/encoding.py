"""Records as rows of ``records.db``, and digests over them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from functools import partial
from typing import Any

from selfreward.records import Record

Row = Sequence[Any]


def to_row(record: Record) -> tuple[Any, ...]:
    """Values of the columns, in order; probabilities as JSON."""
    return tuple(json.dumps(v) if isinstance(v, tuple) else v for v in astuple(record))


def from_rows(kind: type, rows: Iterable[Row]) -> Iterable[Row]:
    """The values of the fields of records of one type, from their columns."""
    names = [field.name for field in fields(kind)]
    if "probabilities" not in names:
        return rows
    return map(partial(_read_probabilities, names.index("probabilities")), rows)


def digest(records: Iterable[Record]) -> str:
    """sha256 over records in the order given."""
    sha = hashlib.sha256()
    for record in records:
        sha.update(json.dumps(to_row(record), ensure_ascii=False).encode())
        sha.update(b"\n")
    return sha.hexdigest()


def digest_reports(reports: Mapping[str, Any]) -> str:
    """sha256 over reports by name."""
    return hashlib.sha256(json.dumps(reports, sort_keys=True).encode()).hexdigest()


def _read_probabilities(at: int, row: Row) -> Row:
    return row if row[at] is None else (*row[:at], tuple(json.loads(row[at])), *row[at + 1 :])
