"""HTTP to OpenAI-compatible servers: JSON in, checked answers out, and every failure as one kind.

By aiohttp: a request costs it 0.3 ms here, with any number in flight; httpx, which looks through
all connections each time, takes 1.1 ms alone and 2.4 ms with 128 in flight.
"""

import email.utils
import json
import os
import socket
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from selfreward.engines.server.answers import A, read, storable, words
from selfreward.errors import PreflightError

MAX_BYTES = 64 * 1024**2
"""Of one answer. 64 samples of 4,096 tokens with their log-probabilities are some 20 MB."""
_CONNECT_TIMEOUT_S = 10.0
_KEEP_S = 2.0
"""Idle connections are not used again after this: uvicorn, under vLLM, closes them after 5 s, and
a request that meets such a closing fails."""
_LOST_S = 60
"""A host that acknowledges nothing for so long is gone, however long its answer may take."""
_LONGEST_RETRY_S = 86_400.0
"""A ``Retry-After`` of more than a day, which the longest quotas have, is no word to go by."""
_QUOTA = "insufficient_quota"
"""OpenAI's code, under 429, where waiting does not help."""
_SAID = 300
"""Characters that are shown of what a server says."""


class Failed(Exception):
    """A server did not do what it was asked.

    Args:
        status: HTTP status; None where there was no answer.
        detail: What it said, or how the connection failed.
        retry_after_s: How long it asks to be left alone, if it says.
    """

    def __init__(self, status: int | None, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail if status is None else f"{status} {detail}".rstrip())
        self.status, self.detail, self.retry_after_s = status, detail, retry_after_s

    @property
    def lost(self) -> bool:
        """Whether the server may be gone, and another one in its place when it is back."""
        return self.status in (None, 502, 503, 504)

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later or elsewhere."""
        if self.status is None or self.status in (408, 409, 425, 429):
            return True
        return self.status >= 500 and self.status != 501


class OddAnswer(Failed):
    """A success by its status, but not an answer to what was asked."""

    @property
    def lost(self) -> bool:
        """There is something that answers."""
        return False

    @property
    def transient(self) -> bool:
        """A gateway that stumbles once is no reason to give up."""
        return True


class Wire:
    """Keeps the connections to all endpoints of an engine, and its key.

    Proxies are those of the environment. Keys are not: a ``.netrc`` is not read.

    Args:
        key_env: Name of the environment variable that holds the key, if there is one. The key goes
            into requests and nowhere else: what servers say is shown without it.
        timeout_s: For one request.

    Raises:
        PreflightError: The variable is not set, or holds no key.
    """

    def __init__(self, key_env: str | None, timeout_s: float) -> None:
        self._key_env, self._key, self._timeout_s = key_env, _key(key_env), timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}

    async def get(self, url: str, kind: type[A]) -> A:
        """Return an answer; see ``post``."""
        return self._read(kind, *await self._call("GET", url))

    async def post(self, url: str, body: object, kind: type[A]) -> A:
        """Return an answer of a kind.

        Raises:
            OddAnswer: It is of another one.
            Failed: No answer, or one that is no success.
            PreflightError: The key is refused, or the account is empty.
        """
        return self._read(kind, *await self._call("POST", url, body))

    async def tell(self, url: str, body: object = None) -> None:
        """Post what is answered by a status alone; see ``post``."""
        await self._call("POST", url, body)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._session is not None:
            await self._session.close()

    def no_access(self, url: str, failure: Failed) -> PreflightError:
        """The error to raise where a server does not let this key in, or wants it to pay."""
        if failure.status == 402 or _QUOTA in failure.detail:
            message, hint = "wants to be paid first", "See to it, then go on."
        elif self._key_env is None:
            message = "refuses the key"
            hint = "Set api_key_env to the name of the environment variable that holds its key."
        else:
            message = "refuses the key"
            hint = f"The key is what the environment variable {self._key_env} holds."
        return PreflightError(f"{url} {message} ({failure})", hint)

    async def _call(self, method: str, url: str, body: object = None) -> tuple[Any, str]:
        """Return the JSON of an answer, None if it is empty, and how its text begins."""
        status, headers, content = await self._exchange(method, url, body)
        begin = content[: 8 * _SAID].decode(errors="replace")
        try:
            answer = json.loads(content) if content else None
        except (ValueError, RecursionError):
            answer = begin
            if 200 <= status < 300:
                raise OddAnswer(None, self._line(f"answers no JSON: {begin}")) from None
        if 200 <= status < 300:
            fields = answer if isinstance(answer, dict) else {}
            if not fields.get("error") or fields.get("choices"):
                return answer, begin
            status = _status_within(fields["error"])
        failure = Failed(status, self._line(answer), _retry_after_s(headers.get("Retry-After", "")))
        if status in (401, 402) or _QUOTA in failure.detail:
            raise self.no_access(url, failure)
        raise failure

    async def _exchange(
        self, method: str, url: str, body: object
    ) -> tuple[int, Mapping[str, str], bytes]:
        connect_s = min(self._timeout_s, _CONNECT_TIMEOUT_S)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=connect_s)
        asking = self._open().request(
            method, url, json=body, timeout=timeout, allow_redirects=False, proxy=self._proxy(url)
        )
        content = bytearray()
        try:
            async with asking as response:
                async for part in response.content.iter_any():
                    content += part
                    if len(content) > MAX_BYTES:
                        raise OddAnswer(None, f"answers with more than {MAX_BYTES >> 20} MB")
                return response.status, response.headers, bytes(content)
        except TimeoutError:
            raise Failed(None, f"no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failed(None, f"{type(error).__name__}: {error}".rstrip(": ")) from None

    def _read(self, kind: type[A], answer: object, begin: str) -> A:
        try:
            return read(kind, answer)
        except ValueError as error:
            line = f"answers something else than was asked for ({error}): {begin}"
            raise OddAnswer(None, self._line(line)) from None

    def _open(self) -> aiohttp.ClientSession:
        """The session, which can be made only where an event loop runs."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                # How many requests are in flight is the caller's business.
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=_KEEP_S, socket_factory=_watched_socket
                ),
            )
        return self._session

    def _proxy(self, url: str) -> str | None:
        """The proxy that the environment names; aiohttp's ``trust_env`` would read keys as well."""
        parts = urlsplit(url)
        if parts.netloc not in self._proxies:
            direct = urllib.request.proxy_bypass(parts.netloc)
            proxy = None if direct else urllib.request.getproxies().get(parts.scheme)
            self._proxies[parts.netloc] = proxy
        return self._proxies[parts.netloc]

    def _line(self, answer: object) -> str:
        """What an answer says, in one line and without the key."""
        try:
            said = "" if answer is None else words(answer)
        except RecursionError:
            said = "an answer that is nested too deeply"
        line = " ".join(storable(said).split())
        return (line.replace(self._key, "***") if self._key else line)[:_SAID]


