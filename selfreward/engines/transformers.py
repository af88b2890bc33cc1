"""Plain transformers: any architecture and device that it runs, by its own ``generate``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from selfreward.config import Sampling
from selfreward.engines.base import Generation, Request, check_room
from selfreward.engines.batcher import MAX_BATCH_TOKENS, Batcher, batch_seed
from selfreward.engines.chat import Chat
from selfreward.engines.stops import Stops


def open_engine(model: Path, chat: Chat, options: Mapping[str, Any]) -> "TransformersEngine":
    """Load a model directory."""
    return TransformersEngine(model, chat, **options)


class TransformersEngine:
    """See ``base.Engine``.

    Args:
        model: Model directory.
        chat: Of the same model.
        max_batch_size: Sequences per batch.
        max_batch_tokens: Their tokens at most, new ones included; see ``Batcher``.
        options: Arguments of ``AutoModelForCausalLM.from_pretrained``. The device map defaults to
            the GPU if there is one; the dtype to float32 on CPUs, where bfloat16 is several times
            slower, else to the checkpoint's.
    """

    def __init__(
        self, model: Path, chat: Chat, max_batch_size: int = 16,
        max_batch_tokens: int = MAX_BATCH_TOKENS, **options: Any,
    ) -> None:  # fmt: skip
        self._chat = chat
        self._options: dict[str, Any] = {"dtype": "float32", "device_map": "cpu"}
        if torch.cuda.is_available():
            self._options = {"dtype": "auto", "device_map": "cuda"}
        self._options |= options
        self._model: Any = self._open(model)
        self._batcher = Batcher(self._run, max_batch_size, max_batch_tokens)

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        check_room(request, self._chat.max_length)
        return await self._batcher.submit(request)

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``."""
        self._model = None  # never two of them in memory
        self._model = self._open(model)

    async def close(self) -> None:
        """Free the model."""
        await self._batcher.close()
        self._model = None

    def _open(self, model: Path) -> Any:
        opened = AutoModelForCausalLM.from_pretrained(
            model,
            local_files_only=True,
            trust_remote_code=self._chat.trust_remote_code,
            **self._options,
        )
        opened.eval()
        # Only the request says how to sample: not the defaults that come with some checkpoints.
        opened.generation_config = GenerationConfig()
        return opened

    def _run(self, requests: Sequence[Request]) -> list[list[Generation]]:
        with torch.inference_mode():
            inputs = self._inputs([request.token_ids for request in requests])
            sampling = requests[0].sampling
            if sampling is None:
                scored = self._score(inputs, requests[0].score_tokens)
                return [[generation] for generation in scored]
            return self._sample(inputs, requests, sampling)

    def _inputs(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Left-padded ``input_ids`` and ``attention_mask`` of shape (rows, longest)."""
        longest = max(map(len, rows))
        ids = [[self._chat.pad_id] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        device = self._model.device
        return {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    def _sample(
        self, inputs: dict[str, torch.Tensor], requests: Sequence[Request], sampling: Sampling
    ) -> list[list[Generation]]:
        n, start = requests[0].n, inputs["input_ids"].shape[1]
        stops = Stops(self._chat, sampling)
        how: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            how = {
                "do_sample": True,
                "num_return_sequences": n,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        end_ids = sorted(self._chat.end_ids)
        raw = _RawLogprobs(end_ids, start, sampling.min_new_tokens)
        torch.manual_seed(batch_seed(requests))
        output = self._model.generate(
            **inputs,
            **how,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=end_ids,
            pad_token_id=self._chat.pad_id,
            logits_processor=[raw],
            stopping_criteria=[_stopper(stops, start)] if sampling.stop else [],
        )
        ends = {*end_ids, self._chat.pad_id}
        sampled = []
        for row, logprobs in zip(output[:, start:].tolist(), raw.of(output), strict=True):
            ids = _until(row, ends)
            # What ended it counts as well, unless that was a stop string: then padding follows.
            ended = len(ids) < len(row) and row[len(ids)] in end_ids
            stopped = bool(ids and sampling.stop) and stops.reached(ids)
            num_sampled = len(ids) + (1 if ended and not stopped else 0)
            sampled.append(stops.generation(ids, sum(logprobs[:num_sampled])))
        if sampling.temperature == 0:
            return [[generation] * n for generation in sampled]
        return [sampled[i : i + n] for i in range(0, len(sampled), n)]

    def _score(
        self, inputs: dict[str, torch.Tensor], score_tokens: Sequence[int]
    ) -> list[Generation]:
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = self._model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1]
        probabilities = logits.double().softmax(-1)[:, list(score_tokens)].tolist()
        return [Generation("", (), "stop", probabilities=tuple(row)) for row in probabilities]


class _RawLogprobs:
    """A logits processor that keeps the raw log-probability of each token that is sampled.

    Custom processors come after transformers' own for ``min_new_tokens``, which would already have
    taken the end of turn away; so this one does its work too. What cuts and warps comes later.

    Args:
        end_ids: Tokens that end a turn.
        start: Length of the padded prompts.
        min_new_tokens: How long ``end_ids`` are held back.
    """

    def __init__(self, end_ids: Sequence[int], start: int, min_new_tokens: int) -> None:
        self._end_ids, self._start, self._min = list(end_ids), start, min_new_tokens
        self._logits: torch.Tensor | None = None
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._add(input_ids)
        self._logits = scores
        if input_ids.shape[1] - self._start >= self._min:
            return scores
        held = scores.clone()
        held[:, self._end_ids] = -torch.inf
        return held

    def of(self, output: torch.Tensor) -> list[list[float]]:
        """Natural log-probabilities by row and new token, once ``output`` is whole."""
        self._add(output)
        rows: list[list[float]] = torch.stack(self._steps, dim=1).tolist()
        return rows

    def _add(self, input_ids: torch.Tensor) -> None:
        """Take in the last token of each row, which came of the logits of the last call."""
        if self._logits is not None:
            chosen = self._logits.gather(1, input_ids[:, -1:]).squeeze(1)
            self._steps.append(chosen.double() - self._logits.logsumexp(-1).double())


def _stopper(stops: Stops, start: int) -> Any:
    """A stopping criterion for stop strings; transformers' own looks into the prompt as well.

    Args:
        stops: What to look for.
        start: Length of the padded prompts.
    """

    def stopped(input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        begin = max(start, input_ids.shape[1] - stops.window)
        done = [stops.reached(row) for row in input_ids[:, begin:].tolist()]
        return torch.tensor(done, device=input_ids.device)

    return stopped


def _until(row: list[int], ends: set[int]) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in ends), len(row))]
