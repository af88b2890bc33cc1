"""Endpoints as engines, against scripted servers; ``test_real_servers.py`` asks real ones."""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from selfreward.engines.base import Generation, Request, RequestError, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.server import endpoint
from selfreward.engines.server.engine import ServerEngine, open_engine
from selfreward.errors import ConfigError, PreflightError, SelfRewardError
from tests.support.models import make_model
from tests.support.server import Server, running

KEY = "sk-very-secret-0123456789"
SAMPLING = Sampling(max_new_tokens=20, temperature=0.7, top_p=0.9, top_k=64, stop=("#",))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    make_model(directory / "M0")
    make_model(directory / "M2")
    return make_model(directory / "M1")


@pytest.fixture(scope="module")
def chat(model: Path) -> Chat:
    return Chat(model)


@asynccontextmanager
async def asking(
    directory: Path, chat: Chat, *servers: Server, fixed: bool = False, **options: Any
) -> AsyncIterator[ServerEngine]:
    """An engine over servers that run meanwhile."""
    async with running(*servers):
        urls = [server.url for server in servers]
        engine = open_engine(directory, chat, {"endpoints": urls, **options}, fixed=fixed)
        try:
            yield engine
        finally:
            await engine.close()


def request(chat: Chat, n: int = 1, sampling: Sampling = SAMPLING, seed: int = 0) -> Request:
    return Request(chat.prompt_ids("hello"), sampling, n=n, seed=seed)


async def texts(engine: ServerEngine, chat: Chat, count: int = 1) -> list[str]:
    answers = await asyncio.gather(*(engine.generate(request(chat)) for _ in range(count)))
    return [generation.text for answer in answers for generation in answer]


def test_a_request_says_all_that_matters_and_leaves_nothing_to_the_servers_defaults(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model)

    async def main() -> None:
        async with asking(model, chat, server) as engine:
            await engine.generate(request(chat, n=3, seed=7))

    asyncio.run(main())
    [body] = server.bodies
    assert body.items() >= {
        "model": "m", "prompt": list(chat.prompt_ids("hello")), "n": 3, "seed": 7,
        "temperature": 0.7, "top_p": 0.9, "top_k": 64, "max_tokens": 20, "min_tokens": 0,
        "stop": ["#"], "stop_token_ids": [chat.end_id], "logprobs": 0, "return_token_ids": True,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0,
    }.items()  # fmt: skip


def test_what_comes_back_is_text_made_here_token_ids_finish_reason_and_logprob(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model)
    server.say = lambda weights: "so #be it"

    async def main() -> list[Generation]:
        async with asking(model, chat, server) as engine:
            return await engine.generate(request(chat, n=2))

    ids = tuple(chat.tokenizer("so #be it").input_ids)
    expected = Generation("so ", ids, "stop", logprob=-0.5 * (len(ids) + 1))
    assert asyncio.run(main()) == [expected] * 2


def test_an_answer_that_the_server_cut_off_did_not_stop(model: Path, chat: Chat) -> None:
    server = Server(chat, model)
    choice = {"index": 0, "token_ids": [1, 2], "finish_reason": "length"}
    server.script = [(200, {}, {"choices": [choice]})]

    async def main() -> list[Generation]:
        async with asking(model, chat, server) as engine:
            return await engine.generate(request(chat))

    [generation] = asyncio.run(main())
    assert generation.finish_reason == "length"
    assert generation.logprob is None


