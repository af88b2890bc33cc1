"""What reading common starts once saves in training: `launch.share_starts` on against off.

    OMP_NUM_THREADS=1 python benchmarks/starts.py [--rows 16] [--rounds 3] [--json FILE]

SFT on EFT rows in the `expected` form (a judge prompt and one token), and DPO on the best and the
worst shipped answer to a prompt, in steps of one micro-batch as the quickstart has it: four EFT
rows, or two pairs. The two ways take turns. Times are processor time within the optimizer steps,
which with OMP_NUM_THREADS=1 jobs beside it move little; ratios are within a round. The loss of the
last step is printed, too: it is the same but for rounding.
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dpo_step import Clock, pairs_of

from selfreward.config import SeedSource
from selfreward.engines.chat import Chat
from selfreward.inputs import models, seeds
from selfreward.inputs.shipped import prompts_directory
from selfreward.inputs.templates import find_template, load_template
from selfreward.training import dpo, loop, sft
from selfreward.training.base import DpoRow, Method, SftRow, Training
from selfreward.training.job import plan

OPTIONS: dict[Method, dict[str, Any]] = {
    "sft": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
    "dpo": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
}


def main() -> None:
    """Train with and without, alternating, and print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--rows", type=int, default=16, help="EFT rows; half as many pairs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    data: dict[Method, Sequence[Any]] = {
        "sft": eft_rows(path, arguments.rows),
        "dpo": pairs_of(path, arguments.rows // 2)[1],
    }
    figures: dict[str, Any] = {}
    for method, rows in data.items():
        found: dict[bool, list[float]] = {True: [], False: []}
        for number in range(arguments.rounds):
            for shares in sorted(found, reverse=number % 2 == 0):
                seconds, loss = seconds_of(method, path, rows, shares)
                found[shares].append(seconds)
                print(
                    f"{method} {number + 1} {shares!s:5} {seconds:6.1f} s  loss {loss:.6f}",
                    flush=True,
                )
                gc.collect()
        ratios = [b / a for a, b in zip(found[True], found[False], strict=True)]
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{method}: {median(ratios):.2f} times as fast   rounds: {each}", flush=True)
        figures[method] = {"shared": found[True], "alone": found[False], "ratios": ratios}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def eft_rows(path: Path, count: int) -> list[SftRow]:
    """Of the first prompts of seed/eft.jsonl."""
    chat = Chat(path)
    template = load_template(find_template("judge/expected.jinja"), {"prompt", "response"})
    source = SeedSource(path=str(prompts_directory() / "seed/eft.jsonl"))
    rows = []
    for eft in seeds.read_eft(source)[:count]:
        user, _ = template.render(prompt=eft.prompt, response=eft.response)
        rows.append(SftRow(*chat.score_target(user, round(eft.score)), is_eft=True))
    return rows


def seconds_of(
    method: Method, path: Path, rows: Sequence[SftRow] | Sequence[DpoRow], shares: bool
) -> tuple[float, float]:
    """Processor seconds of all steps of an epoch, and the loss of the last."""
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        training = Training(
            method, path, out / "next", out / "checkpoints", OPTIONS[method], None, 0,
            share_starts=shares,
        )  # fmt: skip
        job, clock = plan(training, rows), Clock()
        trainer = (sft if method == "sft" else dpo).make_trainer(job, rows)
        trainer.add_callback(clock)
        loop.train(
            trainer, job, rows, on_log=lambda _, figures: losses.append(figures["loss"]),
            on_step=lambda *_: None,
        )  # fmt: skip
    return clock.seconds, losses[-1]


if __name__ == "__main__":
    main()
