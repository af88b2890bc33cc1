"""What a DPO step of ours takes, against calling TRL's ``DPOTrainer`` by hand.

    OMP_NUM_THREADS=1 python benchmarks/dpo_step.py [--pairs 16] [--rounds 3] [--json FILE]

Both train the same model on the best and the worst shipped answer to each of the first prompts of
seed/eft.jsonl, with the very same ``DPOConfig``: four pairs a step, micro-batches of two, one
epoch, the reference asked before the first step, checkpoints at half and at the end. By hand TRL
tokenizes the texts with the model's chat template (which gives one newline more an answer) and
shuffles them. The two take turns. Times are processor time, which with OMP_NUM_THREADS=1 jobs
beside it move little; ratios are within a round. ``step`` is the sum over the steps, ``reference``
the trainer's construction with the pass in it, ``whole`` both and the checkpoints; publishing,
which nothing by hand stands against, is left out.
"""

import argparse
import gc
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import trl.trainer.utils
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from selfreward.config import SeedSource
from selfreward.engines.chat import Chat
from selfreward.inputs import models, seeds
from selfreward.inputs.shipped import prompts_directory
from selfreward.training import dpo, loop
from selfreward.training.base import DpoRow, Training
from selfreward.training.job import Job, plan

OPTIONS = {
    "learning_rate": 1e-5, "beta": 0.1, "num_train_epochs": 1, "save_steps": 0.5,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
}  # fmt: skip
_AS_IT_COMES = trl.trainer.utils._use_triton

Texts = list[tuple[str, str, str]]
"""Prompt, chosen, rejected."""
Seconds = dict[str, float]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Adds up the processor seconds within optimizer steps."""

    def __init__(self) -> None:
        self.seconds, self._begun = 0.0, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Told by the trainer before a step."""
        self._begun = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Told by the trainer after it, before it saves."""
        self.seconds += time.process_time() - self._begun


def main() -> None:
    """Train by both, alternating, and print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    texts, rows = pairs_of(path, arguments.pairs)
    print(
        f"{len(rows)} pairs, {sum(2 * len(r.prompt_ids) for r in rows)} tokens of prompts, "
        f"{sum(len(r.chosen_ids) + len(r.rejected_ids) for r in rows)} of answers",
        flush=True,
    )
    found: dict[str, list[Seconds]] = {"ours": [], "by hand": []}
    ways: dict[str, Callable[[Path], Seconds]] = {
        "ours": lambda scratch: ours(path, rows, scratch),
        "by hand": lambda scratch: by_hand(path, texts, rows, scratch),
    }
    for number in range(arguments.rounds):
        for way in sorted(ways, reverse=number % 2 == 0):
            with tempfile.TemporaryDirectory() as scratch:
                found[way].append(ways[way](Path(scratch)))
            gc.collect()
            shown = ", ".join(f"{name} {s:.1f} s" for name, s in found[way][-1].items())
            print(f"{number + 1} {way:8} {shown}", flush=True)
    ratios = {
        name: [a[name] / b[name] for a, b in zip(*found.values(), strict=True)]
        for name in found["ours"][0]
    }
    for name, each in ratios.items():
        rounds = " ".join(f"{ratio:.3f}" for ratio in each)
        print(f"{name}: ours takes {median(each):.3f} of by hand   rounds: {rounds}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": found, "ratios": ratios}, indent=1))


def pairs_of(path: Path, count: int) -> tuple[Texts, list[DpoRow]]:
    """The best and the worst answer to each prompt, as texts and as our rows of ids."""
    chat = Chat(path)
    by_prompt: dict[str, list[seeds.EftExample]] = {}
    for example in seeds.read_eft(SeedSource(path=str(prompts_directory() / "seed/eft.jsonl"))):
        by_prompt.setdefault(example.prompt, []).append(example)
    texts: Texts = []
    for prompt, answers in by_prompt.items():
        ordered = sorted(answers, key=lambda answer: answer.score)
        if ordered[0].score < ordered[-1].score:
            texts.append((prompt, ordered[-1].response, ordered[0].response))
    texts = texts[:count]
    rows = [
        DpoRow(*chat.continuation(prompt, "", chosen), chat.continuation(prompt, "", rejected)[1])
        for prompt, chosen, rejected in texts
    ]
    return texts, rows


def job_of(path: Path, rows: Sequence[DpoRow], scratch: Path) -> Job:
    training = Training("dpo", path, scratch / "next", scratch / "checkpoints", OPTIONS, None, 0)
    return plan(training, rows)


def ours(path: Path, rows: Sequence[DpoRow], scratch: Path) -> Seconds:
    """As ``train_dpo`` does; publishing is not timed."""
    job, clock, done = job_of(path, rows, scratch), Clock(), [0.0]
    began = time.process_time()
    trainer = dpo.make_trainer(job, rows)
    made = time.process_time()
    trainer.add_callback(clock)
    train = trainer.train

    def timed(**how: Any) -> Any:
        start = time.process_time()
        output = train(**how)
        done[0] = time.process_time() - start
        return output

    trainer.train = timed
    loop.train(trainer, job, rows, on_log=lambda *_: None, on_step=lambda *_: None)
    return {"step": clock.seconds, "reference": made - began, "whole": made - began + done[0]}


def by_hand(path: Path, texts: Texts, rows: Sequence[DpoRow], scratch: Path) -> Seconds:
    """As TRL's own documentation does."""
    arguments = job_of(path, rows, scratch).arguments
    trl.trainer.utils._use_triton = _AS_IT_COMES  # `load_policy` projects the answers alone
    clock = Clock()
    data = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for prompt, chosen, rejected in texts
    ]
    began = time.process_time()
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
        args=DPOConfig(**arguments | {"train_sampling_strategy": "random"}),
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(path),
        callbacks=[clock],
    )
    made = time.process_time()
    trainer.train()
    whole = time.process_time() - began
    shutil.rmtree(scratch / "checkpoints", ignore_errors=True)
    return {"step": clock.seconds, "reference": made - began, "whole": whole}


if __name__ == "__main__":
    main()
