"""The SQLite file under the store: made, opened, and what it raises in our words."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from selfreward.errors import IntegrityError, LockedError, NotFoundError, PreflightError
from selfreward.records import stages_of
from selfreward.storage import seals
from selfreward.storage.tables import (
    JUDGED_AGAIN,
    PLANNED,
    RESTORE,
    SCHEMA,
    SCHEMA_VERSION,
    SEALS,
)

_UNPLANNED = 4
"""The oldest schema version that can be read: without table ``planned`` and ``token_ids``."""
_UNSEALED = 5
"""The one after it: without table ``seals``."""
_BARE = 6
"""The one after that: prompts have no columns."""
_UNJUDGED = 7
"""The last one: without the tables ``JUDGED_AGAIN``."""
_NOT_DAMAGE = ("SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_NOMEM")
_UNREADABLE = ("SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA")
"""Of the I/O errors those that are damage; the others say that the disk fails or is full."""


def create(path: Path) -> None:
    """Make an empty ``records.db``, which names its maker; ``path`` must not exist."""
    with errors(path):
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
        errors(target),
        closing(sqlite3.connect(target)) as made,
    ):
        db.backup(made)


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open a ``records.db`` of this release's schema or one of those before, in autocommit mode.

    What an earlier one lacks is there for this connection alone; ``upgrade`` writes it. Text that
    is not UTF-8 comes as bytes.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no database, or one of another release.
        PreflightError: The disk does not let it be opened.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file, so this is no run directory")
    for beside in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if beside.exists() and not beside.is_file():
            raise IntegrityError(f"{beside}: not a file", "Remove it: SQLite makes its own.")
    with errors(path):
        db, version = open_file(path, writes=writes)
        try:
            if version not in (SCHEMA_VERSION, _UNJUDGED, _BARE, _UNSEALED, _UNPLANNED):
                raise IntegrityError(
                    f"{path}: schema version {version}, this release reads {SCHEMA_VERSION}",
                    f"Take the release that made it. {RESTORE}",
                )
            if writes:
                db.execute("PRAGMA synchronous=FULL")
            elif version < SCHEMA_VERSION:
                _complete(db, version)
        except BaseException:
            db.close()
            raise
    return db


def open_file(path: Path, *, writes: bool, makes: bool = False) -> tuple[sqlite3.Connection, int]:
    """Open any database of a run: the connection, in autocommit mode, and the schema version.

    Within ``errors``, as it raises what SQLite raises. Where there is none, ``makes`` makes an
    empty one, of version 0.

    SQLite keeps a file beside the database even to read it. Where none can be made (a read-only
    mount, a full disk) and nothing waits in the WAL, the database alone is all there is, and it is
    read as one that does not change (https://www.sqlite.org/uri.html, ``immutable``).
    """
    try:
        return _connect(path, f"mode={'rwc' if makes else 'rw' if writes else 'ro'}")
    except sqlite3.OperationalError as error:
        wal = path.with_name(f"{path.name}-wal")
        waits = wal.exists() and wal.stat().st_size > 0
        if writes or waits or not _name(error).startswith((*_NOT_DAMAGE, "SQLITE_IOERR")):
            raise
    return _connect(path, "mode=ro&immutable=1")


def _connect(path: Path, options: str) -> tuple[sqlite3.Connection, int]:
    db = sqlite3.connect(
        f"file:{_quote(path)}?{options}", uri=True, timeout=30,
        isolation_level=None, check_same_thread=False,
    )  # fmt: skip
    try:
        db.text_factory = _text
        return db, db.execute("PRAGMA user_version").fetchone()[0]
    except BaseException:
        db.close()
        raise


def _complete(db: sqlite3.Connection, version: int) -> None:
    """Give a connection that only reads what the schema of now has more."""
    db.execute("PRAGMA temp_store=MEMORY")
    for name, columns in JUDGED_AGAIN.items():
        db.execute(f"CREATE TEMP TABLE {name} {columns}")
    if version < _UNJUDGED:
        db.execute("CREATE TEMP VIEW prompts AS SELECT *, NULL AS columns FROM main.prompts")
    if version < _BARE:
        db.execute(f"CREATE TEMP TABLE seals {SEALS}")
    if version == _UNPLANNED:
        _plan(db, "CREATE TEMP TABLE")
        db.execute("CREATE TEMP VIEW responses AS SELECT *, NULL AS token_ids FROM main.responses")


def upgrade(db: sqlite3.Connection) -> None:
    """Bring a database of an earlier schema version to this one, within the open transaction."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version == _UNPLANNED:
        _plan(db, "CREATE TABLE")
        db.execute("ALTER TABLE responses ADD COLUMN token_ids TEXT")
    if version < _BARE:
        db.execute(f"CREATE TABLE seals {SEALS}")
        seals.seal_events(db)
    if version < _UNJUDGED:
        db.execute("ALTER TABLE prompts ADD COLUMN columns TEXT")
    for name, columns in JUDGED_AGAIN.items():
        db.execute(f"CREATE TABLE {name} {columns}")
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def is_current(db: sqlite3.Connection) -> bool:
    """Whether a database is of this release's schema."""
    return bool(db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION)


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
def errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into our errors: the one place that knows damage from a full disk.

    Raises:
        IntegrityError: What is there cannot be read, or a key is already taken.
        LockedError: Another process is writing.
        PreflightError: The disk is full, fails, or may not be written.
    """
    try:
        yield
    except sqlite3.ProgrammingError:  # our own mistake
        raise
    except sqlite3.IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; the record was not written") from error
    except UnicodeDecodeError as error:  # in the name of a column
        raise IntegrityError(f"{path}: cannot be read ({error})", RESTORE) from error
    except sqlite3.DatabaseError as error:
        name = _name(error)
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LockedError(f"{path}: another process is writing to it ({error})") from error
        is_disk = name.startswith((*_NOT_DAMAGE, "SQLITE_IOERR"))
        if is_disk and not name.startswith(_UNREADABLE):
            raise PreflightError(
                f"{path}: {error}",
                "Free some disk space (`selfreward gc RUN` may help), or make it writable; then do "
                "it again.",
            ) from error
        what = "not a readable database" if name == "SQLITE_NOTADB" else "cannot be read"
        raise IntegrityError(f"{path}: {what} ({error})", RESTORE) from error


def _name(error: sqlite3.Error) -> str:
    """Such as ``SQLITE_FULL``; empty where Python itself raised it."""
    return str(getattr(error, "sqlite_errorname", ""))


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _quote(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
