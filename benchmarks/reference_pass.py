"""What DPO's reference pass costs, and how near the engine's own log-probabilities come to it.

    python benchmarks/reference_pass.py [--kinds ctranslate2 transformers] [--prompts 16]
        [--rounds 2] [--json FILE]

The reference of a round is the model that sampled the answers, so what the engine said of the
sampled tokens could stand in for the pass. Each engine samples 4 answers to each prompt with the
options of quickstart; the shortest and the longest finished one make a pair. The trainer of
``training/dpo.py`` then computes the reference's log-probabilities of the very same ids: as it
does, with batches of one pair (how far the padding of a batch moves it), and without the end of
turn. Seconds are of ``train_dpo`` with the options of quickstart, over the first engine's pairs,
from loading the model to publishing the next; the pass is timed within it.
"""

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from selfreward.config import Sampling, SeedSource
from selfreward.engines.base import Generation
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.inputs import models, seeds
from selfreward.inputs.shipped import prompts_directory
from selfreward.training import dpo
from selfreward.training.base import DpoRow, Training
from selfreward.training.job import plan

SAMPLING = Sampling(160, temperature=0.7, top_p=0.9, top_k=64)
OPTIONS = {
    "learning_rate": 1e-5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "num_train_epochs": 1, "save_steps": 0.5,
}  # fmt: skip
BETA = 0.1
INT8 = "ctranslate2/int8"

Pairs = list[tuple[DpoRow, tuple[float, float]]]
"""Rows, each with what the engine says of its chosen and its rejected answer, in nats."""


def main() -> None:
    """Sample, compare, train, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--kinds", nargs="+", default=["ctranslate2", "transformers", INT8])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2, help="trainings that are timed")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    ift = seeds.read_ift(SeedSource(path=str(prompts_directory() / "seed/ift.jsonl")))
    prompts = [example.prompt for example in ift[: arguments.prompts]]
    figures: dict[str, Any] = {}
    rows: list[DpoRow] = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in arguments.kinds:
            pairs = asyncio.run(sampled(kind, path, prompts))
            rows = rows or [row for row, _ in pairs]
            figures[kind] = compared(path, pairs, Path(scratch))
            print(f"{kind}: {figures[kind]}", flush=True)
        for number in range(arguments.rounds):
            figures[f"training {number}"] = timed(path, rows, Path(scratch) / str(number))
            print(f"training {number}: {figures[f'training {number}']}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


async def sampled(kind: str, path: Path, prompts: Sequence[str]) -> Pairs:
    """Pairs of finished answers; a prompt with fewer than two different ones gives none."""
    chat = Chat(path)
    name, _, precision = kind.partition("/")
    engine = open_engine(name, path, chat, {"compute_type": precision} if precision else {})
    requests = [chat.request(p, "", SAMPLING, 4, seed) for seed, p in enumerate(prompts)]
    answers = await asyncio.gather(*map(engine.generate, requests))
    await engine.close()
    pairs: Pairs = []
    for request, found in zip(requests, answers, strict=True):
        finished = [answer for answer in found if answer.finish_reason == "stop"]
        ordered: list[Generation] = sorted(finished, key=lambda answer: len(answer.token_ids))
        if len({answer.token_ids for answer in ordered}) > 1:
            chosen, rejected = ordered[-1], ordered[0]
            ids = chat.sampled(chosen.token_ids), chat.sampled(rejected.token_ids)
            assert chosen.logprob is not None and rejected.logprob is not None
            pairs.append((DpoRow(request.token_ids, *ids), (chosen.logprob, rejected.logprob)))
    return pairs


def compared(path: Path, pairs: Pairs, scratch: Path) -> dict[str, float]:
    """How far the engine's sums are from the trainer's, in nats, and what the loss makes of it."""
    rows = [row for row, _ in pairs]
    engine = [told for _, told in pairs]
    trl = passed(path, rows, scratch)
    alone = passed(path, rows, scratch, per_device_train_batch_size=1)
    endless = [DpoRow(row.prompt_ids, row.chosen_ids[:-1], row.rejected_ids[:-1]) for row in rows]
    without_end = passed(path, endless, scratch)
    tokens = [len(ids) for row in rows for ids in (row.chosen_ids, row.rejected_ids)]
    apart = differences(engine, trl)
    margins = [(e[0] - e[1]) - (t[0] - t[1]) for e, t in zip(engine, trl, strict=True)]
    losses = [math.log1p(math.exp(-BETA * margin)) for margin in margins]
    return {
        "pairs": len(rows),
        "tokens": sum(tokens),
        "answer, mean": mean(apart),
        "answer, most": max(apart),
        "token, mean": sum(apart) / sum(tokens),
        "token, most": max(d / n for d, n in zip(apart, tokens, strict=True)),
        "answer, most, trl with itself, padded otherwise": max(differences(alone, trl)),
        "answer, mean, without the end of turn": mean(differences(engine, without_end)),
        "first loss - ln 2, mean": mean(losses) - math.log(2),
        "first loss - ln 2, most": max(abs(loss - math.log(2)) for loss in losses),
    }


def differences(
    some: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]
) -> list[float]:
    """By answer, absolute."""
    both = zip(some, others, strict=True)
    return [abs(a - b) for one, other in both for a, b in zip(one, other, strict=True)]


def passed(
    path: Path, rows: Sequence[DpoRow], scratch: Path, **options: int
) -> list[tuple[float, float]]:
    """The trainer's own reference pass, by row."""
    trainer = dpo.make_trainer(plan(training(path, scratch, **options), rows), rows)
    found = {
        (tuple(row["chosen_ids"]), tuple(row["rejected_ids"])): (
            row["ref_chosen_logps"],
            row["ref_rejected_logps"],
        )
        for row in trainer.train_dataset
    }
    return [found[row.chosen_ids, row.rejected_ids] for row in rows]


def timed(path: Path, rows: Sequence[DpoRow], scratch: Path) -> dict[str, float]:
    """Seconds of a training and of the reference pass in it."""
    seconds: list[float] = []
    ask = dpo._with_reference

    def with_reference(*given: Any) -> Any:
        start = time.perf_counter()
        data = ask(*given)
        seconds.append(time.perf_counter() - start)
        return data

    steps: list[float] = []
    dpo._with_reference = with_reference
    try:
        start = time.perf_counter()
        dpo.train_dpo(
            training(path, scratch),
            rows,
            on_log=lambda step, figures: None,
            on_step=lambda done, total: steps.append(time.perf_counter()),
        )
        whole = time.perf_counter() - start
    finally:
        dpo._with_reference = ask
    [reference] = seconds
    each = median(b - a for a, b in pairwise(steps))
    return {
        "reference pass": reference,
        "steps": steps[-1] - steps[0],
        "median step": each,
        "whole": whole,
        "share of the whole": reference / whole,
    }


def training(path: Path, scratch: Path, **options: int) -> Training:
    """Of quickstart."""
    chosen = {**OPTIONS, "beta": BETA, **options}
    return Training("dpo", path, scratch / "next", scratch / "checkpoints", chosen, None, 0)


if __name__ == "__main__":
    main()
