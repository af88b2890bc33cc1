"""The scripted server on a host of its own, which keeps a journal of what it does.

    python -m tests.support.host_server MODEL NAME DIRECTORY

It listens at port 8000 on all addresses. While there is a file DIRECTORY/NAME-half, it answers half
of each answer and closes the connection. DIRECTORY/NAME-journal has a line for each completion,
with its weights and seed, and for each call that gives it weights.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from selfreward.engines.chat import Chat
from tests.support.server import Server


def said(weights: str, seed: int) -> str:
    """What a server with these weights answers to a request."""
    return f"{weights} says {seed}"


class Journaled(Server):
    """A server that writes down what it does."""

    def __init__(self, model: Path, name: str, directory: Path) -> None:
        super().__init__(Chat(model), model, dev=True)
        self.address, self.port, self.delay_s = "0.0.0.0", 8000, 0.05
        self._journal, self._half = directory / f"{name}-journal", directory / f"{name}-half"

    def _completion(self, body: Any, chat: bool) -> Any:
        self.say = lambda weights: said(weights, body["seed"])
        self._write(f"{self.weights} {body['seed']}")
        return super()._completion(body, chat)

    def _develop(self, call: str, body: Any) -> Any:
        answer = super()._develop(call, body)
        if call == "POST /resume":
            self._write(f"takes {self.weights}")
        return answer

    def _sent(self, answer: bytes) -> bytes:
        return answer[: len(answer) // 2] if self._half.exists() else answer

    def _write(self, line: str) -> None:
        with self._journal.open("a") as journal:
            journal.write(f"{line}\n")


async def main() -> None:
    server = Journaled(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
