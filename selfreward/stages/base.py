"""What every stage needs: seeds that follow from the run and the records' keys, and its work."""

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from operator import attrgetter

from selfreward.records import Prompt, Record

Ask = Callable[[], Awaitable[Sequence[Record]]]
"""One request that is not sent yet, and the records that its answer becomes."""
Asks = Callable[[Sequence[Record]], list[Ask]]
"""What records that were just committed, or found at the start, lead to."""


def _pass() -> None:
    """Whether it is enough shows later."""


@dataclass(slots=True, eq=False)
class Made:
    """What a stage has committed, in numbers: a million records do not fit into memory."""

    total: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Of them, how many were dropped for which reason."""
    unread: Counter[str] = field(default_factory=Counter)
    """Of votes, how many have no verdict for which reason."""

    @property
    def kept(self) -> int:
        """How many were not dropped."""
        return self.total - self.dropped.total()

    @property
    def verdicts(self) -> int:
        """How many votes have one."""
        return self.total - self.unread.total()

    def add(self, record: Record) -> None:
        """Count a record."""
        self.total += 1
        if (dropped := getattr(record, "dropped", None)) is not None:
            self.dropped[dropped] += 1
        if (unread := getattr(record, "reason", None)) is not None:
            self.unread[unread] += 1


@dataclass(slots=True, eq=False)
class Work:
    """One stage of a rollout: how much it has made, and what it has left to ask.

    Each module of a stage ends with the function that makes its work. The stream sends what is
    asked, commits what comes in and tells all works of it.
    """

    stage: str
    committed: InitVar[Iterable[Record]]
    """All records that are there of the stage, which are counted and not kept."""
    total: int
    """Units of work in all, as far as is known."""
    asks: Asks
    """Raises StoppedError where there is no sense in going on."""
    is_mine: Callable[[Record], bool]
    """Whether a record is one of the stage."""
    check: Callable[[], None] = _pass
    """Called when nothing is left to ask. Raises StoppedError where that is not enough to go on."""
    done: Callable[[Made], int] = attrgetter("total")
    """How many units of work so many records are."""
    note: Callable[[str], str] = str
    """What to say of the progress, given the rate, such as ``312 tokens/s``; that may be empty."""
    failure: str = ""
    """Why its model cannot be asked any more, though the others go on."""
    made: Made = field(default_factory=Made)

    def __post_init__(self, committed: Iterable[Record]) -> None:
        for record in committed:
            self.made.add(record)

    def count(self, new: Iterable[Record]) -> None:
        """Count what was committed."""
        for record in filter(self.is_mine, new):
            self.made.add(record)


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


def counted(reasons: Counter[str]) -> str:
    """Such as ``too long 3, empty 1``, the most frequent first."""
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
