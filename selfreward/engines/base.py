"""What an inference engine is: token ids in, generations out.

Chat templates, tokenizing and judging are not the engine's business (see ``selfreward.chat``), so
every engine gets the same ids. One contract suite, ``tests/test_engines.py``, runs over all.
"""

from dataclasses import dataclass
from typing import Protocol

from selfreward.chat import Chat
from selfreward.errors import ConfigError
from selfreward.records import FinishReason


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. Names and meanings are those of vLLM and transformers."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary. On CPUs a value of 64 saves sorting it at each step."""
    min_new_tokens: int = 0
    """Tokens before which the end-of-turn token is not sampled."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these; they are not part of the text."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, to be continued n times or to be asked for token probabilities.

    With ``score_tokens`` nothing is sampled: the engine returns one Generation with empty text
    whose ``probabilities`` are those of the given tokens at the next position, taken from the
    softmax of the raw logits over the whole vocabulary.
    """

    token_ids: tuple[int, ...]
    sampling: Sampling | None = None
    n: int = 1
    seed: int = 0
    """Sample i uses seed + i, where the engine can seed single samples."""
    score_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation of a prompt."""

    text: str
    """Decoded without the end-of-turn token and without the stop string."""
    token_ids: tuple[int, ...]
    """Sampled ids without the end-of-turn token; may run past the start of a stop string."""
    finish_reason: FinishReason
    probabilities: tuple[float, ...] | None = None
    """Same order as ``Request.score_tokens``; None where none were asked for."""


class Engine(Protocol):
    """Continues prompts. Any number of requests may be in flight; how they are batched is free."""

    async def generate(self, request: Request) -> list[Generation]:
        """Return exactly ``request.n`` generations in sample order (one for ``score_tokens``).

        Raises:
            ConfigError: The prompt leaves no room for a new token in the model's context.
        """
        ...

    async def close(self) -> None:
        """Free the model. Idempotent."""
        ...


def check_room(request: Request, chat: Chat) -> None:
    """Check that a request fits into the model's context.

    Raises:
        ConfigError: Prompt and ``max_new_tokens`` together are too long.
    """
    new = request.sampling.max_new_tokens if request.sampling else 1
    if chat.max_length is not None and len(request.token_ids) + new > chat.max_length:
        raise ConfigError(
            f"a prompt of {len(request.token_ids)} tokens leaves no room for {new} new ones: the "
            f"model holds {chat.max_length}",
            "Lower max_new_tokens, or drop long prompts.",
        )
