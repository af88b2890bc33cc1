"""What every stage needs: seeds that follow from the run and the records' keys, and its work."""

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from selfreward.records import Prompt, Record

Ask = Callable[[], Awaitable[Sequence[Record]]]
"""One request that is not sent yet, and the records that its answer becomes."""
Asks = Callable[[Sequence[Record]], list[Ask]]
"""What records that were just committed, or found at the start, lead to."""


def _pass() -> None:
    """Whether it is enough shows later."""


@dataclass(slots=True, eq=False)
class Work:
    """One stage of a rollout: the records it has, and what it has left to ask.

    Each module of a stage ends with the function that makes its work. The stream sends what is
    asked, commits what comes in and tells all works of it.
    """

    stage: str
    records: list[Any]
    """All of the stage that is committed."""
    total: int
    """Units of work in all, as far as is known."""
    asks: Asks
    """Raises StoppedError where there is no sense in going on."""
    is_mine: Callable[[Record], bool]
    """Whether a record is one of the stage."""
    check: Callable[[], None] = _pass
    """Called when nothing is left to ask. Raises StoppedError where that is not enough to go on."""
    done: Callable[[Sequence[Any]], int] = len
    """How many units of work so many records are."""
    note: Callable[[str], str] = str
    """What to say of the progress, given the rate, such as ``312 tokens/s``; that may be empty."""
    failure: str = ""
    """Why its model cannot be asked any more, though the others go on."""

    def keep(self, new: Iterable[Record]) -> None:
        """Take in what was committed."""
        self.records += filter(self.is_mine, new)


def first_time(asks: Iterable[Ask]) -> Asks:
    """Lead to all of these the first time, and to nothing more, whatever is new."""
    left = [*asks]

    def take(new: Sequence[Record]) -> list[Ask]:
        taken, left[:] = [*left], []
        return taken

    return take


def for_each_prompt(ask: Callable[[Prompt], Ask], done: Collection[int]) -> Asks:
    """One request for each accepted prompt, but of the attempts that are done."""
    return lambda new: [
        ask(record)
        for record in new
        if isinstance(record, Prompt) and record.dropped is None and record.attempt not in done
    ]


def are(kind: type[Record]) -> Callable[[Record], bool]:
    """Whether a record is of one kind."""
    return lambda record: isinstance(record, kind)


def seed_of(run_seed: int, *key: object) -> int:
    """Seed of one request: 48 bits of sha256 over the run's seed and the request's key.

    Adding sample numbers to it stays within what every engine takes.
    """
    text = "/".join(map(str, (run_seed, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def counted(reasons: Iterable[str | None]) -> str:
    """Such as ``too long 3, empty 1``, the most frequent first; None is no reason."""
    counts = Counter(reason for reason in reasons if reason is not None)
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
