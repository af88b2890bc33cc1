"""vLLM: continuous batching, paged memory and shared prompt starts, on GPUs or by its CPU build.

Facts of the library that shape this file (version 0.32):

- AsyncLLM schedules and computes in processes of its own. Why one of them died is told by its log
  alone, so that log goes to a file as well.
- Child i of a request with n > 1 is seeded with seed + i. Log-probabilities are raw: of the model's
  own distribution, before temperature, cutting and ``min_tokens``.
- A stop string is not looked for before ``min_tokens``; here it counts from the first token.
- ``reload_weights`` leaves the prefix cache as it was, and a paused engine keeps requests waiting.
  On CPUs it also leaves the packed copy of an output layer that is tied to the embedding.
- On CPUs it takes a share of all memory by default, and blocks of 128 tokens: too long for short
  prompt starts to be shared.
"""

import asyncio
import itertools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from selfreward.engines.vllm_build import is_cpu_build, ties_embeddings

# Read when the library is imported.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
if not is_cpu_build():
    # It forks by default, and a process that has so much as asked for a GPU hands its children a
    # CUDA that does not work. Looking at a model with transformers asks.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
else:
    # It binds each thread to a core: beside another busy process a step takes many times as long.
    # After 300 s it gives up the step, and the run with it. A process that dies is seen anyway.
    os.environ.setdefault("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "1800")
if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) <= 4:
    # The CPU build keeps a core free for its scheduler: half of a machine that has two.
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")

from pydantic import ValidationError
from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import VllmConfig
from vllm.config.logging import LoggingConfig
from vllm.exceptions import VLLMError
from vllm.inputs.engine import tokens_input
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from selfreward.engines.base import Generation, Request, RequestError, check_room
from selfreward.engines.chat import Chat
from selfreward.engines.stops import Stops
from selfreward.engines.vllm_log import ErrorLog
from selfreward.errors import ConfigError

OPTIONS = frozenset(field.name for field in fields(AsyncEngineArgs))
OWNED = {
    "model": "set model in the config",
    "tokenizer": "the model's own is used",
    "skip_tokenizer_init": "stop strings need the tokenizer",
    "revision": "set revision in the config",
    "tokenizer_revision": "set revision in the config",
    "trust_remote_code": "set trust_remote_code in the config",
    "seed": "each request has its own",
    "served_model_name": "nothing is served",
    "generation_config": "only the request says how to sample",
    "override_generation_config": "only the request says how to sample",
    "logprobs_mode": "raw log-probabilities are needed",
    "logging_config": "set VLLM_LOGGING_LEVEL instead",
    "disable_log_stats": "it is set to keep the log quiet",
}
"""Options of vLLM that are set here, and why or where else to set them."""

_CPU_DEFAULTS: dict[str, Any] = {
    "dtype": "float32",  # bfloat16 is several times slower
    "enforce_eager": True,  # compiling takes minutes and gains a tenth
    "block_size": 32,
    "enable_chunked_prefill": False,  # with it a request that has a seed ends the process (0.32)
    "kv_cache_memory_bytes": 2_000_000_000,  # 40,000 tokens of a 135M model
    "max_model_len": -1,  # the model's own, or what fits into that memory
}
_DYING_S = 10
"""At most so long until a killed process is gone."""


def open_engine(model: Path, chat: Chat, options: Mapping[str, Any]) -> "VllmEngine":
    """Load a model directory."""
    return VllmEngine(model, chat, **options)


