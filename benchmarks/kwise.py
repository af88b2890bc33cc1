"""What the K-wise loss of a reward model saves, against its pairs one by one.

    OMP_NUM_THREADS=1 python benchmarks/kwise.py [--prompts 4] [--rounds 3] [--json FILE]

Both are passes forward and back of the trainer of ``training/reward.py`` over the same answers:
four to each of the first prompts of seed/eft.jsonl, taken as a strict order, so six comparisons a
prompt. K-wise a prompt is one batch element of four answers, each read once; one by one it is six
elements of two. Micro-batches hold as many answers on either side. The two take turns. Times are
processor time, which with OMP_NUM_THREADS=1 jobs beside it move little.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations, islice
from pathlib import Path
from statistics import median

from selfreward.config import SeedSource
from selfreward.engines.chat import Chat
from selfreward.inputs import models, seeds
from selfreward.inputs.shipped import prompts_directory
from selfreward.training import reward
from selfreward.training.base import RankedRow, Training
from selfreward.training.job import plan

K = 4


def main() -> None:
    """Run both, alternating, and print milliseconds per comparison and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    ranked = rankings(path, arguments.prompts)
    pairs = [
        RankedRow((row.answers[a], row.answers[b]), (row.preferences[a], row.preferences[b]))
        for row in ranked
        for a, b in combinations(range(K), 2)
    ]
    tokens = [sum(len(ids) for row in rows for ids in row.answers) for rows in (ranked, pairs)]
    print(f"{len(pairs)} comparisons: {tokens[0]} tokens K-wise, {tokens[1]} as pairs", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        trainers = {
            "K-wise": trainer_of(path, ranked, Path(scratch) / "k", prompts_at_once=1),
            "pairs": trainer_of(path, pairs, Path(scratch) / "2", prompts_at_once=K // 2),
        }
        for trainer in trainers.values():
            seconds(trainer, most=1)  # the first pass of a model is slow
        found: dict[str, list[float]] = {name: [] for name in trainers}
        for number in range(arguments.rounds):
            for name in sorted(trainers, reverse=bool(number % 2)):
                found[name].append(1e3 * seconds(trainers[name]) / len(pairs))
                print(f"{number + 1} {name:6} {found[name][-1]:.0f} ms/comparison", flush=True)
    ratios = [two / k for k, two in zip(*found.values(), strict=True)]
    each = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"K-wise is {median(ratios):.2f} times as fast per comparison   rounds: {each}")
    if arguments.json:
        figures = {"ms_per_comparison": found, "ratios": ratios}
        arguments.json.write_text(json.dumps(figures, indent=1))


def rankings(path: Path, count: int) -> list[RankedRow]:
    """The first four answers to each prompt, in the order of the file from worst to best."""
    chat = Chat(path)
    by_prompt: dict[str, list[tuple[int, ...]]] = {}
    for example in seeds.read_eft(SeedSource(path=str(prompts_directory() / "seed/eft.jsonl"))):
        ids = chat.conversation_ids(example.prompt, example.response)
        by_prompt.setdefault(example.prompt, []).append(ids)
    whole = [tuple(answers[:K]) for answers in by_prompt.values() if len(answers) >= K]
    return [RankedRow(answers, tuple(map(float, range(K)))) for answers in whole[:count]]


def trainer_of(
    path: Path, rows: Sequence[RankedRow], scratch: Path, prompts_at_once: int
) -> reward.KWise:
    options = {"per_device_train_batch_size": prompts_at_once, "gradient_accumulation_steps": 1}
    training = Training("reward", path, scratch / "RM", scratch / "checkpoints", options, None, 0)
    return reward.make_trainer(plan(training, rows), rows)


def seconds(trainer: reward.KWise, most: int | None = None) -> float:
    """Processor seconds of a pass forward and back over all batches; no weight moves."""
    start = time.process_time()
    for batch in islice(trainer.get_train_dataloader(), most):
        trainer.compute_loss(trainer.model, batch).backward()
    taken = time.process_time() - start
    trainer.model.zero_grad()
    return taken


if __name__ == "__main__":
    main()
