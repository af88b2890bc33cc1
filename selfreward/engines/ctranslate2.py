"""CTranslate2: on CPUs two to three times as fast as transformers; its architectures are its own.

A checkpoint is converted once into the user cache, under the digest of its content. Facts of the
library that shape this file (version 4.8.5, src/decoding.cc and src/models/language_model.cc):

- A batch is fed together only up to its shortest prompt; the rest goes token by token. So prompts
  to be scored go one by one (or several of one length), which fills the cores as well.
- The samples of a prompt share its prefill (``num_hypotheses``) and come back best first.
- Scores are raw log-probabilities of all sampled tokens, the end included: taken before temperature
  and cutting, but after the end of turn is held back. So they are None with ``min_new_tokens``.
- A thread of the library takes a seed at its first draw and at no other time. So each sampled
  batch loads the model anew (0.3 s for 135M parameters), and the same batch gives the same text.
"""

import ctypes
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from filelock import FileLock

from selfreward.config import Sampling
from selfreward.engines.base import Generation, Request, check_room
from selfreward.engines.batcher import MAX_BATCH_TOKENS, Batcher, batch_seed
from selfreward.engines.chat import Chat
from selfreward.engines.starts import common_start, shared_start
from selfreward.engines.stops import Stops
from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.inputs import models, shipped
from selfreward.storage import durable

_KEPT = 4
"""Conversions kept in the cache: two iterations of two runs."""
_MAX_STARTS = 8
"""States of shared prompt starts kept: 0.05 MB a token for 135M parameters."""

Tokens = list[str]


def open_engine(model: Path, chat: Chat, options: Mapping[str, Any]) -> "CTranslate2Engine":
    """Convert a model directory if need be, and load it."""
    return CTranslate2Engine(convert(model), chat, **options)


