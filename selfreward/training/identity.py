"""Proof, at each training, that it starts from M(t) and publishes what was trained.

    first step       every reward of DPO, and the KL of a method that samples, is 0: the reference
                     is the model that the policy starts as
    publishing       a few training rows have the log-probabilities in the published model that they
                     had in the trainer's

Options of TRL, peft and transformers can break either without a word; what is known to is refused
by ``options``. Both checks are cheap beside one training step.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from selfreward.errors import IntegrityError
from selfreward.training.base import OnlineRow, RankedRow, Row, SftRow

START_NATS = 0.05
"""Most that a log-probability of a whole completion may differ between policy and reference at the
first step, in float32: batches are padded differently. In bfloat16 ``HALF`` times as much."""
PUBLISHED_NATS = 2e-3
"""Most that the mean log-probability of a token may differ between trained and published model, in
float32: an adapter that is merged rounds once more. In bfloat16 ``HALF`` times as much."""
HALF = 100.0
"""How much coarser bfloat16 may be: its numbers have 8 bits, those of float32 24. Ours, and wide:
not measured on a GPU."""
_IN_LORA = (
    "Look at lora: target_modules and modules_to_save on tied embeddings cannot be merged; and at "
    "dtype options."
)
_IN_HALF = (
    "A small update can turn how many weights are rounded in bfloat16 at once, where they were "
    "stored in float16 (docs/benchmarks.md#bfloat16): train without bf16. Or look at lora."
)
_NUM_ROWS, _NUM_TOKENS = 2, 512


def check_start(figures: Mapping[str, float], beta: float, *, is_half: bool) -> None:
    """Check the rewards that TRL logged at the first step of DPO.

    A reward is beta x (log-probability under the policy - under the reference), arXiv 2305.18290.

    Raises:
        IntegrityError: They are not 0, so the reference is not the start model.
    """
    most = START_NATS * (HALF if is_half else 1.0)
    for name in ("rewards/chosen", "rewards/rejected"):
        nats = abs(figures.get(name, 0.0)) / beta
        if nats > most:
            raise IntegrityError(
                f"the reference is not the model that training starts from: {name} is "
                f"{figures[name]:.3g} at the first step, where it is 0 by definition",
                "An option changes the policy or the reference before the first step; look at lora "
                "and at dpo's options about the reference.",
            )


def check_start_kl(figures: Mapping[str, float], *, is_half: bool) -> None:
    """Check the KL to the reference, mean over tokens, that TRL logged at the first step.

    Raises:
        IntegrityError: It is not 0, so the reference is not the start model.
    """
    kl = figures.get("kl", 0.0)
    if abs(kl) > PUBLISHED_NATS * (HALF if is_half else 1.0):
        raise IntegrityError(
            "the reference is not the model that training starts from: their KL divergence is "
            f"{kl:.3g} nats a token at the first step, where it is 0 by definition",
            "An option changes the policy or the reference before the first step; look at lora.",
        )


def told_by(model: Any, rows: Sequence[Row]) -> list[tuple[float, int]]:
    """What a model says of the completions of a few rows, each with its number of tokens.

    Args:
        model: Called as it is; in shards, by every process at once.
        rows: The first few are taken; of a preference pair or a ranking all completions, and of a
            prompt its own tokens after the first.

    Returns:
        (log-probability in nats, tokens) of each completion, cut to its first tokens; or, of a
        reward model, (reward, 1) of the whole.
    """
    found = []
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for prompt, completion in _completions(rows[:_NUM_ROWS]):
            ids = torch.tensor([[*prompt, *completion]], device=device)
            if isinstance(rows[0], RankedRow):
                found.append((float(model(input_ids=ids, use_cache=False).logits), 1))
                continue
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            told = torch.log_softmax(logits.float(), -1)
            logps = told.gather(1, ids[0, len(prompt) :, None])
            found.append((float(logps.sum()), len(completion)))
    model.train(was_training)
    return found


def check_published(
    directory: Path,
    rows: Sequence[Row],
    trained: Sequence[tuple[float, int]],
    *,
    trust_remote_code: bool,
    is_half: bool,
) -> None:
    """Load what is about to be published and ask it what the trainer's model was asked.

    Args:
        trained: ``told_by`` the trainer's model.

    Raises:
        IntegrityError: Its answers differ, so these are not the weights that were trained.
    """
    is_reward = isinstance(rows[0], RankedRow)
    kind = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_pretrained(
        directory, dtype=torch.float32, trust_remote_code=trust_remote_code, local_files_only=True
    )
    most = PUBLISHED_NATS * (HALF if is_half else 1.0)
    published = told_by(model, rows)
    for (there, tokens), (here, _) in zip(trained, published, strict=True):
        if not abs(there - here) <= most * tokens:
            what = f"a completion of {tokens} tokens has log-probability"
            what = "an answer has reward" if is_reward else what
            raise IntegrityError(
                f"the weights that were saved are not those that were trained: {what} "
                f"{here:.4g} in them, {there:.4g} in training",
                f"Nothing was published. {_IN_HALF if is_half else _IN_LORA}",
            )


def _completions(
    rows: Sequence[Row],
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for row in rows:
        if isinstance(row, RankedRow):
            pairs += [((), answer) for answer in row.answers]
            continue
        if isinstance(row, OnlineRow):
            pairs.append((row.prompt_ids[:1], row.prompt_ids[1 : _NUM_TOKENS + 1]))
            continue
        both = (
            (row.completion_ids,) if isinstance(row, SftRow) else (row.chosen_ids, row.rejected_ids)
        )
        prompt = row.prompt_ids[-_NUM_TOKENS:]
        pairs += [(prompt, completion[:_NUM_TOKENS]) for completion in both]
    return pairs
