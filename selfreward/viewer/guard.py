"""Who may ask the viewer, and what a browser may do with its answers.

A page of any site can send requests to a port of this machine, and a name that its owner points
here (DNS rebinding) makes them look as if they were the site's own. So each request has to name a
host that the viewer was started on, one that changes something has to come from a page of the
viewer, and each has to know the token, which is in the address that was printed and afterwards in a
cookie. What models wrote is shown as text; the content security policy lets it be nothing else.
"""

import hmac
import ipaddress
import json
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Of every answer, errors included."""
_READS = ("GET", "HEAD")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Lets through what may ask, and gives every answer its headers.

    Args:
        app: What answers those.
        token: What each request has to know.
        host: On which the viewer was started.
        port: The same; it names the cookie, so that two viewers do not forget each other.
    """

    def __init__(self, app: "ASGIApp", *, token: str, host: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {*_LOCAL, host.strip("[]").lower()}
        self._is_open = host.strip("[]") in ("0.0.0.0", "::")
        if self._is_open:
            self._hosts.add(socket.gethostname().lower())
        self._cookie = f"selfreward-{port}"

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request; see the module."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return

        async def send_safely(message: "Message") -> None:
            if message["type"] == "http.response.start":
                given = [(k, v) for k, v in message["headers"] if k.decode().lower() not in HEADERS]
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if not any(k.lower() == b"cache-control" for k, _ in given):
                    ours.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*given, *ours]}
            await send(message)

        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        if refusal := self._refusal(scope["method"], headers):
            await _answer(send_safely, *refusal)
            return
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for key, value in query if key == "token"), None)
        if given is not None and scope["method"] in _READS:
            if self._is_token(given):
                rest = urlencode([(key, value) for key, value in query if key != "token"])
                await self._enter(send_safely, scope["raw_path"].decode("latin-1"), rest)
            else:
                await _answer(send_safely, 401, *_NO_TOKEN)
            return
        if not self._knows(headers):
            await _answer(send_safely, 401, *_NO_TOKEN)
            return
        await self._app(scope, receive, send_safely)

    def _refusal(self, method: str, headers: Mapping[str, str]) -> tuple[int, str, str, str] | None:
        """Why a request may not even say who it is."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, "HostError", f"this viewer does not answer for the host {host[:200]!r}", (
                "Open the address that `selfreward view` printed; behind another name, start it "
                "with --host NAME."
            )  # fmt: skip
        origin = headers.get("origin")
        if origin is None and method in _READS:
            return None
        if origin not in (f"http://{host}", f"https://{host}"):
            return 403, "OriginError", "the request does not come from a page of this viewer", (
                "Nothing was changed."
            )  # fmt: skip
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names the viewer. The port is not looked at, as tunnels change it.

        On all addresses (``--host 0.0.0.0``) any of them is ours: rebinding takes a name.
        """
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            return self._is_open and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _knows(self, headers: Mapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(given.strip())
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self._cookie in cookies and self._is_token(cookies[self._cookie].value)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    async def _enter(self, send: "Send", path: str, query: str) -> None:
        """Let the browser keep the token as a cookie, and forget the address that holds it."""
        kept = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        path = "/" + path.lstrip("/")  # `//name` would be another host
        headers = [
            (b"location", (path + (f"?{query}" if query else "")).encode("latin-1")),
            (b"set-cookie", kept.encode()),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


_NO_TOKEN = (
    "TokenError",
    "this viewer answers only those who know its token",
    "Open the whole address that `selfreward view` printed, with ?token=...",
)


async def _answer(send: "Send", status: int, kind: str, message: str, hint: str) -> None:
    body = json.dumps({"error": {"kind": kind, "message": message, "hint": hint}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
