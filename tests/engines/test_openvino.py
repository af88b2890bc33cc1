"""Graphs that are made from transformers, and what the engine on them does besides the contract."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from filelock import FileLock

from selfreward.config import Sampling
from selfreward.engines import openvino_build, openvino_graph, openvino_trace
from selfreward.engines.base import Generation, Request, RequestError
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import candidates, check_options, open_engine
from selfreward.engines.openvino_graph import Checkpoint
from selfreward.engines.reference import loaded
from selfreward.errors import PreflightError
from selfreward.storage import durable
from tests.support.families import make_family

DRAWN = Sampling(max_new_tokens=12, temperature=1.0, top_k=40)
GREEDY = Sampling(max_new_tokens=8, temperature=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_family(tmp_path / "model", "SmolLM 2")


def answers(
    model: Path, requests: Sequence[Request], then: Path | None = None, capacity: int = 0
) -> list[Any]:
    """What each request gets, all in flight at once; with other weights from then on, if any.

    Args:
        capacity: Tokens of the key-value cache, fewer than any option sets.
    """

    async def main() -> list[Any]:
        engine: Any = open_engine("openvino", model, Chat(model), {})
        if capacity:
            engine._capacity, engine._scheduler.cache_size = capacity, 0
            engine._scheduler.num_kv_blocks = capacity // 32
        try:
            if then is not None:
                await asyncio.gather(*map(engine.generate, requests))
                await engine.load(then)
            return await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(main())


def ids_of(answer: list[Generation]) -> list[tuple[int, ...]]:
    return [generation.token_ids for generation in answer]


def test_one_graph_without_weights_serves_all_checkpoints_of_a_config(
    model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint(model).close()
    [graph] = (cache / "graphs").iterdir()
    weights = (model / "model.safetensors").stat().st_size
    assert (graph / "graph.bin").stat().st_size < weights / 20
    monkeypatch.setattr(openvino_graph, "loaded", None)
    other = Checkpoint(make_family(tmp_path / "other", "SmolLM 2", seed=1))
    assert (other.path / "openvino_model.bin").stat().st_size > 0.9 * weights
    other.close()
    assert not other.path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["SmolLM 2", "GPT-2", "Gemma 3", "Phi 3", "Qwen 3"])
def test_weights_read_from_the_files_are_those_that_transformers_loads(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_family(tmp_path / "model", family)
    Checkpoint(make_family(tmp_path / "first", family, seed=1)).close()
    with monkeypatch.context() as patch:
        patch.setattr(openvino_graph, "_known", lambda model, target: None)
        whole = Checkpoint(made)
    monkeypatch.setattr(openvino_graph, "loaded", None)
    read = Checkpoint(made)
    first, second = (c.path / "openvino_model.bin" for c in (whole, read))
    assert first.read_bytes() == second.read_bytes()
    assert read.cache_width == whole.cache_width
    whole.close()
    read.close()


def rewritten(model: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a model's weights anew, changed."""
    from safetensors.torch import load_file, save_file

    file = model / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


