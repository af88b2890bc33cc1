"""What plain transformers says: the yardstick that engines are proved against.

The model that is trained is transformers', in forward passes over whole texts and without a cache;
so that is what gives the numbers here, on the CPU, whatever the engine runs on.
"""

import gc
import inspect
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.engines.chat import Chat
from selfreward.errors import PreflightError, SelfRewardError
from selfreward.storage import durable

if TYPE_CHECKING:
    import torch

_LIKELIEST = 8
_OTHERS = 8

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What transformers makes of one prompt."""

    prompt: Ids
    continuation: Ids
    """The likeliest token, again and again; without the end of turn."""
    logprob: float
    """Sum over the continuation and the end of turn, if it came; natural logarithm."""
    gaps: tuple[float, ...]
    """By step: how much the likeliest token is above the next, in nats."""
    score_tokens: Ids
    """The likeliest at the first step, most likely first, then some of the whole vocabulary."""
    probabilities: tuple[float, ...]
    """Of these at the first step."""
    rough_logprob: float = 0.0
    """How far bfloat16 moves any of the log-probabilities above, in nats; 0 where not asked."""
    rough_probability: float = 0.0
    """How far it moves any of the probabilities."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Expected":
        """From what ``asdict`` made of it, and JSON of that."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        return cls(**fields)

    @property
    def num_likeliest(self) -> int:
        """How many of ``score_tokens`` are the likeliest ones."""
        return min(_LIKELIEST, len(self.score_tokens))


def reference(
    model: Path, chat: Chat, prompts: Sequence[Ids], new_tokens: int, *, rough: bool = False
) -> list[Expected]:
    """Load a model with transformers, ask it, and free it.

    Args:
        prompts: Token ids.
        new_tokens: Length of the continuations at most.
        rough: Whether to find out how far bfloat16 moves the numbers.

    Raises:
        PreflightError: transformers cannot run the model, or what comes out is NaN.
    """
    with loaded(model, "float32", chat.trust_remote_code) as opened:
        answers = [_ask(opened, chat, prompt, new_tokens) for prompt in prompts]
    if any(map(math.isnan, (p for a in answers for p in (*a.probabilities, a.logprob)))):
        raise PreflightError(
            f"{model}: transformers computes NaN with it", "Its weights or its config are damaged."
        )
    if rough:
        with loaded(model, "bfloat16", chat.trust_remote_code) as opened:
            answers = [_with_noise(opened, answer) for answer in answers]
    return answers


def reduce(model: Path, chat: Chat, directory: Path) -> None:
    """Write a model of the same config with random weights and few layers, each kind among them.

    Args:
        directory: Where to; it gets the tokenizer as well.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        model, local_files_only=True, trust_remote_code=chat.trust_remote_code
    )
    _shorten(config.get_text_config(decoder=True))
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=chat.trust_remote_code
        )
    for file in model.iterdir():
        if file.is_file() and ".safetensors" not in file.name and file.name != "MANIFEST.json":
            shutil.copy(file, directory / file.name)
    made.save_pretrained(directory)


def _shorten(config: Any) -> None:
    """Keep the first layers of a config: until each kind was there, and two at least."""
    count = config.num_hidden_layers
    lists = {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == count
    }
    kinds = list(zip(*(map(json.dumps, value) for value in lists.values()), strict=True))
    first = (kinds.index(kind) + 1 for kind in set(kinds))
    kept = min(count, max([2, *first]))
    for name, value in lists.items():
        setattr(config, name, value[:kept])
    config.num_hidden_layers = kept


@contextmanager
def loaded(
    model: Path, dtype: str, trust_remote_code: bool = False, device: str = "cpu"
) -> Iterator[Any]:
    """A model of transformers, in inference mode; freed at the end.

    Raises:
        PreflightError: transformers cannot run it, be it in the body.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    opened: Any = None
    try:
        opened = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=dtype,
            device_map=device,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
        ).eval()
        opened.generation_config = GenerationConfig()
        with torch.inference_mode():
            yield opened
    except SelfRewardError:
        raise
    except Exception as error:  # whatever a model's code raises
        if isinstance(error, OSError) and error.errno in durable.DISK_FAILS:
            raise
        raise PreflightError(
            f"{model}: transformers cannot run it ({type(error).__name__}: {_first_line(error)})",
            "It can be neither trained nor asked with these versions of the libraries.",
        ) from error
    finally:
        opened = None
        gc.collect()


def _ask(model: Any, chat: Chat, prompt: Ids, new_tokens: int) -> Expected:
    import torch

    ends = sorted(chat.end_ids)
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=ends,
        pad_token_id=chat.pad_id,
    )
    sampled = tuple(output[0, len(prompt) :].tolist())
    logprobs = _logprobs(model, prompt, sampled)
    best = logprobs.topk(min(2, logprobs.shape[1])).values
    first = logprobs[0]
    likeliest = first.topk(min(_LIKELIEST, len(first))).indices.tolist()
    others = range(0, len(first), max(1, len(first) // _OTHERS))
    tokens = tuple(dict.fromkeys([*likeliest, *others]))
    return Expected(
        prompt=prompt,
        continuation=sampled[:-1] if sampled[-1] in ends else sampled,
        logprob=_sum(logprobs, sampled),
        gaps=tuple((best[:, 0] - best[:, -1]).tolist()),
        score_tokens=tokens,
        probabilities=tuple(first[list(tokens)].exp().tolist()),
    )


def _with_noise(model: Any, expected: Expected) -> Expected:
    logprobs = _logprobs(model, expected.prompt, expected.continuation or (0,))
    first = logprobs[0, list(expected.score_tokens)].tolist()
    known = list(map(math.log, expected.probabilities[: expected.num_likeliest]))
    moved = [abs(a - b) for a, b in zip(first, known, strict=False)]
    probabilities = zip(first, expected.probabilities, strict=True)
    return replace(
        expected,
        rough_logprob=max(moved),
        rough_probability=max(abs(math.exp(a) - b) for a, b in probabilities),
    )


def _logprobs(model: Any, prompt: Ids, sampled: Ids) -> "torch.Tensor":
    """Natural log-probabilities, float64, of shape (sampled tokens, vocabulary)."""
    import torch

    ids = torch.tensor([[*prompt, *sampled]])
    keep = {"logits_to_keep": len(sampled) + 1}
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        keep = {}
    logits = model(input_ids=ids, use_cache=False, **keep).logits[0, -len(sampled) - 1 : -1]
    found: torch.Tensor = logits.double().log_softmax(-1)
    return found


def _sum(logprobs: "torch.Tensor", sampled: Ids) -> float:
    return float(sum(logprobs[i, token] for i, token in enumerate(sampled)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200]
