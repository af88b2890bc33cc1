"""Models behind OpenAI-compatible endpoints: ``vllm serve``, SGLang, or a gateway before them.

Token ids go in and come out, so requests are the same as for the engines in this process, and so
is the text made of the answers. ``hosted.py`` is for endpoints that take text alone.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfreward.config import Sampling
from selfreward.engines.base import Generation, Request, RequestError, check_room
from selfreward.engines.chat import Chat
from selfreward.engines.server.answers import Completion, CompletionAnswer, in_order
from selfreward.engines.server.balancer import Balancer
from selfreward.engines.stops import Stops
from selfreward.errors import PreflightError

_TOP = 20
"""Log-probabilities asked of servers that do not know ``logprob_token_ids``: the most that vLLM
gives by default."""
_UNTOLD = 1e-3
"""Score tokens may be left out of the most likely ones if together they hold at most this share of
what is told of the others: the expected score is then off by at most 0.005 points."""
_TOKEN_ID = re.compile(r"token_id:([0-9]{1,10})")
_NEUTRAL = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_p": 0.0,
    "skip_special_tokens": False,
}
"""Or the server takes what the checkpoint's generation config says."""


def open_engine(
    model: Path, chat: Chat, options: Mapping[str, Any], *, fixed: bool = False
) -> "ServerEngine":
    """Ask endpoints for a model; nothing is sent before the first request.

    What they serve must have the weights of ``model``. Each is looked at before it gets work, at
    short intervals after that, and whenever its connection was lost:

    - A vLLM started under ``VLLM_SERVER_DEV_MODE=1`` is given the weights: at the first look, at
      ``load``, and when it was restarted. The directory must be there on its machine.
    - Any other must list the directory, or the hub id that it is a snapshot of, as the ``root`` of
      its model; if not, the error says what to start.
    - For a ``fixed`` model the user may vouch instead: ``options["model"]`` names what is served,
      and it is taken for ``model`` wherever it came from. Never set ``fixed`` for a policy, whose
      weights change: an old model would answer for the new one.

    Args:
        model: Model directory.
        chat: Of the same model.
        options: See ``Balancer``.
        fixed: Whether the model stays the same in all iterations, such as a judge's.

    Raises:
        ConfigError: An option is missing or no option.
        PreflightError: There is no key where there should be one.
    """
    return ServerEngine(Balancer(options, model, fixed), chat)


class ServerEngine:
    """See ``base.Engine``.

    Args:
        balancer: The endpoints.
        chat: Of the model that they serve.
    """

    def __init__(self, balancer: Balancer, chat: Chat) -> None:
        self._balancer, self._chat = balancer, chat

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        check_room(request, self._chat.max_length)
        sampling = request.sampling
        if sampling is None:
            answer = await self._ask(_score_body(request))
            return [Generation("", (), "stop", probabilities=_probabilities(answer, request))]
        # Greedy samples are all the same, and vLLM refuses more than one.
        n = request.n if sampling.temperature > 0 else 1
        body = self._sample_body(request, sampling, n)
        choices = in_order((await self._ask(body)).choices)
        if len(choices) != n:
            raise PreflightError(
                f"asked for {n} completions of a prompt, the endpoint gives {len(choices)}",
                "vLLM and SGLang give as many as are asked for.",
            )
        stops = Stops(self._chat, sampling)
        generations = [self._generation(choice, stops, sampling) for choice in choices]
        return generations if n == request.n else generations * request.n

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``."""
        await self._balancer.load(model)

    async def close(self) -> None:
        """Close the connections; the servers are not ours. Idempotent."""
        await self._balancer.close()

    async def _ask(self, body: Mapping[str, Any]) -> CompletionAnswer:
        plain = {**body, "prompt": [self._chat.end_id]} | ({"n": 1} if "n" in body else {})
        return await self._balancer.ask("/completions", body, plain, CompletionAnswer)

    def _sample_body(self, request: Request, sampling: Sampling, n: int) -> dict[str, Any]:
        return {
            "prompt": request.token_ids,
            "n": n,
            "seed": request.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,  # which is "all" to vLLM and to SGLang
            "max_tokens": sampling.max_new_tokens,
            "min_tokens": min(sampling.min_new_tokens, sampling.max_new_tokens),
            "stop": sampling.stop,
            "stop_token_ids": sorted(self._chat.end_ids),
            "logprobs": 0,  # of the sampled tokens alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # spares the server from decoding each
            **_NEUTRAL,
        }

    def _generation(self, choice: Completion, stops: Stops, sampling: Sampling) -> Generation:
        ids, rows = choice.token_ids, self._chat.num_rows
        if ids is None:
            raise PreflightError(
                "the endpoint gives back text without token ids",
                "As a policy it must know return_token_ids, as vLLM and SGLang do; a judge that "
                "does not can be asked as judge.model=hosted.",
            )
        if rows is not None and max(ids, default=0) >= rows:
            raise RequestError(
                "odd token ids", f"the endpoint gives token {max(ids)}, the model has {rows}"
            )
        told = (choice.logprobs and choice.logprobs.token_logprobs) or [None]
        known = [logprob for logprob in told if logprob is not None]
        logprob = math.fsum(known) if len(known) == len(told) else None
        generation = stops.generation(_until(ids, self._chat.end_ids), logprob)
        if choice.finish_reason == "length" and len(ids) < sampling.max_new_tokens:
            return replace(generation, finish_reason="length")  # at the server's own limit
        return generation


def _score_body(request: Request) -> dict[str, Any]:
    return {
        "prompt": request.token_ids,
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": _TOP,
        "logprob_token_ids": request.score_tokens,
        "return_tokens_as_token_ids": True,
        **_NEUTRAL,
    }


def _probabilities(answer: CompletionAnswer, request: Request) -> tuple[float, ...]:
    """Probabilities of the score tokens, from the first position's log-probabilities."""
    logprobs = answer.choices[0].logprobs
    top = ((logprobs and logprobs.top_logprobs) or [None])[0] or {}
    told = {
        int(match[1]): math.exp(logprob)
        for token, logprob in top.items()
        if (match := _TOKEN_ID.fullmatch(token))
    }
    if not told:
        raise PreflightError(
            "the endpoint tells no log-probabilities by token id",
            "Ask a vLLM (it knows return_tokens_as_token_ids), or set judge.form=written.",
        )
    known = sum(told[token] for token in request.score_tokens if token in told)
    missing = sum(token not in told for token in request.score_tokens)
    if missing * min(told.values()) > _UNTOLD * known:  # none is likelier than the last one told
        raise RequestError(
            "scores not told",
            f"{missing} score tokens are not among the {len(told)} likeliest, which is all that "
            "the endpoint tells",
        )
    return tuple(told.get(token, 0.0) for token in request.score_tokens)


def _until(ids: Sequence[int], ends: frozenset[int]) -> Sequence[int]:
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]
