"""Where a continuation ends: the same for all engines that run in this process."""

import bisect
from collections.abc import Sequence

from selfreward.config import Sampling
from selfreward.engines.base import Generation
from selfreward.engines.chat import Chat


class Stops:
    """Finds stop strings while tokens are sampled, and makes a Generation of the result."""

    def __init__(self, chat: Chat, sampling: Sampling) -> None:
        self._chat, self._stop, self._max = chat, sampling.stop, sampling.max_new_tokens
        # A token holds at least one byte of text, so no stop string spans more tokens than it has
        # bytes; one more token before it keeps tokenizers from dropping its leading space.
        self.window = max((len(stop.encode()) for stop in self._stop), default=0) + 1

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the last ``window`` of the ids sampled so far hold a stop string."""
        tail = self._chat.decode(ids[-self.window :])
        return any(stop in tail for stop in self._stop)

    def length(self, ids: Sequence[int]) -> int:
        """How many of the ids there are up to the one that completes the first stop string."""
        if not self._stop:
            return len(ids)
        return (
            bisect.bisect_left(range(len(ids)), True, key=lambda i: self._found(ids[: i + 1])) + 1
        )

    def _found(self, ids: Sequence[int]) -> bool:
        text = self._chat.decode(ids)
        return any(stop in text for stop in self._stop)

    def generation(self, ids: Sequence[int], logprob: float | None = None) -> Generation:
        """Cut the text of sampled ids (without the end-of-turn token) at the first stop string."""
        text = self._chat.decode(ids)
        ends = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        stopped = bool(ends) or len(ids) < self._max
        return Generation(
            text[: min(ends)] if ends else text,
            tuple(ids),
            "stop" if stopped else "length",
            logprob=logprob,
        )
