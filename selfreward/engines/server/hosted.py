"""Hosted judges: endpoints that take text alone, and show neither tokenizer nor weights."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfreward.config import Sampling
from selfreward.engines.base import Generation, Request, RequestError
from selfreward.engines.server.answers import ChatAnswer, in_order, storable
from selfreward.engines.server.balancer import Balancer
from selfreward.errors import ConfigError
from selfreward.inputs.conversations import Message, Turns

_PATH = "/chat/completions"
_PLAIN = "Say yes."
"""Asked where a text is refused, see ``Endpoint.ask``."""
_LOG = logging.getLogger(__name__)


def open_hosted(
    options: Mapping[str, Any], tell: Callable[[str], None] = _LOG.warning
) -> "tuple[HostedEngine, HostedChat]":
    """Ask endpoints for whatever model they serve; nothing is sent before the first request.

    Args:
        options: See ``Balancer``.
        tell: Told in one line which parameter an endpoint refused and goes without from then on.

    Raises:
        ConfigError: An option is missing or no option.
        PreflightError: There is no key where there should be one.
    """
    return HostedEngine(Balancer(options, model=None, tell=tell)), HostedChat()


class HostedChat:
    """See ``base.ChatFormat``; there is no tokenizer here, so requests hold the text itself."""

    def request(
        self, user: Turns, started: str, sampling: Sampling, n: int = 1, seed: int = 0
    ) -> Request:
        """What asks for n answers to the turns.

        Raises:
            ConfigError: The model's turn is to be started for it, which these endpoints cannot do.
        """
        if started:
            raise ConfigError(
                "judge.template starts the judge's turn, which a hosted judge does not let us do",
                "Use a template without a started turn, or name the judge's model.",
            )
        text: Turns = storable(user) if isinstance(user, str) else [
            {**turn, "content": storable(turn["content"])} for turn in user
        ]  # fmt: skip
        return Request((), sampling, n, seed, text=text)

    def left_out(self, user: Turns) -> None:
        """None: the endpoint is sent all turns."""

    def conversation_ids(self, user: Turns, answer: str) -> tuple[int, ...]:
        """Not to be had.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a reward model is none that endpoints serve", "Name a directory.")

    def continuation(
        self, user: Turns, started: str, text: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Not to be had.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("endpoints do not say how likely a text is", "Name a model directory.")

    def score_prompt(
        self, user: str, before: str = "", started: str = ""
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Not to be had.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "judge.form=expected needs the judge's tokenizer",
            "Set judge.form=written, or name the judge's model.",
        )

    def label_prompt(
        self, user: str, started: str, labels: Sequence[str]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Not to be had; see ``score_prompt``."""
        return self.score_prompt(user)

    def odd_ids(self, user: Turns, text: str, sampled: tuple[int, ...]) -> None:
        """None: there are no ids, and the text is all."""

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
    """See ``base.Engine``; it is asked with text, and gives text alone.

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
        if sampling is None or request.text is None:
            raise ConfigError(
                "a hosted endpoint takes no token ids, and tells no probabilities of tokens",
                "Name the judge's model.",
            )
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
        settings: dict[str, Any] = {
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
        }
        # Some refuse parameters that they do not know, so what changes nothing is left out.
        more = {"top_k": sampling.top_k, "stop": sampling.stop}
        settings |= {name: value for name, value in more.items() if value}
        body = {"messages": _messages(request.text or ""), **settings}
        plain = {"messages": _messages(_PLAIN), **settings}
        if n > 1:
            body["n"] = n
        choices = in_order((await self._balancer.ask(_PATH, body, plain, ChatAnswer)).choices)
        texts = [choice.message.content or choice.message.refusal or "" for choice in choices]
        if not any(texts) and all(c.finish_reason == "content_filter" for c in choices):
            raise RequestError("content filter", "the endpoint's filter let no answer pass")
        return [
            Generation(text, (), "length" if choice.finish_reason == "length" else "stop")
            for text, choice in zip(texts, choices, strict=True)
        ]


def _messages(text: Turns) -> list[Message]:
    return [{"role": "user", "content": text}] if isinstance(text, str) else [*text]
