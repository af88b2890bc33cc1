"""One stream against stages one after another: a whole iteration without its training.

    python benchmarks/stream.py [--engine vllm] [--prompts 64] [--rounds 1] [--json FILE]

Both write the same number of prompts from the shipped seeds, answer each 4 times and judge all
answers (``judge/expected.jinja``), with at most 32 requests in flight. The lengths of the answers
are uneven and the same for both: from 16 to 256 tokens, drawn per prompt. They take turns in one
process, on one engine, whose prefix cache is cleared before each; ratios are within a round.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfreward.config.load import build_config
from selfreward.engines.base import Engine, Generation, Request
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs import models
from selfreward.inputs.collect import create_run
from selfreward.records import Judgment, Response
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.workers.rollout import generate_iteration

NUM_RESPONSES, SHORTEST, LONGEST = 4, 16, 256


def main() -> None:
    """Run both in turn and print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    path = models.resolve(arguments.model).path
    seconds: dict[str, list[float]] = {"staged": [], "stream": []}
    with tempfile.TemporaryDirectory() as root, asyncio.Runner() as runner:
        chat = Chat(path)
        engine = Uneven(open_engine(arguments.engine, path, chat, {}))
        runner.run(_warm_up(engine, chat))
        for round_ in range(arguments.rounds):
            for name in seconds:
                run = _make_run(Path(root) / f"{name}-{round_}", path, name, arguments)
                sessions = Sessions(lambda settings, model: Session(engine, chat))
                runner.run(engine.load(path))  # the same weights; clears what is cached
                begin = time.perf_counter()
                with run.owned() as store:
                    runner.run(generate_iteration(run, store, 1, sessions))
                seconds[name].append(time.perf_counter() - begin)
                print(f"{name:7} {seconds[name][-1]:7.1f} s   {_made(run)}", flush=True)
        runner.run(engine.close())
    ratios = [staged / stream for staged, stream in zip(*seconds.values(), strict=True)]
    print(f"staged / stream: {statistics.median(ratios):.2f}   target: 1.25 or more")
    if arguments.json:
        figures = {"engine": arguments.engine, "seconds": seconds, "ratios": ratios}
        arguments.json.write_text(json.dumps(figures, indent=1))


class Uneven:
    """Lets every answer have a length that is drawn from its request's seed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def generate(self, request: Request) -> list[Generation]:
        """See ``Engine``; requests for several samples get a length."""
        if request.sampling is not None and request.n == NUM_RESPONSES:
            length = random.Random(request.seed).randint(SHORTEST, LONGEST)
            sampling = replace(request.sampling, max_new_tokens=length, min_new_tokens=length)
            request = replace(request, sampling=sampling)
        return await self._engine.generate(request)

    async def load(self, model: Path) -> None:
        """See ``Engine``."""
        await self._engine.load(model)

    async def close(self) -> None:
        """See ``Engine``."""
        await self._engine.close()


async def _warm_up(engine: Engine, chat: Chat) -> None:
    sampling = replace(build_sampling(), max_new_tokens=8)
    ids = chat.prompt_ids("Say something.")
    await asyncio.gather(*(engine.generate(Request(ids, sampling, seed=s)) for s in range(8)))


def build_sampling() -> Any:
    """Sampling as in the runs."""
    from selfreward.engines.base import Sampling

    return Sampling(max_new_tokens=LONGEST, temperature=0.7, top_p=0.9, top_k=64)


def _make_run(path: Path, model: Path, name: str, arguments: argparse.Namespace) -> Run:
    words = [
        f"model={model}", "sft=null", "iterations=1", f"engine.staged={name == 'staged'}",
        f"engine.concurrency={arguments.concurrency}", f"prompts.count={arguments.prompts}",
        "prompts.top_k=64", "prompts.max_new_tokens=64", f"responses.n={NUM_RESPONSES}",
        "responses.top_k=64", f"responses.max_new_tokens={LONGEST}", "judge.form=expected",
        "judge.template=judge/expected.jinja", "judge.min_parse_rate=0",
    ]  # fmt: skip
    run = _create(words, path)
    facts = {"path": str(model), "digest": ""}
    durable.write_file(run.path / "models" / "M0.json", json.dumps(facts))
    return run


def _create(words: Sequence[str], path: Path) -> Run:
    import os

    os.environ["SELFREWARD_RUNS"] = str(path.parent)
    return create_run(build_config({}, list(words)), path.name)


def _made(run: Run) -> str:
    with run.store() as store:
        responses, judgments = store.records(Response, 1), store.records(Judgment, 1)
    tokens = sum(response.num_tokens for response in responses)
    return f"{len(responses)} responses of {tokens} tokens, {len(judgments)} judgments"


if __name__ == "__main__":
    main()
