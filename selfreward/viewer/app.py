"""The addresses of the viewer: pages, their JSON, charts.

Every handler is a plain function, which Starlette runs in a thread; it opens the run, reads and
closes it. Errors become JSON with a fitting status, and never a traceback. What reads runs is
imported when it is first asked for, so that the first page is there before.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from selfreward.errors import (
    ConfigError,
    IntegrityError,
    LockedError,
    NotFoundError,
    PreflightError,
    SelfRewardError,
)
from selfreward.verbs import console
from selfreward.viewer.runs import GoneError, Runs

if TYPE_CHECKING:
    from selfreward.measures.figures import IterationFigures
    from selfreward.storage.directory import Run
    from selfreward.storage.store import Store
    from selfreward.viewer.child import DrawingChild
    from selfreward.viewer.drawn import Drawn
    from selfreward.viewer.figures import Figures
    from selfreward.viewer.indexes import Indexes

STATIC = Path(__file__).with_name("static")
_PAGES = (
    "/", "/run/{name}", "/run/{name}/list", "/run/{name}/prompt/{iteration:int}/{attempt:int}",
    "/run/{name}/training/{iteration:int}", "/run/{name}/label", "/compare",
)  # fmt: skip
"""Addresses of pages; each is the same file, which reads the address."""
_STATUS: dict[type[SelfRewardError], int] = {
    GoneError: 410,
    NotFoundError: 404,
    ConfigError: 400,
    LockedError: 503,
    IntegrityError: 409,
    PreflightError: 503,
}


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


def make_app(viewer: Viewer) -> Starlette:
    """The application, to be put behind a ``Guard``."""
    api = [
        Route("/api/runs", _runs),
        Route("/api/run/{name}", _run),
        Route("/api/run/{name}/change", _change),
        Route("/api/run/{name}/prompt/{iteration:int}/{attempt:int}", _prompt),
        Route("/api/run/{name}/chart/{chart}.svg", _chart),
        Route("/api/run/{name}/list", _list),
        Route("/api/run/{name}/training/{iteration:int}", _training),
        Route("/api/compare", _compare),
    ]
    app = Starlette(
        routes=[
            *api,
            *_label_routes(),
            *(Route(path, _index) for path in _PAGES),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        ],
        exception_handlers={
            SelfRewardError: _refuse,
            HTTPException: _refuse_http,
            Exception: _refuse_bug,
        },
    )
    app.state.viewer = viewer
    return app


def _label_routes() -> list[BaseRoute]:
    if find_spec("selfreward.viewer.labeling") is None:
        return []
    routes: list[BaseRoute] = import_module("selfreward.viewer.labeling").routes
    return routes


def to_json(value: object, status: int = 200) -> Response:
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


def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


def _runs(request: Request) -> Response:
    from selfreward.viewer.pages import runs_page

    viewer = viewer_of(request)
    rows = runs_page(viewer.runs.all(), viewer.figures_of)
    return to_json({"runs": rows, "root": viewer.runs.root})


def _run(request: Request) -> Response:
    from selfreward.viewer.pages import run_page

    viewer = viewer_of(request)
    with opened(request) as run:
        change = viewer.version(run)
        page = run_page(run, viewer.figures_of)
        return to_json({**page, "change": change})


def _chart(request: Request) -> Response:
    from selfreward.viewer.pages import figures_by_iteration

    viewer, given = viewer_of(request), request.query_params
    theme, iteration = given.get("theme", "light"), given.get("iteration")
    if theme not in ("light", "dark"):
        raise ConfigError(f"theme={theme[:60]}: not known", "Known: light, dark.")
    if iteration is not None and not (iteration.isascii() and iteration.isdecimal()):
        raise ConfigError(f"iteration={iteration[:60]}: expected a whole number")
    with opened(request) as run:
        found = figures_by_iteration(run, viewer.figures_of).values()
        figures = [each for each in found if each is not None]
        at = None if iteration is None else int(iteration[:9])
        svg = viewer.drawn.svg(run, figures, request.path_params["chart"], at, theme)
        return Response(svg, media_type="image/svg+xml")


def _change(request: Request) -> Response:
    viewer = viewer_of(request)
    with opened(request) as run:
        return to_json({"change": viewer.version(run), "owned": run.is_owned})


def _prompt(request: Request) -> Response:
    from selfreward.viewer.pages import prompt_page

    path = request.path_params
    with opened(request) as run:
        full = request.query_params.get("full") == "1"
        return to_json(prompt_page(run, path["iteration"], path["attempt"], full=full))


def _list(request: Request) -> Response:
    from selfreward.viewer.lists import asked, items, page

    given = asked(request.query_params)
    with opened(request) as run, viewer_of(request).indexes.opened(run) as (side, store, extent):
        ids, after, count = page(side, given)
        found = items(side, store, given.kind, ids)
    index = {"done": extent.done, "total": extent.total}
    return to_json({"items": found, "next": after, "count": count, "index": index})


def _training(request: Request) -> Response:
    from selfreward.viewer.pages import training_page

    with opened(request) as run:
        return to_json(training_page(run, request.path_params["iteration"]))


def _compare(request: Request) -> Response:
    if find_spec("selfreward.verbs.diff") is None:
        raise HTTPException(501, "this release does not compare runs")
    from selfreward.viewer.pages import without_secrets

    viewer, given = viewer_of(request), request.query_params
    job = {"do": "compare"}
    for side in ("a", "b"):
        name, colon, iteration = given.get(side, "").partition(":")
        run = viewer.runs.get(name)
        job[side] = f"{run.path.resolve()}{colon}{iteration}"
    found = viewer.child.ask(job)
    for setting in found["settings"]:
        for side in ("a", "b"):
            shown = without_secrets({setting["key"].rpartition(".")[2]: setting[side]})
            (setting[side],) = shown.values()
    return to_json(found)


# Errors


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, SelfRewardError)
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return _error(status, type(error).__name__, error.message, error.hint)


def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, "HTTPError", f"{request.url.path}: {error.detail}", "")


def _refuse_bug(request: Request, error: Exception) -> Response:
    message = f"internal error: {type(error).__name__}: {error}"
    console.note(f"{request.url.path}: {message}")
    if os.environ.get("SELFREWARD_DEBUG", "") not in ("", "0"):
        console.note("".join(traceback.format_exception(error)))
    return _error(500, type(error).__name__, message, "This is a bug; please report it.")


def _error(status: int, kind: str, message: str, hint: str) -> Response:
    return to_json({"error": {"kind": kind, "message": message, "hint": hint}}, status)
