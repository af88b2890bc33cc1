"""The figures of all iterations of a run, without waiting for those that are still being computed.

Of a closed iteration they are kept in the store. Those of an open one the child computes: again
whenever the run has changed, but not more of the time than it takes.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from selfreward.errors import SelfRewardError
from selfreward.measures.figures import IterationFigures, kept_figures
from selfreward.storage.store import Store
from selfreward.viewer.child import DrawingChild

_SHARE = 5
"""So many times as long as computing took, what it gave is good enough."""
_FIRST_S = 0.15
"""So long a page waits for what was never computed before."""

Place = tuple[str, int]
"""Path of a run, iteration."""


@dataclass(slots=True)
class _Computed:
    figures: IterationFigures | None = None
    error: SelfRewardError | None = None
    version: str = ""
    """Of the run that they were computed from."""
    at: float = 0.0
    seconds: float = 0.0
    is_asked: bool = False


class Figures:
    """Figures by run and iteration; see the module."""

    def __init__(self, child: DrawingChild) -> None:
        self._child = child
        self._computed: dict[Place, _Computed] = {}
        self._thread = ThreadPoolExecutor(1, "figures")
        self._changed = threading.Condition()
        self._number = 0

    @property
    def version(self) -> int:
        """Another number whenever something was computed."""
        return self._number

    def of(self, store: Store, iteration: int, version: str) -> IterationFigures | None:
        """The figures of an iteration; None while they are computed for the first time.

        Args:
            version: Of the run as it is now, see ``Runs.version``.

        Raises:
            SelfRewardError: They cannot be computed.
        """
        if kept := kept_figures(store, iteration):
            return kept
        place = str(store.path.resolve().parent), iteration
        with self._changed:
            found = self._computed.setdefault(place, _Computed())
            age = time.monotonic() - found.at
            is_old = found.version != version and age >= _SHARE * found.seconds
            if is_old and not found.is_asked:
                found.is_asked = True
                self._thread.submit(self._compute, place, version)
            if not found.version:
                self._changed.wait_for(lambda: bool(found.version), _FIRST_S)
            if found.error is not None:
                raise found.error
            return found.figures

    def close(self) -> None:
        """Forget what is asked for. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compute(self, place: Place, version: str) -> None:
        start = time.monotonic()
        figures, failure = None, None
        try:
            answer = self._child.ask({"do": "figures", "run": place[0], "iteration": place[1]})
            figures = msgspec.convert(answer, IterationFigures)
        except SelfRewardError as error:
            failure = error
        with self._changed:
            found = self._computed[place]
            found.figures, found.error, found.version = figures, failure, version
            found.at = time.monotonic()
            found.seconds = found.at - start
            found.is_asked = False
            self._number += 1
            self._changed.notify_all()
