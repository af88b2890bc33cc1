"""What endpoints refuse: parameters are left out, texts recorded, and the rest stops the run."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from selfreward.config import JurorConfig
from selfreward.engines.base import RequestError, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import check_options
from selfreward.engines.server import endpoint, parameters
from selfreward.engines.server.hosted import HostedEngine, open_hosted
from selfreward.engines.server.parameters import Parameters
from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs.templates import find_template, load_template
from selfreward.records import Judgment, Prompt, Response
from selfreward.stages.judge import judge_response
from tests.support.models import make_model
from tests.support.server import Server, running

BODY = {
    "messages": [], "seed": 1, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 9,
    "n": 3,
}  # fmt: skip
TEMPLATE = load_template(find_template("judge/additive.jinja"), {"prompt", "response"})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    model = make_model(tmp_path_factory.mktemp("models") / "M1")
    return Server(Chat(model), model)


@pytest.fixture(autouse=True)
def anew(server: Server) -> None:
    server.script, server.refuses = [], lambda body: None
    server.bodies.clear()


def using(
    server: Server, use: Callable[[HostedEngine, Any], Any], **options: Any
) -> tuple[Any, list[str]]:
    told: list[str] = []

    async def main() -> Any:
        async with running(server):
            where = {"endpoints": [server.url], "max_retries": 1, **options}
            engine, chat = open_hosted(where, told.append)
            try:
                return await use(engine, chat)
            finally:
                await engine.close()

    return asyncio.run(main()), told


def texts(*asked: str, top_k: int = 0) -> Callable[[HostedEngine, Any], Any]:
    async def use(engine: HostedEngine, chat: Any) -> list[str]:
        sampling = Sampling(64, temperature=0.7, top_p=0.9, top_k=top_k)
        found = [await engine.generate(chat.request(text, "", sampling)) for text in asked]
        return [generation.text for answer in found for generation in answer]

    return use


def openai(message: str, param: str | None = None, code: str | None = None) -> Any:
    return {"error": {"message": message, "param": param, "code": code, "type": "invalid"}}


MISTRAL = {"object": "error", "message": {"detail": [
    {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
]}}  # fmt: skip
REFUSALS = [
    ("seed", 422, MISTRAL),
    ("seed", 400, {"detail": MISTRAL["message"]["detail"]}),  # type: ignore[index]
    ("seed", 400, openai("Unrecognized request argument supplied: seed")),
    ("seed", 400, openai("Invalid request", "seed", "unsupported_parameter")),
    ("seed", 400, {"error": {"message": 'Unknown name "seed": Cannot find field.'}}),
    ("seed", 400, openai("property 'seed' is unsupported. Use temperature, top_p, max_tokens.")),
    ("top_k", 400, openai("Unknown parameter: 'top_k'. Known are seed, temperature.")),
    ("temperature", 400, openai(
        "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default "
        "(1) value is supported.", "temperature", "unsupported_value")),
    ("top_p", 400, openai("`temperature` and `top_p` cannot both be specified for this model.")),
    ("top_p", 400, openai("`top_p` is deprecated for this model.")),
    ("max_tokens", 400, openai(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "status", "said"), REFUSALS)
def test_a_parameter_that_is_refused_by_name_is_left_out_or_renamed_and_said_once(
    server: Server, name: str, status: int, said: Any
) -> None:
    def refuses(body: Any) -> Any:
        together = "top_p" not in str(said) or "both" not in str(said) or "temperature" in body
        return (status, {}, said) if name in body and together else None

    server.refuses = refuses
    found, told = using(server, texts("a", "b", "c", top_k=5))
    assert found == ["M1"] * 3
    [first, *others] = server.bodies
    assert len(others) == 3
    assert {frozenset(first) - set(body) for body in others} == {frozenset({name})}
    if name == "max_tokens":
        assert {body["max_completion_tokens"] for body in others} == {64}
    [line] = told
    assert server.url in line
    assert name in line
    assert str(status) in line


def test_several_parameters_are_left_out_one_after_the_other(server: Server) -> None:
    def refuses(body: Any) -> Any:
        for name in ("temperature", "max_tokens", "seed"):
            if name in body:
                return 400, {}, openai(f"Unsupported parameter: {name}")
        return None

    server.refuses = refuses
    _, [line] = using(server, texts("a", "b"))
    assert set(server.bodies[-1]) == {"model", "messages", "top_p", "max_completion_tokens"}
    assert "seed is left out, temperature is left out" in line
    assert "max_tokens is called max_completion_tokens" in line


@pytest.mark.parametrize(
    "said",
    [
        "Unsupported parameter: messages", "Unknown model: seedling", "unsupported",
        "top_p must be in (0, 1]", "temperature: expected a number of at most 1",
        "max_completion_tokens is not supported", "The n parameter is not supported",
        "Only temperature is taken; the seed is a matter of ours",
    ],
)  # fmt: skip
def test_nothing_is_left_out_that_is_not_refused_by_name(server: Server, said: str) -> None:
    assert Parameters().without(said, BODY) is None
    server.refuses = lambda body: (400, {}, openai(said))
    with pytest.raises(PreflightError) as caught:
        using(server, texts("a"))
    assert said in caught.value.message
    assert len(server.bodies) == 2


def test_a_parameter_that_is_still_refused_when_it_is_gone_is_refused_once(server: Server) -> None:
    server.refuses = lambda body: (400, {}, openai("seed is not supported"))
    with pytest.raises(PreflightError, match="seed is not supported"):
        using(server, texts("a"))
    assert len(server.bodies) == 4


def test_what_the_config_omits_is_never_sent_and_what_cannot_be_is_a_config_error(
    server: Server,
) -> None:
    found, told = using(server, texts("a"), omit=["seed", "top_p"])
    assert (found, told) == (["M1"], [])
    assert set(server.bodies[0]) == {"model", "messages", "temperature", "max_tokens"}
    for omit in (["model"], ["messages"], ["max_tokens"], ["sed"], "seed", [1], 5, {"seed": 1}):
        with pytest.raises(ConfigError, match=r"engine\.omit"):
            check_options("server", {"endpoints": ["http://x/v1"], "omit": omit})
    check_options("server", {"endpoints": ["http://x/v1"], "omit": list(parameters.OMITTABLE)})
    with pytest.raises(ConfigError, match="no such option"):
        check_options("transformers", {"omit": ["seed"]})


def judged(server: Server, text: str = "fine", **options: Any) -> list[Judgment]:
    async def use(engine: HostedEngine, chat: Any) -> list[Judgment]:
        return await judge_response(
            engine, chat, TEMPLATE, Prompt(1, 0, "p", "", None),
            Response(1, 0, 0, text, "stop", 1), JurorConfig(votes=2), run_seed=0,
        )  # fmt: skip

    votes, _ = using(server, use, **options)
    return list(votes)


MENDABLE = [
    (400, openai("This model's maximum context length is 32 tokens.")),
    (400, openai("Your credit balance is too low to access the API.")),
    (400, openai("No such model: judge-9")),
    (400, openai("max_tokens is too large: 256. This model supports at most 64.")),
    (401, openai("Incorrect API key provided.")),
    (402, openai("Insufficient Balance")),
    (403, openai("Your account is not active.")),
    (404, openai("The model judge-9 does not exist.")),
    (413, {}), (418, "a teapot"), (422, {"detail": "temperature should be below 0.5"}),
    (429, openai("You exceeded your current quota.", code="insufficient_quota")),
    (200, {"error": {"message": "Insufficient credits", "code": 402}}),
    (307, ""), (501, {}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "said"), MENDABLE)
def test_a_refusal_that_a_person_can_mend_is_no_record_and_stops_with_the_servers_words(
    server: Server, status: int, said: Any
) -> None:
    server.refuses = lambda body: (status, {}, said)
    with pytest.raises(PreflightError) as caught:
        judged(server)
    message = said if isinstance(said, str) else said.get("detail") or said.get("error", {})
    words = message.get("message", "") if isinstance(message, dict) else message
    assert words in caught.value.message
    assert server.url in caught.value.message
    assert len(server.bodies) <= 2
    server.refuses = lambda body: None
    server.script = [(200, {}, server._completion({"n": 2}, chat=True))]
    assert [vote.raw for vote in judged(server)] == ["M1", "M1"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, openai("The response was filtered", code="content_filter")),
        (400, openai("Your prompt was flagged by our policy.")),
        (403, openai("Your input was flagged by moderation.")),
        (400, openai("This model's maximum context length is 4096 tokens.")), (413, {}), (451, {}),
    ],
)  # fmt: skip
def test_a_text_that_alone_is_refused_is_a_record_and_others_go_on(
    server: Server, status: int, said: Any
) -> None:
    def refuses(body: Any) -> Any:
        return (status, {}, said) if "a bomb" in body["messages"][0]["content"] else None

    server.refuses = refuses
    votes = judged(server, "a bomb")
    long = status == 413 or "length" in str(said)
    assert [vote.reason for vote in votes] == ["too long" if long else "refused"] * 2
    assert [vote.raw for vote in judged(server)] == ["M1"] * 2


def test_an_answer_that_a_filter_took_away_is_a_record_with_that_reason(server: Server) -> None:
    gone = {"message": {"content": None}, "finish_reason": "content_filter"}
    server.script = [(200, {}, {"choices": [gone, gone]})]
    assert [vote.reason for vote in judged(server)] == ["content filter"] * 2
    left = {"message": {"content": "Score: 4"}, "finish_reason": "stop"}
    server.script = [(200, {}, {"choices": [gone, left]})]
    assert [vote.score for vote in judged(server)] == [None, 4.0]


def test_what_a_model_says_in_refusing_is_kept(server: Server) -> None:
    refusal = {"message": {"content": None, "refusal": "I cannot help with that."}}
    server.script = [(200, {}, {"choices": [refusal] * 2})]
    votes = judged(server)
    assert [vote.raw for vote in votes] == ["I cannot help with that."] * 2
    assert [vote.score for vote in votes] == [None, None]


def test_many_refusals_at_once_cost_one_plain_request(server: Server) -> None:
    def refuses(body: Any) -> Any:
        plain = body["messages"][0]["content"] == "Say yes."
        return None if plain else (400, {}, openai("flagged"))

    server.refuses = refuses

    async def use(engine: HostedEngine, chat: Any) -> list[Any]:
        asked = [chat.request(f"bomb {i}", "", Sampling(8), seed=i) for i in range(20)]
        return await asyncio.gather(*map(engine.generate, asked), return_exceptions=True)

    found, _ = using(server, use)
    assert all(isinstance(error, RequestError) for error in found)
    assert len(server.bodies) == 21
