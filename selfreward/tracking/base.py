"""A tracker behind one small protocol; each file beside this one that has its name imports it.

records.db --rows--> follower --log--> tracker
|
watermark: what has arrived
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from selfreward import DISTRIBUTION
from selfreward.engines.installed import has_module
from selfreward.errors import PreflightError


@dataclass(frozen=True, slots=True)
class Row:
    """Numbers that belong together."""

    at: int
    """Place among all rows of a run, from 1: the step under which a tracker keeps it."""
    values: dict[str, float]
    """By name, such as ``dpo/loss``; may be NaN."""


@dataclass(frozen=True, slots=True)
class About:
    """What a tracker is told of a run."""

    id: str
    """Stays the same, so that a tracker that is opened again goes on with the same run."""
    name: str
    config: dict[str, Any]
    """The config in force, which holds no secret."""
    directory: Path
    """``tracking/`` of the run, for what a tracker keeps in files."""


class Tracker(Protocol):
    """An open tracker; all may raise whatever its library does."""

    def last(self) -> int:
        """The last row that has arrived, as the tracker itself knows; 0 if it cannot tell."""

    def log(self, row: Row) -> None:
        """Take a row; rows come in order."""

    def flush(self) -> bool:
        """Keep all that was taken; whether it is known to be kept by now."""

    def close(self) -> None:
        """Keep all that was taken, and end."""


def open_tracker(name: str, about: About) -> Tracker:
    """Open a tracker, which imports its library.

    Args:
        name: One of ``config.run.TRACKERS``.
    """
    module = importlib.import_module(f"selfreward.tracking.{name}")
    return cast(Tracker, module.open_tracker(about))


def check_installed(name: str) -> None:
    """Check that the library of a tracker is there, without importing it.

    Raises:
        PreflightError: It is not; the hint is the command that installs it.
    """
    if not has_module(name):
        raise PreflightError(
            f"track: {name} is not installed",
            f"Run `pip install '{DISTRIBUTION}[{name}]'`, or remove it from `track`.",
        )
