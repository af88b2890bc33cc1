"""What people are asked: which answers of a run a labeler gets next, and in which order.

    prompts of the run -> an order of the labeler's own -> the first item not labeled yet

A share of the prompts, the same ones for everybody, is asked of every labeler, so that it can be
said how far people agree with each other; any other is asked of one of them. All draws follow from
the run's seed, the prompt and, where it is not shared, the labeler. No NumPy here: the viewer's
process imports this.
"""

import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from selfreward.errors import ConfigError
from selfreward.storage.directory import Run
from selfreward.storage.label import MOST_RANKED, Item, Kind, Label
from selfreward.storage.store import Store

Order = Literal["random", "disputed", "pairs"]
ORDERS: tuple[Order, ...] = get_args(Order)
"""At random; the widest spread of votes first; the chosen and the rejected answer of a pair."""
FEWEST_S, SHARE = 10.0, 0.02
"""An order is made anew as the run goes on: at most this often, and in this share of the time."""
_HALF = 2**24
"""The upper half of 48 bits tells whether a prompt is shared, the lower half its place."""
_KEPT = 8
"""Orders in memory, of as many labelers: about 16 bytes a prompt each."""

_PROMPTS = "SELECT iteration, attempt, -1, -1 FROM prompts WHERE iteration > 0 AND dropped IS NULL"
_PAIRS = "SELECT iteration, attempt, chosen, rejected FROM pairs WHERE iteration > 0"
_SPREADS = """
SELECT iteration, attempt, max(spread) FROM (
    SELECT iteration, attempt, max(score) - min(score) AS spread
    FROM judgments WHERE iteration > 0 GROUP BY iteration, attempt, sample)
GROUP BY iteration, attempt HAVING max(spread) > 0"""
_WHOLE = """
SELECT sample, text FROM responses WHERE iteration = ? AND attempt = ? AND dropped IS NULL
    AND finish_reason = 'stop' AND author = 'policy' ORDER BY sample"""
_SPREAD = """
SELECT sample, max(score) - min(score) FROM judgments
WHERE iteration = ? AND attempt = ? GROUP BY sample"""


@dataclass(frozen=True, slots=True)
class Questions:
    """What kind of items to ask about."""

    kind: Kind
    order: Order = "random"
    answers: int = 4
    """Most answers of a prompt to rank, or to rate one after another; 2 to 9."""
    overlap: float = 0.2
    """Share of the prompts that every labeler is asked about, 0 to 1."""
    iteration: int | None = None
    """Ask about one iteration alone; all if None."""

    def __post_init__(self) -> None:
        if not 2 <= self.answers <= MOST_RANKED:
            raise ConfigError(f"answers={self.answers}: a person is asked for 2 to {MOST_RANKED}")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"overlap={self.overlap}: a share is from 0 to 1")


@dataclass(frozen=True, slots=True)
class Found:
    """The next item of a labeler."""

    item: Item | None
    """None where all is labeled."""
    labeled: int
    """Labels of this kind that this labeler gave, what was passed over not counted."""
    prompts: int
    """Prompts that are asked about at all."""


