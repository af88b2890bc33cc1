"""How fast an engine samples: openvino against ctranslate2, or others.

    python benchmarks/sampling.py [--kinds openvino ctranslate2] [--rounds 3] [--json FILE]

All engines get the same 16 prompts of about 60 tokens at once and sample 4 continuations of each,
64 sequences in one batch, of exactly 64 tokens (the end of turn is held back), at temperature 0.7,
top_k 64, top_p 0.9. They take turns; ratios are within a round, since clocks drift. A kind may be
``openvino/bf16``, which is that engine in bfloat16.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from selfreward.engines.base import Engine, Request, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.inputs import models

NUM_PROMPTS, NUM_SAMPLES, NUM_TOKENS = 16, 4, 64
TASKS = ("summarize", "explain", "translate into plain words", "criticize")
TEXTS = (
    "the history of the bicycle and of those who rode it to work",
    "how bread is made at home without a machine, and what can go wrong",
    "why some birds fly south in autumn while others stay all winter",
    "what a city gains and loses when it closes its center to cars",
)


def main() -> None:
    """Run both, alternating, and print tokens per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--kinds", nargs="+", default=["openvino", "ctranslate2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    chat = Chat(path)
    rates: dict[str, list[float]] = {kind: [] for kind in arguments.kinds}
    engines = {kind: _opened(kind, path, chat) for kind in rates}
    with asyncio.Runner() as runner:
        for engine in engines.values():
            runner.run(_tokens_per_s(engine, _requests(chat, num_tokens=2)))
        for _ in range(arguments.rounds):
            for kind, engine in engines.items():
                rate = runner.run(_tokens_per_s(engine, _requests(chat, NUM_TOKENS)))
                rates[kind].append(rate)
        for engine in engines.values():
            runner.run(engine.close())
    for kind in rates:
        each = " ".join(f"{rate:6.1f}" for rate in rates[kind])
        print(f"{kind:13} {statistics.median(rates[kind]):6.1f} tokens/s   rounds: {each}")
    ratios = [row[0] / row[1] for row in zip(*rates.values(), strict=True) if len(row) > 1]
    if ratios:
        print(f"ratio of the first two {statistics.median(ratios):.2f}")
    if arguments.json:
        figures = {"tokens_per_s": rates, "ratios": ratios}
        arguments.json.write_text(json.dumps(figures, indent=1))


def _requests(chat: Chat, num_tokens: int) -> list[Request]:
    sampling = Sampling(num_tokens, temperature=0.7, top_k=64, top_p=0.9, min_new_tokens=num_tokens)
    users = [f"Please {task} in a few sentences {text}." for task in TASKS for text in TEXTS]
    assert len(users) == NUM_PROMPTS
    return [
        Request(chat.prompt_ids(user), sampling, n=NUM_SAMPLES, seed=seed)
        for seed, user in enumerate(users)
    ]


def _opened(kind: str, path: Path, chat: Chat) -> Engine:
    name, _, precision = kind.partition("/")
    options: dict[str, Any] = {"precision": precision} if precision else {}
    if name not in ("openvino", "vllm"):
        options["max_batch_size"] = NUM_PROMPTS * NUM_SAMPLES
    return open_engine(name, path, chat, options)


async def _tokens_per_s(engine: Engine, requests: list[Request]) -> float:
    start = time.perf_counter()
    answers = await asyncio.gather(*map(engine.generate, requests))
    tokens = sum(len(generation.token_ids) for answer in answers for generation in answer)
    return tokens / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
