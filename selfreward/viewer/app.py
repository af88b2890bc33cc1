"""The addresses of the viewer: pages, their JSON, charts.

Every handler is a plain function, which Starlette runs in a thread; it opens the run, reads and
closes it. Errors become JSON with a fitting status, and never a traceback.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from selfreward.storage.directory import Run
from selfreward.viewer.runs import GoneError, Runs

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
        from selfreward.viewer.child import DrawingChild
        from selfreward.viewer.figures import Figures
        from selfreward.viewer.indexes import Indexes

        self.runs = runs
        self.child = DrawingChild()
        self.figures = Figures(self.child)
        self.indexes = Indexes()

    def close(self) -> None:
        """End all that is under way. Idempotent."""
        self.child.close()
        self.figures.close()
        self.indexes.close()
        self.runs.close()


def make_app(viewer: Viewer, routes: list[BaseRoute] | None = None) -> Starlette:
    """The application, to be put behind a ``Guard``."""
    api = [
        Route("/api/runs", _runs),
        Route("/api/run/{name}", _run),
        Route("/api/run/{name}/change", _change),
        Route("/api/run/{name}/prompt/{iteration:int}/{attempt:int}", _prompt),
        Route("/api/run/{name}/list", _list),
        Route("/api/run/{name}/training/{iteration:int}", _training),
        Route("/api/compare", _compare),
    ]
    app = Starlette(
        routes=[
            *api,
            *(routes or []),
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


def to_json(value: object, status: int = 200) -> Response:
    """An answer; numbers that are not finite become null."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


@contextmanager
def opened(request: Request) -> Iterator[Run]:
    """The run that a request is about, for a body that reads it; see ``told_as_damage``."""
    from selfreward.verbs.maintenance import told_as_damage

    run = viewer_of(request).runs.get(request.path_params["name"])
    with told_as_damage(run):
        yield run


def viewer_of(request: Request) -> Viewer:
    """What all requests share."""
    viewer: Viewer = request.app.state.viewer
    return viewer


def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


def _runs(request: Request) -> Response:
    from selfreward.viewer.pages import runs_page

    viewer = viewer_of(request)
    rows = runs_page(viewer.runs.all(), _figures_of(viewer))
    return to_json({"runs": rows, "root": viewer.runs.root})


def _run(request: Request) -> Response:
    from selfreward.viewer.pages import run_page

    viewer = viewer_of(request)
    with opened(request) as run:
        change = _version(viewer, run)
        page = run_page(run, _figures_of(viewer))
        return to_json({**page, "charts": [], "change": change})


def _change(request: Request) -> Response:
    viewer = viewer_of(request)
    with opened(request) as run:
        return to_json({"change": _version(viewer, run), "owned": run.is_owned})


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
    raise HTTPException(501, "comparing runs is not there yet")


def _figures_of(viewer: Viewer) -> Callable[..., Any]:
    def of(store: Any, iteration: int) -> Any:
        run = Run(store.path.parent)
        return viewer.figures.of(store, iteration, viewer.runs.version(run))

    return of


def _version(viewer: Viewer, run: Run) -> str:
    """Another text whenever a page of the run would say something else."""
    owned = "owned" if run.is_owned else "free"
    return f"{viewer.runs.version(run)}.{viewer.figures.version}.{owned}"


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
    return _error(500, type(error).__name__, message, "This is a bug; please report it.")


def _error(status: int, kind: str, message: str, hint: str) -> Response:
    return to_json({"error": {"kind": kind, "message": message, "hint": hint}}, status)
