"""Starting the viewer: a port, a token, the address to open."""

import errno
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from selfreward import DISTRIBUTION
from selfreward.engines.installed import has_module
from selfreward.errors import ConfigError, PreflightError
from selfreward.viewer.guard import Guard
from selfreward.viewer.runs import Runs

if TYPE_CHECKING:
    from selfreward.storage.directory import Run

PORT = 7860
"""Where no other is asked for."""
_TRIED = 100
"""Ports that are tried from there on."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,128}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_INSTALL = f"pip install '{DISTRIBUTION}[view]'"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a viewer answers."""

    host: str
    port: int
    token: str
    page: str
    """Path of the first page."""

    @property
    def url(self) -> str:
        """To be opened, with the token."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}{self.page}?token={self.token}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in _LOOPBACK


def serve(
    run: "Run | None",
    *,
    is_apart: bool = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    ready: Callable[[Address], None],
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        run: Whose page comes first; None: the list of runs.
        is_apart: Whether it lies outside of the runs directory; then it alone is served.
        port: None: 7860, or the next that is free; 0: any.
        token: None: a random one.
        ready: Told the address once it answers.

    Raises:
        PreflightError: Starlette or uvicorn is not installed, or the port is taken.
        ConfigError: The token is one that could be guessed, or that no cookie can hold.
    """
    _check_installed()
    if token is not None and not _TOKEN.fullmatch(token):
        raise ConfigError("--token: expected 8 to 128 letters, digits, - or _")
    host = host.strip("[]")
    from uvicorn.config import Config
    from uvicorn.server import Server

    from selfreward.viewer.answers import Viewer
    from selfreward.viewer.app import make_app

    with closing(_bound(host, port)) as bound:
        page = f"/run/{quote(run.name, safe='')}" if run else "/"
        address = Address(host, bound.getsockname()[1], token or secrets.token_urlsafe(24), page)
        viewer = Viewer(Runs(run if is_apart else None))
        app = Guard(make_app(viewer), token=address.token, host=host, port=address.port)
        config = Config(
            app, log_config=None, log_level="critical", access_log=False, lifespan="off",
            ws="none", loop="asyncio", http="h11", server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        ready(address)
        try:
            Server(config).run([bound])
        finally:
            viewer.close()


def has_display() -> bool:
    """Whether there is a screen on which a browser would show."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def open_browser(url: str) -> None:
    """Open an address in the user's browser, if there is one."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _check_installed() -> None:
    missing = [name for name in ("starlette", "uvicorn") if not has_module(name)]
    if missing:
        raise PreflightError(
            f"the viewer needs packages that are not installed: {', '.join(missing)}",
            f"{sys.executable} -m {_INSTALL}",
        )


def _bound(host: str, port: int | None) -> socket.socket:
    """A socket on the port, or on the first one from ``PORT`` on that is free."""
    ports = range(PORT, PORT + _TRIED) if port is None else [port]
    for each in ports:
        try:
            family, _, _, _, place = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0]
        except (OSError, ValueError) as error:  # the last: no name that a host could have
            raise ConfigError(
                f"--host {host}: no address of this machine ({getattr(error, 'strerror', error)})",
                "Leave it out to serve this machine alone.",
            ) from None
        # Named so that asyncio sets TCP_NODELAY, without which each answer waits for 40 ms.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
            bound.listen(64)
            return bound
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            raise PreflightError(
                f"--host {host} --port {each}: {error.strerror}",
                "Leave out --port to take the next one that is free.",
            ) from None
    raise PreflightError(
        f"ports {PORT} to {PORT + _TRIED - 1} are all in use", "Name another one with --port."
    )
