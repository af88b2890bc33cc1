"""The SQLite file under the store: made, opened, and what it raises in our words."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from selfreward.errors import IntegrityError, LockedError, NotFoundError, PreflightError
from selfreward.records import stages_of
from selfreward.storage.tables import PLANNED, SCHEMA, SCHEMA_VERSION

_BEFORE = 4
"""The schema version that can still be read: without table ``planned`` and ``token_ids``."""


def create(path: Path) -> None:
    """Make an empty ``records.db``, which names its maker; ``path`` must not exist."""
    with write_errors(path):
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
            db.execute("UPDATE owner SET host = ?, pid = ?", (socket.gethostname(), os.getpid()))
        finally:
            db.close()


def copy(source: Path, target: Path) -> None:
    """Copy a ``records.db`` as it is at this moment, also while another process writes to it.

    Raises:
        NotFoundError, IntegrityError: See ``connect``.
        PreflightError: The disk is full.
    """
    with (
        closing(connect(source, writes=False)) as db,
        write_errors(target),
        closing(sqlite3.connect(target)) as made,
    ):
        db.backup(made)


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open a ``records.db`` of this release's schema or the one before, in autocommit mode.

    What the one before lacks is there for this connection alone; ``upgrade`` writes it.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no database, or one of another release.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file, so this is no run directory")
    db = sqlite3.connect(
        f"file:{_quote(path)}?mode={'rw' if writes else 'ro'}", uri=True, timeout=30,
        isolation_level=None, check_same_thread=False,
    )  # fmt: skip
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        db.close()
        raise IntegrityError(f"{path}: not a readable database ({error})") from None
    if version not in (SCHEMA_VERSION, _BEFORE):
        db.close()
        raise IntegrityError(
            f"{path}: schema version {version}, this release reads {SCHEMA_VERSION}"
        )
    if writes:
        db.execute("PRAGMA synchronous=FULL")
    elif version == _BEFORE:
        db.execute("PRAGMA temp_store=MEMORY")
        _plan(db, "CREATE TEMP TABLE")
        db.execute("CREATE TEMP VIEW responses AS SELECT *, NULL AS token_ids FROM main.responses")
    return db


def upgrade(db: sqlite3.Connection) -> None:
    """Bring a database of the schema version before to this one, within the open transaction."""
    if db.execute("PRAGMA user_version").fetchone()[0] == _BEFORE:
        _plan(db, "CREATE TABLE")
        db.execute("ALTER TABLE responses ADD COLUMN token_ids TEXT")
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _plan(db: sqlite3.Connection, create: str) -> None:
    """Make and fill the table of the stages planned, going by those that have begun.

    That models are not evaluated shows once an iteration is closed without.
    """
    db.execute(f"{create} planned {PLANNED}")
    begun: dict[int, set[str]] = {0: set(), 1: set()}
    for table in ("progress", "stages"):
        for iteration, stage in db.execute(f"SELECT iteration, stage FROM {table}"):
            begun.setdefault(iteration, set()).add(stage)
    closed = db.execute("SELECT count(*) FROM figures").fetchone()[0] > 0
    evaluated = not closed or any("evaluate" in stages for stages in begun.values())
    for iteration, stages in begun.items():
        rows = enumerate(stages_of(iteration, stages, evaluated))
        db.executemany("INSERT INTO planned VALUES (?,?,?)", [(iteration, *row) for row in rows])


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises while writing into our errors.

    Raises:
        IntegrityError: A key is already taken.
        LockedError: Another process is writing.
        PreflightError: The disk is full.
    """
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; the record was not written") from error
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise LockedError(f"{path}: another process is writing to it ({error})") from error
        if "full" in str(error) or "disk I/O" in str(error):
            raise PreflightError(
                f"{path}: {error}", "Free some disk space, then resume the run."
            ) from error
        raise


def _quote(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