class Queue:
    """The orders of one run, kept while it goes on."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._seed = int(run.settings["seed"])
        self._orders: OrderedDict[tuple[object, ...], _Ordered] = OrderedDict()

    def find(
        self,
        store: Store,
        asked: Questions,
        labeler: str,
        labels: Sequence[Label],
        passed: Collection[Item] = (),
    ) -> Found:
        """Find what a labeler is asked next.

        Args:
            labels: Those of this kind that count, of all labelers.
            passed: Items that are on their way to the labeler already.

        Raises:
            ConfigError: ``disputed`` where no votes differ, ``pairs`` where there are none.
        """
        mine = {label.item for label in labels if label.labeler == labeler} | {*passed}
        ours = {(item.iteration, item.attempt) for item in mine}
        given = [label for label in labels if not label.is_skip]
        others = {
            (label.item.iteration, label.item.attempt)
            for label in given
            if label.labeler != labeler
        } - ours
        num_labeled = sum(label.labeler == labeler for label in given)
        ordered = self._ordered(store, asked, labeler)
        if asked.order != "random" and not ordered.prompts:
            problem = {
                "disputed": "no two votes on an answer differ, so none is disputed",
                "pairs": "there are no pairs yet",
            }[asked.order]
            raise ConfigError(f"run {self.run.name}: {problem}", "Ask in the order random.")
        for iteration, attempt, chosen, rejected in ordered.rows():
            at = (iteration, attempt)
            if at in others and not self._is_shared(asked, *at):
                continue
            pair = (chosen, rejected) if chosen >= 0 else ()
            if asked.kind != "rating" and not pair and at in ours:
                continue
            for item in self._items(store, asked, at, pair):
                if item not in mine:
                    return Found(item, num_labeled, ordered.prompts)
        return Found(None, num_labeled, ordered.prompts)

    def shown(self, item: Item, labeler: str) -> tuple[int, ...]:
        """The samples in the order in which a labeler sees them: as by chance, and always so."""
        place = {s: self._draw("shown", labeler, *_key(item), s) for s in item.samples}
        return tuple(sorted(item.samples, key=place.__getitem__))

    def _items(
        self, store: Store, asked: Questions, at: tuple[int, int], pair: tuple[int, ...]
    ) -> Iterator[Item]:
        """What is asked about a prompt; nothing with fewer than two whole answers.

        Answers of the same text are asked about once.
        """
        texts: dict[str, int] = {}
        whole = {sample: text for sample, text in store.query(_WHOLE, at) if text}
        for sample in (*pair, *whole):
            if sample in whole:
                texts.setdefault(whole[sample], sample)
        samples = [*texts.values()]
        if len(samples) < 2:
            return
        spreads = dict(store.query(_SPREAD, at)) if asked.order == "disputed" else {}

        def first(sample: int) -> tuple[bool, float, int]:
            return sample not in pair, -(spreads.get(sample) or 0), self._draw("asked", *at, sample)

        samples.sort(key=first)
        if asked.kind == "ab":
            if not pair or {*pair} == {*samples[:2]}:
                yield Item("ab", *at, tuple(sorted(samples[:2])))
        elif asked.kind == "ranking":
            yield Item("ranking", *at, tuple(sorted(samples[: asked.answers])))
        else:
            for sample in samples[: asked.answers]:
                yield Item("rating", *at, (sample,))

    def _ordered(self, store: Store, asked: Questions, labeler: str) -> "_Ordered":
        table = {"random": "prompts", "pairs": "pairs", "disputed": "judgments"}[asked.order]
        last = next(store.query(f"SELECT max(rowid) FROM {table}"))[0] or 0
        key = (asked.order, asked.overlap, asked.iteration, labeler)
        found = self._orders.get(key)
        if found is None or (found.last != last and found.is_old):
            began = time.monotonic()
            rows = self._sorted(store, asked, labeler)
            found = _Ordered(rows, last, began, time.monotonic() - began)
        self._orders[key] = found
        self._orders.move_to_end(key)
        while len(self._orders) > _KEPT:
            self._orders.popitem(last=False)
        return found

    def _sorted(self, store: Store, asked: Questions, labeler: str) -> list[tuple[int, ...]]:
        spreads: dict[tuple[int, int], float] = {}
        if asked.order == "disputed":
            spreads = {(t, attempt): spread for t, attempt, spread in store.query(_SPREADS)}
        rows: Iterable[tuple[int, ...]] = store.query(
            _PAIRS if asked.order == "pairs" else _PROMPTS
        )
        rows = [row for row in rows if asked.iteration in (None, row[0])]
        if asked.order == "disputed":
            rows = [row for row in rows if row[:2] in spreads]

        whose = self._draw("labeler", labeler) | 1  # odd, so that no two places become one

        def place(row: tuple[int, ...]) -> tuple[float, int, tuple[int, ...]]:
            drawn = self._draw("prompt", row[0], row[1])
            turn = drawn if _is_low(drawn, asked.overlap) else drawn * whose
            return -spreads.get((row[0], row[1]), 0), turn % _HALF, row

        return sorted(rows, key=place)

    def _is_shared(self, asked: Questions, iteration: int, attempt: int) -> bool:
        return _is_low(self._draw("prompt", iteration, attempt), asked.overlap)

    def _draw(self, *key: object) -> int:
        """48 bits that look like chance."""
        text = "\0".join(map(str, (self._seed, "labels", *key)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


class _Ordered:
    """Rows of (iteration, attempt, chosen or -1, rejected or -1), in little memory."""

    def __init__(
        self, rows: Sequence[tuple[int, ...]], last: int, at: float, seconds: float
    ) -> None:
        self._cells = array("i", (cell for row in rows for cell in row))
        self.prompts = len({row[:2] for row in rows})
        self.last, self._at, self._seconds = last, at, seconds

    @property
    def is_old(self) -> bool:
        """Whether it may be made anew."""
        return time.monotonic() - self._at > max(FEWEST_S, self._seconds / SHARE)

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        """One after another."""
        cells = iter(self._cells)
        return zip(cells, cells, cells, cells, strict=True)


def _is_low(drawn: int, share: float) -> bool:
    """Whether a number is among this share of them, by its upper half alone."""
    return drawn // _HALF < share * _HALF


def _key(item: Item) -> tuple[object, ...]:
    return (item.kind, item.iteration, item.attempt)
