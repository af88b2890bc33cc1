"""TensorBoard: event files in ``tracking/tensorboard`` of the run."""

import time
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from selfreward.tracking.base import About, Row


def open_tracker(about: About) -> "TensorBoard":
    """Open the directory of a run; see ``base.open_tracker``."""
    return TensorBoard(about.directory / "tensorboard")


class TensorBoard:
    """A row is one event, so a kill leaves all of it or nothing.

    Args:
        directory: For ``tensorboard --logdir``.
    """

    def __init__(self, directory: Path) -> None:
        self._last = max(
            (event.step for path in directory.glob("events.*") for event in _events(path)),
            default=0,
        )
        self._writer = EventFileWriter(str(directory))

    def last(self) -> int:
        """The last step in the files."""
        return self._last

    def log(self, row: Row) -> None:
        """Write a row as one event."""
        values = [Summary.Value(tag=name, simple_value=v) for name, v in row.values.items()]
        event = Event(step=row.at, wall_time=time.time(), summary=Summary(value=values))
        self._writer.add_event(event)

    def flush(self) -> bool:
        """Have it in the file."""
        self._writer.flush()
        return True

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _events(path: Path) -> list[Event]:
    return [*EventFileLoader(str(path)).Load()]
