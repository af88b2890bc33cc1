"""Contender: TRL's ``OnlineDPOTrainer``, whose reward function asks the model that it trains.

It is not the same work: it samples two answers to a prompt, as it always does, so half as many;
and it samples for each step anew from the model as trained so far. An answer without a verdict
counts as 0 there, equal scores make a pair all the same, and answers that were cut off are trained
on; ``pairs`` counts those that selfreward's rules would let pass.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from benchmarks.peers.hand import READ_ROWS, SAMPLED_ROWS, Hand, judge
from benchmarks.peers.training import COMMON
from benchmarks.peers.work import (
    BATCHES_A_STEP,
    PAIRS_A_BATCH,
    SAMPLING,
    Answer,
    Report,
    Work,
    best_and_worst,
    read_work,
)


class Judge:
    """The reward function, which keeps what it scored."""

    def __init__(self, hand: Hand, work: Work, form: str, report: Report) -> None:
        self._hand, self._work, self._form, self._report = hand, work, form, report
        self.answers: list[Answer] = []

    def __call__(
        self, prompts: Any, completions: Any, completion_ids: Any, **_: Any
    ) -> list[float | None]:
        """Scores of completions, None without a verdict."""
        end = self._hand.tokenizer.eos_token_id
        answers = [
            Answer(
                prompt[-1]["content"],
                completion[0]["content"].strip(),
                sum(i != end for i in ids),  # what pads is the same token
                end in ids,
            )
            for prompt, completion, ids in zip(prompts, completions, completion_ids, strict=True)
        ]
        training = self._hand.model.training
        self._hand.model.eval()
        with self._report.stage("judge"):
            judge(self._hand, self._work, self._form, self._report, answers)
        self._hand.model.train(training)
        self.answers += answers
        return [answer.score for answer in answers]


def timed(report: Report, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its time added to a stage."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with report.stage(stage):
            return function(*args, **kwargs)

    return wrapped


def iteration(work: Work, form: str) -> Report:
    """Train on all prompts once."""
    torch.manual_seed(work.seed)
    report = Report(loads=1)
    hand = Hand(work.model, "float32", SAMPLED_ROWS, READ_ROWS)
    scorer = Judge(hand, work, form, report)
    scorer.__name__ = "self_judge"  # type: ignore[attr-defined]
    rows = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in work.prompts]
    options = COMMON | SAMPLING | {
        "output_dir": f"{work.scratch}/checkpoints",
        "per_device_train_batch_size": PAIRS_A_BATCH * BATCHES_A_STEP,
        "max_new_tokens": work.tokens,
        "seed": work.seed,
    }  # fmt: skip
    with report.stage("train"):
        trainer = OnlineDPOTrainer(
            model=hand.model,
            reward_funcs=scorer,
            args=OnlineDPOConfig(**options),
            train_dataset=Dataset.from_list(rows),
            processing_class=hand.tokenizer,
        )
        trainer._generate = timed(report, "sample", trainer._generate)
        trainer.train()
        hand.model.save_pretrained(work.next_model)
        hand.tokenizer.save_pretrained(work.next_model)
    report.seconds["train"] -= report.seconds["sample"] + report.seconds["judge"]
    report.count(scorer.answers)
    report.pairs = len(best_and_worst(scorer.answers))
    report.note = f"2 answers a prompt, trained on {len(work.prompts)} pairs"
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work")
    parser.add_argument("--form", choices=["written", "expected"], required=True)
    arguments = parser.parse_args()
    iteration(read_work(arguments.work), arguments.form).print()


if __name__ == "__main__":
    main()
