"""Endpoints that are real ``vllm serve`` processes on loopback, two of them.

The model has an output layer of its own: a tied one the CPU build cannot take in place.
"""

import asyncio
import contextlib
import importlib.util
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfreward.engines.base import Engine, Generation, Request, RequestError, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.server.engine import ServerEngine, open_engine
from selfreward.engines.server.hosted import open_hosted
from selfreward.errors import PreflightError

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
KEY, KEY_ENV = "loopback-key", "SELFREWARD_TEST_KEY"
PROMPTS = (
    "Name three colors of the rainbow.",
    "Why is the sky blue?",
    "Write a short poem about rain.",
    "What is 7 times 8?",
)


class Server:
    """A vLLM server in a process group of its own."""

    def __init__(self, model: Path, log: Path) -> None:
        self.model, self.log = model, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
            "--served-model-name", "policy", "--host", "127.0.0.1", "--port", str(self.port),
            "--dtype", "float32", "--enforce-eager", "--block-size", "32",
            "--kv-cache-memory-bytes", "500000000", "--max-model-len", "2048",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": KEY},
            )

    def wait(self, seconds: float = 400) -> None:
        """Wait until it answers."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(1)
        raise AssertionError(f"no server after {seconds} s: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill its processes all at once, but the one that then removes their shared memory."""
        if self._process.poll() is not None:
            return
        server = psutil.Process(self._process.pid)
        for process in [server, *server.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "resource_tracker" not in " ".join(process.cmdline()):
                    process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def servers(
    untied_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    logs = tmp_path_factory.mktemp("logs")
    started: list[Server] = []
    patch = pytest.MonkeyPatch()
    patch.setenv(KEY_ENV, KEY)
    try:
        for name in ("first", "second"):
            started.append(Server(untied_dir, logs / name))
        for server in started:
            server.wait()
        yield started[0], started[1]
    finally:
        for server in started:
            server.kill()
        patch.undo()


@pytest.fixture(scope="module")
def chat(untied_dir: Path) -> Chat:
    return Chat(untied_dir)


Use = Callable[[ServerEngine], Coroutine[Any, Any, Any]]


def asking(
    directory: Path, chat: Chat, servers: tuple[Server, ...], use: Use, **options: Any
) -> Any:
    async def main() -> Any:
        urls = [server.url for server in servers]
        engine = open_engine(
            directory, chat, {"endpoints": urls, "api_key_env": KEY_ENV, **options}
        )
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


def requests(chat: Chat, max_new_tokens: int = 24) -> list[Request]:
    """Each prompt to be answered greedily, and to be scored."""
    sampling = Sampling(max_new_tokens, temperature=0.0)
    asked = [Request(chat.prompt_ids(prompt), sampling) for prompt in PROMPTS]
    for prompt in PROMPTS:
        ids, scores = chat.score_prompt(f"Score the answer to: {prompt}")
        asked.append(Request(ids, score_tokens=scores))
    return asked


async def answers(engine: Engine, asked: list[Request]) -> list[Generation]:
    return [found[0] for found in await asyncio.gather(*map(engine.generate, asked))]


def by_transformers(model: Path, chat: Chat) -> list[Generation]:
    from selfreward.engines.transformers import open_engine as open_transformers

    async def main() -> list[Generation]:
        engine = open_transformers(model, chat, {})
        try:
            return await answers(engine, requests(chat))
        finally:
            await engine.close()

    return asyncio.run(main())


def assert_same(found: list[Generation], expected: list[Generation]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.token_ids, one.finish_reason) == (
            other.text,
            other.token_ids,
            other.finish_reason,
        )
        if other.probabilities is not None:
            assert one.probabilities == pytest.approx(other.probabilities, rel=1e-3, abs=1e-7)


def test_greedy_text_and_score_probabilities_are_those_of_transformers(
    servers: tuple[Server, Server], untied_dir: Path, chat: Chat
) -> None:
    found = asking(untied_dir, chat, servers, lambda engine: answers(engine, requests(chat)))
    assert_same(found, by_transformers(untied_dir, chat))


def test_a_sample_has_its_own_seed_on_every_endpoint(
    servers: tuple[Server, Server], untied_dir: Path, chat: Chat
) -> None:
    ids = chat.prompt_ids(PROMPTS[2])
    sampling = Sampling(max_new_tokens=16, temperature=1.0, top_p=0.9, top_k=64)
    four = Request(ids, sampling, n=4, seed=1000)
    third = Request(ids, sampling, seed=1002)

    async def use(engine: ServerEngine) -> tuple[list[Generation], ...]:
        return await engine.generate(four), await engine.generate(third)

    (first, [alone]), (second, _) = (asking(untied_dir, chat, (server,), use) for server in servers)
    assert first == second
    assert len({generation.token_ids for generation in first}) == 4
    assert alone.token_ids == first[2].token_ids


def test_the_logprob_is_the_sum_of_raw_ones_with_the_end_of_turn(
    servers: tuple[Server, Server], untied_dir: Path, chat: Chat
) -> None:
    """Told token by token by the server, and again from the score probabilities of each."""
    sampling = Sampling(max_new_tokens=40, temperature=0.6, top_p=0.8)
    request = Request(chat.prompt_ids(PROMPTS[3]), sampling, seed=4)

    async def use(engine: ServerEngine) -> tuple[float, float]:
        [generation] = await engine.generate(request)
        ids = generation.token_ids
        if generation.finish_reason == "stop":
            ids = (*ids, chat.end_id)
        steps = [
            Request((*request.token_ids, *ids[:i]), score_tokens=(token,))
            for i, token in enumerate(ids)
        ]
        assert generation.logprob is not None
        found = [step.probabilities for step in await answers(engine, steps)]
        return generation.logprob, sum(math.log(one[0]) for one in found if one)

    told, computed = asking(untied_dir, chat, servers, use)
    assert told == pytest.approx(computed, abs=1e-3)


def test_stop_strings_and_limits_end_a_generation(
    servers: tuple[Server, Server], untied_dir: Path, chat: Chat
) -> None:
    ids = chat.prompt_ids("Count from one to ten.", "one, two, three")

    async def use(engine: ServerEngine) -> list[Generation]:
        stopped = Sampling(max_new_tokens=40, temperature=0.0, stop=(" six",))
        cut = Sampling(max_new_tokens=3, temperature=0.0)
        return await answers(engine, [Request(ids, stopped), Request(ids, cut)])

    stopped, cut = asking(untied_dir, chat, servers, use)
    assert (stopped.text, stopped.finish_reason) == (", four, five,", "stop")
    assert (len(cut.token_ids), cut.finish_reason) == (3, "length")


def test_a_prompt_longer_than_the_server_takes_is_refused_as_too_long(
    servers: tuple[Server, Server], untied_dir: Path, chat: Chat
) -> None:
    async def use(engine: ServerEngine) -> None:
        await engine.generate(Request(tuple([5] * 3000), Sampling(max_new_tokens=1)))

    with pytest.raises(RequestError, match="too long"):
        asking(untied_dir, chat, servers, use)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"api_key_env": "SELFREWARD_TEST_WRONG_KEY"}, "refuses the key"),
        ({"api_key_env": None}, "refuses the key"),
        ({"model": "polisy"}, "there is no model polisy"),
    ],
    ids=str,
)
def test_a_wrong_key_or_model_name_is_one_clear_line(
    servers: tuple[Server, Server],
    untied_dir: Path,
    chat: Chat,
    options: dict[str, Any],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SELFREWARD_TEST_WRONG_KEY", "wrong")
    with pytest.raises(PreflightError, match=says):
        asking(untied_dir, chat, servers, lambda engine: answers(engine, requests(chat)), **options)


def test_the_server_can_be_asked_as_a_hosted_judge(servers: tuple[Server, Server]) -> None:
    async def main() -> list[Generation]:
        engine, chat = open_hosted({"endpoints": [servers[0].url], "api_key_env": KEY_ENV})
        asked = chat.request(PROMPTS[3], "", Sampling(12, temperature=0.7), n=3, seed=1)
        try:
            return await engine.generate(asked)
        finally:
            await engine.close()

    votes = asyncio.run(main())
    assert len({vote.text for vote in votes}) > 1
    assert len(votes) == 3


def test_load_gives_the_answers_of_the_new_weights_with_no_stale_prefix(
    servers: tuple[Server, Server], untied_dir: Path, other_untied_dir: Path, chat: Chat
) -> None:
    async def use(engine: ServerEngine) -> list[list[Generation]]:
        found = [await answers(engine, requests(chat))]
        for model in (other_untied_dir, untied_dir):
            await engine.load(model)
            found.append(await answers(engine, requests(chat)))
        return found

    before, changed, back = asking(untied_dir, chat, servers[:1], use)
    assert_same(changed, by_transformers(other_untied_dir, chat))
    assert_same(back, before)
    assert [one.text for one in changed] != [one.text for one in before]


def test_a_server_killed_at_work_loses_nothing_and_takes_the_weights_again_when_it_is_back(
    servers: tuple[Server, Server], untied_dir: Path, other_untied_dir: Path, chat: Chat
) -> None:
    first, second = servers
    ids = [chat.prompt_ids(f"{prompt} ({i})") for i in range(6) for prompt in PROMPTS]
    short, long = (Sampling(max_new_tokens=n, temperature=0.7) for n in (1, 32))
    asked = [Request(one, long if i else short, n=2, seed=i) for i, one in enumerate(ids)]

    async def use(engine: ServerEngine) -> tuple[list[Any], list[Generation], list[Generation]]:
        await engine.load(other_untied_dir)
        expected = await answers(engine, requests(chat))
        busy = [asyncio.create_task(engine.generate(request)) for request in asked]
        await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
        done = sum(task.done() for task in busy)
        assert done < len(busy) / 2
        first.kill()
        found = await asyncio.gather(*busy)
        await asyncio.to_thread(first.start)  # as a new server, with the weights of untied_dir
        await asyncio.to_thread(first.wait)
        second.kill()
        return found, expected, await answers(engine, requests(chat))

    found, expected, after = asking(untied_dir, chat, servers, use, max_retries=8)
    assert [len(generations) for generations in found] == [2] * 24
    assert_same(after, expected)
