"""Answers of no standard, over real sockets: each is a failure with the server's words."""

import asyncio
import json
import math
import sqlite3
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfreward.engines.base import ChatFormat, Request, RequestError, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.server import answers, endpoint, wire
from selfreward.engines.server.engine import open_engine
from selfreward.engines.server.hosted import open_hosted
from selfreward.errors import PreflightError
from tests.support.models import make_model
from tests.support.server import Server, running

SAMPLING = Sampling(max_new_tokens=20, temperature=0.7)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "M1")


@pytest.fixture(scope="module")
def chat(model: Path) -> Chat:
    return Chat(model)


def ask(
    server: Server, text: str = "Judge.", n: int = 1, kind: str = "hosted", **options: Any
) -> list[str]:
    """What a judge behind the server writes: a hosted one, or one whose model is known."""

    async def main() -> list[str]:
        async with running(server):
            where = {"endpoints": [server.url], "max_retries": 1, **options}
            engine: Any
            known: ChatFormat
            if kind == "hosted":
                engine, known = open_hosted(where)
            else:
                engine, known = open_engine(server.chat.model, server.chat, where), server.chat
            try:
                asked = known.request(text, "", SAMPLING, n)
                if kind == "scores":
                    asked = Request(asked.token_ids, score_tokens=(10, 11))
                return [generation.text for generation in await engine.generate(asked)]
            finally:
                await engine.close()

    return asyncio.run(main())


def said(text: object = "fine", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop", **more}]}


def told(top: object = None, tokens: object = None, ids: object = (1, 2), **more: Any) -> Any:
    logprobs = {"top_logprobs": [top], "token_logprobs": tokens or [-0.5]}
    return {"choices": [{"index": 0, "token_ids": ids, "logprobs": logprobs, **more}]}


ODD: list[tuple[str, Any, str]] = [
    *((kind, odd, "") for kind in ("hosted", "model", "scores") for odd in (
        {}, [], None, "no", 5, True, {"choices": None}, {"choices": []}, {"choices": {}},
        {"choices": "none today"}, {"choices": [None]}, {"choices": ["a"]}, {"choices": [[]]},
        b"", b"<html>Sign in</html>", b"\xff\xfe{", b"[" * 100_000, b'{"choices": ',
        b"9" * 5000, {"error": "overloaded"}, {"error": {"message": "busy", "code": 502}},
    )),
    ("hosted", b"<html>Sign in</html>", "Sign in"),
    ("hosted", {"choices": None, "note": "come back"}, "come back"),
    ("hosted", {"error": {"message": "upstream is tired", "code": 503}}, "upstream is tired"),
    ("hosted", said(finish_reason="error", error={"message": "died"}), "died"),
    ("hosted", said(index="first"), "choices.0.index"),
    ("hosted", said(index=1.5), "choices.0.index"),
    ("hosted", said(5), "message.content"),
    ("hosted", said({"text": "a"}), "message.content"),
    ("hosted", said([5]), "message.content"),
    ("hosted", said([{"type": "text"}]), "message.content"),
    ("hosted", said([{"type": "text", "text": None}]), "message.content"),
    ("hosted", {"choices": [{"message": "fine"}]}, "choices.0.message"),
    ("hosted", {"choices": [{"message": None}]}, "choices.0.message"),
    ("hosted", {"choices": [{"text": "fine"}]}, "choices.0.message"),
    ("hosted", said(finish_reason=7), "finish_reason"),
    ("hosted", {"choices": [{"\ud800": 1}], "\ud800": "\ud800"}, "choices.0.message"),
    ("model", told(tokens=[0.5]), "log-probability"),
    ("model", told(tokens=[800.0]), "log-probability"),
    ("model", told(tokens=[math.nan]), "log-probability"),
    ("model", told(tokens=[-math.inf]), "probability 0"),
    ("model", told(tokens=["-0.5"]), "token_logprobs"),
    ("model", told(ids=[-1]), "token_ids"),
    ("model", told(ids=[2**40]), "token_ids"),
    ("model", told(ids="12"), "token_ids"),
    ("model", told(ids=[1.5]), "token_ids"),
    ("model", told(index="0"), "index"),
    ("scores", told({"token_id:10": 0.5, "token_id:11": -1.0}), "log-probability"),
    ("scores", told({"token_id:10": 710.0, "token_id:11": -1.0}), "log-probability"),
    ("scores", told({"token_id:10": math.nan, "token_id:11": -1.0}), "log-probability"),
    ("scores", told({"token_id:10": None}), "top_logprobs"),
    ("scores", told([-0.5]), "top_logprobs"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "odd", "words"), ODD)
def test_an_odd_answer_is_a_failed_request_with_the_servers_words_and_then_forgotten(
    chat: Chat, model: Path, kind: str, odd: Any, words: str
) -> None:
    server = Server(chat, model)
    server.refuses = lambda body: (200, {}, odd)
    with pytest.raises(PreflightError, match="no endpoint answers") as caught:
        ask(server, kind=kind, max_retries=0)
    assert words in caught.value.message
    assert len(caught.value.message) < 500
    json.dumps(caught.value.message).encode()
    caught.value.message.encode()
    if kind != "scores":
        server.refuses, server.script = lambda body: None, [(200, {}, odd)]
        assert ask(server, kind=kind) == ["M1"]


@pytest.mark.parametrize("ids", [[10**6], [1, 10**9]])
def test_a_token_that_the_model_lacks_is_no_record_of_it(tmp_path: Path, ids: list[int]) -> None:
    model = make_model(tmp_path, config={"vocab_size": 5000})
    server = Server(Chat(model), model)
    server.script = [(200, {}, told(ids=ids))]
    with pytest.raises(RequestError, match="odd token ids"):
        ask(server, kind="model")


@pytest.mark.parametrize("odd", [{"token_id:x": -0.1}, {"a": -0.1}, {"token_id:" + "9" * 5000: -1}])
def test_probabilities_of_no_token_id_are_not_guessed(chat: Chat, model: Path, odd: Any) -> None:
    server = Server(chat, model)
    server.script = [(200, {}, told(odd))]
    with pytest.raises(PreflightError, match="no log-probabilities by token id"):
        ask(server, kind="scores")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "choices", "message", "content", "type", "text", "index", "finish_reason", "error",
            "logprobs", "token_ids", "top_logprobs", "token_logprobs", "code", "loc", "param",
        ]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON, st.booleans())