def test_greedy_samples_are_asked_for_once_and_given_n_times(model: Path, chat: Chat) -> None:
    server = Server(chat, model)

    async def main() -> list[Generation]:
        async with asking(model, chat, server) as engine:
            return await engine.generate(request(chat, n=4, sampling=Sampling(5, temperature=0.0)))

    assert len(asyncio.run(main())) == 4
    assert server.bodies[0]["n"] == 1


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({10: 0.5, 11: 0.25, 12: 0.125, 99: 0.1}, (0.5, 0.25, 0.125)),
        ({10: 0.5, 11: 0.25, 99: 0.0001}, (0.5, 0.25, 0.0)),
        ({10: 0.5, 11: 0.25, 99: 0.1}, None),
        ({98: 0.5, 99: 0.4}, None),
    ],
)
def test_score_probabilities_are_exact_or_refused_if_what_is_not_told_could_matter(
    model: Path, chat: Chat, told: dict[int, float], expected: tuple[float, ...] | None
) -> None:
    top = {f"token_id:{token}": math.log(p) for token, p in told.items()}
    server = Server(chat, model)
    server.script = [(200, {}, {"choices": [{"logprobs": {"top_logprobs": [top]}}]})]

    async def main() -> Generation:
        async with asking(model, chat, server) as engine:
            asked = Request(chat.prompt_ids("hello"), score_tokens=(10, 11, 12))
            return (await engine.generate(asked))[0]

    if expected is None:
        with pytest.raises(RequestError, match="scores not told"):
            asyncio.run(main())
    else:
        assert asyncio.run(main()).probabilities == pytest.approx(expected)
    assert server.bodies[0].items() >= {"logprob_token_ids": [10, 11, 12], "max_tokens": 1}.items()


def test_the_least_loaded_endpoint_is_asked_first(model: Path, chat: Chat) -> None:
    servers = [Server(chat, model) for _ in range(3)]
    servers[0].delay_s = 0.2
    servers[1].delay_s = servers[2].delay_s = 0.02

    async def main() -> None:
        async with asking(model, chat, *servers) as engine:
            slots = asyncio.Semaphore(6)

            async def one() -> None:
                async with slots:
                    await texts(engine, chat)

            await asyncio.gather(*(one() for _ in range(60)))

    asyncio.run(main())
    slow, *quick = (len(server.bodies) for server in servers)
    assert slow + sum(quick) == 60
    assert slow < 12 < min(quick)


@pytest.mark.parametrize(
    "trouble",
    [500, 502, 503, 408, "drop", (200, {}, {}), (429, {"retry-after": "0"}, {}),
     (200, {}, {"choices": [{"index": 0, "finish_reason": "abort"}]})],
    ids=str,
)  # fmt: skip
def test_a_failure_for_now_is_tried_again(model: Path, chat: Chat, trouble: Any) -> None:
    server = Server(chat, model)
    server.script = [trouble, trouble]

    async def main() -> list[str]:
        async with asking(model, chat, server) as engine:
            return await texts(engine, chat)

    assert asyncio.run(main()) == ["M1"]
    assert len(server.bodies) == 3


def test_retry_after_is_waited_for_by_all_requests(model: Path, chat: Chat) -> None:
    server = Server(chat, model)
    server.script = [(429, {"Retry-After": "0.3"}, {})]

    async def main() -> float:
        async with asking(model, chat, server) as engine:
            began = time.monotonic()
            first = asyncio.create_task(texts(engine, chat))
            while not server.bodies:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            await texts(engine, chat)
            waited = time.monotonic() - began
            await first
            return waited

    assert 0.25 < asyncio.run(main()) < 5


def test_a_rate_limit_costs_no_request_as_long_as_it_lets_some_through(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model)
    server.script = [429 if i % 4 else (200, {}, server._completion({}, False)) for i in range(160)]

    async def main() -> list[str]:
        async with asking(model, chat, server, max_retries=4) as engine:
            return await texts(engine, chat, 40)

    assert asyncio.run(main()) == ["M1"] * 40


def test_an_endpoint_that_hangs_is_left_for_another(model: Path, chat: Chat) -> None:
    servers = [Server(chat, model), Server(chat, model)]
    servers[0].script = ["hang"]

    async def main() -> list[str]:
        async with asking(model, chat, *servers, timeout_s=1) as engine:
            return await texts(engine, chat)

    assert asyncio.run(main()) == ["M1"]
    assert [len(server.bodies) for server in servers] == [1, 1]


def test_an_endpoint_that_dies_loses_nothing_while_another_lives(model: Path, chat: Chat) -> None:
    servers = [Server(chat, model), Server(chat, model)]
    servers[0].delay_s = servers[1].delay_s = 0.1

    async def main() -> list[str]:
        async with asking(model, chat, *servers) as engine:
            answers = asyncio.create_task(texts(engine, chat, 24))
            while len(servers[0].bodies) < 6:
                await asyncio.sleep(0.01)
            await servers[0].stop()
            return await answers

    assert asyncio.run(main()) == ["M1"] * 24
    assert len(servers[1].bodies) >= 12