class VllmEngine:
    """See ``base.Engine``. All its coroutines run in one event loop.

    Args:
        model: Model directory.
        chat: Of the same model.
        options: Arguments of ``AsyncEngineArgs``. On CPUs ours differ from its defaults in
            ``_CPU_DEFAULTS``; on GPUs they are vLLM's own.
    """

    def __init__(self, model: Path, chat: Chat, **options: Any) -> None:
        self._chat, self._options = chat, options
        self._numbers = itertools.count()
        self._counter = _PromptCounter()
        self._engine: AsyncLLM | None = None
        self._is_asleep, self._waking = False, asyncio.Lock()
        self._start(model)

    def _start(self, model: Path) -> None:
        self._log = ErrorLog("vllm", level=os.environ["VLLM_LOGGING_LEVEL"].upper())
        try:
            config = _config(model, self._chat, self._options, self._log.config)
            self._engine = AsyncLLM.from_vllm_config(
                config, stat_loggers=[lambda *_: self._counter], disable_log_stats=True
            )
        except RuntimeError as error:
            raise self._log.failure("vLLM did not start", str(error)) from None
        finally:
            if self._engine is None:
                self._log.delete()
        lengths = (self._chat.max_length, self._engine.model_config.max_model_len)
        self._max_length = min(length for length in lengths if length is not None)

    @property
    def prompt_tokens(self) -> tuple[int, int]:
        """Prompt tokens so far, and those of them that were computed, not found in the cache.

        By vLLM's own counters (``vllm:prompt_tokens_by_source``), which hold with and without
        prefix caching; each of the n samples of a request counts its whole prompt.
        """
        return self._counter.total, self._counter.computed

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        check_room(request, self._max_length)
        sampling = request.sampling
        if sampling is None:
            output = await self._ask(request, lambda: _score_params(request))
            return [_score(request, output.outputs[0])]
        stops = Stops(self._chat, sampling)
        output = await self._ask(request, lambda: _params(request, self._chat.end_ids))
        answer = [_generation(stops, self._chat.end_ids, sampled) for sampled in output.outputs]
        return answer * request.n if sampling.temperature == 0 else answer

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``. On CPUs vLLM starts anew for a tied model, see above.

        Raises:
            PreflightError: The engine's process died of it.
        """
        engine = self._open()
        if current_platform.is_cpu() and ties_embeddings(model):
            await self.close()
            self._start(model)
            return
        await self._wake()
        try:
            await engine.pause_generation(mode="abort", clear_cache=True)
            try:
                await engine.collective_rpc("reload_weights", kwargs={"weights_path": str(model)})
            finally:
                await engine.resume_generation()
        except EngineDeadError:
            raise self._log.failure("vLLM's process died") from None

    async def sleep(self) -> bool:
        """See ``base.Sleeps``; only with ``enable_sleep_mode``.

        vLLM's level 1: weights move to main memory, the key-value cache goes.
        """
        if self._options.get("enable_sleep_mode") and not self._is_asleep:
            try:
                await self._open().sleep(level=1)
            except EngineDeadError:
                raise self._log.failure("vLLM's process died") from None
            self._is_asleep = True
        return self._is_asleep

    async def _wake(self) -> None:
        async with self._waking:
            if self._is_asleep:
                try:
                    await self._open().wake_up()
                except EngineDeadError:
                    raise self._log.failure("vLLM's process died") from None
                self._is_asleep = False

    async def close(self) -> None:
        """Free the model and end vLLM's processes. Idempotent."""
        engine, self._engine, self._is_asleep = self._engine, None, False
        if engine is None:
            return
        resources = engine.engine_core.resources
        tasks = [task for task in (engine.output_handler, resources.output_queue_task) if task]
        engine.shutdown()
        for process in getattr(resources.engine_manager, "processes", ()):
            process.join(_DYING_S)  # vLLM kills what is slow to end, and does not wait for that
        if tasks:
            await asyncio.wait(tasks)
        resources.ctx.destroy(linger=0)  # vLLM leaves this to the garbage collector
        self._log.delete()

    def _open(self) -> AsyncLLM:
        if self._engine is None:
            raise RuntimeError("the engine is closed")
        return self._engine

    async def _ask(self, request: Request, params: Callable[[], SamplingParams]) -> RequestOutput:
        """Wait for the one output of a request; cancelling it aborts it in vLLM."""
        await self._wake()
        engine, prompt = self._open(), tokens_input(list(request.token_ids))
        try:
            outputs = engine.generate(prompt, params(), str(next(self._numbers)))
            [output] = [output async for output in outputs]
        except EngineDeadError:
            raise self._log.failure("vLLM's process died") from None
        except VLLMError as error:
            raise RequestError("refused by vLLM", str(error)) from None
        if failed := {o.finish_reason for o in output.outputs} - {"stop", "length"}:
            raise RequestError("failed in vLLM", ", ".join(map(str, failed)))
        return output


class _PromptCounter(StatLoggerBase):  # type: ignore[misc, unused-ignore]
    """Adds up how many prompt tokens there were and how many of them had to be computed."""

    def __init__(self) -> None:
        self.total = self.computed = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if iteration_stats is not None:
            self.total += iteration_stats.prompt_token_stats.total
            self.computed += iteration_stats.prompt_token_stats.computed

    def log_engine_initialized(self) -> None:
        pass


def _config(model: Path, chat: Chat, options: Mapping[str, Any], log: Path) -> VllmConfig:
    """The library's own checks of its options and of the model."""
    defaults = _CPU_DEFAULTS if current_platform.is_cpu() else {}
    try:
        return AsyncEngineArgs(
            model=str(model),
            trust_remote_code=chat.trust_remote_code,
            generation_config="vllm",
            disable_log_stats=True,
            logging_config=LoggingConfig(pylogging_config_file=str(log)),
            **(defaults | dict(options)),
        ).create_engine_config()
    except ValidationError as error:  # of pydantic, whose own text has many lines
        first = error.errors()[0]
        what = str(first["msg"]).removeprefix("Value error, ").split("\n")[0]
        reason = ": ".join([*map(str, first["loc"][:1]), what])
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
    raise ConfigError(f"engine: vLLM refuses its options or {model}: {reason}")


def _params(request: Request, end_ids: frozenset[int]) -> SamplingParams:
    sampling = request.sampling
    assert sampling is not None
    return SamplingParams(
        n=1 if sampling.temperature == 0 else request.n,
        seed=request.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_new_tokens,
        min_tokens=min(sampling.min_new_tokens, sampling.max_new_tokens),
        stop=list(sampling.stop),
        stop_token_ids=sorted(end_ids),
        logprobs=0,  # of the sampled token alone
        detokenize=bool(sampling.stop),
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _score_params(request: Request) -> SamplingParams:
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=list(request.score_tokens),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _generation(stops: Stops, end_ids: frozenset[int], sampled: CompletionOutput) -> Generation:
    ids, logprob = list(sampled.token_ids), sampled.cumulative_logprob
    answer = ids[:-1] if ids and ids[-1] in end_ids else ids
    kept = stops.length(answer)
    if kept < len(answer):  # vLLM looks for stop strings only after min_tokens
        answer, each = answer[:kept], sampled.logprobs
        assert each is not None
        logprob = sum(each[i][token].logprob for i, token in enumerate(answer))
    return stops.generation(answer, logprob)


def _score(request: Request, sampled: CompletionOutput) -> Generation:
    assert sampled.logprobs is not None
    found = sampled.logprobs[0]
    probabilities = tuple(math.exp(found[token].logprob) for token in request.score_tokens)
    return Generation("", (), "stop", probabilities=probabilities)
