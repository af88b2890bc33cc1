"""What every handler uses: what all requests share, the run that one is about, JSON.

What reads runs is imported when it is first asked for, so that the first page is there before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from selfreward.errors import NotFoundError
from selfreward.viewer.runs import Runs

if TYPE_CHECKING:
    from selfreward.measures.figures import IterationFigures
    from selfreward.storage.directory import Run
    from selfreward.storage.store import Store
    from selfreward.viewer.child import DrawingChild
    from selfreward.viewer.drawn import Drawn
    from selfreward.viewer.figures import Figures
    from selfreward.viewer.indexes import Indexes


class Viewer:
    """What all requests share; ``request.app.state.viewer``."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    @cached_property
    def child(self) -> "DrawingChild":
        """What computes and draws."""
        from selfreward.viewer.child import DrawingChild

        return DrawingChild()

    @cached_property
    def figures(self) -> "Figures":
        """Figures of all iterations."""
        from selfreward.viewer.figures import Figures

        return Figures(self.child)

    @cached_property
    def drawn(self) -> "Drawn":
        """Charts."""
        from selfreward.viewer.drawn import Drawn

        return Drawn(self.child)

    @cached_property
    def indexes(self) -> "Indexes":
        """Side files."""
        from selfreward.viewer.indexes import Indexes

        return Indexes()

    def figures_of(self, store: "Store", iteration: int) -> "IterationFigures | None":
        """The figures of an iteration; None while they are computed for the first time."""
        return self.figures.of(store, iteration, self.runs.version(store.path))

    def version(self, run: "Run") -> str:
        """Another text whenever a page of the run would say something else."""
        owned = "owned" if run.is_owned else "free"
        return f"{self.runs.version(run.records)}.{self.figures.version}.{owned}"

    def close(self) -> None:
        """End all that is under way. Idempotent."""
        self.child.close()
        self.figures.close()
        self.indexes.close()
        self.runs.close()


def as_json(value: object, status: int = 200) -> Response:
    """An answer; numbers that are not finite become null."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


@contextmanager
def opened(request: Request) -> "Iterator[Run]":
    """The run that a request is about, for a body that reads it; see ``told_as_damage``.

    Unlike there, all records are not checked for what is merely not there: a mistyped address is no
    reason to read a million of them.
    """
    from selfreward.verbs.maintenance import told_as_damage

    run, missing = viewer_of(request).runs.get(request.path_params["name"]), None
    with told_as_damage(run):
        try:
            yield run
        except NotFoundError as error:
            missing = error
    if missing is not None:
        raise missing


def viewer_of(request: Request) -> Viewer:
    """What all requests share."""
    viewer: Viewer = request.app.state.viewer
    return viewer
