"""What vLLM's features gain here, each against doing without, in one run.

    python benchmarks/vllm_features.py [--answers 48] [--json FILE]

- votes: K = 3 written votes (32 tokens each) on every answer by one request with n = K, against K
  requests; seconds.
- prefix: ``expected`` judging with prefix caching, against without; prompt tokens that had to be
  computed, by vLLM's counters, and seconds.
- kept: an engine that takes another checkpoint in place, against one that is closed and opened
  anew; seconds until the first score.

All use the shipped templates, and the model with an output layer of its own: the CPU build cannot
take a tied one in place (see ``engines/vllm.py``).
"""

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from selfreward.engines.base import Generation, Request, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.vllm import VllmEngine
from selfreward.inputs import models
from selfreward.inputs.templates import find_template, load_template

NUM_VOTES, NUM_VOTE_TOKENS = 3, 32
TEXT = (
    "the bread is warm when it comes out of an oven and people like to eat some with butter or "
    "honey while they talk about work and rest in their small kitchen near a window"
)


def main() -> None:
    """Run all three and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--answers", type=int, default=48)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, asyncio.Runner() as runner:
        path = _untie(models.resolve(arguments.model).path, Path(root) / "model")
        figures = runner.run(_measure(path, Chat(path), arguments.answers))
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def _untie(model: Path, target: Path) -> Path:
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("*.safetensors", "MANIFEST.*"))
    [file] = model.glob("*.safetensors")
    weights = load_file(file)
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"].clone())
    save_file(weights, target / file.name, metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return target


async def _measure(path: Path, chat: Chat, num_answers: int) -> dict[str, Any]:
    begin = time.perf_counter()
    engine = VllmEngine(path, chat)
    scored = _scored(chat, num_answers)
    await engine.generate(scored[0])
    opened = time.perf_counter() - begin

    votes = await _votes(engine, chat, num_answers)
    with_cache = await _prefill(engine, scored)
    begin = time.perf_counter()
    await engine.load(path)
    await engine.generate(scored[0])
    in_place = time.perf_counter() - begin

    begin = time.perf_counter()
    await engine.close()
    engine = VllmEngine(path, chat, enable_prefix_caching=False)
    await engine.generate(scored[0])
    anew = time.perf_counter() - begin
    without = await _prefill(engine, scored)
    await engine.close()
    return {
        "votes": votes,
        "prefix": {
            "computed tokens": [without[0], with_cache[0]],
            "fewer": without[0] / with_cache[0],
            "seconds": [without[1], with_cache[1]],
        },
        "kept": {
            "seconds to open": opened,
            "seconds anew, in place": [anew, in_place],
            "ratio": anew / in_place,
        },
    }


async def _votes(engine: VllmEngine, chat: Chat, num_answers: int) -> dict[str, Any]:
    """Seconds for K requests and for one with n = K; each begins with an empty cache."""
    template = load_template(find_template("judge/additive.jinja"), {"prompt", "response"})
    sampling = Sampling(NUM_VOTE_TOKENS, temperature=0.7, min_new_tokens=NUM_VOTE_TOKENS)
    together, apart = [], []
    for i, answer in enumerate(_answers(num_answers)):
        user, started = template.render(prompt="Write about bread.", response=answer)
        request = Request(chat.prompt_ids(user, started), sampling, n=NUM_VOTES, seed=1000 * i)
        together.append(request)
        apart += [replace(request, n=1, seed=1000 * i + vote) for vote in range(NUM_VOTES)]
    seconds = []
    for requests in (apart, together):
        await engine.load(chat.model)
        seconds.append((await _timed(asyncio.gather(*map(engine.generate, requests))))[1])
    return {"seconds for K requests, n = K": seconds, "ratio": seconds[0] / seconds[1]}


async def _prefill(engine: VllmEngine, requests: list[Request]) -> tuple[int, float]:
    """Prompt tokens computed, and seconds, from an empty cache; 8 in flight, as in a stream."""
    await engine.load(engine._chat.model)
    before = engine.prompt_tokens[1]
    slots = asyncio.Semaphore(8)

    async def ask(request: Request) -> list[Generation]:
        async with slots:
            return await engine.generate(request)

    _, seconds = await _timed(asyncio.gather(*map(ask, requests)))
    return engine.prompt_tokens[1] - before, seconds


async def _timed(work: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    return await work, time.perf_counter() - begin


def _scored(chat: Chat, num_answers: int) -> list[Request]:
    template = load_template(find_template("judge/expected.jinja"), {"prompt", "response"})
    requests = []
    for answer in _answers(num_answers):
        user, _ = template.render(prompt="Write about bread.", response=answer)
        token_ids, score_tokens = chat.score_prompt(user)
        requests.append(Request(token_ids, score_tokens=score_tokens))
    return requests


def _answers(count: int) -> list[str]:
    """Answers of 40 to 200 words that share no start."""
    rng, words = random.Random(0), TEXT.split()
    return [" ".join(rng.choices(words, k=rng.randint(40, 200))) for _ in range(count)]


if __name__ == "__main__":
    main()
