"""HTTP to OpenAI-compatible servers: JSON in, JSON out, and every failure as one exception.

By aiohttp: a request costs it 0.3 ms here, with any number in flight; httpx, which looks through
all connections each time, takes 1.1 ms alone and 2.4 ms with 128 in flight.
"""

import email.utils
import json
import os
import time
from typing import Any

import aiohttp

from selfreward.errors import PreflightError

_CONNECT_TIMEOUT_S = 10.0
_KEEP_S = 2.0
"""Idle connections are not used again after this: uvicorn, under vLLM, closes them after 5 s, and
a request that meets such a closing fails."""


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


class Wire:
    """Keeps the connections to all endpoints of an engine, and its key.

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

    async def get(self, url: str) -> Any:
        """Return the JSON of an answer; see ``post``."""
        return await self._call("GET", url)

    async def post(self, url: str, body: object = None) -> Any:
        """Return the JSON of an answer, None if it is empty.

        Raises:
            Failed: No answer, or one that is no success.
            PreflightError: The key is refused.
        """
        return await self._call("POST", url, body)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._session is not None:
            await self._session.close()

    async def _call(self, method: str, url: str, body: object = None) -> Any:
        connect_s = min(self._timeout_s, _CONNECT_TIMEOUT_S)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=connect_s)
        asking = self._open().request(
            method, url, json=body, timeout=timeout, allow_redirects=False
        )
        try:
            async with asking as response:
                status, headers, content = response.status, response.headers, await response.read()
        except TimeoutError:
            raise Failed(None, f"no answer within {self._timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            raise Failed(None, f"{type(error).__name__}: {error}".rstrip(": ")) from None
        if 200 <= status < 300:
            try:
                return json.loads(content) if content else None
            except ValueError:
                raise Failed(status, "with something that is no JSON") from None
        if status in (401, 403):
            raise self._wrong_key(url, status)
        retry_after_s = _retry_after_s(headers.get("Retry-After", ""))
        raise Failed(status, self._detail(content.decode(errors="replace")), retry_after_s)

    def _open(self) -> aiohttp.ClientSession:
        """The session, which can be made only where an event loop runs."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                # How many requests are in flight is the caller's business.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_S),
                trust_env=True,
            )
        return self._session

    def _wrong_key(self, url: str, status: int) -> PreflightError:
        if self._key_env is None:
            hint = "Set api_key_env to the name of the environment variable that holds its key."
        else:
            hint = f"The key is what the environment variable {self._key_env} holds."
        return PreflightError(f"{url} refuses the key ({status})", hint)

    def _detail(self, text: str) -> str:
        """What an error answer says, in one line and without the key."""
        try:
            said = json.loads(text)
        except ValueError:
            said = text
        for name in ("error", "message", "detail"):
            said = said.get(name, said) if isinstance(said, dict) else said
        line = " ".join(str(said).split())
        return (line.replace(self._key, "***") if self._key else line)[:300]


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
    """Seconds from a ``Retry-After`` header, a number or a date (RFC 9110, 10.2.3)."""
    try:
        return max(0.0, float(said))
    except ValueError:
        date = email.utils.parsedate_tz(said)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None
