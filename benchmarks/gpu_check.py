"""What this project promises of GPUs, run on the one at hand: `make gpu-check`.

    python benchmarks/gpu_check.py [--sizes 135m 1.5b 8b] [--checks NAME ...] [--out FILE]

Each check runs in a process of its own, and what it has found is written down at once, so one that
fails or takes too long costs the others nothing, and keeps what it had. All is added to the file of
this GPU, as long as the versions are the same. The models above 135M are made from it by
`widened.py`: they answer alike, so texts, lengths and scores are real at each size.

- `suite`: the tests of the contract of engines, on vLLM and transformers.
- `parity`: vLLM and transformers in float32 against plain forward passes on the CPU.
- `engine`: vLLM in bfloat16 by size. Its start; 200 prompts x 4 samples of at most 128 tokens;
  `expected` judging of the answers by prefill alone; M(t+1) taken in place, proved by its
  log-probabilities, beside sleeping, and beside ending and starting anew; GPU memory left behind.
- `plain`: the same sampling and judging by the engine `transformers`.
- `sleeps`: two iterations in which vLLM sleeps while the GPU trains, in place of ending.
- `run`: one iteration of `selfreward run` by size, full training in bfloat16 up to 1.5b, LoRA
  above; seconds by stage.

Where size 8b is among them, what was measured is set beside published rates, see `budget.py`.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from budget import table

from selfreward.engines.vllm_build import vllm_problem

ROOT = Path(__file__).parents[1]
SIZES = ("135m", "1.5b", "8b")
CHECKS = ("suite", "parity", "engine", "plain", "run", "sleeps")
BY_SIZE = {"engine": SIZES, "run": SIZES, "plain": ("135m",), "sleeps": ("135m", "1.5b")}
PACKAGES = ("torch", "vllm", "transformers", "trl", "accelerate", "peft", "triton")
LARGEST_FULL = "1.5b"
TIMEOUT_S = 1800
FOUND = "found: "


def main() -> None:
    """Run the checks that are asked for, and print and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["135m", "1.5b"])
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--timeout", type=int, default=TIMEOUT_S, help="seconds for each check")
    parser.add_argument("--work", type=Path, help="directory for models and runs")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu-NAME.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        check, size, work = arguments.child.split(":", 2)
        CHILDREN[check](size, Path(work), arguments.prompts)
        return
    machine = machine_of()
    if problem := vllm_problem():
        sys.exit(f"make gpu-check: {problem.message}. {problem.fix}")
    out = arguments.out or ROOT / f"benchmarks/results/gpu-{machine['name']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python benchmarks/gpu_check.py", *sys.argv[1:]])
    figures: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    figures = {k: v for k, v in figures.items() if figures["machine"] == machine}
    figures |= {"machine": machine}
    failed = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as made:
        work = (arguments.work or Path(made)).resolve()
        for check in arguments.checks:
            for size in BY_SIZE.get(check, ("135m",)):
                if size in arguments.sizes or check not in BY_SIZE:
                    name = f"{check} {size}" if check in BY_SIZE else check
                    print(f"{name} ...", flush=True)
                    found = in_child(f"{check}:{size}:{work}", arguments)
                    figures[name] = {"command": command, **found}
                    failed += [name] if "error" in found else []
                    print(f"{name}: {json.dumps(figures[name])}", flush=True)
                    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if "engine 8b" in figures:
        print(table(figures, prompts=5000, samples=4, gpus=[1, 8]))
    print(f"{out}: " + (f"failed: {', '.join(failed)}" if failed else "all checks passed"))
    sys.exit(1 if failed else 0)


def machine_of() -> dict[str, Any]:
    """The GPU and the versions, without opening the GPU."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"make gpu-check needs an NVIDIA GPU: {error}")
    name, memory, driver = shown.splitlines()[0].split(", ")
    return {
        "name": name.lower().replace("nvidia ", "").replace(" ", "-"),
        "gpus": len(shown.splitlines()),
        "memory": memory,
        "driver": driver,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def in_child(child: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a check found, its seconds, and how much GPU memory is in use once it has ended."""
    before, start = memory_in_use(), time.perf_counter()
    command = [sys.executable, __file__, "--child", child, "--prompts", str(arguments.prompts)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    found: dict[str, Any] = {}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        # the whole session: what vLLM starts would keep the memory otherwise
        stop = threading.Timer(arguments.timeout, os.killpg, (process.pid, signal.SIGKILL))
        stop.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(FOUND):
                found |= json.loads(line.removeprefix(FOUND))
            else:
                print(line, end="", file=sys.stderr)
        code = process.wait()
        stop.cancel()
    seconds = time.perf_counter() - start
    if seconds >= arguments.timeout:
        found["error"] = f"no end within {arguments.timeout} s"
    elif code:
        found.setdefault("error", f"exit code {code}")
    found["seconds"] = round(seconds, 1)
    time.sleep(1)
    found["mib_left_in_use"] = memory_in_use() - before
    return found


def tell(found: dict[str, Any]) -> None:
    """Say from a child what it has found so far."""
    print(f"{FOUND}{json.dumps(found)}", flush=True)


def memory_in_use() -> int:
    """Of the first GPU, in MiB."""
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()[0])


