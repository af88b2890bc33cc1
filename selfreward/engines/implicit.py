"""Implicit rewards: how much likelier an answer has become by DPO.

    ln pi(answer | prompt) - ln ref(answer | prompt), in nats, summed over tokens

Where DPO has made pi from ref with some beta, beta times this is the reward that its loss fits, up
to a number that all answers to a prompt share (Rafailov et al. 2023, arXiv 2305.18290, equation 5).
DICE (arXiv 2406.09760, section 3) ranks by it. beta changes no ranking, so ``scale`` stands for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfreward.engines.base import Generation, Request, RequestError
from selfreward.engines.batcher import Batcher
from selfreward.engines.chat import Chat, positions_of
from selfreward.engines.likelihood import BATCH_TOKENS, summed_logprobs
from selfreward.engines.reward import open_on_device
from selfreward.engines.tokenizers import open_tokenizer
from selfreward.errors import ConfigError

_BATCH_SIZE = 16


def check_reference(
    model: Path, reference: Path, key: str, trust_remote_code: bool = False
) -> None:
    """Check that the same ids tell two models the same.

    Args:
        key: Of the config, for the errors.

    Raises:
        ConfigError: Their tokenizers differ.
    """
    vocabularies = (
        open_tokenizer(path, trust_remote_code).get_vocab() for path in (model, reference)
    )
    if next(vocabularies) != next(vocabularies):
        raise ConfigError(
            f"{key}: {reference} has another tokenizer than {model}",
            "Name the model that DPO started from.",
        )


class ImplicitReward:
    """See ``base.Engine``; a request is a prompt and an answer, and its generation the reward.

    Args:
        model: Directory of the model that DPO made.
        reference: Directory of the one that it started from.
        chat: Of ``model``.
    """

    def __init__(self, model: Path, reference: Path, chat: Chat) -> None:
        self._chat = chat
        held = [most for most in (chat.max_length, positions_of(reference)) if most is not None]
        self._most = min(held, default=None)
        self._model: Any = self._open(model)
        self._reference: Any = self._open(reference)
        self._batcher = Batcher(self._run, _BATCH_SIZE, BATCH_TOKENS)

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        length, most = len(request.token_ids) + len(request.answer), self._most
        if most is not None and length > most:
            raise RequestError("too long", f"{length} tokens, and the models hold {most}")
        return await self._batcher.submit(request)

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``; the reference stays."""
        self._model = None
        self._model = self._open(model)

    async def close(self) -> None:
        """Free both models."""
        await self._batcher.close()
        self._model = self._reference = None

    def _open(self, model: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return open_on_device(AutoModelForCausalLM, model, self._chat.trust_remote_code)

    def _run(self, requests: Sequence[Request]) -> list[list[Generation]]:
        import torch

        rows = [([*r.token_ids, *r.answer], len(r.token_ids)) for r in requests]
        with torch.inference_mode():
            now, before = (summed_logprobs(m, rows) for m in (self._model, self._reference))
        return [
            [Generation("", (), "stop", reward=mine - theirs)]
            for mine, theirs in zip(now, before, strict=True)
        ]
