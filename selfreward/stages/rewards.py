"""Scoring responses by a reward model, or an implicit one: as by a function that gives rewards."""

from collections.abc import Mapping
from typing import Any

from selfreward.engines.base import ChatFormat, Engine, Request, RequestError
from selfreward.inputs.conversations import LEFT_OUT, MESSAGES, Turns
from selfreward.stages.functions import Given


class RewardScorer:
    """See ``functions.Scorer``.

    Args:
        engine: Of the reward model, see ``engines.reward``.
        chat: Of the same model.
    """

    def __init__(self, engine: Engine, chat: ChatFormat) -> None:
        self._engine, self._chat = engine, chat

    async def score(self, prompt: str, completion: str, columns: Mapping[str, Any]) -> Given:
        """The reward of an answer; None where the model cannot be shown it, with the reason.

        Raises:
            PreflightError: It cannot be asked any more.
        """
        if self._chat.control_token(prompt) or self._chat.control_token(completion):
            return Given(None, "control token", "")
        turns: Turns = columns.get(MESSAGES) or prompt
        if self._chat.left_out(turns):
            return Given(None, LEFT_OUT, "")
        try:
            [generation] = await self._engine.generate(self._request(turns, completion))
        except RequestError as error:
            return Given(None, error.reason, error.detail)
        return Given(generation.reward, None, f"{generation.reward:.6g}")

    def _request(self, turns: Turns, completion: str) -> Request:
        return Request(self._chat.conversation_ids(turns, completion))


class ImplicitScorer(RewardScorer):
    """Of two language models, see ``engines.implicit``."""

    def _request(self, turns: Turns, completion: str) -> Request:
        prompt, answer = self._chat.continuation(turns, "", completion)
        return Request(prompt, answer=answer)
