"""How fast the ctranslate2 engine samples, against ``generate`` of transformers.

    python benchmarks/sampling.py [--rounds 3] [--json FILE]

Both engines get the same 16 prompts of about 60 tokens at once and sample 4 continuations of each,
64 sequences in one batch, of exactly 64 tokens (the end of turn is held back), at temperature 0.7,
top_k 64, top_p 0.9. They take turns; ratios are within a round, since clocks drift.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

from selfreward import models
from selfreward.chat import Chat
from selfreward.engines import open_engine
from selfreward.engines.base import Engine, Request, Sampling

KINDS = ("ctranslate2", "transformers")
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    chat = Chat(path)
    options = {"max_batch_size": NUM_PROMPTS * NUM_SAMPLES}
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    engines = {kind: open_engine(kind, path, chat, options) for kind in KINDS}
    for engine in engines.values():
        _tokens_per_s(engine, _requests(chat, num_tokens=2))
    for _ in range(arguments.rounds):
        for kind, engine in engines.items():
            rates[kind].append(_tokens_per_s(engine, _requests(chat, NUM_TOKENS)))
    ratios = [fast / slow for fast, slow in zip(*rates.values(), strict=True)]
    for kind in KINDS:
        each = " ".join(f"{rate:6.1f}" for rate in rates[kind])
        print(f"{kind:13} {statistics.median(rates[kind]):6.1f} tokens/s   rounds: {each}")
    print(f"ratio         {statistics.median(ratios):6.2f}            target: 2 or more")
    if arguments.json:
        figures = {"tokens_per_s": rates, "ratios": ratios, "ratio": statistics.median(ratios)}
        arguments.json.write_text(json.dumps(figures, indent=1))


def _requests(chat: Chat, num_tokens: int) -> list[Request]:
    sampling = Sampling(num_tokens, temperature=0.7, top_k=64, top_p=0.9, min_new_tokens=num_tokens)
    users = [f"Please {task} in a few sentences {text}." for task in TASKS for text in TEXTS]
    assert len(users) == NUM_PROMPTS
    return [
        Request(chat.prompt_ids(user), sampling, n=NUM_SAMPLES, seed=seed)
        for seed, user in enumerate(users)
    ]


def _tokens_per_s(engine: Engine, requests: list[Request]) -> float:
    async def generate() -> int:
        answers = await asyncio.gather(*map(engine.generate, requests))
        return sum(len(generation.token_ids) for answer in answers for generation in answer)

    start = time.perf_counter()
    return asyncio.run(generate()) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