def test_an_endpoint_that_comes_back_is_used_again(model: Path, chat: Chat) -> None:
    servers = [Server(chat, model), Server(chat, model)]

    async def main() -> None:
        async with asking(model, chat, *servers) as engine:
            await servers[0].stop()
            assert await texts(engine, chat, 4) == ["M1"] * 4
            await servers[0].start()
            await asyncio.sleep(0.1)
            await texts(engine, chat, 4)

    asyncio.run(main())
    assert servers[0].bodies


def test_when_all_are_down_the_error_says_where_and_what_to_do(model: Path, chat: Chat) -> None:
    servers = [Server(chat, model), Server(chat, model)]

    async def main() -> list[Any]:
        async with asking(model, chat, *servers, max_retries=2) as engine:
            for server in servers:
                await server.stop()
            asked = [engine.generate(request(chat)) for _ in range(8)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert not any(e.in_flight for e in engine._balancer._endpoints)
            return answers

    for error in asyncio.run(main()):
        assert isinstance(error, PreflightError)
        assert error.message.startswith("no endpoint answers: ")
        assert all(server.url in error.message for server in servers)
        assert error.hint.startswith("Start a server there")


def test_a_request_that_always_fails_is_recorded_if_others_are_answered(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model)
    poison = request(chat, seed=666)
    answer = server._answer

    async def poisoned(call: str, body: Any, headers: dict[str, str]) -> Any:
        bad = isinstance(body, dict) and body.get("seed") == 666
        return (500, {}, {}) if bad else await answer(call, body, headers)

    server._answer = poisoned  # type: ignore[method-assign]

    async def main() -> None:
        async with asking(model, chat, server, max_retries=2) as engine:
            bad = asyncio.create_task(engine.generate(poison))
            while not bad.done():
                assert await texts(engine, chat) == ["M1"]
            await bad

    with pytest.raises(RequestError, match="no answer"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (400, "This model's maximum context length is 32 tokens.", "too long"),
        (413, "", "too long"),
        (400, "top_p must be in (0, 1]", "refused"),
        (422, "", "refused"),
        (501, "", "refused"),
    ],
)
def test_a_text_that_is_refused_where_another_is_answered_is_not_tried_again(
    model: Path, chat: Chat, status: int, said: str, reason: str
) -> None:
    server = Server(chat, model)
    server.script = [(status, {}, {"error": {"message": said}})]

    async def main() -> None:
        async with asking(model, chat, server) as engine:
            await texts(engine, chat)

    with pytest.raises(RequestError, match=re.escape(said or str(status))) as caught:
        asyncio.run(main())
    assert caught.value.reason == reason
    asked, plain = server.bodies
    assert plain == {**asked, "prompt": [chat.end_id]}


def test_a_prompt_without_room_is_not_even_asked(tmp_path: Path) -> None:
    small = make_model(tmp_path, config={"max_position_embeddings": 30})
    chat = Chat(small)
    server = Server(chat, small)

    async def main() -> None:
        async with asking(small, chat, server) as engine:
            await engine.generate(request(chat))

    with pytest.raises(RequestError, match="too long"):
        asyncio.run(main())
    assert not server.calls


@pytest.mark.parametrize("trouble", [400, 401, 403, 404, 500, 503])
def test_the_key_goes_to_the_server_and_is_in_no_error(
    model: Path, chat: Chat, trouble: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY + "\n")
    server = Server(chat, model)
    server.script = [trouble] * 9  # it says what the key was

    async def main() -> None:
        async with asking(model, chat, server, api_key_env="JUDGE_KEY", max_retries=1) as engine:
            await texts(engine, chat)

    with pytest.raises((SelfRewardError, RequestError)) as caught:
        asyncio.run(main())
    error = caught.value
    assert KEY not in f"{error} {getattr(error, 'hint', '')} {error.__context__!r}"
    if trouble in (401, 403):
        assert isinstance(error, PreflightError)
        assert server.url in error.message
        assert "JUDGE_KEY" in error.hint
    else:
        assert "***" in str(error)


