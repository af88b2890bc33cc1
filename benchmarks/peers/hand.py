"""Contender: transformers and TRL by hand, well batched.

Prompts sorted by length and padded on the left, 64 sequences in a batch where text is sampled and
16 in a forward pass that gives the ``expected`` score, which computes the head at the last position
alone. One process, one model where it samples in float32: the one that is trained.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.training import train
from benchmarks.peers.work import (
    SAMPLING,
    Answer,
    Report,
    Work,
    best_and_worst,
    expected_score,
    parse_score,
    read_work,
)

SAMPLED_ROWS, READ_ROWS = 64, 16
Ids = list[int]


class Hand:
    """A model with its tokenizer, and how many sequences it takes at once."""

    def __init__(self, path: str, dtype: str, sampled_rows: int, read_rows: int) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        self._sampled_rows, self._read_rows = sampled_rows, read_rows

    def sample(self, users: Sequence[str], tokens: int) -> list[tuple[str, int, bool]]:
        """Text, number of tokens and whether it ended, of an answer to each user turn."""
        found: dict[int, tuple[str, int, bool]] = {}
        for chosen, inputs in self._batches(list(map(self.ids, users)), self._sampled_rows):
            with torch.inference_mode():
                rows = self.model.generate(
                    **inputs,
                    max_new_tokens=tokens,
                    do_sample=True,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **SAMPLING,
                )
            width = inputs["input_ids"].shape[1]
            for i, row in zip(chosen, rows[:, width:].tolist(), strict=True):
                end = self.tokenizer.eos_token_id
                ended = end in row
                kept = row[: row.index(end)] if ended else row
                found[i] = (self.tokenizer.decode(kept).strip(), len(kept), ended)
        return [found[i] for i in range(len(users))]

    def expect(self, users: Sequence[str]) -> list[float]:
        """The expected score after each user turn, by one forward pass."""
        spelled = [self.tokenizer.encode(f"Score: {score}")[-1] for score in range(6)]
        rows = [self.ids(user, "Score: 0")[:-1] for user in users]
        found: dict[int, float] = {}
        for chosen, inputs in self._batches(rows, self._read_rows):
            mask = inputs["attention_mask"]
            with torch.inference_mode():
                logits = self.model(
                    **inputs,
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                    logits_to_keep=1,
                    use_cache=False,
                ).logits[:, -1]
            for i, shares in zip(chosen, logits.double().softmax(-1)[:, spelled], strict=True):
                found[i] = expected_score(shares.tolist())
        return [found[i] for i in range(len(users))]

    def ids(self, user: str, started: str = "") -> Ids:
        """Of a user turn and the beginning of the model's own."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=False
        )
        return list(self.tokenizer.encode(text + started, add_special_tokens=False))

    def _batches(self, rows: list[Ids], size: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        pad = self.tokenizer.pad_token_id
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            longest = max(len(rows[i]) for i in chosen)
            padded = [[pad] * (longest - len(rows[i])) + rows[i] for i in chosen]
            mask = [[0] * (longest - len(rows[i])) + [1] * len(rows[i]) for i in chosen]
            yield (
                chosen,
                {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)},
            )


def judge(hand: Hand, work: Work, form: str, report: Report, answers: Sequence[Answer]) -> None:
    """Score the answers in place."""
    users = [work.judge_prompt(form, answer.prompt, answer.text) for answer in answers]
    if form == "expected":
        for answer, score in zip(answers, hand.expect(users), strict=True):
            answer.score = score
        return
    for answer, (text, tokens, ended) in zip(
        answers, hand.sample(users, work.judge_tokens), strict=True
    ):
        answer.score = parse_score(text, ended)
        report.judge_tokens += tokens


def iteration(work: Work, form: str, dtype: str, sampled_rows: int, read_rows: int) -> Report:
    """Sample, judge, pair, train."""
    torch.manual_seed(work.seed)
    report = Report(loads=1)
    hand = Hand(work.model, dtype, sampled_rows, read_rows)
    with report.stage("sample"):
        asked = [prompt for prompt in work.prompts for _ in range(work.responses)]
        sampled = hand.sample(asked, work.tokens)
        answers = [Answer(prompt, *one) for prompt, one in zip(asked, sampled, strict=True)]
    with report.stage("judge"):
        judge(hand, work, form, report, answers)
    report.count(answers)
    train(work, report, best_and_worst(answers), hand.model if dtype == "float32" else None)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work")
    parser.add_argument("--form", choices=["written", "expected"], required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    iteration(
        read_work(arguments.work), arguments.form, arguments.dtype, SAMPLED_ROWS, READ_ROWS
    ).print()


if __name__ == "__main__":
    main()
