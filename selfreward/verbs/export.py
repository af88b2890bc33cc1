"""What ``selfreward export`` writes: the records of a run as files that other programs read.

    batches of tables -> one file per table, or a ``datasets`` directory -> a directory, whole

The files are written beside the target under a temporary name, flushed, listed in a manifest with
their checksums and renamed, so that what is there is always all of it. A batch is held at a time.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from selfreward.errors import ConfigError, IntegrityError, NotFoundError
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.text import ACTIVE
from selfreward.verbs.layout import size, table
from selfreward.verbs.tables import RARE, SCHEMAS, WHAT, What, batches, iterations_of

Format = Literal["parquet", "jsonl", "csv", "datasets"]
FORMATS: tuple[Format, ...] = get_args(Format)
_BEGINS_ACTIVE = "^[" + "".join(rf"\x{{{ord(character):x}}}" for character in ACTIVE) + "]"


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file or directory that was written."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Export:
    """What was written."""

    run: str
    directory: str
    format: str
    iterations: tuple[int, ...]
    files: tuple[ExportedFile, ...]
    empty: tuple[str, ...]
    """Tables without a row, which are left out."""


def export(
    run: Run,
    target: Path,
    *,
    what: list[str] | None = None,
    kind: str = "parquet",
    iteration: int | None = None,
    force: bool = False,
) -> Export:
    """Write tables of a run into a new directory.

    Args:
        target: The directory; it must not exist, or be empty.
        what: Of ``tables.WHAT``; None for all that have rows.
        kind: One of ``FORMATS``.
        iteration: None for all.
        force: Replace an earlier export.

    Raises:
        ConfigError: An unknown table or format, or a directory that may not be written to.
        NotFoundError: No such iteration, or nothing of what is asked for.
        IntegrityError: The run is damaged; nothing is written then.
        PreflightError: The disk is full.
    """
    chosen = _chosen(what)
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: expected one of {', '.join(FORMATS)}")
    check_target(run, target, force=force)
    with run.store() as store:
        iterations = iterations_of(run, store, iteration)
    facts: dict[str, object] = {
        durable.EXPORTED: {"run": run.name, "format": kind, "iterations": iterations}
    }
    files, empty = [], []
    with (
        durable.full_disk_named(str(target.absolute().parent)),
        durable.publish_directory(target, facts=facts, replace=force) as directory,
    ):
        for name in chosen:
            path = directory / (name if kind == "datasets" else f"{name}.{kind}")
            rows = _WRITERS[kind](path, SCHEMAS[name], batches(run, name, iteration))
            if rows:
                found = target / path.name
                files.append(ExportedFile(str(found), rows, _bytes(path)))
            else:
                _remove(path)
                if what or name not in RARE:
                    empty.append(name)
        if not files:
            part = "" if iteration is None else f" in iteration {iteration}"
            raise NotFoundError(
                f"run {run.name} has no {' or '.join(empty)}{part}",
                f"See how far it is: selfreward status {run.handle}",
            )
    return Export(run.name, str(target), kind, tuple(iterations), tuple(files), tuple(empty))


def export_text(found: Export) -> str:
    """What ``selfreward export`` prints."""
    rows = [[file.path, f"{file.rows:,} rows", size(file.bytes)] for file in found.files]
    return table(rows)


def check_target(run: Run, target: Path, *, force: bool) -> None:
    """Refuse a directory that holds anything, but an earlier export that may be replaced.

    One in which people have worked, as on the scores that a run waits for, never may.

    Raises:
        ConfigError: Also where it lies within a run.
    """
    inside = run.path.resolve() in (target.resolve(), *target.resolve().parents)
    if inside:
        raise ConfigError(
            f"--output {target}: lies within the run, of which nothing is changed",
            "Name a directory elsewhere.",
        )
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise ConfigError(f"--output {target}: not a directory", "Name another one.")
    if not any(target.iterdir()):
        return
    try:
        is_ours = durable.EXPORTED in durable.read_manifest(target)
    except IntegrityError:
        is_ours = False
    if not is_ours:
        raise ConfigError(
            f"--output {target}: holds files, and not of an export",
            "Name a new directory; one that no export made is never replaced.",
        )
    if not force:
        raise ConfigError(
            f"--output {target}: holds an earlier export", "Name another one, or add --force."
        )
    try:
        durable.verify_directory(target)
    except IntegrityError as error:
        raise ConfigError(
            f"--output {target}: was changed since it was exported ({error.message})",
            "Name another one; remove this one yourself if nothing in it is needed.",
        ) from None


def _chosen(what: list[str] | None) -> list[What]:
    if unknown := [name for name in what or [] if name not in WHAT]:
        raise ConfigError(f"--what {unknown[0]}: expected some of {','.join(WHAT)}")
    return [name for name in WHAT if not what or name in what]


# One file of each format


def write_parquet(run: Run, path: Path, what: What, iteration: int | None = None) -> int:
    """Write one table into a new file; how many rows it has."""
    return _parquet(path, SCHEMAS[what], batches(run, what, iteration))


def _parquet(path: Path, schema: pa.Schema, rows: Iterator[pa.RecordBatch]) -> int:
    with open(path, "xb") as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        return _each(rows, writer.write_batch)


def _csv(path: Path, schema: pa.Schema, rows: Iterator[pa.RecordBatch]) -> int:
    flat = pa.schema([(f.name, pa.string() if _is_text(f.type) else f.type) for f in schema])
    with open(path, "xb") as file, pyarrow.csv.CSVWriter(file, flat) as writer:
        return _each(rows, lambda batch: writer.write_batch(_flat(batch, flat)))


def _jsonl(path: Path, schema: pa.Schema, rows: Iterator[pa.RecordBatch]) -> int:
    with open(path, "xb") as file:
        return _each(rows, lambda batch: _write_lines(file, batch))


def _datasets(path: Path, schema: pa.Schema, rows: Iterator[pa.RecordBatch]) -> int:
    import datasets

    datasets.disable_progress_bars()
    stream = path.with_name(f"{path.name}.arrow")
    with open(stream, "xb") as file, pa.ipc.new_stream(file, schema) as writer:
        count = _each(rows, writer.write_batch)
    if count:
        datasets.Dataset.from_file(str(stream)).save_to_disk(str(path))
    stream.unlink()
    return count


_WRITERS: dict[str, Callable[[Path, pa.Schema, Iterator[pa.RecordBatch]], int]] = {
    "parquet": _parquet, "jsonl": _jsonl, "csv": _csv, "datasets": _datasets,
}  # fmt: skip


def _each(rows: Iterator[pa.RecordBatch], write: Callable[[pa.RecordBatch], Any]) -> int:
    """Write each batch; how many rows there were."""
    count = 0
    for batch in rows:
        write(batch)
        count += batch.num_rows
    return count


def _write_lines(file: IO[bytes], batch: pa.RecordBatch) -> None:
    """In ASCII: no reader splits a line at U+2028, and no terminal acts on what is in a text."""
    for row in batch.to_pylist():
        file.write(json.dumps(row).encode() + b"\n")


def _flat(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch for CSV: lists as JSON, and no text that a spreadsheet would act on.

    A text that begins as ``ACTIVE`` says gets an apostrophe before it, so one apostrophe at the
    start of a text is always ours; ``inputs.rows`` takes it away.
    """
    columns = []
    for column, field in zip(batch.columns, batch.schema, strict=True):
        if pa.types.is_list(field.type):
            texts = [None if cell is None else json.dumps(cell) for cell in column.to_pylist()]
            columns.append(pa.array(texts, pa.string()))
        elif _is_text(field.type):
            quoted = pyarrow.compute.binary_join_element_wise("'", column, "")
            active = pyarrow.compute.match_substring_regex(column, _BEGINS_ACTIVE)
            columns.append(pyarrow.compute.if_else(active, quoted, column))
        else:
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_string(kind))


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
