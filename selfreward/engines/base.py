"""What an inference engine is: token ids in, generations out.

Chat templates, tokenizing and judging are not the engine's business (see
``selfreward.engines.chat``), so every engine gets the same ids. One contract suite,
``tests/engines/test_engines.py``, runs over all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from selfreward.config import Sampling
from selfreward.errors import SelfRewardError
from selfreward.inputs.conversations import Turns
from selfreward.records import FinishReason

FAILURES = (SelfRewardError, OSError, RuntimeError, ValueError)
"""What engines, and the libraries below them, raise when they cannot go on."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, to be continued n times or to be asked for token probabilities.

    With ``score_tokens`` nothing is sampled: the engine returns one Generation with empty text
    whose ``probabilities`` are those of the given tokens at the next position, taken from the
    softmax of the raw logits over the whole vocabulary.
    """

    token_ids: tuple[int, ...]
    """Empty where ``text`` is asked."""
    sampling: Sampling | None = None
    n: int = 1
    seed: int = 0
    """Sample i uses seed + i, where the engine can seed single samples."""
    score_tokens: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()
    """What follows the prompt, where it is asked how likely that is; nothing is sampled."""
    text: Turns | None = None
    """What is asked itself, for endpoints that show no tokenizer; other engines take ids alone."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation of a prompt."""

    text: str
    """Decoded without the end-of-turn token and without the stop string."""
    token_ids: tuple[int, ...]
    """Sampled ids without the end-of-turn token; may run past the start of a stop string."""
    finish_reason: FinishReason
    logprob: float | None = None
    """Sum of the natural log-probabilities of all sampled tokens, the end-of-turn token included,
    under the raw distribution (temperature 1, nothing cut off); None where the engine does not
    tell, and for ``score_tokens``."""
    probabilities: tuple[float, ...] | None = None
    """Same order as ``Request.score_tokens``; None where none were asked for."""
    reward: float | None = None
    """Of a reward model, also an implicit one, what it gives the whole text, on a scale of its own;
    it samples nothing."""


class Engine(Protocol):
    """Continues prompts. Any number of requests may be in flight; how they are batched is free."""

    async def generate(self, request: Request) -> list[Generation]:
        """Return exactly ``request.n`` generations in sample order (one for ``score_tokens``).

        Raises:
            RequestError: This request cannot be answered, such as a prompt that leaves no room in
                the model's context; others can.
            PreflightError: No request can be answered any more.
        """
        ...

    async def load(self, model: Path) -> None:
        """Take the weights of another checkpoint of the same model, in place.

        Nothing that was computed with the former ones survives. No request is in flight.
        """
        ...

    async def close(self) -> None:
        """Free the model. Idempotent."""
        ...


@runtime_checkable
class Sleeps(Protocol):
    """An engine that can lend its GPU to somebody else."""

    async def sleep(self) -> bool:
        """Give its memory back until it is asked again, and say whether it could.

        No request is in flight.

        Raises:
            PreflightError: Its process died of it.
        """
        ...


class ChatFormat(Protocol):
    """What stages need to know of the model that they ask: how to put it, how to read the answer.

    ``selfreward.engines.chat.Chat`` has it from the model's directory, and
    ``selfreward.engines.server.hosted.HostedChat`` where there is none. Both say more of it.
    """

    def request(
        self, user: Turns, started: str, sampling: Sampling, n: int = 1, seed: int = 0
    ) -> Request:
        """What asks for n continuations of the turns and the beginning of the model's turn."""
        ...

    def left_out(self, user: Turns) -> str | None:
        """The first of several turns that the model would not be shown, or None."""
        ...

    def conversation_ids(self, user: Turns, answer: str) -> tuple[int, ...]:
        """Ids of a finished conversation, as a reward model is shown it."""
        ...

    def continuation(
        self, user: Turns, started: str, text: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of the turns, and of the answer to them up to its end."""
        ...

    def score_prompt(
        self, user: str, before: str = "", started: str = ""
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids after which the next token is the score, and the ids of the scores 0 to 5."""
        ...

    def label_prompt(
        self, user: str, started: str, labels: Sequence[str]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids after which the next token is one of the labels, and the ids of the labels."""
        ...

    def control_token(self, text: str) -> str | None:
        """The first control token of the chat format that ``text`` spells, or None."""
        ...

    def split_thinking(self, text: str, started: str = "") -> tuple[str, str]:
        """Split (thinking, answer)."""
        ...

    def odd_ids(self, user: Turns, text: str, sampled: tuple[int, ...]) -> tuple[int, ...] | None:
        """The sampled ids if tokenizing the text they make would give others, else None."""
        ...


class RequestError(Exception):
    """A request that cannot be answered, now or later; it says nothing about other requests.

    Args:
        reason: A few words to count by, such as ``too long``.
        detail: What exactly, for the log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def check_room(request: Request, max_length: int | None) -> None:
    """Check that prompt and ``max_new_tokens`` together fit into a context.

    Args:
        max_length: Tokens; None for no limit.

    Raises:
        RequestError: They do not.
    """
    new = request.sampling.max_new_tokens if request.sampling else 1
    if max_length is not None and len(request.token_ids) + new > max_length:
        raise RequestError(
            "too long",
            f"a prompt of {len(request.token_ids)} tokens leaves no room for {new} new ones: the "
            f"model holds {max_length}",
        )