def _watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose connection fails where the other host is gone without a word."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": _LOST_S // 3, "TCP_KEEPINTVL": _LOST_S // 6, "TCP_KEEPCNT": 4}
    options["TCP_USER_TIMEOUT"] = 1000 * _LOST_S  # where it is what was sent that gets no answer
    for name, value in options.items():
        if hasattr(socket, name):  # macOS has its own of some
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _status_within(error: object) -> int:
    """The status that an error within a success tells of itself; 500 if it does not."""
    code = error.get("code") if isinstance(error, dict) else None
    said = str(code) if isinstance(code, str | int) else ""
    return int(said) if len(said) == 3 and said.isdecimal() and said[0] in "45" else 500


def _key(env: str | None) -> str | None:
    if env is None:
        return None
    key = os.environ.get(env, "").strip()
    # Else the error about a header that is none would show the key.
    if not key or not key.isascii() or not key.isprintable():
        raise PreflightError(
            f"the environment variable {env} (api_key_env) holds no key",
            f"Set it to the key of the endpoints: export {env}=...",
        )
    return key


def _retry_after_s(said: str) -> float | None:
    """Seconds from a ``Retry-After`` header, a number or a date (RFC 9110, 10.2.3).

    None where it says nothing that can be meant.
    """
    try:
        wait = float(said)
    except ValueError:
        date = email.utils.parsedate_tz(said)
        try:
            wait = email.utils.mktime_tz(date) - time.time() if date else float("nan")
        except (ValueError, OverflowError):
            return None
    return max(0.0, wait) if wait <= _LONGEST_RETRY_S else None
