"""An engine and a chat format that need no model.

A token is a code point, so a request's ids spell its text. What the engine says is a function of
sha256 over those ids and the seed alone: it does not depend on order, timing or batching, which is
what a crash test needs, and no real engine can promise.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from selfreward.config import Sampling
from selfreward.engines.base import Generation, Request
from selfreward.inputs.conversations import Turns
from selfreward.records import FinishReason

CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>")

Reply = Callable[[str, int], tuple[str, FinishReason]]
"""(the whole prompt as text, a number below 2**256 drawn for this sample) -> what is said."""


class ScriptedChat:
    """Has the methods of ``selfreward.engines.chat.Chat`` that stages and training rows use."""

    end_ids = frozenset({0})

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def prompt_ids(self, user: Turns, started: str = "") -> tuple[int, ...]:
        turns = [{"role": "user", "content": user}] if isinstance(user, str) else user
        said = "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)
        return tuple(map(ord, f"{said}<assistant>{started}"))

    def left_out(self, user: Turns) -> str | None:
        return None

    def conversation_ids(self, user: Turns, answer: str) -> tuple[int, ...]:
        return (*self.prompt_ids(user), *map(ord, answer), 0)

    def request(
        self, user: Turns, started: str, sampling: Sampling, n: int = 1, seed: int = 0
    ) -> Request:
        return Request(self.prompt_ids(user, started), sampling, n, seed)

    def continuation(
        self, user: Turns, started: str, text: str, *, is_sampled: bool = False
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.prompt_ids(user, started), (*map(ord, text), 0)

    def score_prompt(
        self, user: str, before: str = "", started: str = ""
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        turn = f"{started}{before}\nScore:" if before else "Score:"
        return self.prompt_ids(user, turn), tuple(map(ord, "012345"))

    def label_prompt(
        self, user: str, started: str, labels: Sequence[str]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.prompt_ids(user, started), tuple(ord(label[-1]) for label in labels)

    def score_target(self, user: str, score: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        prompt_ids, score_ids = self.score_prompt(user)
        return prompt_ids, (score_ids[score], 0)

    def control_token(self, text: str) -> str | None:
        return next((token for token in CONTROL_TOKENS if token in text), None)

    def sampled(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        return (*token_ids, 0)

    def odd_ids(self, user: Turns, text: str, sampled: tuple[int, ...]) -> tuple[int, ...] | None:
        _, again = self.continuation(user, "", text)
        return None if again == self.sampled(sampled) else sampled

    def split_thinking(self, text: str, started: str = "") -> tuple[str, str]:
        if not text.lstrip().startswith("<think>"):
            return "", text
        before, _, after = text.partition("</think>")
        return before.replace("<think>", "", 1), after


class ScriptedEngine:
    """Implements the Engine protocol.

    Args:
        reply: What to say; see ``Reply``.
        delay_s: Longest time that a request takes; which one takes how long is drawn as well, so
            that answers do not come back in the order of the requests.
    """

    def __init__(self, reply: Reply | None = None, delay_s: float = 0.0) -> None:
        self.reply: Reply = reply or scripted_reply
        self.delay_s = delay_s
        self.requests: list[Request] = []
        """All requests so far."""
        self.in_flight = self.most_in_flight = 0
        """Requests that are being answered."""
        self.closed = False
        self.model: Path | None = None
        """The checkpoint taken in place last."""

    async def generate(self, request: Request) -> list[Generation]:
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.delay_s * (_number(request, 0) % 256) / 256)
        self.in_flight -= 1
        if request.score_tokens:
            parts = [_number(request, token) % 1000 + 1 for token in request.score_tokens]
            probabilities = tuple(part / (sum(parts) + 100) for part in parts)
            return [Generation("", (), "stop", probabilities=probabilities)]
        if request.sampling is None:
            return [
                Generation(
                    "", (), "stop", reward=(len(request.token_ids) + len(request.answer)) / 10
                )
            ]
        return [self._sample(request, sample) for sample in range(request.n)]

    async def load(self, model: Path) -> None:
        self.model = model

    async def close(self) -> None:
        self.closed = True

    def _sample(self, request: Request, sample: int) -> Generation:
        sampling = request.sampling
        assert sampling is not None
        text, finish_reason = self.reply(
            "".join(map(chr, request.token_ids)), _number(request, request.seed + sample)
        )
        ends = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        if ends:
            text, finish_reason = text[: min(ends)], "stop"
        if len(text) > sampling.max_new_tokens:
            text, finish_reason = text[: sampling.max_new_tokens], "length"
        return Generation(text, tuple(map(ord, text)), finish_reason)


def scripted_reply(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Words without meaning; with a verdict if the prompt asks for one. A few are bad."""
    words = scripted_words(number)
    match number % 32:
        case 0:
            return words, "length"
        case 1:
            return "", "stop"
    if "Score: <" in prompt[-200:]:
        verdict = "no idea" if number % 32 == 2 else f"Score: {number // 32 % 6}"
        return f"{words}\n{verdict}", "stop"
    return words, "stop"


def scripted_words(number: int) -> str:
    """Five to nine words of three syllables."""
    words = []
    for _ in range(5 + number % 5):
        word = ""
        for _ in range(3):
            number, draw = divmod(number, 80)
            word += "bdfgklmnprstvzhj"[draw % 16] + "aeiou"[draw // 16]
        words.append(word)
    return " ".join(words)


def _number(request: Request, salt: int) -> int:
    text = json.dumps([request.token_ids, salt])
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