@pytest.mark.parametrize("value", [None, " ", "sk-ä", "sk-a\nb"])
def test_a_variable_without_a_key_is_said_at_once(
    model: Path, chat: Chat, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(PreflightError, match="JUDGE_KEY"):
        open_engine(model, chat, {"endpoints": ["http://x/v1"], "api_key_env": "JUDGE_KEY"})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"endpoints": []},
        {"endpoints": "http://x/v1"},
        {"endpoints": ["localhost:8000"]},
        {"endpoints": ["http://user:pass@x/v1"]},
        {"endpoints": ["http://x/v1"], "timeout_s": 0},
        {"endpoints": ["http://x/v1"], "max_retries": -1},
    ],
)
def test_options_that_make_no_sense_are_config_errors(
    model: Path, chat: Chat, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_engine(model, chat, options)
    assert "pass@" not in str(caught.value)


def test_a_wrong_model_name_is_said_with_what_is_served(model: Path, chat: Chat) -> None:
    server = Server(chat, model, name="smollm2")

    async def main() -> None:
        async with asking(model, chat, server, model="smolm") as engine:
            await texts(engine, chat)

    with pytest.raises(PreflightError, match="no model smolm") as caught:
        asyncio.run(main())
    assert "smollm2" in caught.value.hint
    assert server.url in caught.value.message


def test_other_weights_are_refused_with_the_command_that_serves_the_right_ones(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model.parent / "M0")

    async def main(**options: Any) -> None:
        async with asking(model, chat, server, **options) as engine:
            await texts(engine, chat)

    for options in ({}, {"model": "m"}):  # a name alone vouches for no policy
        with pytest.raises(
            PreflightError, match=f"serves {server.root}, and {model} is needed"
        ) as e:
            asyncio.run(main(**options))
        assert f"vllm serve {model} --served-model-name m --port {server.port}" in e.value.hint
    assert not server.bodies
    asyncio.run(main(model="m", fixed=True))
    assert server.bodies


def test_a_snapshot_of_the_hub_is_known_by_its_hub_id(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    assert endpoint.serves("org/name", snapshot)
    assert not endpoint.serves("org/other", snapshot)
    assert not endpoint.serves(None, snapshot)
    assert endpoint.serves(str(snapshot), snapshot)
    for strange in ("~no-such-user/model", "a\0b", "x" * 5000, ""):
        assert not endpoint.serves(strange, snapshot)


def test_weights_are_pushed_at_the_first_look_even_if_the_root_is_right(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model, dev=True)

    async def main() -> list[str]:
        async with asking(model, chat, server) as engine:
            server.weights = "of an earlier run"
            return await texts(engine, chat, 3)

    assert asyncio.run(main()) == ["M1"] * 3
    assert server.calls.count("POST /collective_rpc") == 1


def test_load_pauses_reloads_forgets_and_resumes_in_this_order(model: Path, chat: Chat) -> None:
    servers = [Server(chat, model, dev=True), Server(chat, model, dev=True)]

    async def main() -> list[str]:
        async with asking(model, chat, *servers) as engine:
            before = await texts(engine, chat, 2)
            await engine.load(model.parent / "M2")
            return before + await texts(engine, chat, 2)

    assert asyncio.run(main()) == ["M1", "M1", "M2", "M2"]
    posts = [call for call in servers[0].calls if call.startswith("POST /") and "v1" not in call]
    assert posts[5:] == [
        "POST /pause?mode=abort",
        "POST /collective_rpc",
        "POST /reset_prefix_cache",
        "POST /update_weight_version",
        "POST /resume",
    ]


def test_a_cpu_build_that_would_keep_the_old_output_layer_gets_no_weights(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model, dev=True)
    server.device = "cpu"

    async def main() -> None:
        async with asking(model, chat, server) as engine:
            await engine.generate(request(chat))

    with pytest.raises(PreflightError, match="keep the old output layer"):
        asyncio.run(main())
    assert server.bodies == []


def test_a_restarted_endpoint_takes_the_weights_again_before_it_gets_work(
    model: Path, chat: Chat
) -> None:
    servers = [Server(chat, model, dev=True), Server(chat, model, dev=True)]
    servers[0].delay_s = servers[1].delay_s = 0.02

    async def main() -> list[str]:
        async with asking(model, chat, *servers) as engine:
            await engine.load(model.parent / "M2")
            answers = asyncio.create_task(texts(engine, chat, 40))
            await asyncio.sleep(0.03)
            await servers[0].stop()
            await asyncio.sleep(0.05)  # real ones take longer
            await servers[0].start()
            servers[0].bodies.clear()
            first = await answers
            await asyncio.sleep(0.1)
            return first + [text for _ in range(5) for text in await texts(engine, chat, 8)]

    assert asyncio.run(main()) == ["M2"] * 80
    assert servers[0].calls.count("POST /collective_rpc") == 2
    assert servers[0].bodies


def test_an_endpoint_restarted_while_idle_takes_the_weights_again(
    model: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "TRUST_S", 0.05)
    server = Server(chat, model, dev=True)

    async def main() -> list[str]:
        async with asking(model, chat, server) as engine:
            await engine.load(model.parent / "M2")
            await texts(engine, chat)
            await server.stop()
            await server.start()
            await asyncio.sleep(0.1)
            return await texts(engine, chat, 8)

    assert asyncio.run(main()) == ["M2"] * 8


def test_an_endpoint_that_was_down_during_load_takes_the_weights_later(
    model: Path, chat: Chat
) -> None:
    servers = [Server(chat, model, dev=True), Server(chat, model, dev=True)]

    async def main() -> list[str]:
        async with asking(model, chat, *servers) as engine:
            await texts(engine, chat, 2)
            await servers[0].stop()
            await engine.load(model.parent / "M2")
            first = await texts(engine, chat, 4)
            await servers[0].start()
            await asyncio.sleep(0.1)
            return first + await texts(engine, chat, 8)

    assert asyncio.run(main()) == ["M2"] * 12
    assert servers[0].weights == "M2"


def test_two_that_push_other_weights_to_one_endpoint_are_told(
    model: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "TRUST_S", 0.0)
    server = Server(chat, model, dev=True)

    async def main() -> None:
        async with asking(model, chat, server) as engine:
            await texts(engine, chat)
            other = open_engine(model.parent / "M0", chat, {"endpoints": [server.url]})
            await texts(other, chat)
            await other.close()
            await texts(engine, chat)

    with pytest.raises(PreflightError, match=r"M0 in place of .*M1"):
        asyncio.run(main())


def test_weights_that_cannot_be_taken_are_an_error_and_nobody_gets_answers_from_them(
    model: Path, chat: Chat
) -> None:
    server = Server(chat, model, dev=True)
    develop = server._develop

    def broken(call: str, body: Any) -> tuple[int, dict[str, str], Any]:
        return (500, {}, {"error": "no such file"}) if "rpc" in call else develop(call, body)

    server._develop = broken  # type: ignore[method-assign]

    async def main() -> None:
        async with asking(model, chat, server) as engine:
            await texts(engine, chat)

    with pytest.raises(PreflightError, match=f"could not take the weights of {model}.*no such"):
        asyncio.run(main())
    assert server.paused


def test_a_cancelled_request_leaves_no_trace(model: Path, chat: Chat) -> None:
    server = Server(chat, model)
    server.script = ["hang"]

    async def main() -> list[str]:
        async with asking(model, chat, server) as engine:
            task = asyncio.create_task(texts(engine, chat))
            while not server.bodies:
                await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert [e.in_flight for e in engine._balancer._endpoints] == [0]
            return await texts(engine, chat)

    assert asyncio.run(main()) == ["M1"]


def test_closing_twice_is_harmless_and_closes(model: Path, chat: Chat) -> None:
    server = Server(chat, model)

    async def main() -> None:
        async with asking(model, chat, server) as engine:
            await texts(engine, chat)
            session = engine._balancer._wire._session
            assert session is not None and not session.closed
            await engine.close()
            await engine.close()
            assert session.closed

    asyncio.run(main())


def test_an_endpoint_without_token_ids_is_no_policy(model: Path, chat: Chat) -> None:
    server = Server(chat, model)
    server.script = [(200, {}, {"choices": [{"index": 0, "text": "hi"}]})]

    async def main() -> None:
        async with asking(model, chat, server) as engine:
            await texts(engine, chat)

    with pytest.raises(PreflightError, match="without token ids"):
        asyncio.run(main())
