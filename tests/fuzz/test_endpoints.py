"""No answer of an endpoint whatever is told as a bug: it is an answer, or a fault of the server."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from selfreward.engines.base import Request, RequestError, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.server import answers, endpoint, wire
from selfreward.engines.server.engine import open_engine
from selfreward.engines.server.hosted import open_hosted
from selfreward.errors import SelfRewardError
from tests.support import fuzz_data
from tests.support.fuzz import Draw
from tests.support.models import make_model
from tests.support.server import Server, running

BODIES = [
    fuzz_data.CHAT,
    fuzz_data.COMPLETION,
    fuzz_data.MODELS,
    fuzz_data.REFUSAL,
    fuzz_data.DETAIL,
]
ANSWERS = (
    answers.ChatAnswer, answers.CompletionAnswer, answers.ModelList, answers.WeightInfo,
    answers.Cleared, answers.ServerInfo,
)  # fmt: skip
STATUSES = [
    200,
    200,
    200,
    200,
    201,
    204,
    301,
    400,
    401,
    402,
    403,
    404,
    405,
    413,
    422,
    429,
    500,
    501,
    503,
    599,
]
WAITS = [
    "",
    "1",
    "0",
    "-1",
    "nan",
    "1e9",
    "soon",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "\x85",
    "9" * 500,
]
SAMPLING = Sampling(max_new_tokens=20, temperature=0.7)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    return Chat(make_model(tmp_path_factory.mktemp("models") / "M1"))


def is_plain(error: Exception) -> bool:
    """Whether it can be shown, stored and sent on."""
    said = str(error)
    return bool(said) and "\n" not in said and bool(said.encode()) and len(said) < 2000


class Exchange:
    """In place of the network: what ``Wire`` would have read from its socket."""

    def __init__(
        self, draw: Draw, odd: Callable[[Draw], tuple[int, dict[str, str], bytes]]
    ) -> None:
        self.draw, self.odd = draw, odd

    async def __call__(
        self, method: str, url: str, body: object
    ) -> tuple[int, dict[str, str], bytes]:
        json.dumps(body, allow_nan=False).encode()
        return self.odd(self.draw)


def odd_answer(draw: Draw) -> tuple[int, dict[str, str], bytes]:
    body = draw.choice(BODIES[:3] * 3 + BODIES)
    wait = draw.choice(WAITS)
    return (
        draw.choice(STATUSES),
        {"Retry-After": wait} if wait else {},
        fuzz_data.odd_body(draw, body),
    )


def ask(chat: Chat, draw: Draw, where: dict[str, Any], exchange: Exchange | None) -> Any:
    """One request of a kind that is drawn, to endpoints or to what stands in their place."""
    kind = draw.choice(["hosted", "model", "scores"])

    async def main() -> Any:
        engine: Any
        if kind == "hosted":
            engine, known = open_hosted(where, tell=lambda line: None)
        else:
            more = {"model": "m"} if draw.random() < 0.7 else {}
            engine, known = open_engine(chat.model, chat, {**where, **more}, fixed=True), chat
        if exchange is not None:
            engine._balancer._wire._exchange = exchange
        try:
            asked = known.request("Judge.", "", SAMPLING, draw.choice([1, 1, 3]))
            if kind == "scores":
                asked = Request(asked.token_ids, score_tokens=(10, 11))
            return await engine.generate(asked)
        finally:
            await engine.close()

    return asyncio.run(main())


def check(chat: Chat, cases: range) -> None:
    """Answers put in place of the network: all of the engine is asked, and no socket."""
    for case in cases:
        draw = random.Random(case)
        where = {"endpoints": ["http://127.0.0.1:1/v1"], "max_retries": draw.choice([0, 1, 2])}
        try:
            found = ask(chat, draw, where, Exchange(draw, odd_answer))
        except (SelfRewardError, RequestError) as error:
            assert is_plain(error), (case, str(error))
        except Exception as error:
            raise AssertionError(case) from error
        else:
            for generation in found:
                generation.text.encode()
                assert "\0" not in generation.text
                assert all(0 <= p <= 1.01 for p in generation.probabilities or ())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(wire, "_retry_after_s", at_once)


_retry_after_s = wire._retry_after_s


def at_once(said: str) -> float | None:
    """The real reading of a header, and no wait for it."""
    wait = _retry_after_s(said)
    assert wait is None or 0 <= wait <= 86_400
    return None if wait is None else 0.0


def test_no_answer_whatever_is_told_as_a_bug(chat: Chat) -> None:
    check(chat, range(2000))


def test_no_body_whatever_breaks_the_reading_of_answers() -> None:
    for case in range(300):
        draw = random.Random(case)
        data = fuzz_data.odd_body(draw, draw.choice(BODIES))
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            continue
        for kind in ANSWERS:
            try:
                answers.read(kind, answer)
            except ValueError as error:
                assert is_plain(error), (case, str(error))


def test_no_answer_over_a_real_socket_is_told_as_a_bug(chat: Chat) -> None:
    """With what HTTP itself may have wrong: lengths, headers, connections."""

    async def serve() -> None:
        server = Server(chat, chat.model)
        draw = random.Random(0)
        server.refuses = lambda body: draw.choice([odd_answer(draw)] * 9 + ["drop"])
        async with running(server):
            for case in range(200):
                engine, known = open_hosted(
                    {"endpoints": [server.url], "max_retries": 0}, tell=lambda line: None
                )
                try:
                    await engine.generate(known.request("Judge.", "", SAMPLING))
                except (SelfRewardError, RequestError) as error:
                    assert is_plain(error), (case, str(error))
                finally:
                    await engine.close()

    asyncio.run(serve())


@pytest.mark.long
@pytest.mark.parametrize("start", range(2000, 42_000, 4000))
def test_no_answer_of_many_more_is_told_as_a_bug(chat: Chat, start: int) -> None:
    check(chat, range(start, start + 4000))
