"""Gathers requests that are in flight at once into batches, for engines that run in this process.

Requests that sample alike, or ask for the same score tokens, may share a batch. The model runs in
one worker thread, so the event loop stays free to take in more.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from selfreward.engines.base import Generation, Request

RunBatch = Callable[[Sequence[Request]], list[list[Generation]]]

MAX_BATCH_TOKENS = 16_384
"""Default of ``max_batch_tokens``; with it a process that samples with CTranslate2 and the bundled
135M model took 4.7 GB."""
_QUIET_TICKS = 8
"""Turns of the event loop without a new request before a batch is taken. An answer may lead to a
request a few turns later, and it is cheaper to wait for that than to run a batch half full."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    request: Request
    future: asyncio.Future[list[Generation]]

    @property
    def kind(self) -> object:
        """Requests of one kind may share a batch."""
        return self.request.sampling, self.request.n, self.request.score_tokens

    @property
    def length(self) -> int:
        """Tokens of a sequence at most, prompt and new ones."""
        return _length(self.request)


class Batcher:
    """Runs requests in batches.

    Args:
        run_batch: Answers requests of one kind, shortest prompt first; called in the worker thread.
        max_batch_size: Sequences per batch: requests times their n.
        max_batch_tokens: Tokens of a batch at most, by its longest sequence; memory grows with
            them. A sequence that is longer goes alone.
        worker: The one thread, where more than batches is to take turns in it.
    """

    def __init__(
        self, run_batch: RunBatch, max_batch_size: int, max_batch_tokens: int = MAX_BATCH_TOKENS,
        worker: ThreadPoolExecutor | None = None,
    ) -> None:  # fmt: skip
        self._run_batch, self._max = run_batch, max_batch_size
        self._max_tokens = max_batch_tokens
        self._waiting: list[_Waiting] = []
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._dispatcher: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, request: Request) -> list[Generation]:
        """Wait for the generations of a request; one larger than a batch is split.

        Cancelling a request that still waits takes it out of line.

        Raises:
            RuntimeError: The batcher is closed.
        """
        if self._closed:
            raise RuntimeError("the engine is closed")
        room = self._room(_length(request))
        if request.n > room:
            parts = [
                replace(request, n=min(room, request.n - i), seed=request.seed + i)
                for i in range(0, request.n, room)
            ]
            return [g for part in await asyncio.gather(*map(self.submit, parts)) for g in part]
        future: asyncio.Future[list[Generation]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, future))
        if self._dispatcher is None or self._dispatcher.done():
            self._dispatcher = asyncio.create_task(self._dispatch())
        return await future

    async def close(self) -> None:
        """Cancel what waits, let the batch that runs end, and end the thread. Idempotent."""
        self._closed = True
        for waiting in self._waiting:
            waiting.future.cancel()
        if self._dispatcher is not None and not self._dispatcher.done():
            await asyncio.wait([self._dispatcher])
        self._worker.shutdown()

    async def _dispatch(self) -> None:
        """Run batches until nothing waits."""
        while True:
            await self._settle()
            batch = self._next_batch()
            if not batch:
                return
            requests = [waiting.request for waiting in batch]
            running = asyncio.get_running_loop().run_in_executor(
                self._worker, self._run_batch, requests
            )
            await asyncio.wait([running])
            error = running.exception()
            for i, waiting in enumerate(batch):
                if waiting.future.done():  # cancelled meanwhile
                    continue
                if error is None:
                    waiting.future.set_result(running.result()[i])
                else:
                    waiting.future.set_exception(error)

    async def _settle(self) -> None:
        """Wait until no new request comes in; see ``_QUIET_TICKS``."""
        quiet = 0
        while quiet < _QUIET_TICKS:
            before = len(self._waiting)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == before else 0

    def _next_batch(self) -> Sequence[_Waiting]:
        """Take the request that waited longest, and those nearest to it in length, as many as fit.

        Prompts of one length save time: others are padded, or fed token by token.
        """
        self._waiting = [waiting for waiting in self._waiting if not waiting.future.done()]
        if not self._waiting:
            return []
        first = self._waiting[0]
        alike = sorted(
            (waiting for waiting in self._waiting if waiting.kind == first.kind),
            key=lambda waiting: waiting.length,
        )
        size = min(len(alike), max(1, self._max // first.request.n))
        batch = _window(alike, alike.index(first), size)
        while len(batch) > 1 and len(batch) * first.request.n > self._room(batch[-1].length):
            batch = _window(alike, alike.index(first), len(batch) - 1)
        taken = set(map(id, batch))
        self._waiting = [waiting for waiting in self._waiting if id(waiting) not in taken]
        return batch

    def _room(self, length: int) -> int:
        """Sequences of a length that fit into a batch."""
        return max(1, min(self._max, self._max_tokens // length))


def _length(request: Request) -> int:
    new = request.sampling.max_new_tokens if request.sampling else 1
    return len(request.token_ids) + len(request.answer) + new


def _window(alike: Sequence[_Waiting], at: int, size: int) -> Sequence[_Waiting]:
    """The requests of a batch: of all runs of ``size`` that hold place ``at``, the most even one.

    Args:
        alike: By length, shortest first.
    """
    start = min(
        range(max(0, at - size + 1), min(at, len(alike) - size) + 1),
        key=lambda i: alike[i + size - 1].length - alike[i].length,
    )
    return alike[start : start + size]


def batch_seed(requests: Sequence[Request]) -> int:
    """Seed of a batch, 31 bits, from the seeds of its requests."""
    text = ",".join(str(request.seed) for request in requests)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
