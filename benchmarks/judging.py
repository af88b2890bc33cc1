"""How fast engines judge in the ``expected`` form, against each other and plain forward passes.

    python benchmarks/judging.py [--kinds openvino ctranslate2] [--rounds 3] [--batch 8]

Scores 64 answers of 40 to 200 tokens with the shipped template ``judge/expected.jinja``. The
baseline is transformers itself: the same ids, sorted by length and left-padded in batches, with
``logits_to_keep=1``. All take turns; ratios are within a round, since clocks drift. A kind may be
``openvino/bf16``, which is that engine in bfloat16.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from selfreward.engines.base import Engine, Request
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.inputs import models
from selfreward.inputs.templates import find_template, load_template

NUM_ANSWERS, SHORTEST, LONGEST = 64, 40, 200
TEXT = (
    "the bread is warm when it comes out of an oven and people like to eat some with butter or "
    "honey while they talk about work and rest in their small kitchen near a window"
)


def main() -> None:
    """Run all, alternating, and print seconds and the ratios to plain forward passes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--kinds", nargs="+", default=["openvino", "ctranslate2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="sequences per plain batch")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    chat = Chat(path)
    prompts, score_tokens = _judge_prompts(chat)
    engines = {kind: _opened(kind, path, chat) for kind in arguments.kinds}
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    seconds: dict[str, list[float]] = {kind: [] for kind in (*engines, "plain")}
    found: dict[str, list[list[float]]] = {}
    with asyncio.Runner() as runner:
        for _ in range(arguments.rounds):
            for kind in seconds:
                start = time.perf_counter()
                if kind == "plain":
                    found[kind] = _by_forward_passes(
                        model, chat.pad_id, prompts, score_tokens, arguments.batch
                    )
                else:
                    found[kind] = runner.run(_by_engine(engines[kind], prompts, score_tokens))
                seconds[kind].append(time.perf_counter() - start)
        for engine in engines.values():
            runner.run(engine.close())
    plain = np.array(found["plain"])
    lengths = [len(prompt) for prompt in prompts]
    print(
        f"{NUM_ANSWERS} prompts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all"
    )
    ratios = {}
    for kind, times in seconds.items():
        each = " ".join(f"{t:5.1f}" for t in times)
        by_round = zip(times, seconds["plain"], strict=True)
        ratios[kind] = statistics.median(ours / plain_s for ours, plain_s in by_round)
        error = abs(np.array(found[kind]) - plain).max()
        print(
            f"{kind:13} {statistics.median(times):5.1f} s   of plain: {ratios[kind]:.2f}   "
            f"probabilities differ by {error:.1e}   rounds: {each}"
        )
    if arguments.json:
        figures = {"seconds": seconds, "ratios": ratios}
        arguments.json.write_text(json.dumps(figures, indent=1))


def _judge_prompts(chat: Chat) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    template = load_template(find_template("judge/expected.jinja"), {"prompt", "response"})
    draw = random.Random(0)
    prompts, score_tokens = [], ()
    for i in range(NUM_ANSWERS):
        prompt = f"Write about a kitchen, a window and {i // 4 + 2} kinds of bread."
        response = " ".join(draw.choices(TEXT.split(), k=draw.randint(SHORTEST, LONGEST)))
        user, _ = template.render(prompt=prompt, response=response)
        ids, score_tokens = chat.score_prompt(user)
        prompts.append(ids)
    return prompts, score_tokens


def _opened(kind: str, path: Path, chat: Chat) -> Engine:
    name, _, precision = kind.partition("/")
    return open_engine(name, path, chat, {"precision": precision} if precision else {})


async def _by_engine(
    engine: Engine, prompts: list[tuple[int, ...]], score_tokens: tuple[int, ...]
) -> list[list[float]]:
    requests = [Request(ids, score_tokens=score_tokens) for ids in prompts]
    answers = await asyncio.gather(*map(engine.generate, requests))
    return [list(generation.probabilities or ()) for [generation] in answers]


def _by_forward_passes(
    model: Any,
    pad: int,
    prompts: list[tuple[int, ...]],
    score_tokens: tuple[int, ...],
    batch: int,
) -> list[list[float]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    probabilities: dict[int, list[float]] = {}
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        longest = max(len(prompts[i]) for i in chosen)
        rows = [[pad] * (longest - len(prompts[i])) + list(prompts[i]) for i in chosen]
        mask = [[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen]
        attention_mask = torch.tensor(mask)
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor(rows),
                attention_mask=attention_mask,
                position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=1,
            ).logits[:, -1]
        shares = logits.double().softmax(-1)[:, list(score_tokens)].tolist()
        probabilities.update(zip(chosen, shares, strict=True))
    return [probabilities[i] for i in range(len(prompts))]


if __name__ == "__main__":
    main()