def model_of(size: str, work: Path) -> Path:
    """The model of a size, made if it is not there."""
    from selfreward.inputs import models

    if size == "135m":
        return models.resolve("bundled:smollm2-135m").path
    directory = work / size
    if not (directory / "model.safetensors.index.json").exists():
        script = str(ROOT / "benchmarks/widened.py")
        subprocess.run([sys.executable, script, size, str(directory)], check=True)
    return directory


def suite(size: str, work: Path, prompts: int) -> None:
    """Run the contract tests; a failure is an error with the names of the tests."""
    chosen = ["tests/engines/test_engines.py", "tests/engines/test_vllm.py"]
    command = [sys.executable, "-m", "pytest", "-m", "slow or not slow", *chosen, "-rA", "-k"]
    with subprocess.Popen(
        [*command, "vllm or transformers", "-p", "no:cacheprovider"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = [line.rstrip() for line in process.stdout]
    print("\n".join(lines), file=sys.stderr)
    failed = [line.split(" ")[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    tell(
        {"tests": lines[-1]}
        | ({"error": " ".join(failed) or lines[-1]} if process.returncode else {})
    )


def parity(size: str, work: Path, prompts: int) -> None:
    """The differences of the engines that run on this GPU."""
    from selfreward.verbs.parity import measure

    found = measure("bundled:smollm2-135m", lambda line: print(line, file=sys.stderr))
    engines = {kind: found["engines"][kind] for kind in ("transformers", "vllm")}
    errors = {kind: e["error"] or "differs" for kind, e in engines.items() if not e["agrees"]}
    tell(engines | ({"error": json.dumps(errors)} if errors else {}))


def engine(size: str, work: Path, prompts: int) -> None:
    """Run vLLM in bfloat16: speed, the change to other weights, and proofs of both models."""
    asyncio.run(engine_figures(size, work, prompts))


async def engine_figures(size: str, work: Path, prompts: int) -> None:
    """See ``engine``."""
    from selfreward.engines import proof
    from selfreward.engines.chat import Chat
    from selfreward.engines.kinds import open_engine
    from selfreward.engines.reference import reference

    model = model_of(size, work)
    changed = changed_copy(model, work / f"{size}-changed")
    chat = Chat(model)
    ids = proof.short_prompts(chat)
    expected = {path: reference(path, chat, ids, 8, rough=True) for path in (model, changed)}

    async def check(name: str, path: Path, *, same: bool) -> None:
        answers = []
        for one in expected[path]:
            [[greedy], [scored]] = await asyncio.gather(
                *(vllm.generate(request) for request in proof.requests(one))
            )
            answers.append(proof.Found(greedy, scored))
        said = proof.differences(expected[path], answers, "vllm", "half")
        tell({name: said or "agrees"} | ({} if same == (not said) else {"error": name}))

    options = {"dtype": "bfloat16", "enable_sleep_mode": True, "gpu_memory_utilization": 0.8}
    with timed("start"):
        vllm = open_engine("vllm", model, chat, options)
    await check("m1_as_m1", model, same=True)
    await check("m1_as_m2", changed, same=False)
    await throughput(vllm, chat, prompts)
    with timed("load_in_place"):
        await vllm.load(changed)
    await check("m2_as_m2", changed, same=True)
    await check("m2_as_m1", model, same=False)
    tell({"mib_awake": memory_in_use()})
    with timed("sleep"):
        await vllm.sleep()
    tell({"mib_asleep": memory_in_use()})
    with timed("wake"):
        await vllm._wake()
    await check("awake_as_m2", changed, same=True)
    with timed("close"):
        await vllm.close()
    with timed("second_start"):
        vllm = open_engine("vllm", changed, chat, options)
    await vllm.close()


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Tell the seconds that the block took, as NAME_s."""
    start = time.perf_counter()
    yield
    tell({f"{name}_s": round(time.perf_counter() - start, 2)})


def changed_copy(model: Path, directory: Path) -> Path:
    """The same model with its last norm a little off, as training would leave it."""
    from safetensors.torch import load_file, save_file

    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(model, directory)
    for file in sorted(directory.glob("*.safetensors")):
        tensors = load_file(file)
        if "model.norm.weight" in tensors:
            tensors["model.norm.weight"] *= 1.25
            file.unlink()
            save_file(tensors, file, {"format": "pt"})
    (directory / "MANIFEST.json").unlink(missing_ok=True)
    return directory


async def throughput(engine: Any, chat: Any, prompts: int) -> None:
    """Tokens a second in sampling, answers a second in judging; the second of two rounds each."""
    from sampling import TASKS, TEXTS

    from selfreward.engines.base import Request, Sampling
    from selfreward.inputs.templates import find_template, load_template

    users = [f"Please {TASKS[i % 4]} {TEXTS[i // 4 % 4]}. Example {i}." for i in range(prompts)]
    how = Sampling(128, temperature=0.7, top_p=0.9)
    asked = [Request(chat.prompt_ids(u), how, n=4, seed=i) for i, u in enumerate(users)]
    for _ in range(2):
        start = time.perf_counter()
        answers = await asyncio.gather(*map(engine.generate, asked))
        seconds = time.perf_counter() - start
        tokens = sum(len(one.token_ids) for answer in answers for one in answer)
        tell({"sampled_tokens": tokens, "sampled_tokens_per_s": round(tokens / seconds)})
    template = load_template(find_template("judge/expected.jinja"), {"prompt", "response"})
    judged = []
    for user, answer in zip(users, answers, strict=True):
        for one in answer:
            text, _ = template.render(prompt=user, response=one.text)
            ids, scores = chat.score_prompt(text)
            judged.append(Request(ids, score_tokens=scores))
    for _ in range(2):
        start = time.perf_counter()
        await asyncio.gather(*map(engine.generate, judged))
        seconds = time.perf_counter() - start
    read = sum(len(request.token_ids) for request in judged)
    tell({"judged": len(judged), "judged_per_s": round(len(judged) / seconds, 1)})
    tell({"judged_prompt_tokens_per_s": round(read / seconds)})


def plain(size: str, work: Path, prompts: int) -> None:
    """The engine ``transformers`` in large batches."""
    from selfreward.engines.chat import Chat
    from selfreward.engines.kinds import open_engine

    model = model_of(size, work)
    chat = Chat(model)
    options = {"max_batch_size": 256, "max_batch_tokens": 200_000, "dtype": "bfloat16"}

    async def ask() -> None:
        opened = open_engine("transformers", model, chat, options)
        await throughput(opened, chat, prompts)
        await opened.close()

    asyncio.run(ask())


def sleeps(size: str, work: Path, prompts: int) -> None:
    """Two iterations in which vLLM lives on and sleeps while the GPU trains."""
    run(size, work, prompts, "iterations=2", "engine.enable_sleep_mode=true")


def run(size: str, work: Path, prompts: int, *more: str) -> None:
    """One iteration by the command line, with its own seconds by stage."""
    model = model_of(size, work)
    words = [
        f"model={model}", f"prompts.count={prompts}", "sft=null", "iterations=1",
        "engine.kind=vllm",
        "responses.max_new_tokens=128", "dpo.bf16=true",
        "dpo.per_device_train_batch_size=8", "dpo.gradient_accumulation_steps=1",
    ]  # fmt: skip
    if SIZES.index(size) > SIZES.index(LARGEST_FULL):
        words.append("lora={r: 16, target_modules: all-linear}")
    words += more
    environment = os.environ | {"SELFREWARD_RUNS": str(work / "runs")}
    name = f"gpu-{size}{'-sleeps' if more else ''}"
    shutil.rmtree(work / "runs" / name, ignore_errors=True)
    command = [sys.executable, "-m", "selfreward"]

    def say(*arguments: str) -> str:
        ended = subprocess.run(
            [*command, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        print(ended.stdout, file=sys.stderr)
        if ended.returncode:
            sys.exit(f"selfreward {arguments[0]}: exit code {ended.returncode}")
        return ended.stdout

    with timed("in_all"):
        say("run", "runs/quickstart.yaml", "--name", name, *words)
    tell({"iterations": json.loads(say("scores", name, "--json"))["iterations"]})
    say("verify", name)


CHILDREN: dict[str, Callable[[str, Path, int], None]] = {
    "suite": suite,
    "parity": parity,
    "engine": engine,
    "plain": plain,
    "run": run,
    "sleeps": sleeps,
}


if __name__ == "__main__":
    main()
