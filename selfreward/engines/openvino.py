"""OpenVINO: for CPUs, and proved on more models than CTranslate2.

Its graphs come from transformers, see ``openvino_graph``. Facts of the libraries that shape this
file (openvino and openvino-genai 2026.4):

- ``ContinuousBatchingPipeline`` takes requests at any step, shares the prompts of samples and the
  starts of prompts (prefix cache), and seeds each request; the samples of one draw in turn.
- Samples come back best first, with the end of turn among the ids. Log-probabilities are raw:
  before temperature, cutting and ``min_new_tokens``; and they are too high by some 1e-4 a token
  (see ``proof.SUM_TOLERANCE``).
- Only lone samples can be read on the way, so samples that may end at a stop string go one by one,
  each with a seed of its own.
- It tells the probability of no token but the sampled one, and takes no weights once it is open.
  So scores come from the plain graph, and other weights mean another pipeline.
- What does not fit into the key-value cache at all ends as ``IGNORED``, as what was cancelled does,
  and takes with it whatever waits beside it. So no such request is let in.
"""

import asyncio
import itertools
import math
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

# It is to come before the library itself, see there.
from selfreward.engines.openvino_graph import Checkpoint  # isort: skip

import numpy as np
import openvino as ov
import openvino_genai as genai

from selfreward.config import Sampling
from selfreward.engines.base import Generation, Request, RequestError, check_room
from selfreward.engines.batcher import MAX_BATCH_TOKENS, Batcher
from selfreward.engines.chat import Chat
from selfreward.engines.starts import shared_start
from selfreward.engines.stops import Stops
from selfreward.errors import PreflightError

_MAX_STARTS = 8
"""States of shared prompt starts kept: 0.05 MB a token for 135M parameters."""
_LONG = 8192
"""Tokens of a sequence that the key-value cache holds by default."""
_BLOCK = 32
"""Tokens of a block of the key-value cache on CPUs."""
_QUIET_TICKS = 8
"""Turns of the event loop before new requests are taken in; see ``batcher``."""

Ids = tuple[int, ...]


def open_engine(model: Path, chat: Chat, options: Mapping[str, Any]) -> "OpenVINOEngine":
    """Make a graph of a model directory, or take it from the cache, and load its weights."""
    return OpenVINOEngine(model, chat, **options)


class OpenVINOEngine:
    """See ``base.Engine``. Sampling and scoring each load the weights when they are first needed.

    Args:
        model: Model directory.
        chat: Of the same model.
        precision: ``f32``, or ``bf16`` where the CPU computes with it: half the memory and, there,
            more speed.
        cache_size: GB of the key-value cache of sampling; 1 GB holds 21,000 tokens of 135M
            parameters in float32. None: 2, or what one sequence of full length takes if that is
            more, full being the model's own or ``_LONG``.
        max_num_seqs: Sequences that are sampled at once.
        max_num_batched_tokens: Tokens of a step, those of prompts included.
        max_batch_size: Prompts that are scored together, by what they begin with.
        max_batch_tokens: Their tokens at most; see ``Batcher``.

    Raises:
        PreflightError: The model has no graph, or the CPU lacks the precision.
    """

    def __init__(
        self, model: Path, chat: Chat, precision: str = "f32", cache_size: int | None = None,
        max_num_seqs: int = 64, max_num_batched_tokens: int = 4096, max_batch_size: int = 64,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> None:  # fmt: skip
        self._chat = chat
        capable = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in capable:
            raise PreflightError(
                "engine.precision=bf16: OpenVINO finds no bfloat16 instructions in this CPU",
                "Set engine.precision=f32.",
            )
        self._properties = {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # it would round activations to int8
            "INFERENCE_NUM_THREADS": _num_threads(),
            # It would bind its threads to the first cores, and several runs with a part of the
            # cores each would share these while others are idle. One alone gains nothing by it.
            "ENABLE_CPU_PINNING": False,
        }
        self._checkpoint = Checkpoint(model, chat.trust_remote_code)
        token_bytes = {"f32": 4, "bf16": 2}[precision] * self._checkpoint.cache_width
        if cache_size is None:
            full = min(chat.max_length or _LONG, _LONG) + 2 * _BLOCK
            cache_size = max(2, math.ceil(full * token_bytes / 2**30))
        self._capacity = cache_size * 2**30 // token_bytes
        self._scheduler = genai.SchedulerConfig()
        self._scheduler.cache_size = cache_size
        self._scheduler.max_num_seqs = max_num_seqs
        self._scheduler.max_num_batched_tokens = max_num_batched_tokens
        self._scheduler.enable_prefix_caching = True
        self._sampler: _Sampler | None = None
        self._scorer: _Scorer | None = None
        # Steps of sampling and batches of scores take turns: side by side each would take the cores
        # from the other, and be many times as slow.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._batcher = Batcher(self._score, max_batch_size, max_batch_tokens, self._worker)
        self._closed = False

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        check_room(request, self._chat.max_length)
        if request.sampling is None:
            return await self._batcher.submit(request)
        if self._sampler is None:
            self._sampler = _Sampler(self._pipeline, self._chat, self._capacity, self._worker)
        return await self._sampler.submit(request)

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``."""
        await self._free()
        self._checkpoint = Checkpoint(model, self._chat.trust_remote_code)

    async def close(self) -> None:
        """Free the model. Idempotent."""
        self._closed = True
        await self._free()
        await self._batcher.close()
        self._scorer = None

    async def _free(self) -> None:
        if self._sampler is not None:
            await self._sampler.close()
        self._sampler = self._scorer = None  # never two models in memory
        self._checkpoint.close()

    def _pipeline(self) -> Any:
        return genai.ContinuousBatchingPipeline(
            str(self._checkpoint.path), self._scheduler, "CPU", self._properties
        )

    def _score(self, requests: Sequence[Request]) -> list[list[Generation]]:
        if self._scorer is None:
            compiled = ov.Core().compile_model(str(self._checkpoint.xml), "CPU", self._properties)
            self._scorer = _Scorer(compiled.create_infer_request())
        return [[generation] for generation in self._scorer.score(requests)]


def _num_threads() -> int:
    """As many as OpenMP is told, which the libraries of training heed; 0 leaves it to OpenVINO."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(told) if told.isdigit() else 0


@dataclass(eq=False, slots=True)
class _Asked:
    """A request to the pipeline."""

    request: Request
    sampling: Sampling
    stops: Stops
    future: asyncio.Future[list[Generation]]
    handle: Any = None
    sampled: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)
    """By number of the sample: its ids and their log-probabilities so far."""
    answer: list[Generation] | Exception | None = None


