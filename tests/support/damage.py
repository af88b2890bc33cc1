"""Ways to damage a run directory, each drawn by a seeded generator."""

import contextlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import yaml

from selfreward.storage.tables import TABLES

RECORDS = [name for name, _ in TABLES.values()]
OTHERS = [
    "owner", "stages", "train_log", "progress", "reports", "figures", "planned", "events", "seals",
]  # fmt: skip
ODD: list[object] = [
    None, b"\xff\xfe", "", "{", "[]", "null", "\udcff", -1, 0, 3, 10**18, 1.5, -1e308, "NaN", "M1",
    '{"iteration": 1}', "a\x00b",
]  # fmt: skip

Draw = random.Random
Damage = Callable[[Path, Draw], str]
"""Damages the run at a path; says how."""


def committed(path: Path) -> list[list[object]] | None:
    """All rows that a digest covers and nothing can make anew; None where they cannot be read."""
    tables = [*RECORDS, "stages", "train_log", "events"]
    with contextlib.closing(sqlite3.connect(path / "records.db")) as db:
        db.text_factory = bytes
        try:
            return [sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in tables]
        except (sqlite3.Error, UnicodeDecodeError):
            return None


def flip(path: Path, draw: Draw) -> str:
    """A few bytes of the database."""
    data = bytearray((path / "records.db").read_bytes())
    places = [draw.randrange(len(data)) for _ in range(draw.choice([1, 1, 3, 40]))]
    for place in places:
        data[place] ^= 1 << draw.randrange(8)
    (path / "records.db").write_bytes(data)
    return f"flipped {places[:3]}"


def zero_pages(path: Path, draw: Draw) -> str:
    """Whole pages of the database, but the first."""
    data = bytearray((path / "records.db").read_bytes())
    pages = draw.sample(range(len(data) // 4096), draw.choice([1, 1, 4]))
    for page in pages:
        data[page * 4096 : (page + 1) * 4096] = draw.choice([b"\0", b"\xff"]) * 4096
    (path / "records.db").write_bytes(data)
    return f"pages {pages}"


def truncate(path: Path, draw: Draw) -> str:
    """The database, a manifest, the config or M0.json cut."""
    files = ["records.db", "config.resolved.yaml", "models/M0.json", "models/M1/MANIFEST.json"]
    name = draw.choice(files)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: draw.choice([0, 1, 100, draw.randrange(len(data))])])
    return f"cut {name}"


def drop_table(path: Path, draw: Draw) -> str:
    """A table is gone."""
    table = draw.choice(RECORDS + OTHERS)
    _sql(path, f"DROP TABLE {table}")
    return f"without {table}"


def delete_rows(path: Path, draw: Draw) -> str:
    """One row, some rows or all rows of a table are gone."""
    table = draw.choice(RECORDS + OTHERS)
    some = draw.choice(["", " WHERE rowid % 3 = 0", f" WHERE rowid = {draw.randrange(1, 9)}"])
    _sql(path, f"DELETE FROM {table}{some}")
    return f"deleted from {table}{some}"


def odd_cell(path: Path, draw: Draw) -> str:
    """A cell holds what was never written there."""
    table = draw.choice(RECORDS + OTHERS)
    with contextlib.closing(sqlite3.connect(path / "records.db")) as db:
        column = draw.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})")])
    value = draw.choice(ODD)
    place, values = "?", [value]
    if value == "\udcff":
        place, values = "CAST(x'ff' AS TEXT)", []
    some = draw.choice(["", f" WHERE rowid = {draw.randrange(1, 5)}"])
    _sql(path, f"UPDATE OR REPLACE {table} SET {column} = {place}{some}", values)
    return f"{table}.{column} = {value!r}{some}"


def odd_key(path: Path, draw: Draw) -> str:
    """A key of the config is missing or holds what it cannot."""
    file = path / "config.resolved.yaml"
    data = yaml.safe_load(file.read_text())
    place = data
    key = draw.choice(list(place))
    while isinstance(place[key], dict) and place[key] and draw.random() < 0.7:
        place = place[key]
        key = draw.choice(list(place))
    if draw.random() < 0.5:
        del place[key]
    else:
        place[key] = draw.choice([None, "odd", -1, [], {}, [None], {"odd": 1}, 10**30])
    file.write_text(yaml.safe_dump(data))
    return f"config key {key} {place.get(key, 'missing')!r}"


def odd_json(path: Path, draw: Draw) -> str:
    """M0.json or a manifest holds other JSON."""
    name = draw.choice(["models/M0.json", "models/M1/MANIFEST.json", "models/M2/MANIFEST.json"])
    odd = [None, [], {}, {"path": None}, {"files": {"weights": 1}}, {"path": "/", "digest": "x"}, 7]
    value = draw.choice(odd)
    if (path / name).exists():
        (path / name).write_text(json.dumps(value))
    return f"{name} = {value!r}"


def odd_file(path: Path, draw: Draw) -> str:
    """A file is a directory, other bytes, or gone."""
    names = [
        "config.resolved.yaml", "models/M0.json", "run.lock", "seeds/ift.jsonl", "models/M1",
        "models/M2", "models/M1/weights", "models/M1/MANIFEST.json", "config.yaml", "logs",
        "records.db-wal", "records.db-shm", "templates", "checkpoints",
    ]  # fmt: skip
    name, how = draw.choice(names), draw.choice(["directory", "bytes", "gone"])
    file = path / name
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
    if how == "directory":
        file.mkdir(parents=True)
    elif how == "bytes" and file.parent.is_dir():
        file.write_bytes(draw.randbytes(draw.choice([1, 40, 5000])))
    return f"{name}: {how}"


ALL: list[Damage] = [
    flip, zero_pages, truncate, drop_table, delete_rows, odd_cell, odd_cell, odd_key, odd_json,
    odd_file,
]  # fmt: skip


def _sql(path: Path, statement: str, values: list[object] | None = None) -> None:
    """Run a statement, if the schema lets it pass."""
    with contextlib.closing(sqlite3.connect(path / "records.db")) as db:
        db.execute("PRAGMA ignore_check_constraints=1")
        with contextlib.suppress(sqlite3.IntegrityError), db:
            db.execute(statement, values or [])
