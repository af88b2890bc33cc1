"""Rows from outside: JSON lines, a JSON array, CSV, TSV, parquet, plain text, and hub data sets.

A ``.txt`` that is no JSON has a prompt on each line. Text files are UTF-8, with or without a byte
order mark, with any line ends, plain or ``.gz``. Rows are as they are found, but for lists in CSV,
whose cells can only hold their text; what is in them is for ``shapes.py``.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from selfreward.config import SeedSource
from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.inputs import shipped
from selfreward.inputs.conversations import messages_in
from selfreward.storage import durable
from selfreward.text import ACTIVE

if TYPE_CHECKING:
    import _csv

Row = tuple[str, dict[str, Any]]
"""(where it stands, which no other row of the source has; the row)"""

SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
"""Of the files that are read; all but parquet with ``.gz`` behind as well."""
_NAMED = (*SUFFIXES, ".gz", ".yaml", ".yml", ".xlsx", ".arrow", ".zip", ".zst")
"""What ends so is the name of a file and no data set."""
_CSV = (".csv", ".tsv")
_PARQUET_ROWS = 64
"""Read at once: a file of kilobytes may unpack to gigabytes."""
_READ = (
    "Read are JSON lines, a JSON array, .csv, .tsv, .parquet, and .txt with a prompt on each line."
)
_WIDE = {
    "UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"[\0", b"\0["),
}
"""What text in other encodings begins with."""
_LISTS = (
    "responses", "completions", "history", "messages", "conversations", "conversation", "choices"
)  # fmt: skip
"""Columns that hold a list, of which a cell of CSV has the text."""
_LONGEST_CELL = 2**31 - 1


def read_rows(
    source: SeedSource, beside: Path | None = None, *, exported: bool = False
) -> Iterator[Row]:
    """Yield (where it stands, row) of any source, unchecked.

    Args:
        exported: Whether ``export`` wrote it, which in CSV puts an apostrophe before what a
            spreadsheet would compute; else the manifest beside it says so, if it does.

    Raises:
        ConfigError: The source is missing, unreadable, not what its name says, or empty; it has
            not the columns that ``columns`` names; or a file has a split or a revision.
        PreflightError: The hub cannot be reached.
    """
    path = _find(source.path, beside)
    if path is not None:
        _check_local(source, path)
    lists = {source.columns.get(name, name) for name in _LISTS}
    if path is None:
        rows = _read_hub(source)
    elif path.suffix.lower() == ".parquet":
        rows = _read_parquet(path)
    else:
        rows = _read_text(path, lists)
        if _kind(path)[1] in _CSV and (exported or _is_exported(path)):
            rows = ((at, _unquoted(row)) for at, row in rows)
    count, unseen, known = 0, set(source.columns.values()), set[str]()
    for at, row in rows:
        if source.limit is not None and count == source.limit:
            break
        count += 1
        if unseen:
            known |= _names_in(row)
            unseen -= known
        yield at, row
    if count == 0:
        raise ConfigError(f"{path or source.path}: holds no rows")
    for ours, theirs in source.columns.items():
        if theirs in unseen:
            near = get_close_matches(theirs, known, 1)
            raise ConfigError(
                f"{path or source.path}: none of {count} rows has a column {theirs!r}, which "
                f"columns names for {ours!r}",
                f"Did you mean {near[0]}?"
                if near
                else f"It has {', '.join(f'{name:.40}' for name in sorted(known)[:20])}.",
            )


def _check_local(source: SeedSource, path: Path) -> None:
    """Refuse what only a hub data set has, and would change nothing here."""
    defaults = SeedSource(path=source.path)
    for name in ("split", "revision"):
        if getattr(source, name) != getattr(defaults, name):
            raise ConfigError(
                f"{path}: a {name} is given ({getattr(source, name)}), but this is a file and no "
                "data set of the hub",
                f"Remove {name}, or give the data set as org/name.",
            )


def _names_in(row: Mapping[str, Any]) -> set[str]:
    """The columns of a row, and the names in objects that it lists."""
    lists = [value for value in row.values() if isinstance(value, list)]
    inner = {name for each in lists for one in each if isinstance(one, dict) for name in one}
    return inner | row.keys()


def _unpacked(cell: str, is_list: bool) -> Any:
    """The list that a cell holds, where one is due or it is one of messages; else its text."""
    if not cell.lstrip().startswith("["):
        return cell
    if not is_list:
        return messages_in(cell) or cell
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return found if isinstance(found, list) else cell


def _find(path: str, beside: Path | None) -> Path | None:
    """The file that ``path`` names, or None for a hub id."""
    places = [
        *([beside / path] if beside else []), Path(path), shipped.prompts_directory() / path
    ]  # fmt: skip
    for place in places:
        if place.is_file():
            return place
    local = path.startswith((".", "/", "~")) or path.lower().endswith((*_NAMED, "/"))
    shipped_one = (shipped.prompts_directory() / path).parent.is_dir() and "/" in path
    if path.count("/") == 1 and not local and not shipped_one:
        return None
    prefix = path.removesuffix(Path(path).name)
    names = {
        prefix + file.name: None
        for place in places
        if place.parent.is_dir()
        for file in sorted(place.parent.iterdir())
        if Path(path).name and file.name.lower().endswith((*SUFFIXES, ".gz"))
    }
    if folder := next((place for place in places if place.is_dir()), None):
        raise ConfigError(f"data {path!r}: {folder} is a directory", "Name a file in it.")
    near = get_close_matches(path, names, n=2, cutoff=0.6)
    where = f"beside the config ({beside}), " if beside else ""
    hint = (
        f"Did you mean {' or '.join(near)}?"
        if near
        else f"It was looked for {where}in the current directory and among the shipped files; "
        "a data set of the hub is org/name."
    )
    raise ConfigError(f"data {path!r}: no such file", hint)


def _kind(path: Path) -> tuple[bool, str]:
    """Whether a file is packed by gzip, and how its name ends before that."""
    is_packed = path.suffix.lower() == ".gz"
    return is_packed, (path.with_suffix("") if is_packed else path).suffix.lower()


def _is_exported(path: Path) -> bool:
    """Whether it lies where ``export`` put it, filled in or not."""
    try:
        manifest = durable.read_manifest(path.parent)
    except (IntegrityError, OSError):
        return False
    files = manifest["files"]
    return durable.EXPORTED in manifest and isinstance(files, dict) and path.name in files


def _unquoted(row: dict[str, Any]) -> dict[str, Any]:
    """The texts of a row without the apostrophe that ``export`` puts first."""

    def plain(cell: Any) -> Any:
        is_ours = isinstance(cell, str) and len(cell) > 1 and cell[0] == "'" and cell[1] in ACTIVE
        return cell[1:] if is_ours else cell

    return {name: plain(cell) for name, cell in row.items()}


def _read_text(path: Path, lists: Collection[str]) -> Iterator[Row]:
    """Rows of a text file; the names of some say less than their first byte."""
    is_packed, kind = _kind(path)
    try:
        with cast(BinaryIO, gzip.open(path) if is_packed else open(path, "rb")) as file:
            head = file.read(4096).removeprefix(b"\xef\xbb\xbf")
            file.seek(0)
            _check_encoding(path, head, is_plain=kind in (*_CSV, ".txt"))
            if kind in _CSV:
                if _is_json(head):
                    raise ConfigError(f"{path}: is JSON by what it holds", "Name it .jsonl.")
                yield from _read_csv(path, file, "," if kind == ".csv" else "\t", lists)
            elif kind == ".txt" and not _is_json(head):
                yield from _read_lines(path, file)
            elif head.lstrip().startswith(b"["):
                yield from _read_array(path, file)
            else:
                is_of_cr = b"\r" in head and b"\n" not in head  # as of a Macintosh of old
                lines = io.BytesIO(file.read().replace(b"\r", b"\n")) if is_of_cr else file
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield (
                            f"{path}:{number}",
                            _parse_line(line, f"{path}:{number}", number, head),
                        )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: not a readable gzip file ({error})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the seed data ({error.strerror})") from None


def _check_encoding(path: Path, head: bytes, *, is_plain: bool) -> None:
    """Refuse what is not UTF-8 by its beginning, before it is told as torn.

    Args:
        is_plain: Whether any character would pass; in JSON a NUL is refused where it stands.

    Raises:
        ConfigError: With what it is.
    """
    wide = next((name for name, marks in _WIDE.items() if head.startswith(marks)), None)
    if wide is None and is_plain and head.count(b"\0") * 4 >= len(head) > 0:
        wide = "UTF-16"
    if wide is not None:
        hint = f"Convert it: iconv -f {wide} -t UTF-8 {path.name} > new{path.suffix}"
        raise ConfigError(f"{path}: is {wide}, and seed data is UTF-8", hint)
    if is_plain and b"\0" in head:
        line = head.count(b"\n", 0, head.index(b"\0")) + 1
        raise ConfigError(f"{path}:{line}: holds a NUL byte, which no text has", "Remove it.")


def _is_json(head: bytes) -> bool:
    """Whether it is no list of prompts, of which one may well begin with a bracket, and no CSV."""
    first = head.lstrip()
    if first.startswith(b"["):
        return first[1:].lstrip()[:1] in (b"{", b"]", b"")
    try:
        return isinstance(json.loads(first.split(b"\n", 1)[0]), dict)
    except (ValueError, RecursionError):
        return re.match(rb'\{\s*(?:"|$)', first) is not None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose names differ.

    Raises:
        ValueError: One is there twice: who knows which is meant.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice[:60]!r} is there twice")
    return found


def _parse_line(line: bytes, at: str, number: int, head: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{at}: not JSON ({_no_utf8(error)}){_torn(line)}") from None
    except (ValueError, RecursionError) as error:
        if number == 1 and line.strip() == b"{" and head.count(b"\n") > 1:
            raise ConfigError(
                f"{at}: not JSON lines, it holds an object over several lines",
                "Give one row a line, or an array of rows.",
            ) from None
        why, hint = str(error), _READ if number == 1 else ""
        if isinstance(error, json.JSONDecodeError):
            why = f"{error.msg}: column {error.pos + 1}"
            if error.msg == "Extra data" and error.doc[error.pos :].strip() == ",":
                hint = "Remove the comma behind the row, or put all rows into one array: [...]."
        raise ConfigError(f"{at}: not JSON ({why}){_torn(line)}", hint) from None
    return _object(row, at)


def _read_lines(path: Path, file: BinaryIO) -> Iterator[Row]:
    """The lines of plain text that are not blank, each as a prompt."""
    with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        try:
            for number, line in enumerate(text, 1):
                if line.strip():
                    yield f"{path}:{number}", {"prompt": line.strip()}
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not plain text ({_no_utf8(error)})") from None


def _read_array(path: Path, file: BinaryIO) -> Iterator[Row]:
    """The elements of a JSON array, each with the line that it begins on.

    Of several that begin on one line all but the first are told apart by their number.
    """
    data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not JSON ({_no_utf8(error)})") from None
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at, counted, line, number, before = text.index("[") + 1, 0, 1, 0, 0
    while True:
        at = _skip(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            break
        number += 1
        where = f"{path}:{line}" + (f" row {number}" if line == before else "")
        before = line
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            torn = "; the file looks torn" if not text.rstrip().endswith("]") else ""
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise ConfigError(f"{where}: not JSON ({reason}){torn}") from None
        yield where, _object(row, where)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "]":
            torn = "; the file looks torn" if not text[at:] else ""
            raise ConfigError(f"{where}: not JSON (no comma behind this row){torn}")
    if text[at + 1 :].strip():
        raise ConfigError(f"{path}:{line}: not JSON (there is more behind the array)")


def _read_csv(path: Path, file: BinaryIO, delimiter: str, lists: Collection[str]) -> Iterator[Row]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        csv.field_size_limit(_LONGEST_CELL)  # else 131,072, which an answer may have
        for at, row in _records(path, csv.reader(text, delimiter=delimiter, strict=True)):
            yield at, {name: _unpacked(cell, name in lists) for name, cell in row.items()}


def _records(path: Path, reader: "_csv.Reader") -> Iterator[Row]:
    header: list[str] = []
    before = 0
    try:
        for fields in reader:
            at, before = f"{path}:{before + 1}", reader.line_num
            if not any(field.strip() for field in fields):
                continue
            if not header:
                header = fields
                if len(header) == 1 and (mark := next((m for m in ";\t|" if m in header[0]), "")):
                    raise ConfigError(
                        f"{at}: the only column is {header[0]!r}",
                        f"They seem to be parted by {mark!r}; .csv takes commas, and .tsv tabs.",
                    )
                if len(set(header)) < len(header):
                    raise ConfigError(f"{at}: two columns have the same name")
                continue
            if len(fields) != len(header):
                raise ConfigError(f"{at}: {len(fields)} fields, and the header has {len(header)}")
            yield at, dict(zip(header, fields, strict=True))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not CSV ({_no_utf8(error)})") from None
    except csv.Error as error:
        raise ConfigError(f"{path}:{before + 1}: not CSV ({error})") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ConfigError(f"{path}: two columns have the name {twice!r}", "Rename one.")
            for batch in file.iter_batches(_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", _floats(row)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a readable parquet file ({_line(error)})") from None
    except (ValueError, ArithmeticError, LookupError) as error:  # a date of the year 5,000,000
        raise ConfigError(
            f"{path}: behind row {number} is a value that Python does not have ({_line(error)})",
            "Leave the column out, or write it as text.",
        ) from None


def _read_hub(source: SeedSource) -> Iterator[Row]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows = datasets.load_dataset(source.path, split=source.split, revision=source.revision)
    except (datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise ConfigError(f"data {source.path!r}: {_line(error)}") from None
    except (ConnectionError, OSError, HfHubHTTPError) as error:
        raise PreflightError(
            f"data {source.path!r}: the hub cannot be reached ({_line(error)})",
            "Download it once and give the file's path.",
        ) from None
    for number, row in enumerate(rows, 1):
        yield f"{source.path}[{source.split}] row {number}", _floats(dict(row))


def _floats(value: Any) -> Any:
    """With floats in place of decimals, which neither JSON nor a reader of numbers knows."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _floats(inner) for name, inner in value.items()}
    return [_floats(inner) for inner in value] if isinstance(value, list) else value


def _object(row: object, at: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError(f"{at}: a row is an object, found {row!r:.40}")
    return row


def _skip(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _no_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte {error.object[error.start]:#x}; is it Latin-1?"


def _torn(line: bytes) -> str:
    return "" if line.endswith(b"\n") else "; the last line looks torn"


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