class _Sampler:
    """Samples with a pipeline, step by step.

    Args:
        open_pipeline: Opens it, in that thread.
        chat: Of the same model.
        capacity: Tokens that its key-value cache holds.
        worker: The thread of its steps.
    """

    def __init__(
        self, open_pipeline: Any, chat: Chat, capacity: int, worker: ThreadPoolExecutor
    ) -> None:
        self._open, self._chat, self._capacity = open_pipeline, chat, capacity
        self._pipeline: Any = None
        self._numbers = itertools.count()
        self._new: list[_Asked] = []
        self._running: list[_Asked] = []
        self._worker = worker
        self._dispatcher: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> list[Generation]:
        """Wait for the generations of a request, which cancelling takes out of the pipeline.

        Raises:
            RequestError: The cache does not hold it.
        """
        sampling = request.sampling
        assert sampling is not None
        if sampling.temperature == 0 and request.n > 1:
            return (await self.submit(replace(request, n=1))) * request.n
        fits = self._needed(request, sampling) <= self._capacity
        if request.n > 1 and (sampling.stop or not fits):
            each = [replace(request, n=1, seed=request.seed + i) for i in range(request.n)]
            return [one for part in await asyncio.gather(*map(self.submit, each)) for one in part]
        if not fits:
            raise RequestError(
                "too long",
                f"a prompt of {len(request.token_ids)} tokens and {sampling.max_new_tokens} new "
                f"ones: the key-value cache holds {self._capacity} (engine.cache_size)",
            )
        future: asyncio.Future[list[Generation]] = asyncio.get_running_loop().create_future()
        self._new.append(_Asked(request, sampling, Stops(self._chat, sampling), future))
        if self._dispatcher is None or self._dispatcher.done():
            self._dispatcher = asyncio.create_task(self._dispatch())
        return await future

    def _needed(self, request: Request, sampling: Sampling) -> int:
        """Tokens in the cache at most; the samples share the prompt but for its last block."""
        return len(request.token_ids) + request.n * (sampling.max_new_tokens + 2 * _BLOCK)

    async def close(self) -> None:
        """Cancel what waits, let the step that runs end, and free the pipeline. Idempotent."""
        for asked in (*self._new, *self._running):
            asked.future.cancel()
        if self._dispatcher is not None and not self._dispatcher.done():
            await asyncio.wait([self._dispatcher])
        self._pipeline = None

    async def _dispatch(self) -> None:
        """Step until nothing waits."""
        while self._new or self._running:
            for _ in range(_QUIET_TICKS if self._new else 1):
                await asyncio.sleep(0)
            turn = asyncio.get_running_loop().run_in_executor(self._worker, self._turn)
            await asyncio.wait([turn])
            error = turn.exception()
            asked = [*self._running, *self._new] if error else self._running
            for one in asked:
                if one.answer is None and isinstance(error, Exception):
                    one.answer = error
                if one.answer is None or one.future.done():
                    continue
                if isinstance(one.answer, Exception):
                    one.future.set_exception(one.answer)
                else:
                    one.future.set_result(one.answer)
            self._running = [one for one in asked if one.answer is None]
            if error:
                self._new, self._running, self._pipeline = [], [], None

    def _turn(self) -> None:
        """Take in what is new, and step once."""
        self._pipeline = self._pipeline or self._open()
        new, self._new = self._new, []
        for asked in new:
            self._running.append(asked)
            self._take(asked)
        self._pipeline.step()
        for asked in self._running:
            self._read(asked)
        if all(asked.answer is not None for asked in self._running):
            while self._pipeline.has_non_finished_requests():  # so that it drops what was cancelled
                self._pipeline.step()

    def _take(self, asked: _Asked) -> None:
        request, ends = asked.request, sorted(self._chat.end_ids)
        prompt = ov.Tensor(np.array([request.token_ids], dtype=np.int64))
        how = genai.GenerationConfig()
        how.max_new_tokens = asked.sampling.max_new_tokens
        how.min_new_tokens = min(asked.sampling.min_new_tokens, asked.sampling.max_new_tokens)
        how.stop_token_ids, how.eos_token_id = set(ends), ends[0]
        how.logprobs = 1
        if asked.sampling.temperature > 0:
            how.do_sample, how.temperature = True, asked.sampling.temperature
            how.top_p = asked.sampling.top_p
            if asked.sampling.top_k:
                how.top_k = asked.sampling.top_k
            how.num_return_sequences, how.rng_seed = request.n, request.seed
        asked.handle = self._pipeline.add_request(next(self._numbers), prompt, how)

    def _read(self, asked: _Asked) -> None:
        """Take up what was sampled, and answer the request if it is at its end."""
        if asked.future.done():  # cancelled meanwhile
            asked.handle.cancel()
            asked.answer = []
            return
        while asked.handle.can_read():
            for number, output in asked.handle.read().items():
                ids, logprobs = asked.sampled.setdefault(number, ([], []))
                ids += output.generated_ids
                logprobs += output.generated_log_probs
        status = asked.handle.get_status()
        if asked.sampling.stop and any(asked.stops.reached(i) for i, _ in asked.sampled.values()):
            asked.handle.cancel()
        elif status == genai.GenerationStatus.RUNNING:
            return
        elif status != genai.GenerationStatus.FINISHED:
            asked.answer = RuntimeError(f"OpenVINO gave a request up: {status.name}")
            return
        # Best first would make sample 0 likelier than the others to be of high probability.
        sampled = sorted(asked.sampled.values())
        random.Random(asked.request.seed).shuffle(sampled)
        asked.answer = [self._generation(asked, ids, logprobs) for ids, logprobs in sampled]

    def _generation(self, asked: _Asked, ids: list[int], logprobs: list[float]) -> Generation:
        answer = ids[:-1] if ids[-1] in self._chat.end_ids else ids
        kept = asked.stops.length(answer)
        if kept < len(answer):
            answer, logprobs = answer[:kept], logprobs[:kept]
        return asked.stops.generation(answer, sum(logprobs))


