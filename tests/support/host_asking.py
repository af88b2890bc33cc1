"""Asks servers on other hosts, by `ServerEngine`, what is written to its standard input.

    python -m tests.support.host_asking MODEL URL ...

Lines in: ``ask FIRST LAST`` for the requests with these seeds, 8 at a time; ``load MODEL``. Lines
out, JSON: the texts by seed, or the error.
"""

import asyncio
import json
import sys
from pathlib import Path

from selfreward.engines.base import Request, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.server.engine import open_engine
from selfreward.errors import SelfRewardError

AT_ONCE = 8


async def main() -> None:
    model = Path(sys.argv[1])
    chat = Chat(model)
    engine = open_engine(model, chat, {"endpoints": sys.argv[2:], "max_retries": 8})
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(seed: int) -> str:
        async with slots:
            sampling = Sampling(max_new_tokens=40, temperature=0.7)
            request = Request(chat.prompt_ids(f"prompt {seed}"), sampling, seed=seed)
            [generation] = await engine.generate(request)
            return generation.text

    print("{}", flush=True)  # ready
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, *words = line.split()
        try:
            if verb == "load":
                await engine.load(Path(words[0]))
                told: object = {}
            else:
                seeds = range(int(words[0]), int(words[1]))
                told = dict(zip(seeds, await asyncio.gather(*map(ask, seeds)), strict=True))
        except SelfRewardError as error:
            told = {"error": error.message}
        print(json.dumps(told), flush=True)
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
