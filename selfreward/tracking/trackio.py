"""trackio: a local SQLite file, see ``TRACKIO_DIR``; ``TRACKIO_SPACE_ID`` sends it to a space."""

import os

import trackio
from trackio.sqlite_storage import SQLiteStorage

from selfreward.tracking.base import About, Row


def open_tracker(about: About) -> "Trackio":
    """Open the run of that name, or go on with it; see ``base.open_tracker``."""
    return Trackio(about)


class Trackio:
    """It writes in a thread of its own, and tells only at its end that all is kept."""

    def __init__(self, about: About) -> None:
        project = os.environ.get("TRACKIO_PROJECT", "selfreward")
        here = not (os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"))
        self._last = SQLiteStorage.get_max_step_for_run(project, about.id) if here else None
        self._run = trackio.init(
            project=project, name=about.id, config=about.config, resume="allow"
        )

    def last(self) -> int:
        """The last step in the local file."""
        return self._last or 0

    def log(self, row: Row) -> None:
        """Log a row at its step."""
        self._run.log(row.values, step=row.at)

    def flush(self) -> bool:
        """It cannot be told to, nor tell."""
        return False

    def close(self) -> None:
        """Wait until all is kept."""
        self._run.finish()