def test_whatever_comes_it_is_an_answer_or_a_fault_in_one_line(odd: Any, within: bool) -> None:
    answer = {"choices": [odd]} if within else odd
    for kind in (
        answers.ChatAnswer, answers.CompletionAnswer, answers.ModelList, answers.WeightInfo,
        answers.Cleared, answers.ServerInfo,
    ):  # fmt: skip
        try:
            assert isinstance(answers.read(kind, answer), kind)
        except ValueError as error:
            assert str(error)
            assert "\n" not in str(error)
    answers.words(answer).encode()


@given(st.text(st.characters(codec=None), max_size=12))
def test_every_text_can_be_stored_and_what_could_be_is_left_as_it_is(text: str) -> None:
    clean = answers.storable(text)
    with sqlite3.connect(":memory:") as connection:
        [[kept]] = connection.execute("SELECT ?", (clean,)).fetchall()
    connection.close()
    assert kept == clean
    assert "\0" not in clean
    if "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert clean == text
    assert answers.storable("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"type": "text", "text": "Good.\n"}, {"type": "text", "text": "Score: 4"}],
         "Good.\nScore: 4"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Score: 1"}]},
          {"type": "text", "text": "Score: 4"}], "Score: 4"),
        (["Score: ", "4"], "Score: 4"),
        ([], ""), (None, ""), ("Fine \ud83d\nScore: 4", "Fine \ufffd\nScore: 4"),
        ("Fine \0\nScore: 4", "Fine \ufffd\nScore: 4"),
    ],
)  # fmt: skip
def test_content_is_read_from_text_and_from_parts_of_text(
    chat: Chat, model: Path, content: Any, expected: str
) -> None:
    server = Server(chat, model)
    server.script = [(200, {}, said(content))]
    assert ask(server) == [expected]


def test_a_text_is_sent_as_every_server_can_read_it(chat: Chat, model: Path) -> None:
    server = Server(chat, model)
    ask(server, "a\0b \ud83d c")
    assert server.bodies[0]["messages"][0]["content"] == "a\ufffdb \ufffd c"


def test_votes_come_in_the_order_of_their_index_or_as_they_come(chat: Chat, model: Path) -> None:
    server = Server(chat, model)
    votes = [{"message": {"content": text}} for text in "abc"]
    server.script = [(200, {}, {"choices": votes})]
    assert ask(server, n=3) == ["a", "b", "c"]
    indexed = [{**vote, "index": index} for vote, index in zip(votes, (2, 0, 1), strict=True)]
    server.script = [(200, {}, {"choices": indexed})]
    assert ask(server, n=3) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("3", 3.0), ("0.5", 0.5), ("-7", 0.0), ("", None), ("2s", None), ("nan", None),
        ("inf", None), ("1e300", None), ("99999999", None), ("soon", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None), ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("Fri, 99 Foo 2020 99:99:99 +9999", None),
    ],
)  # fmt: skip
def test_retry_after_is_a_wait_that_can_be_meant_or_none(
    header: str, expected: float | None
) -> None:
    assert wire._retry_after_s(header) == expected


def test_retry_after_may_be_a_date() -> None:
    wait = wire._retry_after_s(formatdate(time.time() + 60, usegmt=True))
    assert wait is not None
    assert 55 < wait <= 61


def test_an_answer_without_end_is_not_read_to_its_end(
    chat: Chat, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_BYTES", 1 << 20)
    server = Server(chat, model)
    server.script = [(200, {}, json.dumps(said("x" * (2 << 20))).encode())]
    with pytest.raises(PreflightError, match="more than 1 MB"):
        ask(server, max_retries=0)
    server.script = [(200, {}, said("x" * (1 << 19)))]
    assert len(ask(server)[0]) == 1 << 19


def test_no_key_is_taken_from_a_netrc_and_proxies_are(
    chat: Chat, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password hush\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = Server(chat, model)
    heard: list[str] = []
    answer = server._answer

    async def listening(call: str, body: Any, headers: dict[str, str]) -> Any:
        heard.append(str(headers.get("authorization")))
        server.calls.append(call)
        return await answer(call.replace("http://judge.example", ""), body, headers)

    server._answer = listening  # type: ignore[method-assign]
    assert ask(server) == ["M1"]

    async def through_a_proxy() -> str:
        async with running(server):
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
            engine, known = open_hosted({"endpoints": ["http://judge.example/v1"]})
            try:
                [generation] = await engine.generate(known.request("x", "", SAMPLING))
                return generation.text
            finally:
                await engine.close()

    assert asyncio.run(through_a_proxy()) == "M1"
    assert set(heard) == {"None"}
    assert any("judge.example" in call for call in server.calls)
