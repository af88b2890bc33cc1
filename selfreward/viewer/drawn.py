"""Charts that were drawn, kept by what they are drawn from."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from selfreward.measures.figures import IterationFigures
from selfreward.storage.directory import Run
from selfreward.viewer.child import DrawingChild

_KEPT = 200
"""Charts; one is some 20 kB."""


class Drawn:
    """Has charts drawn, each once."""

    def __init__(self, child: DrawingChild) -> None:
        self._child = child
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def svg(
        self,
        run: Run,
        figures: Sequence[IterationFigures],
        chart: str,
        iteration: int | None,
        theme: str,
    ) -> str:
        """A chart as SVG.

        Whatever else a chart shows moves the figures with it, so they say whether it is the same.

        Raises:
            SelfRewardError: There is no such chart, or it cannot be drawn.
        """
        job: dict[str, Any] = {
            "do": "chart", "run": str(run.path.resolve()), "chart": chart,
            "iteration": iteration, "theme": theme, "figures": msgspec.to_builtins(figures),
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._child.ask(job)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]
