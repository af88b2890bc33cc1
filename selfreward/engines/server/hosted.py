"""Hosted judges: endpoints that take text alone, and show neither tokenizer nor weights."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfreward.engines.base import Generation, Request, RequestError
from selfreward.engines.server.balancer import Balancer
from selfreward.errors import ConfigError

_PATH = "/chat/completions"


def open_hosted(options: Mapping[str, Any]) -> "tuple[HostedEngine, HostedChat]":
    """Ask endpoints for whatever model they serve; nothing is sent before the first request.

    Args:
        options: See ``Balancer``.

    Raises:
        ConfigError: An option is missing or no option.
        PreflightError: There is no key where there should be one.
    """
    return HostedEngine(Balancer(options, model=None)), HostedChat()


class HostedChat:
    """What judging needs of ``selfreward.engines.chat.Chat``, where a token id is a code point."""

    max_length: int | None = None
    """The endpoint alone knows."""

    def prompt_ids(self, user: str, started: str = "") -> tuple[int, ...]:
        """Code points of the user turn.

        Raises:
            ConfigError: The model's turn is to be started for it, which these endpoints cannot do.
        """
        if started:
            raise ConfigError(
                "judge.template starts the judge's turn, which a hosted judge does not let us do",
                "Use a template without a started turn, or name the judge's model.",
            )
        return tuple(map(ord, user))

    def score_prompt(self, user: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Not to be had.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "judge.form=expected needs the judge's tokenizer",
            "Set judge.form=written, or name the judge's model.",
        )

    def control_token(self, text: str) -> str | None:
        """None: what is a control token there is the endpoint's to know, and to keep apart."""
        return None

    def split_thinking(self, text: str, started: str = "") -> tuple[str, str]:
        """Split (thinking, answer) where the text itself begins with ``<think>``.

        The endpoint's format is unknown: a ``</think>`` without that is a quote, as in
        ``Chat.split_thinking``.
        """
        if not text.lstrip().startswith("<think>"):
            return "", text
        before, _, after = text.partition("</think>")
        return before.replace("<think>", "", 1), after


class HostedEngine:
    """See ``base.Engine``; its token ids are code points, and it samples text alone.

    A Generation has text and finish reason: no token ids and no log-probability. Seeds go along,
    for endpoints that heed them.

    Args:
        balancer: The endpoints.
    """

    def __init__(self, balancer: Balancer) -> None:
        self._balancer, self._one_by_one = balancer, False

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        sampling = request.sampling
        if sampling is None:
            raise ConfigError("a hosted endpoint tells no probabilities of tokens")
        if request.n > 1 and sampling.temperature == 0:
            return await self._ask(request, 1, request.seed) * request.n
        if request.n > 1 and not self._one_by_one:
            try:
                found = await self._ask(request, request.n, request.seed)
            except RequestError as error:
                if error.reason != "refused":
                    raise
            else:
                if len(found) == request.n:
                    return found
        first = await self._ask(request, 1, request.seed)
        self._one_by_one |= request.n > 1  # refused together, answered one by one
        others = [self._ask(request, 1, request.seed + i) for i in range(1, request.n)]
        return [found[0] for found in [first, *await asyncio.gather(*others)]]

    async def load(self, model: Path) -> None:
        """Not to be had.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a hosted endpoint takes no weights")

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._balancer.close()

    async def _ask(self, request: Request, n: int, seed: int) -> list[Generation]:
        sampling = request.sampling
        assert sampling is not None
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": "".join(map(chr, request.token_ids))}],
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
        }
        # Some refuse parameters that they do not know, so what changes nothing is left out.
        more = {"n": n if n > 1 else None, "top_k": sampling.top_k, "stop": sampling.stop}
        answer = await self._balancer.ask(_PATH, body | {k: v for k, v in more.items() if v})
        choices = sorted(answer["choices"], key=lambda choice: int(choice.get("index") or 0))
        return [
            Generation(
                str((choice.get("message") or {}).get("content") or ""),
                (),
                "length" if choice.get("finish_reason") == "length" else "stop",
            )
            for choice in choices
        ]