class _Scorer:
    """Tells probabilities of tokens by the plain graph, which keeps the state of prompt starts.

    Prompts go together where they are of one length, so that none is padded: padding behind a
    start that they share would stand within the windows that some models have.

    Args:
        request: Of the compiled graph.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._starts: dict[Ids, list[np.ndarray[Any, Any]]] = {}

    def score(self, requests: Sequence[Request]) -> list[Generation]:
        """Probabilities of the score tokens, from the softmax in float64.

        Args:
            requests: By length, shortest first; all ask for the same tokens.
        """
        wanted = list(requests[0].score_tokens)
        start = tuple(shared_start([request.token_ids for request in requests], self._starts))
        generations = []
        for _, group in groupby(requests, key=lambda request: len(request.token_ids)):
            rows = [request.token_ids for request in group]
            self._begin(start, len(rows))
            for logits in self._feed([row[len(start) :] for row in rows], len(start)):
                odds = np.exp(logits - logits.max())
                probabilities = tuple((odds[wanted] / odds.sum()).tolist())
                generations.append(Generation("", (), "stop", probabilities=probabilities))
        return generations

    def _begin(self, start: Ids, rows: int) -> None:
        """Set the state to that after a start, for so many rows."""
        self._request.reset_state()
        if not start:
            return
        if start not in self._starts:
            if len(self._starts) == _MAX_STARTS:
                self._starts.pop(next(iter(self._starts)))
            self._feed([start], 0)
            states = self._request.query_state()
            self._starts[start] = [np.array(state.state.data) for state in states]
        for state, kept in zip(self._request.query_state(), self._starts[start], strict=True):
            state.state = ov.Tensor(np.repeat(kept, rows, axis=0))

    def _feed(self, rows: Sequence[Ids], past: int) -> np.ndarray[Any, Any]:
        """Logits of the last position, float64 of shape (rows, vocabulary)."""
        n, length = len(rows), len(rows[0])
        self._request.infer(
            {
                "input_ids": np.array(rows, dtype=np.int64),
                "attention_mask": np.ones((n, past + length), dtype=np.int64),
                "position_ids": np.tile(np.arange(past, past + length), (n, 1)),
                "beam_idx": np.arange(n, dtype=np.int32),
            }
        )
        logits: np.ndarray[Any, Any] = self._request.get_tensor("logits").data[:, -1]
        return logits.astype(np.float64)
