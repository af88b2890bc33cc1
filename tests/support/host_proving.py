"""Proves a server on another host to serve a model, then has it take another one.

    python -m tests.support.host_proving URL MODEL MODEL ...

Prints a JSON line for each model: its greedy text, what was told, or the error.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from selfreward.engines.base import Request, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.proved import ProvedEngine, open_proved
from selfreward.errors import SelfRewardError


async def main() -> None:
    url, models = sys.argv[1], [Path(word) for word in sys.argv[2:]]
    chat, told = Chat(models[0]), list[str]()
    request = Request(chat.prompt_ids("Name three rivers."), Sampling(12, temperature=0.0))
    engine: ProvedEngine | None = None
    for model in models:
        said: dict[str, Any] = {}
        try:
            if engine is None:
                options = {"endpoints": [url]}
                engine = await open_proved("server", model, chat, options, tell=told.append)
            else:
                await engine.load(model)
            [answer] = await engine.generate(request)
            said = {"text": answer.text, "told": told}
        except SelfRewardError as error:
            said = {"error": error.message}
        print(json.dumps(said), flush=True)
    if engine is not None:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
