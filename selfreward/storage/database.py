"""The SQLite file under the store: made, opened, and what it raises in our words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfreward.errors import IntegrityError, LockedError, NotFoundError, PreflightError
from selfreward.storage.tables import SCHEMA, SCHEMA_VERSION


def create(path: Path) -> None:
    """Make an empty ``records.db``; ``path`` must not exist."""
    with write_errors(path):
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
        finally:
            db.close()


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open a ``records.db`` of this release's schema, in autocommit mode.

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
    if version != SCHEMA_VERSION:
        db.close()
        raise IntegrityError(
            f"{path}: schema version {version}, this release reads {SCHEMA_VERSION}"
        )
    if writes:
        db.execute("PRAGMA synchronous=FULL")
    return db


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
