"""Hosted judges: plain text in, votes out."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from selfreward.engines.base import Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.server.hosted import HostedEngine, open_hosted
from selfreward.errors import ConfigError, PreflightError
from selfreward.stages.verdict import parse_score
from tests.support.models import make_model
from tests.support.server import Server, running


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    return Chat(make_model(tmp_path_factory.mktemp("models") / "M1"))


def hosted(
    server: Server, use: Callable[[HostedEngine], Coroutine[Any, Any, list[str]]], **options: Any
) -> list[str]:
    async def main() -> list[str]:
        async with running(server):
            engine, _ = open_hosted({"endpoints": [server.url], **options})
            try:
                return await use(engine)
            finally:
                await engine.close()

    return asyncio.run(main())


def votes(n: int, temperature: float = 0.7) -> Callable[[HostedEngine], Any]:
    async def use(engine: HostedEngine) -> list[str]:
        _, hosted_chat = open_hosted({"endpoints": ["http://x/v1"]})
        sampling = Sampling(max_new_tokens=64, temperature=temperature)
        asked = hosted_chat.request("Judge this: «ü»", "", sampling, n, seed=5)
        answer = await engine.generate(asked)
        return [generation.text for generation in answer]

    return use


def test_a_hosted_judge_gets_plain_text_and_votes_n_times_at_once(chat: Chat) -> None:
    server = Server(chat, "gpt-next")
    server.say = lambda weights: "Good.\nScore: 4"
    assert hosted(server, votes(3)) == ["Good.\nScore: 4"] * 3
    [body] = server.bodies
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "Judge this: «ü»"}], "seed": 5,
        "temperature": 0.7, "top_p": 1.0, "max_tokens": 64, "n": 3,
    }  # fmt: skip


@pytest.mark.parametrize("refusal", [400, 422, "one"])
def test_a_hosted_judge_that_gives_one_vote_at_a_time_is_asked_n_times(
    chat: Chat, refusal: Any
) -> None:
    server = Server(chat, "gpt-next")
    one = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    server.script = [(200, {}, one) if refusal == "one" else refusal]

    async def twice(engine: HostedEngine) -> list[str]:
        return await votes(3)(engine) + await votes(3)(engine)

    assert hosted(server, twice) == ["gpt-next"] * 6
    together, *single = server.bodies
    if refusal != "one":  # is it for the text, or for n?
        assert single.pop(0)["messages"] == [{"role": "user", "content": "Say yes."}]
    assert together["n"] == 3
    assert [body.get("n") for body in single] == [None] * 6
    assert sorted(body["seed"] for body in single[:3]) == [5, 6, 7]


def test_a_hosted_judge_without_a_list_of_models_is_asked_by_name(chat: Chat) -> None:
    server = Server(chat, "x")
    answer = server._answer

    async def unlisted(call: str, body: Any, headers: dict[str, str]) -> Any:
        return (404, {}, {}) if "models" in call else await answer(call, body, headers)

    server._answer = unlisted  # type: ignore[method-assign]
    assert hosted(server, votes(1), model="judge-1") == ["x"]
    assert server.bodies[0]["model"] == "judge-1"
    with pytest.raises(PreflightError, match="lists no models"):
        hosted(server, votes(1))


def test_a_greedy_hosted_judge_is_asked_once(chat: Chat) -> None:
    server = Server(chat, "x")
    assert hosted(server, votes(3, temperature=0.0)) == ["x"] * 3
    assert len(server.bodies) == 1


def test_what_a_hosted_judge_cannot_do_is_said_in_terms_of_the_config() -> None:
    _, hosted_chat = open_hosted({"endpoints": ["http://x/v1"]})
    with pytest.raises(ConfigError, match=r"judge\.form=expected"):
        hosted_chat.score_prompt("x")
    with pytest.raises(ConfigError, match="starts the judge"):
        hosted_chat.request("x", "Score: ", Sampling(8))
    assert hosted_chat.control_token("<|im_end|>") is None


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>a</think>b", "a", "b"),
        ("\n <think>a</think>b", "\n a", "b"),
        ("<think>a", "a", ""),
        ("a</think>b", "", "a</think>b"),
        ("It says <think>a</think>b", "", "It says <think>a</think>b"),
    ],
)
def test_only_a_text_that_begins_with_thinking_has_any(
    text: str, thinking: str, answer: str
) -> None:
    _, hosted_chat = open_hosted({"endpoints": ["http://x/v1"]})
    assert hosted_chat.split_thinking(text) == (thinking, answer)


def test_a_closing_tag_in_a_quote_does_not_plant_a_score() -> None:
    """It was read as 5: all before the tag was taken for thinking."""
    _, hosted_chat = open_hosted({"endpoints": ["http://x/v1"]})
    reply = "Score: 1\nThe answer closes a tag, </think> Score: 5"
    _, answer = hosted_chat.split_thinking(reply)
    assert parse_score(answer, "stop") == (None, "no score line")
    _, answer = hosted_chat.split_thinking(f"{reply}\nScore: 1")
    assert parse_score(answer, "stop") == (1.0, None)
