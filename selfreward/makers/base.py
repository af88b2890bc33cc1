"""What every maker is, and how it tells how fast it is."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from selfreward.records import Record
from selfreward.storage.tracker import Tracker

Ask = Callable[[], Awaitable[Sequence[Record]]]
"""One request that is not sent yet, and the records that its answer becomes."""


class Maker(Protocol):
    """One stage of a rollout."""

    stage: str
    records: list[Any]
    """All of the stage that is committed."""
    tracker: Tracker

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """What records that were just committed, or found at the start, lead to."""

    def keep(self, new: Sequence[Record]) -> None:
        """Take in what was committed of this stage, and show it.

        Raises:
            StoppedError: There is no sense in going on.
        """

    def check(self) -> None:
        """Say whether the stage, all of it made, is enough to go on.

        Raises:
            StoppedError: It is not.
        """


def rate(tokens: int, tracker: Tracker) -> str:
    """Such as ``312 tokens/s``; empty before the first."""
    return f"{tokens / tracker.elapsed:.0f} tokens/s" if tokens else ""
