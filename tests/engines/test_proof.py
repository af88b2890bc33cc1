"""An engine is used on a model only where it answers as transformers does."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfreward.engines import proof, proved, reference
from selfreward.engines.base import Engine, Generation, Request, RequestError
from selfreward.engines.chat import Chat
from selfreward.engines.proof import Found
from selfreward.engines.reference import Expected
from selfreward.errors import ConfigError, PreflightError
from tests.support.families import FAMILIES, make_family

EXPECTED = Expected(
    prompt=(1, 2, 3),
    continuation=(5, 6),
    logprob=-3.5,
    gaps=(1.0, 0.0001, 0.5),
    score_tokens=(5, 6, 7),
    probabilities=(0.5, 0.2, 0.1),
)
GREEDY = Generation("", (5, 6), "stop", logprob=-3.5)
SCORED = Generation("", (), "stop", probabilities=(0.5, 0.2, 0.1))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def told() -> list[str]:
    return []


def opened(
    kind: str, model: Path, told: list[str] | None = None, **options: Any
) -> tuple[str, list[list[Generation]]]:
    """The kind of the engine that was opened, and what it says."""

    async def main() -> tuple[str, list[list[Generation]]]:
        tell = [].append if told is None else told.append
        chat = Chat(model)
        engine = await proved.open_proved(kind, model, chat, options, tell=tell)
        try:
            asked = [Request(ids, score_tokens=(5, 6)) for ids in proof.short_prompts(chat)]
            return engine.kind, [await engine.generate(request) for request in asked]
        finally:
            await engine.close()

    return asyncio.run(main())


def found(**changes: Any) -> Found:
    scored = {"probabilities": changes.pop("probabilities", SCORED.probabilities)}
    return Found(replace(GREEDY, **changes), replace(SCORED, **scored))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (found(), ""),
        (found(logprob=-3.5009, probabilities=(0.50005, 0.2, 0.1)), ""),
        (found(logprob=None), ""),
        (found(logprob=-3.5012), "log-probability of an answer is -3.5012"),
        (found(logprob=-3.502), "log-probability of an answer is -3.5020"),
        (found(logprob=float("nan")), "log-probability of an answer is nan"),
        (found(probabilities=(0.5, 0.2002, 0.1)), "is 0.2002, and 0.2 by transformers"),
        (found(probabilities=(float("nan"),) * 3), "is nan"),
        (found(token_ids=(5, 7)), ""),  # a tie
        (found(token_ids=(7, 6)), "another token at step 1"),
        (found(token_ids=(5, 6, 7)), "another token at step 3"),
        (found(token_ids=(5,)), ""),  # the end of turn in a tie
        (found(token_ids=()), "another token at step 1"),
    ],
)
def test_answers_agree_within_tolerance_and_where_two_tokens_are_as_likely(
    answer: Found, said: str
) -> None:
    assert said in proof.difference(EXPECTED, answer, "ctranslate2", "float32")
    assert bool(said) == bool(proof.difference(EXPECTED, answer, "ctranslate2", "float32"))


def test_openvino_alone_may_tell_higher_sums() -> None:
    assert not proof.difference(EXPECTED, found(logprob=-3.4985), "openvino", "float32")
    assert proof.difference(EXPECTED, found(logprob=-3.4982), "openvino", "float32")
    for kind in ("ctranslate2", "transformers", "vllm", "server"):
        assert proof.difference(EXPECTED, found(logprob=-3.4985), kind, "float32")


def test_small_probabilities_are_compared_by_their_logarithms() -> None:
    small = replace(EXPECTED, probabilities=(2e-5, 2e-5, 1e-5))
    assert proof.difference(
        small, found(probabilities=(2e-5, 2.4e-5, 1e-5)), "ctranslate2", "float32"
    )


def test_coarser_types_may_differ_by_what_bfloat16_does_to_the_model() -> None:
    rough = replace(EXPECTED, rough_logprob=0.02, rough_probability=0.01)
    answer = found(probabilities=(0.52, 0.2, 0.1), logprob=-3.6)
    assert proof.difference(rough, answer, "ctranslate2", "float32")
    assert not proof.difference(rough, answer, "ctranslate2", "half")
    assert proof.difference(rough, found(probabilities=(0.6, 0.2, 0.1)), "ctranslate2", "half")


def test_what_bfloat16_does_is_taken_over_all_prompts_as_one_alone_may_be_close_by_chance() -> None:
    close, rough = (
        replace(EXPECTED, rough_logprob=2 * moved, rough_probability=moved)
        for moved in (0.001, 0.014)  # 0.01 in the root mean square of both
    )
    answers = [found(probabilities=(0.528, 0.2, 0.1)), found()]
    assert proof.difference(close, answers[0], "openvino", "half")
    assert proof.differences([close, rough], answers, "openvino", "half") == ""
    beyond = [found(probabilities=(0.532, 0.2, 0.1)), found()]
    assert "is 0.532" in proof.differences([close, rough], beyond, "openvino", "half")
    assert "is 0.528" in proof.differences([close, close], answers, "openvino", "half")


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, 512),
        ({"sliding_window": 1024, "original_max_position_embeddings": None}, 1088),
        ({"text_config": {"sliding_window": 1024}}, 1088),
        ({"rope_parameters": {"full": {"original_max_position_embeddings": 2048}}}, 2112),
        ({"rope_scaling": {"original_max_position_embeddings": 8192}}, 4096),
        ({"original_max_position_embeddings": 4096}, 4096 - proof.NEW_TOKENS),
        ({"sliding_window": 4096}, 4096),
    ],
)
def test_the_long_prompt_passes_what_the_config_names(
    config: dict[str, Any], length: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert proof.long_length(tmp_path, None, {}) == length
    assert proof.long_length(tmp_path, 256, {}) == 256 - proof.NEW_TOKENS
    assert proof.long_length(tmp_path, None, {"max_model_len": 128}) == 128 - proof.NEW_TOKENS


def test_what_cannot_change_a_number_needs_no_new_proof(tmp_path: Path) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    before = proof.config_digest(model)
    config = json.loads((model / "config.json").read_text())
    for change, same in (({"transformers_version": "9"}, True), ({"rms_norm_eps": 0.1}, False)):
        (model / "config.json").write_text(json.dumps(config | change))
        assert (proof.config_digest(model) == before) is same
    keys = [
        proof.key("ctranslate2", "d", 512, options, "cpu")
        for options in ({}, {"max_batch_size": 2, "intra_threads": 1}, {"compute_type": "int8"})
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_proof_is_made_once_and_then_costs_nothing(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    kind, answers = opened("auto", model, told)
    assert (kind, told) == ("openvino", [])
    [file] = (tmp_path / "cache" / "proofs").iterdir()
    kept = json.loads(file.read_text())
    assert kept["proof"]["tokens"][-1] == 512
    assert kept["proof"]["problem"] == kept["proof"]["note"] == ""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("transformers was asked again")

    monkeypatch.setattr(proved, "reference", never)
    assert opened("auto", model)[1] == answers
    file.write_text("{torn")
    with pytest.raises(AssertionError, match="asked again"):
        opened("auto", model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("Llama 3.1", "by transformers"),  # scaled positions
        ("Gemma 2", "by transformers"),  # caps, and a scale of its own
        ("Mistral 0.1", "after 576 tokens"),  # a window
        ("Llama, gelu", "by transformers"),
        ("Llama, own head_dim", "ValueError: axis 2"),
        ("Llama, no bos", "RuntimeError"),
        ("Phi 3", r"cannot convert .*KeyError"),
        ("Pythia", r"cannot convert .*AttributeError"),
    ],
)
def test_auto_takes_another_engine_and_a_named_one_refuses(
    family: str, why: str, tmp_path: Path, told: list[str]
) -> None:
    model = make_family(tmp_path / "a", family)
    with pytest.raises(PreflightError, match=why) as error:
        opened("ctranslate2", model)
    assert error.value.hint == "Set engine.kind=transformers."
    assert opened("auto", model, told)[0] == "openvino"
    assert told == []
    assert opened("auto", model, told, compute_type="float32")[0] == "openvino"
    line, left_out = told
    assert line.endswith("; engine.kind=auto tries openvino")
    assert "\n" not in line
    assert left_out == "engine.kind=auto takes openvino, which has no compute_type: left out"


def test_auto_says_of_each_engine_why_it_goes_on(tmp_path: Path, told: list[str]) -> None:
    model = make_family(tmp_path / "a", "Phi 4-mini")  # LongRoPE
    assert opened("auto", model, told)[0] == "transformers"
    first, second = told
    assert first.endswith("; engine.kind=auto tries ctranslate2")
    assert second.endswith("; engine.kind=auto tries transformers")
    assert "depends on values" in first
    assert "\n" not in first + second


@pytest.mark.slow
def test_auto_takes_the_engine_that_has_the_options(tmp_path: Path, told: list[str]) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    assert opened("auto", model, told, compute_type="int8", max_batch_size=4)[0] == "ctranslate2"
    assert opened("auto", model, told, cache_size=1, max_batch_size=4)[0] == "openvino"
    assert opened("auto", model, told, dtype="float32")[0] == "transformers"
    assert told == []
    opened("auto", model, told, compute_type="int8", cache_size=1)
    assert told == ["engine.kind=auto takes openvino, which has no compute_type: left out"]


def test_a_mismatch_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_family(tmp_path / "a", "Llama, gelu")
    with pytest.raises(PreflightError) as first:
        opened("ctranslate2", model)
    monkeypatch.setattr(proved, "reference", None)
    with pytest.raises(PreflightError) as second:
        opened("ctranslate2", model)
    assert second.value.message == first.value.message


@pytest.mark.slow
def test_int8_is_proved_by_the_same_engine_in_float32(tmp_path: Path) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    assert opened("ctranslate2", model, compute_type="int8")[0] == "ctranslate2"
    with pytest.raises(PreflightError, match="by transformers"):
        opened("ctranslate2", make_family(tmp_path / "b", "Llama, gelu"), compute_type="int8")


def test_bfloat16_is_measured_by_transformers_own(tmp_path: Path) -> None:
    model = make_family(tmp_path / "a", "Qwen 3")
    assert opened("transformers", model, dtype="bfloat16")[0] == "transformers"


@pytest.mark.slow
def test_of_a_large_model_a_few_layers_of_each_kind_are_compared(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proved, "LARGEST", 1000)
    layers = ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 4
    model = make_family(tmp_path / "a", "Gemma 3", num_hidden_layers=8, layer_types=layers)
    few = tmp_path / "few"
    few.mkdir()
    reference.reduce(model, Chat(model), few)
    config = json.loads((few / "config.json").read_text())
    assert config["layer_types"] == layers[:4]
    assert config["num_hidden_layers"] == 4
    assert opened("auto", model, told)[0] == "openvino"
    assert "with few layers and random weights: 0.0 billion parameters" in told[-1]
    assert [p for p in (tmp_path / "cache" / "proofs").iterdir() if p.is_dir()] == []


# New weights in place


class Forgetful:
    """An engine that keeps its weights, or answers with others, whatever it is told to load."""

    def __init__(self, engine: Engine, load: Callable[[Engine, Path], Any]) -> None:
        self._engine, self._load = engine, load
        self.generate, self.close = engine.generate, engine.close

    async def load(self, model: Path) -> None:
        await self._load(self._engine, model)


async def keep(engine: Engine, model: Path) -> None:
    """Does nothing."""


def hand_over(
    first: Path,
    second: Path,
    told: list[str],
    load: Callable[[Engine, Path], Any] | None = None,
    kind: str = "transformers",
) -> list[Any]:
    """Answers before and after, and those of a fresh engine."""

    async def main() -> list[Any]:
        chat = Chat(first)
        engine = await proved.open_proved(kind, first, chat, {}, tell=told.append)
        if load is not None:
            engine.engine = Forgetful(engine.engine, load)
        fresh = await proved.open_proved(kind, second, chat, {})
        request = Request(chat.prompt_ids("hi"), score_tokens=(5, 6))
        try:
            before = await engine.generate(request)
            await engine.load(second)
            return [before, await engine.generate(request), await fresh.generate(request)]
        finally:
            await engine.close()
            await fresh.close()

    return asyncio.run(main())


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return tuple(make_family(tmp_path / str(i), "SmolLM 2", seed=i) for i in range(2))  # type: ignore[return-value]


@pytest.mark.slow
def test_an_engine_is_proved_on_the_weights_that_it_takes(
    two: tuple[Path, Path], told: list[str]
) -> None:
    before, after, fresh = hand_over(*two, told, kind="ctranslate2")
    assert before != after == fresh
    assert told == []


def test_a_reload_that_did_not_take_restarts_the_engine_once(
    two: tuple[Path, Path], told: list[str]
) -> None:
    _, after, fresh = hand_over(*two, told, keep)
    assert after == fresh
    assert len(told) == 1
    assert "it answers as before" in told[0]


def test_a_reload_of_something_else_restarts_the_engine_once(
    two: tuple[Path, Path], told: list[str], tmp_path: Path
) -> None:
    third = make_family(tmp_path / "third", "SmolLM 2", seed=7)
    _, after, fresh = hand_over(*two, told, lambda engine, _: engine.load(third))
    assert after == fresh
    assert "by transformers" in told[0]


def test_where_a_restart_does_not_help_the_run_stops(
    two: tuple[Path, Path], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two

    async def main() -> None:
        chat = Chat(first)
        engine = await proved.open_proved("transformers", first, chat, {}, tell=told.append)
        monkeypatch.setattr(proved, "open_engine", lambda *_, **__: stale)
        stale = engine.engine = Forgetful(engine.engine, keep)  # type: ignore[assignment]
        stale.close = closed  # type: ignore[assignment]
        await engine.load(second)

    async def closed() -> None:
        """Stays as it is."""

    with pytest.raises(PreflightError, match="by transformers"):
        asyncio.run(main())


def test_of_a_large_model_only_a_reload_that_changed_nothing_is_seen(
    two: tuple[Path, Path], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proved, "LARGEST", 1000)
    _, after, fresh = hand_over(*two, told, keep)
    assert after == fresh
    assert "it answers as before" in told[-1]


# Failures on the way


class Failing:
    """An engine that fails when it is asked."""

    def __init__(self, error: Exception) -> None:
        self.error, self.closed = error, False

    async def generate(self, request: Request) -> list[Generation]:
        raise self.error

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("error", [RuntimeError("CUDA error\nmore"), RequestError("no", "idea")])
def test_whatever_an_engine_fails_with_auto_goes_on(
    error: Exception, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    real, failing = proved.open_engine, Failing(error)

    def open_engine(kind: str, *args: Any, **more: Any) -> Any:
        return failing if kind == "openvino" else real(kind, *args, **more)

    monkeypatch.setattr(proved, "open_engine", open_engine)
    assert opened("auto", model, told)[0] == "ctranslate2"
    assert failing.closed
    assert ("RuntimeError: CUDA error" in told[0]) or ("no: idea" in told[0])


class Silent(Failing):
    """Endpoints that continue prompts and tell no probabilities."""

    async def generate(self, request: Request) -> list[Generation]:
        return [GREEDY] if request.sampling else await super().generate(request)


def open_server(model: Path, told: list[str]) -> str:
    async def main() -> str:
        options = {"endpoints": ["http://127.0.0.1:1/v1"]}
        engine = await proved.open_proved("server", model, Chat(model), options, tell=told.append)
        return engine.kind

    return asyncio.run(main())


def test_endpoints_that_tell_no_probabilities_are_used_unproved(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    error = PreflightError("the endpoint tells no log-probabilities by token id")
    monkeypatch.setattr(proved, "open_engine", lambda *_, **__: Silent(error))
    assert [open_server(model, told) for _ in range(2)] == ["server"] * 2
    assert told == [f"engine.kind=server: not proved: {error}"] * 2  # which is not kept as a proof


def test_endpoints_that_give_no_answer_at_all_are_an_error_as_ever(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    error = PreflightError("http://127.0.0.1:1/v1 serves something else")
    monkeypatch.setattr(proved, "open_engine", lambda *_, **__: Failing(error))
    with pytest.raises(PreflightError, match="something else"):
        open_server(model, told)
    assert told == []


def test_a_full_disk_is_no_reason_to_take_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    model = make_family(tmp_path / "a", "SmolLM 2")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(proved, "open_engine", full)
    with pytest.raises(OSError, match="no space"):
        opened("auto", model)


def test_a_model_that_computes_nan_is_refused_whatever_the_engine(tmp_path: Path) -> None:
    model = make_family(tmp_path / "a", "Llama 2", rms_norm_eps=-1e9)
    with pytest.raises(PreflightError, match="transformers computes NaN with it"):
        opened("auto", model)


def test_a_wrong_option_is_an_error_of_the_config(tmp_path: Path) -> None:
    model = make_family(tmp_path / "a", "SmolLM 2")
    with pytest.raises(ConfigError, match="int3"):
        opened("auto", model, compute_type="int3")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_run_by_some_engine(family: str, tmp_path: Path, told: list[str]) -> None:
    kind, _ = opened("auto", make_family(tmp_path / "a", family), told)
    assert len(told) == ("openvino", "ctranslate2", "transformers").index(kind)