TIED = "model.embed_tokens.weight"
OTHERWISE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "half": lambda held: {name: tensor.half() for name, tensor in held.items()},
    "one of them in bfloat16": lambda held: held | {TIED: held[TIED].bfloat16()},
    "one more": lambda held: held | {"lm_head.weight": held[TIED].clone()},
    "other names": lambda held: {name.removeprefix("model."): w for name, w in held.items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", OTHERWISE)
def test_what_is_stored_otherwise_is_loaded_by_transformers(
    how: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint(model).close()
    other = make_family(tmp_path / "other", "SmolLM 2", seed=1)
    rewritten(other, OTHERWISE[how])
    used = []

    @contextmanager
    def counted(*given: Any) -> Iterator[Any]:
        used.append(given)
        with loaded(*given) as opened:
            yield opened

    monkeypatch.setattr(openvino_graph, "loaded", counted)
    request = Request(Chat(other).prompt_ids("hi"), score_tokens=(5, 6, 7))
    [[found]] = answers(other, [request])
    assert used
    with loaded(other, "float32") as opened:
        logits = opened(torch.tensor([request.token_ids])).logits[0, -1]
    assert found.probabilities == pytest.approx(logits.softmax(-1)[[5, 6, 7]].tolist(), abs=1e-5)


def test_weights_that_transformers_renames_or_changes_are_always_its_own(tmp_path: Path) -> None:
    model = make_family(tmp_path / "model", "Pythia")
    for changed in (None, lambda held: {n: -w for n, w in held.items()}):
        with loaded(make_family(tmp_path / "same", "SmolLM 2"), "float32") as opened:
            if changed:
                rewritten(tmp_path / "same", changed)
            found = openvino_trace.stored_weights(tmp_path / "same", opened)
        assert bool(found) is (changed is None)
    with loaded(model, "float32") as opened:
        assert openvino_trace.stored_weights(model, opened) == {}


@pytest.mark.slow
def test_a_process_that_asks_a_known_config_imports_no_torch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(model, [Request(Chat(model).prompt_ids("hi"), GREEDY)])
    other = make_family(tmp_path / "other", "SmolLM 2", seed=1)
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from selfreward.config import Sampling\n"
        "from selfreward.engines.base import Request\n"
        "from selfreward.engines.chat import Chat\n"
        "from selfreward.engines.proved import open_proved\n"
        "async def main(model):\n"
        "    chat = Chat(model)\n"
        "    engine = await open_proved('openvino', model, chat, {})\n"
        "    greedy = Sampling(max_new_tokens=4, temperature=0.0)\n"
        "    sampled = Request(chat.prompt_ids('hi'), greedy)\n"
        "    scored = Request(chat.prompt_ids('hi'), score_tokens=(5, 6))\n"
        "    print(len(await asyncio.gather(*map(engine.generate, (sampled, scored)))))\n"
        "    await engine.close()\n"
        "asyncio.run(main(Path(sys.argv[1])))\n"
        "print(sorted({'torch', 'sklearn', 'scipy', 'pandas'} & sys.modules.keys()))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code, str(each)], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        for each in (model, other)
    ]
    assert "torch" in told[0][1]  # to be proved, it is held against transformers
    assert told[1][:2] == ["2", "[]"]


def test_a_damaged_graph_is_made_anew(
    model: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Checkpoint(model).close()
    [graph] = (cache / "graphs").glob("*/graph.xml")
    whole = graph.read_text()
    graph.write_text(whole[:1000])
    Checkpoint(model).close()
    assert "made anew" in caplog.text
    assert graph.read_text().endswith(whole[-10:])


def test_a_graph_that_two_need_at_once_is_made_once(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = [], openvino_trace.traced

    def traced(*given: Any) -> Any:
        made.append(given)
        time.sleep(0.5)  # for the other to come
        return real(*given)

    monkeypatch.setattr(openvino_trace, "traced", traced)
    with loaded(model, "float32") as opened, ThreadPoolExecutor(2) as two:
        asked = [
            two.submit(openvino_graph._graph, model, opened, cache / "graphs" / "a")
            for _ in range(2)
        ]
        first, second = (len(graph.result().inputs) for graph in asked)
    assert (first, len(made)) == (second, 1)
    [graph] = (cache / "graphs").iterdir()
    assert durable.is_whole(graph)


@pytest.mark.parametrize(("numbers", "gigabytes"), [(100, 2), (2**18, 9)])
def test_the_cache_holds_a_sequence_of_full_length_whatever_the_model(
    numbers: int, gigabytes: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 2 7B has 2**18 numbers a token, of which 2 GB hold 2,048 tokens."""
    monkeypatch.setattr(openvino_graph, "_cache_width", lambda graph: numbers)
    chat = Chat(model)
    monkeypatch.setattr(Chat, "max_length", 10_000)
    engine = open_engine("openvino", model, chat, {})
    asyncio.run(engine.close())
    assert engine._scheduler.cache_size == gigabytes  # type: ignore[attr-defined]
    assert engine._capacity >= 8192  # type: ignore[attr-defined]


def test_threads_are_bound_to_no_cores_so_that_several_runs_share_none(model: Path) -> None:
    engine = open_engine("openvino", model, Chat(model), {})
    compiled = (
        pytest.importorskip("openvino")
        .Core()
        .compile_model(
            str(engine._checkpoint.xml),
            "CPU",
            engine._properties,  # type: ignore[attr-defined]
        )
    )
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    asyncio.run(engine.close())


@pytest.mark.slow
def test_other_weights_answer_as_in_a_fresh_engine(model: Path, tmp_path: Path) -> None:
    other = make_family(tmp_path / "other", "SmolLM 2", seed=1)
    chat = Chat(model)
    requests = [
        Request(chat.prompt_ids("hi"), GREEDY),
        Request(chat.prompt_ids("hi" * 9), score_tokens=(5, 6)),
        Request(chat.prompt_ids("hi" * 9 + "ho"), score_tokens=(5, 6)),
    ]
    taken, fresh, before = (
        answers(model, requests, other), answers(other, requests), answers(model, requests),
    )  # fmt: skip
    assert taken == fresh
    assert all(new != old for new, old in zip(fresh, before, strict=True))


def test_a_request_draws_by_its_own_seed_whatever_runs_beside_it(model: Path) -> None:
    chat = Chat(model)
    request = Request(chat.prompt_ids("hi"), DRAWN, n=3, seed=7)
    others = [Request(chat.prompt_ids(f"ho {i}"), DRAWN, n=2, seed=i) for i in range(6)]
    [alone] = answers(model, [request])
    among = answers(model, [*others, request])[-1]
    [other_seed] = answers(model, [Request(request.token_ids, DRAWN, n=3, seed=8)])
    assert ids_of(alone) == ids_of(among)
    assert not set(ids_of(alone)) & set(ids_of(other_seed))


def test_samples_that_stop_at_a_string_draw_by_seeds_of_their_own(model: Path) -> None:
    stopping = Sampling(max_new_tokens=12, temperature=1.0, stop=("never said",))
    ids = Chat(model).prompt_ids("hi")
    together, second = answers(
        model, [Request(ids, stopping, n=2, seed=3), Request(ids, stopping, seed=4)]
    )
    assert ids_of(together)[1:] == ids_of(second)


def test_what_the_cache_cannot_hold_is_refused_while_another_goes_on(model: Path) -> None:
    chat = Chat(model)
    long = Request(chat.prompt_ids("word " * 400), GREEDY)
    refused, answered = answers(model, [long, Request(chat.prompt_ids("hi"), GREEDY)], capacity=256)
    assert isinstance(refused, RequestError)
    assert f"a prompt of {len(long.token_ids)} tokens" in str(refused)
    assert "engine.cache_size" in str(refused)
    assert 0 < len(answered[0].token_ids) <= 8


def test_requests_that_do_not_fit_together_are_all_answered(model: Path) -> None:
    chat = Chat(model)
    asked = [Request(chat.prompt_ids(f"word {i} " * 12), DRAWN, n=2, seed=i) for i in range(12)]
    few = answers(model, asked, capacity=320)
    assert sum(len(request.token_ids) for request in asked) > 2 * 320
    assert [len(set(ids_of(answer))) for answer in few] == [2] * 12


def test_a_cancelled_request_leaves_the_pipeline(model: Path) -> None:
    chat = Chat(model)
    long = Request(chat.prompt_ids("hi"), Sampling(max_new_tokens=3000, top_k=40))

    async def main() -> list[Generation]:
        engine: Any = open_engine("openvino", model, chat, {})
        try:
            task = asyncio.create_task(engine.generate(long))
            while not (engine._sampler and engine._sampler._running):
                await asyncio.sleep(0.01)
            task.cancel()
            answer = await engine.generate(Request(chat.prompt_ids("ho"), GREEDY))
            await asyncio.wait_for(engine._sampler._dispatcher, 60)
            assert not engine._sampler._pipeline.has_non_finished_requests()
            return answer  # type: ignore[no-any-return]
        finally:
            await engine.close()

    [answer] = asyncio.run(main())
    assert len(answer.token_ids) <= 8


def test_a_forward_pass_that_branches_on_values_has_no_graph(tmp_path: Path) -> None:
    """LongRoPE takes other factors past the original length; a trace would keep the first ones."""
    with pytest.raises(
        PreflightError, match=r"depends on values, modeling_rope_utils\.py"
    ) as error:
        Checkpoint(make_family(tmp_path / "model", "Phi 4-mini"))
    assert "\n" not in error.value.message
    assert error.value.hint == "Set engine.kind=transformers."


def test_attention_that_is_not_torchs_own_has_no_graph(model: Path) -> None:
    from transformers import AutoModelForCausalLM

    eager = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    with pytest.raises(PreflightError, match="scaled_dot_product_attention"):
        openvino_trace.traced(model, eager)


def test_a_full_disk_is_named_before_the_weights_are_written(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    with pytest.raises(OSError, match="OpenVINO needs") as error:
        Checkpoint(model)
    assert error.value.errno == errno.ENOSPC
    assert list((cache / "open").iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_a_cache_that_can_only_be_read_is_named_and_auto_takes_the_conversion_in_it(
    is_there: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, real = Chat(model), Path.mkdir

    def utime(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def mkdir(path: Path, *args: Any, **more: Any) -> None:
        if path.name == "open":
            utime(path)
        real(path, *args, **more)

    monkeypatch.setattr(os, "utime", utime)
    if is_there:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(PreflightError, match=r"openvino/open, which can only be read$"):
        open_engine("openvino", model, chat, {})
    engine: Any = open_engine("auto", model, chat, {})
    asyncio.run(engine.close())
    assert type(engine).__name__ == "CTranslate2Engine"


def test_what_killed_processes_left_goes_and_what_is_open_stays(model: Path, cache: Path) -> None:
    left = cache / "open" / "left"
    left.mkdir(parents=True)
    (left / "openvino_model.bin").write_bytes(b"0" * 100)
    (left / "lock").touch()
    used = cache / "open" / "used"
    used.mkdir()
    with FileLock(used / "lock"):
        Checkpoint(model).close()
        assert [path.name for path in (cache / "open").iterdir()] == ["used"]


def test_the_library_tells_nobody_that_it_is_used() -> None:
    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"openvino": "2026.4.1", "openvino-genai": "2026.4.1.0"}, ""),
        ({"openvino": "2026.4.1"}, "openvino-genai is not installed"),
        ({"openvino": "2026.3.0", "openvino-genai": "2026.4.1.0"}, "openvino is 2026.3.0"),
        ({"openvino": "2026.40.0", "openvino-genai": "2026.4.1.0"}, "openvino is 2026.40.0"),
    ],
)
def test_a_library_that_is_missing_or_another_is_named_and_auto_does_without(
    found: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_build, "version", found.get)
    assert ("openvino" in candidates("auto", {})) is (said == "")
    if not said:
        check_options("openvino", {})
        return
    with pytest.raises(PreflightError, match=f"engine.kind=openvino: {said}") as error:
        check_options("openvino", {})
    assert error.value.hint.startswith("pip install 'openvino==2026.4.*'")


@pytest.mark.parametrize(
    ("cpuinfo", "refused"),
    [
        ("flags\t: fpu avx2 avx512f\n", True),
        ("flags\t: fpu avx512f avx512_bf16\n", False),
        ("flags\t: fpu amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("bugs\t: bf16\n", True),
        (None, True),
    ],
)
def test_bf16_is_refused_where_the_processor_lacks_its_instructions(
    cpuinfo: str | None, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(openvino_build, "_CPUINFO", tmp_path / "cpuinfo")
    check_options("auto", {"precision": "f32"})
    if not refused:
        check_options("openvino", {"precision": "bf16"})
        return
    for kind in ("auto", "openvino"):
        with pytest.raises(PreflightError, match="no bfloat16 instructions") as error:
            check_options(kind, {"precision": "bf16"})
        assert error.value.hint == "Set engine.precision=f32."
