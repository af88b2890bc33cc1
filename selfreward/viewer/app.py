"""The addresses of the viewer: pages, their JSON, charts.

Every handler is a plain function, which Starlette runs in a thread; it opens the run, reads and
closes it. Errors become JSON with a fitting status, and never a traceback. What reads runs is
imported when it is first asked for, so that the first page is there before.
"""

import os
import traceback
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from selfreward.errors import (
    ConfigError,
    IntegrityError,
    LockedError,
    NotFoundError,
    PreflightError,
    SelfRewardError,
)
from selfreward.verbs import console
from selfreward.viewer.answers import Viewer, as_json, opened, viewer_of
from selfreward.viewer.runs import GoneError


class _Number(IntegerConvertor):
    """As an ``int``, of no more digits than Python makes a number of."""

    regex = "[0-9]{1,4000}"


register_url_convertor("number", _Number())
STATIC = Path(__file__).with_name("static")
_PAGES = (
    "/", "/run/{name}", "/run/{name}/list",
    "/run/{name}/prompt/{iteration:number}/{attempt:number}",
    "/run/{name}/training/{iteration:number}", "/run/{name}/questions",
    "/run/{name}/question/{number:number}", "/run/{name}/label", "/compare",
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


def make_app(viewer: Viewer) -> Starlette:
    """The application, to be put behind a ``Guard``."""
    api = [
        Route("/api/runs", _runs),
        Route("/api/run/{name}", _run),
        Route("/api/run/{name}/change", _change),
        Route("/api/run/{name}/prompt/{iteration:number}/{attempt:number}", _prompt),
        Route("/api/run/{name}/chart/{chart}.svg", _chart),
        Route("/api/run/{name}/list", _list),
        Route("/api/run/{name}/training/{iteration:number}", _training),
        Route("/api/run/{name}/questions", _questions),
        Route("/api/run/{name}/question/{number:number}", _question),
        Route("/api/compare", _compare),
    ]
    app = Starlette(
        routes=[
            *api,
            *(Route(path, _index) for path in _PAGES),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        ],
        exception_handlers={
            SelfRewardError: _refuse,
            HTTPException: _refuse_http,
            Exception: _refuse_bug,
        },
    )
    app.router.default = _else
    app.state.viewer = viewer
    return app


@cache
def _labels() -> Router:
    """The addresses of labels; imported when one is asked for, which takes as long as the start."""
    from selfreward.viewer.labeling import routes

    return Router(routes)


async def _else(scope: Scope, receive: Receive, send: Send) -> None:
    await _labels()(scope, receive, send)


def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


def _runs(request: Request) -> Response:
    from selfreward.viewer.pages import runs_page

    viewer = viewer_of(request)
    rows = runs_page(viewer.runs.all(), viewer.figures_of)
    return as_json({"runs": rows, "root": viewer.runs.root})


def _run(request: Request) -> Response:
    from selfreward.viewer.pages import run_page

    viewer = viewer_of(request)
    with opened(request) as run:
        change = viewer.version(run)
        page = run_page(run, viewer.figures_of)
        return as_json({**page, "change": change})


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
        return as_json({"change": viewer.version(run), "owned": run.is_owned})


def _prompt(request: Request) -> Response:
    from selfreward.viewer.pages import prompt_page

    path = request.path_params
    with opened(request) as run:
        full = request.query_params.get("full") == "1"
        return as_json(prompt_page(run, path["iteration"], path["attempt"], full=full))


def _list(request: Request) -> Response:
    from selfreward.viewer.asked import asked
    from selfreward.viewer.lists import items, page

    given = asked(request.query_params)
    with opened(request) as run, viewer_of(request).indexes.opened(run) as (side, store, extent):
        ids, after, count = page(side, given)
        found = items(side, store, given.kind, ids)
    index = {"done": extent.done, "total": extent.total}
    return as_json({"items": found, "next": after, "count": count, "index": index})


def _training(request: Request) -> Response:
    from selfreward.verbs.show import MOST_ATTEMPTS
    from selfreward.viewer.pages import training_page

    with opened(request) as run:
        return as_json(training_page(run, min(request.path_params["iteration"], MOST_ATTEMPTS)))


def _questions(request: Request) -> Response:
    from selfreward.viewer.questions import questions_page

    with opened(request) as run:
        return as_json(questions_page(run, request.query_params))


def _question(request: Request) -> Response:
    from selfreward.viewer.questions import question_page

    given = dict(request.query_params)
    full = given.pop("full", None) == "1"
    with opened(request) as run:
        return as_json(question_page(run, request.path_params["number"], given, full=full))


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
    return as_json(found)


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
    return as_json({"error": {"kind": kind, "message": message, "hint": hint}}, status)