def convert(model: Path) -> Path:
    """Return the converted model from the cache, converting it first if it is not there.

    Raises:
        PreflightError: CTranslate2 does not know the architecture.
    """
    cache = shipped.cache_directory() / "ctranslate2"
    target = cache / models.digest(model)
    with suppress(OSError):  # a cache that can only be read may hold it
        os.utime(target)
    if _is_whole(target):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    # One lock for all conversions, so that whatever is unfinished under it is a dead one's.
    with FileLock(cache / "convert.lock"):
        if not _is_whole(target):
            for leftover in cache.glob(f"{durable.TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with durable.publish_directory(target) as directory:
                _convert(model, directory)
        used = sorted((p for p in cache.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
        for old in used[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _is_whole(directory: Path) -> bool:
    try:
        durable.verify_directory(directory, deep=False)  # reading it all takes as long as loading
    except IntegrityError:
        return False
    return True


def _convert(model: Path, directory: Path) -> None:
    try:
        TransformersConverter(str(model)).convert(
            str(directory), quantization="float32", force=True
        )
    except Exception as error:  # it has no class of its own: KeyError, AttributeError, ...
        if isinstance(error, OSError) and error.errno in durable.DISK_FAILS:
            raise
        reason = str(error).split("\n")[0]
        if not isinstance(error, ValueError | NotImplementedError):
            reason = f"{type(error).__name__}: {reason}"
        raise PreflightError(
            f"{model}: CTranslate2 cannot convert this model ({reason})",
            "Set engine.kind=transformers.",
        ) from None


class CTranslate2Engine:
    """See ``base.Engine``.

    Args:
        model: A converted model.
        chat: Of the same model.
        max_batch_size: Sequences per batch.
        max_batch_tokens: Their tokens at most, new ones included; see ``Batcher``.
        options: Arguments of ``ctranslate2.Generator``. Ours differ from its defaults in: device
            auto, compute_type float32, and all cores that torch would use, not 4 at most.
    """

    def __init__(
        self, model: Path, chat: Chat, max_batch_size: int = 64,
        max_batch_tokens: int = MAX_BATCH_TOKENS, **options: Any,
    ) -> None:  # fmt: skip
        _keep_freed_memory()
        self._model, self._chat = model, chat
        threads = torch.get_num_threads()
        defaults = {"device": "auto", "compute_type": "float32", "intra_threads": threads}
        self._options = defaults | options
        self._generator: ctranslate2.Generator | None = None
        self._starts: list[Tokens] = []
        try:
            self._load()
        except ValueError as error:
            raise ConfigError(f"engine: CTranslate2 refuses its options: {error}") from None
        self._batcher = Batcher(self._run, max_batch_size, max_batch_tokens)

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        check_room(request, self._chat.max_length)
        return await self._batcher.submit(request)

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``."""
        self._model = convert(model)
        self._load()

    async def close(self) -> None:
        """Free the model."""
        await self._batcher.close()
        self._generator = None

    def _load(self, seed: int | None = None) -> None:
        """Load the model, in threads that have the seed and with nothing cached."""
        self._generator, self._starts = None, []
        if seed is not None:
            ctranslate2.set_random_seed(seed)
        with suppress(OSError):  # it is in use, so not to be cleared away; or it can only be read
            os.utime(self._model)
        self._generator = ctranslate2.Generator(str(self._model), **self._options)

    def _run(self, requests: Sequence[Request]) -> list[list[Generation]]:
        sampling = requests[0].sampling
        if sampling is None:
            return [[generation] for generation in self._score(requests)]
        return self._sample(requests, sampling)

    def _generate(self, rows: Sequence[Tokens], start: Tokens, **options: Any) -> list[Any]:
        """Call the library with the rows less the start that they share."""
        assert self._generator is not None
        results: list[Any] = self._generator.generate_batch(
            [row[len(start) :] for row in rows],
            static_prompt=start or None,
            include_prompt_in_result=False,
            **options,
        )
        return results

    def _tokens(self, request: Request) -> Tokens:
        return list(self._chat.tokenizer.convert_ids_to_tokens(list(request.token_ids)))

    def _sample(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Generation]]:
        greedy = sampling.temperature == 0
        n = requests[0].n
        if not greedy:
            self._load(batch_seed(requests))
        rows = [self._tokens(request) for request in requests]
        stops = Stops(self._chat, sampling)
        results = self._generate(
            rows,
            common_start(rows) if len(rows) > 1 else [],
            cache_static_prompt=False,
            num_hypotheses=1 if greedy else n,
            end_token=list(self._chat.end_ids),
            max_length=sampling.max_new_tokens,
            min_length=sampling.min_new_tokens,
            sampling_topk=1 if greedy else sampling.top_k,
            sampling_topp=1.0 if greedy else sampling.top_p,
            sampling_temperature=1.0 if greedy else sampling.temperature,
            return_scores=True,
            length_penalty=0,  # the sum, not the mean
            callback=_stopper(stops) if sampling.stop else None,
        )
        answers = []
        for request, result in zip(requests, results, strict=True):
            scores = [None] * len(result.scores) if sampling.min_new_tokens else result.scores
            answer = list(map(stops.generation, result.sequences_ids, scores))
            # Best first would make sample 0 likelier than the others to be of high probability.
            random.Random(request.seed).shuffle(answer)
            answers.append(answer * n if greedy else answer)
        return answers

    def _score(self, requests: Sequence[Request]) -> list[Generation]:
        """Probabilities of the score tokens, from the softmax in float64."""
        wanted = list(requests[0].score_tokens)
        rows = [self._tokens(request) for request in requests]
        start = self._shared_start(rows)
        generations = []
        for _, group in groupby(rows, key=len):  # they come sorted by length
            results = self._generate(
                list(group),
                start,
                cache_static_prompt=True,
                max_length=1,
                sampling_topk=1,
                return_logits_vocab=True,
            )
            for result in results:
                logits = result.logits[0][0].to_device(ctranslate2.Device.cpu)
                scores = np.asarray(logits.to(ctranslate2.DataType.float32), dtype=np.float64)
                odds = np.exp(scores - scores.max())
                probabilities = tuple((odds[wanted] / odds.sum()).tolist())
                generations.append(Generation("", (), "stop", probabilities=probabilities))
        return generations

    def _shared_start(self, rows: Sequence[Tokens]) -> Tokens:
        """See ``shared_start``. The library never forgets a start, so few are to be given to it."""
        best = shared_start(rows, self._starts)
        if best not in self._starts and best:
            if len(self._starts) == _MAX_STARTS:
                self._load()
            self._starts.append(best)
        return best


def _stopper(stops: Stops) -> Any:
    """A callback that ends a sequence once it holds a stop string."""
    sequences: dict[tuple[int, int], list[int]] = {}

    def stop(step: Any) -> bool:
        ids = sequences.setdefault((step.batch_id, step.hypothesis_id), [])
        ids.append(step.token_id)
        return stops.reached(ids)

    return stop


def _keep_freed_memory() -> None:
    """Keep glibc from giving memory back to the system, for as long as the process lives.

    The library lays the key-value cache anew at each step; fetching the memory anew as well makes
    long batches three times as slow (64 sequences of 250 tokens).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # numbers from malloc.h
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 64 << 20)  # M_TOP_PAD
