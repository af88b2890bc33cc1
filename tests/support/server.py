"""A server on a real socket whose answers are scripted, with vLLM's development routes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from selfreward.engines.chat import Chat


class Server:
    """Speaks HTTP; answers ``say(weights)`` once ``script`` has nothing else to do.

    Args:
        chat: Of the model that it claims to serve.
        root: Where its weights come from.
        dev: Whether it has the development routes of vLLM.
        path: What it calls itself.
    """

    def __init__(self, chat: Chat, root: Path | str, dev: bool = False, name: str = "m") -> None:
        self.chat, self.root, self.dev, self.name = chat, root, dev, name
        self.script: list[Any] = []
        """Statuses, (status, headers, answer), "drop" or "hang", for the next requests; an answer
        is JSON or bytes."""
        self.refuses: Callable[[Any], Any] = lambda body: None
        """By a request's body: what to answer instead, as in ``script``."""
        self.delay_s = 0.0
        self.device = "cuda"
        self.bodies: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.address, self.port = "127.0.0.1", 0
        self.say: Callable[[str], str] = lambda weights: weights
        self._fresh()

    def _fresh(self) -> None:
        self.weights, self.version, self.paused = Path(self.root).name, "default", False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Start, or start again as a new process would: with the weights of the root."""
        self._fresh()
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._server = await asyncio.start_server(self._serve, self.address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Die: what is in flight gets no answer."""
        self._server.close()
        serving = list(self._serving.items())
        for task, writer in serving:
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*(task for task, _ in serving), return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = head[0].split(" ")
                status, more, answer = await self._answer(
                    f"{method} {path}", json.loads(body or "null"), headers
                )
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                lines = [f"HTTP/1.1 {status} x", f"content-length: {len(text)}"]
                lines += [f"{name}: {value}" for name, value in more.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + self._sent(text))
                await writer.drain()
                if self._sent(text) != text:
                    raise _DroppedError
        except (asyncio.IncompleteReadError, ConnectionError, _DroppedError):
            writer.close()
        except asyncio.CancelledError:
            pass
        finally:
            self._serving.pop(task, None)

    def _sent(self, answer: bytes) -> bytes:
        """What gets onto the line of an answer before the connection breaks."""
        return answer

    async def _answer(
        self, call: str, body: Any, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], Any]:
        self.calls.append(call)
        if call == "GET /v1/models":
            return 200, {}, {"data": [{"id": self.name, "root": str(self.root), "parent": None}]}
        if "completions" in call:
            self.bodies.append(body)
            await asyncio.sleep(self.delay_s)
            do = self.script.pop(0) if self.script else self.refuses(body)
            if do is not None:
                if do == "drop":
                    raise _DroppedError
                if do == "hang":
                    await asyncio.sleep(60)
                said = f"what is {headers.get('authorization')}?"
                return do if isinstance(do, tuple) else (do, {}, {"error": {"message": said}})
            assert not self.paused
            return 200, {}, self._completion(body, chat="chat" in call)
        if self.dev:
            return self._develop(call, body)
        return 404, {}, {"detail": "Not Found"}

    def _develop(self, call: str, body: Any) -> tuple[int, dict[str, str], Any]:
        match call:
            case "GET /weight_info":
                return 200, {}, {"weight_version": self.version}
            case "GET /server_info?config_format=json":
                return 200, {}, {"vllm_config": {"device_config": {"device_type": self.device}}}
            case "POST /pause?mode=abort":
                self.paused = True
            case "POST /collective_rpc":
                assert body["method"] == "reload_weights"
                assert self.paused
                self.weights = Path(body["kwargs"]["weights_path"]).name
            case "POST /reset_prefix_cache":
                return 200, {}, {"success": self.paused}
            case "POST /update_weight_version":
                self.version = body["new_version"]
            case "POST /resume":
                self.paused = False
            case _:
                return 404, {}, {}
        return 200, {}, {}

    def _completion(self, body: Any, chat: bool) -> Any:
        text = self.say(self.weights)
        if chat:
            choice: Any = {"message": {"content": text}, "finish_reason": "stop"}
        else:
            ids = [*self.chat.tokenizer(text).input_ids, self.chat.end_id]
            told = {"token_logprobs": [-0.5] * len(ids)}
            choice = {"token_ids": ids, "logprobs": told, "finish_reason": "stop"}
        return {"choices": [{"index": i, **choice} for i in reversed(range(body.get("n", 1)))]}


class _DroppedError(Exception):
    pass


@asynccontextmanager
async def running(*servers: Server) -> AsyncIterator[None]:
    for server in servers:
        await server.start()
    try:
        yield
    finally:
        for server in servers:
            await server.stop()
