"""Sends each request to the least loaded endpoint, and again where it fails for now."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selfreward.engines.base import RequestError
from selfreward.engines.server import parameters
from selfreward.engines.server.answers import A
from selfreward.engines.server.endpoint import Endpoint, wait_s
from selfreward.engines.server.wire import Failed, Wire
from selfreward.errors import ConfigError, PreflightError

_MOST = 10**9
"""Seconds, or tries: 30 years."""


class Balancer:
    """Several endpoints that serve the same model, asked as one.

    Args:
        options: ``endpoints``: addresses up to and including ``/v1``. ``model``: the served name;
            by default the only model they list. ``api_key_env``: name of the environment variable
            with their key. ``timeout_s``: for one try, 600 by default. ``max_retries``: tries after
            the first, 5 by default. ``omit``: parameters of requests to leave out, see
            ``parameters.OMITTABLE``.
        model: Directory whose weights they must serve; None if any will do.
        fixed: Whether ``model`` stays the same in all iterations.
        tell: Told in one line which parameter an endpoint refused and goes without from then on;
            None: none is left out but what ``omit`` says, and a refusal is one.

    Raises:
        ConfigError: An option is missing or no option.
        PreflightError: There is no key where there should be one.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        model: Path | None,
        fixed: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        urls = _urls(options.get("endpoints"))
        name: str | None = options.get("model")
        self._timeout_s = _number(options, "timeout_s", 600.0)
        self._max_retries = _number(options, "max_retries", 5)
        if self._timeout_s == 0:
            raise ConfigError("engine.timeout_s: 0, expected a number above 0")
        self._wire = Wire(options.get("api_key_env"), self._timeout_s)
        vouched = fixed and name is not None
        known = parameters.chosen(options)
        self._endpoints = [
            Endpoint(url, self._wire, name, model, vouched, known, tell) for url in urls
        ]
        self._answered_at = 0.0

    async def ask(
        self, path: str, body: Mapping[str, Any], plain: Mapping[str, Any], kind: type[A]
    ) -> A:
        """Return the answer of some endpoint.

        Args:
            path: After the endpoint's address.
            body: The request, but for the model.
            plain: The same about a text that nobody refuses, see ``Endpoint.ask``.
            kind: Of the answer.

        Raises:
            RequestError: This request cannot be answered, or fails while others are answered.
            PreflightError: No endpoint answers any more, or one is not what it should be.
        """
        failures, failed_at, avoid = 0, time.monotonic(), None
        while True:
            endpoint = await self._pick(avoid)
            endpoint.in_flight += 1
            try:
                if not await endpoint.prepare():
                    continue
                answer = await endpoint.ask(path, body, plain, kind)
            except Failed as failure:
                endpoint.note(failure)
                rest_s = 0.0 if endpoint.is_away else wait_s(failures + 1)
                others_go_on = self._answered_at > failed_at
                # A rate limit is no failure as long as it lets some through.
                failures = 0 if failure.status == 429 and others_go_on else failures + 1
                if failures > self._max_retries:
                    raise self._given_up(endpoint, others_go_on) from None
                failed_at, avoid = time.monotonic(), endpoint
            else:
                self._answered_at = time.monotonic()
                return answer
            finally:
                endpoint.in_flight -= 1
            await asyncio.sleep(rest_s)

    async def load(self, model: Path) -> None:
        """Have all endpoints serve the weights of ``model``; one that is away takes them later.

        Raises:
            PreflightError: One serves others and takes none.
        """
        for endpoint in self._endpoints:
            endpoint.expect(model)

        async def prepare(endpoint: Endpoint) -> None:
            try:
                await endpoint.prepare()
            except Failed as failure:
                endpoint.note(failure)

        await asyncio.gather(*map(prepare, self._endpoints))

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._wire.close()

    async def _pick(self, avoid: Endpoint | None) -> Endpoint:
        """Wait for an endpoint that is not set aside; of several take the least loaded."""
        while True:
            here = [endpoint for endpoint in self._endpoints if not endpoint.is_away]
            if here:
                return min(here, key=lambda e: (e is avoid, e.is_looked_at, e.in_flight))
            if all(endpoint.failures > self._max_retries for endpoint in self._endpoints):
                raise self._nobody_answers()
            wait = min(e.away_until for e in self._endpoints) - time.monotonic()
            if wait > self._timeout_s:  # a quota of the day, say
                raise self._nobody_answers()
            await asyncio.sleep(max(wait, 0.0) * random.uniform(1.0, 1.2))

    def _given_up(self, endpoint: Endpoint, others_go_on: bool) -> RequestError | PreflightError:
        if others_go_on:  # so it is this request
            return RequestError("no answer", f"{endpoint.url}, try after try: {endpoint.trouble}")
        return self._nobody_answers()

    def _nobody_answers(self) -> PreflightError:
        said = "; ".join(f"{e.url}: {e.trouble}" for e in self._endpoints if e.trouble)
        return PreflightError(
            f"no endpoint answers: {said}",
            "Start a server there, or correct endpoints; then go on.",
        )


def _urls(endpoints: object) -> list[str]:
    if not isinstance(endpoints, Sequence) or isinstance(endpoints, str) or not endpoints:
        raise ConfigError(
            "engine.endpoints: expected a list of addresses",
            "Such as endpoints: [http://127.0.0.1:8000/v1].",
        )
    urls = []
    for endpoint in map(str, endpoints):
        try:
            url = urlsplit(endpoint)
            where, more = f"{url.hostname}:{url.port}", url.username or url.query
            (url.hostname or "").encode("idna")  # as whoever connects to it will
        except ValueError as error:
            raise ConfigError(f"engine.endpoints: {endpoint} is no address: {error}") from None
        is_plain = endpoint.isprintable() and " " not in endpoint
        if url.scheme not in ("http", "https") or not url.hostname or not is_plain:
            raise ConfigError(f"engine.endpoints: {endpoint} is no http address")
        if more:
            raise ConfigError(
                f"engine.endpoints: the address at {where} holds more than a place",
                "Keys go into an environment variable; its name is engine.api_key_env.",
            )
        urls.append(endpoint.rstrip("/"))
    return list(dict.fromkeys(urls))


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise ConfigError(f"engine.{name}: {value!r:.40}, expected a number from 0 to {_MOST:,}")
    return float(value)
