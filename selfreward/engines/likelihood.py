"""How likely transformers finds given texts after others, in float32."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfreward.engines.reference import loaded
from selfreward.errors import ConfigError, PreflightError

_BATCH_TOKENS = 1024
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
        ConfigError: A text is longer than the model's positions.
        PreflightError: transformers cannot run the model, or what comes out is NaN.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        model, local_files_only=True, trust_remote_code=trust_remote_code
    )
    rows = []
    for context, continuation in texts:
        start = len(tokenizer.encode(context))
        rows.append((tokenizer.encode(context + continuation), start))
    found = [0.0] * len(rows)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loaded(model, "float32", trust_remote_code, device) as opened:
        _check_length(opened.config, texts, rows)
        on_done(0)
        done = 0
        for batch in _batches([len(ids) for ids, _ in rows]):
            for at, value in zip(batch, _batch(opened, [rows[at] for at in batch]), strict=True):
                found[at] = value
            done += len(batch)
            on_done(done)
    if any(value != value for value in found):
        raise PreflightError(f"{model}: transformers computes NaN with it")
    return found


def _check_length(
    config: Any, texts: Sequence[tuple[str, str]], rows: Sequence[tuple[list[int], int]]
) -> None:
    most = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    for (context, _), (ids, start) in zip(texts, rows, strict=True):
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


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of rows of about one length, the longest first, as many as fit into a pass."""
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= _BATCH_TOKENS:
            batches[-1].append(at)
        else:
            batches.append([at])
    return batches


def _batch(model: Any, rows: Sequence[tuple[list[int], int]]) -> list[float]:
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
