"""How likely transformers finds given texts after others, in float32."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfreward.engines.reference import loaded
from selfreward.engines.tokenizers import open_tokenizer
from selfreward.errors import ConfigError, PreflightError

BATCH_TOKENS = 1024
"""Of a forward pass, padding included: past it CPUs get no faster, and memory grows."""


def log_likelihoods(
    model: Path,
    texts: Sequence[tuple[str, str]],
    on_done: Callable[[int], None],
    *,
    trust_remote_code: bool = False,
) -> list[float]:
    """Natural log-probability of each continuation after its context, summed over tokens.

    Both are tokenized as one text, as lm-eval does (``_encode_pair``): the continuation is what
    comes after as many tokens as the context alone has.

    Args:
        model: Model directory.
        texts: Context, which ends with no space, and continuation.
        on_done: Told how many are done, first 0, when the model is loaded.

    Raises:
        ConfigError: See ``check_texts``.
        PreflightError: transformers cannot run the model, or what comes out is NaN.
    """
    import torch

    rows = check_texts(model, texts, trust_remote_code)
    found = [0.0] * len(rows)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loaded(model, "float32", trust_remote_code, device) as opened:
        on_done(0)
        done = 0
        for batch in _batches([len(ids) for ids, _ in rows]):
            for at, value in zip(
                batch, summed_logprobs(opened, [rows[at] for at in batch]), strict=True
            ):
                found[at] = value
            done += len(batch)
            on_done(done)
    if any(value != value for value in found):
        raise PreflightError(f"{model}: transformers computes NaN with it")
    return found


def check_texts(
    model: Path, texts: Sequence[tuple[str, str]], trust_remote_code: bool = False
) -> list[tuple[list[int], int]]:
    """The token ids of each text as a whole, and of how many of them its context is.

    Args:
        model: Model directory, of which config and tokenizer are read.
        texts: See ``log_likelihoods``.

    Raises:
        ConfigError: A text is longer than the model's positions, or a part of it has no token.
    """
    from transformers import AutoConfig

    tokenizer = open_tokenizer(model, trust_remote_code)
    config = AutoConfig.from_pretrained(
        model, local_files_only=True, trust_remote_code=trust_remote_code
    ).get_text_config(decoder=True)
    most = getattr(config, "max_position_embeddings", None)
    rows = []
    for context, continuation in texts:
        start, ids = len(tokenizer.encode(context)), tokenizer.encode(context + continuation)
        if most is not None and len(ids) > most:
            raise ConfigError(
                f"{context!r:.60}: {len(ids)} tokens with a choice, the model has {most} positions",
                "Leave the question out.",
            )
        if not 0 < start < len(ids):
            raise ConfigError(
                f"{context!r:.60}: the question or a choice comes to no token of its own",
                "Leave the question out.",
            )
        rows.append((ids, start))
    return rows


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of rows of about one length, the longest first, as many as fit into a pass."""
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= BATCH_TOKENS:
            batches[-1].append(at)
        else:
            batches.append([at])
    return batches


def summed_logprobs(model: Any, rows: Sequence[tuple[list[int], int]]) -> list[float]:
    """Natural log-probability of the end of each row after its beginning, in one pass.

    Args:
        model: Of transformers, in inference mode.
        rows: Token ids, and how many of them, at least one, are the beginning.
    """
    import torch

    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids, _ in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
    first = min(start for _, start in rows) - 1  # the position that tells the first token
    keep = {"logits_to_keep": longest - first}
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        keep, first = {}, 0
    logits = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False,
        **keep,
    ).logits  # fmt: skip
    found = []
    for row, (tokens, start) in zip(logits, rows, strict=True):
        logprobs = row[start - 1 - first : len(tokens) - 1 - first].float().log_softmax(-1)
        wanted = torch.tensor(tokens[start:], device=logprobs.device)
        found.append(float(logprobs.gather(1, wanted[:, None]).sum()))
    return found
