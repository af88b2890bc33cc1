"""The race: one self-rewarding iteration by selfreward and by others, the same work, in turn.

    python -m benchmarks.peers.race --envs DIR [--repeats 3] [--contenders ours hand] [--json FILE]

16 prompts x 4 answers of at most 64 tokens (temperature 0.7, top_p 0.9, top_k 64), each judged with
our shipped judge prompt, the best against the worst of each prompt, one epoch of DPO. Each kind of
contender has an environment of its own, which is made in DIR the first time. Wall time is that of a
whole process, from its start to its end; a repeat runs every entry once, and ratios are within a
repeat. An entry that fails is a row that says why. README.md in this directory says what is the
same work and what is not.

``--prompts``, ``--responses`` and ``--tokens`` make it small. Start it in the root of a checkout,
with the environment of ``make install``, and with nothing else on the machine.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.memory import WATCHED_S, held_by
from benchmarks.peers import ours
from benchmarks.peers.table import Result, text_of
from benchmarks.peers.work import Report, Work, read_report
from selfreward.inputs import models
from selfreward.inputs.shipped import prompts_directory

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
POLLED_S = 0.02
"""Seconds between two looks at whether a process has ended."""


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    contender: str
    env: str
    form: str
    module: str = ""
    """Empty: ours."""
    arguments: tuple[str, ...] = ()
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """What it samples in."""
        is_half = self.arguments == BF16 or self.engine.get("precision") == "bf16"
        return "bfloat16" if is_half else "float32"


BF16 = ("--dtype", "bfloat16")
HALF_ENGINE = {"kind": "openvino", "precision": "bf16"}
ENTRIES = {
    "ours, expected": Entry("ours", "ours", "expected"),
    "ours, written": Entry("ours", "ours", "written"),
    "ours bf16, expected": Entry("ours", "ours", "expected", engine=HALF_ENGINE),
    "ours bf16, written": Entry("ours", "ours", "written", engine=HALF_ENGINE),
    "hand, expected": Entry("hand", "trl", "expected", "hand"),
    "hand, written": Entry("hand", "trl", "written", "hand"),
    "hand bf16, expected": Entry("hand", "trl", "expected", "hand", BF16),
    "hand bf16, written": Entry("hand", "trl", "written", "hand", BF16),
    "online_dpo, expected": Entry("online_dpo", "trl", "expected", "online_dpo"),
    "online_dpo, written": Entry("online_dpo", "trl", "written", "online_dpo"),
    "distilabel, written": Entry("distilabel", "distilabel", "written", "with_distilabel"),
    "batch1, written": Entry("batch1", "trl", "written", "batch1"),
}
"""In the order in which a repeat runs them; every other repeat goes backwards."""
BASES = {"expected": "ours, expected", "written": "ours, written"}
CONTENDERS = tuple(dict.fromkeys(entry.contender for entry in ENTRIES.values()))


def main() -> None:
    """Make the environments, run all, print the tables after each repeat."""
    arguments = parsed()
    model = models.resolve(arguments.model).path
    chosen = chosen_of(arguments)
    pythons = dict(arguments.python)
    envs = {
        env: Path(pythons[env]) if env in pythons else make_env(arguments.envs.resolve(), env)
        for env in dict.fromkeys(entry.env for entry in chosen.values())
    }
    machine = machine_of()
    machine["versions"] = {env: versions_of(python) for env, python in envs.items()}
    print(json.dumps(machine, indent=1), flush=True)
    flops = 2.0 * parameters_of(model)
    peaks = {name: machine["gflops"][entry.dtype] * 1e9 for name, entry in chosen.items()}
    cache = arguments.envs.resolve() / "cache"
    results: list[Result] = []
    if not arguments.cold:
        warm_up(chosen.values(), envs, model, arguments, cache)
    for repeat in range(arguments.repeats):
        for name, entry in list(chosen.items())[:: -1 if repeat % 2 else 1]:
            with tempfile.TemporaryDirectory(prefix="race-") as scratch:
                work = work_of(arguments, model, scratch, seed=repeat)
                kept = Path(scratch) / "cache" if arguments.cold else cache
                result = run(name, entry, envs[entry.env], work, repeat, arguments.timeout, kept)
            results.append(result)
            shown = result.error or f"{result.wall:.1f} s"
            print(f"repeat {repeat + 1}, {name}: {shown}", flush=True)
            if arguments.json:
                write(arguments, machine, results)
        order = [result for name in chosen for result in results if result.entry == name]
        print(f"\n{text_of(order, BASES, flops, peaks)}\n", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", type=Path, required=True, help="where environments are, or go")
    parser.add_argument("--python", nargs="*", default=[], metavar="ENV=PYTHON", type=interpreter,
        help="an interpreter in place of the environment of that name")  # fmt: skip
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--forms", nargs="+", choices=[*BASES], default=[*BASES],
        help="of judging; not every contender has both")  # fmt: skip
    parser.add_argument("--model", default="bundled:smollm2-135m")
    counts = {"repeats": 3, "prompts": 16, "responses": 4, "tokens": 64, "judge-tokens": 100}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--timeout", type=float, default=7200, help="seconds of one run")
    parser.add_argument("--cold", action="store_true",
        help="an empty cache for each run of ours, as on a new machine")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the figures here, after each run")
    arguments = parser.parse_args()
    for name in counts:
        if getattr(arguments, name.replace("-", "_")) < 1:
            parser.error(f"--{name}: expected 1 or more")
    if arguments.prompts > (most := len(shipped_prompts())):
        parser.error(f"--prompts: {most} are shipped")
    if not chosen_of(arguments):
        parser.error("no contender that was named judges in this form")
    return arguments


def chosen_of(arguments: argparse.Namespace) -> dict[str, Entry]:
    """What is to run."""
    return {
        name: entry
        for name, entry in ENTRIES.items()
        if entry.contender in arguments.contenders and entry.form in arguments.forms
    }


def interpreter(text: str) -> tuple[str, str]:
    """The name of an environment and the interpreter that stands for it."""
    name, found, path = text.partition("=")
    if not found or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: expected ENV=PYTHON, such as trl=/bin/python3")
    return name, path


def shipped_prompts() -> list[str]:
    """All instructions that there are to answer."""
    lines = (prompts_directory() / "seed/ift.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def work_of(arguments: argparse.Namespace, model: Path, scratch: str, seed: int) -> Work:
    """The work: the first shipped instructions, and the shipped judge prompts."""
    prompts = prompts_directory()
    templates = {"written": "judge/additive.jinja", "expected": "judge/expected.jinja"}
    return Work(
        model=str(model),
        scratch=scratch,
        prompts=shipped_prompts()[: arguments.prompts],
        responses=arguments.responses,
        tokens=arguments.tokens,
        judge_tokens=arguments.judge_tokens,
        templates={form: (prompts / path).read_text() for form, path in templates.items()},
        seed=seed,
    )


def make_env(envs: Path, name: str) -> Path | str:
    """The interpreter of an environment, which is made where it is not; else why it cannot be."""
    requirements = HERE / f"requirements-{name}.txt"
    directory = envs / name
    python, mark = directory / "bin/python", directory / ".made"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == digest:
        return python
    print(f"making the environment {name}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(directory)],
        [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            return f"no environment: {last_line(done.stderr)}"
    mark.write_text(digest)
    return python


def versions_of(python: Path | str) -> dict[str, str]:
    """Of what an environment has; none where there is no environment."""
    if isinstance(python, str):
        return {}
    done = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def warm_up(
    entries: Iterable[Entry],
    envs: Mapping[str, Path | str],
    model: Path,
    arguments: argparse.Namespace,
    cache: Path,
) -> None:
    """Let ours do what it does once on a machine: prove its engines, ask TRL for its options."""
    small = argparse.Namespace(**{**vars(arguments), "prompts": 4, "responses": 2})
    done: list[dict[str, Any]] = []
    for entry in entries:
        if entry.module or entry.engine in done:
            continue
        done.append(entry.engine)
        with tempfile.TemporaryDirectory(prefix="race-") as scratch:
            work = work_of(small, model, scratch, seed=0)
            result = run("", entry, envs[entry.env], work, 0, arguments.timeout, cache)
        shown = result.error or f"{result.wall:.1f} s"
        print(f"ours, a small first run in {entry.dtype}: {shown}", flush=True)


def run(
    name: str,
    entry: Entry,
    python: Path | str,
    work: Work,
    repeat: int,
    timeout: float,
    cache: Path,
) -> Result:
    """Run an entry once and measure it."""
    result = Result(name, entry.form, repeat)
    if isinstance(python, str):
        result.error = python
        return result
    scratch = Path(work.scratch)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "SELFREWARD_RUNS": str(scratch / "runs"),
        "SELFREWARD_CACHE": str(cache),
    }
    if entry.module:
        path = scratch / "work.json"
        path.write_text(json.dumps(asdict(work)))
        module = f"benchmarks.peers.{entry.module}"
        command = [str(python), "-m", module, str(path), "--form", entry.form, *entry.arguments]
    else:
        command = ours.command(python, work, entry.form, entry.engine)
    out, err = scratch / "out", scratch / "err"
    status = measured(command, environment, out, err, timeout, result)
    if status is None:
        result.error = f"not done after {timeout:.0f} s"
        return result
    told: Report | None
    told = read_report(out.read_text()) if entry.module else ours.report(python, environment)
    result.report = told
    # Ours ends with an error where there is no pair, which is a result.
    if told is None or (status != 0 and (entry.module or told.pairs)):
        result.error = last_line(err.read_text() + out.read_text()) or f"ended with {status}"
    return result


def measured(
    command: Sequence[str],
    environment: dict[str, str],
    out: Path,
    err: Path,
    timeout: float,
    result: Result,
) -> int | None:
    """Run a command to its end, fill in what it took; its exit status, None if it took too long."""
    with out.open("w") as output, err.open("w") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=errors, start_new_session=True
        )
        watched, looked = psutil.Process(process.pid), 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            now = time.perf_counter()
            if pid:
                break
            if now - start > timeout:
                end(watched)
                _, _, usage = os.wait4(process.pid, 0)
                break
            if now - looked >= WATCHED_S:
                looked = now
                result.peak = max(result.peak, sum(part for part, _ in held_by(watched)))
            time.sleep(POLLED_S)
        result.wall = now - start
        result.cpu = usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status) if pid else -signal.SIGKILL
        return process.returncode if pid else None


def end(process: psutil.Process) -> None:
    """End a process and its children."""
    for one in (*process.children(recursive=True), process):
        try:
            one.kill()
        except psutil.Error:
            continue


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and line[0] not in "│╭╰{" and "it/s]" not in line]
    errors = [line for line in said if "Error" in line or line.startswith("error:")]
    return (errors or said or [""])[-1][:400]


def machine_of() -> dict[str, Any]:
    """What decides how fast all are: processor, threads, versions, matrix products."""
    found: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        found = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return {
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load": round(os.getloadavg()[0], 2),
        "flags": [flag for flag in FLAGS if flag in found],
        "gflops": json.loads(
            subprocess.run(
                [sys.executable, "-c", _PRODUCTS], capture_output=True, text=True, check=True
            ).stdout
        ),
    }


_VERSIONS = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in ("torch", "transformers", "trl", "openvino", "distilabel"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        continue
print(json.dumps(found))
"""
_PRODUCTS = """
import json, time, torch
found = {}
for name in ("float32", "bfloat16"):
    a = torch.randn(2048, 2048).to(getattr(torch, name))
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    found[name] = round(best, 1)
print(json.dumps(found))
"""


def parameters_of(model: Path) -> int:
    """Parameters of a model, tied ones once."""
    total = 0
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in head.items():
            if name != "__metadata__":
                size = 1
                for side in tensor["shape"]:
                    size *= side
                total += size
    return total


def write(
    arguments: argparse.Namespace, machine: dict[str, Any], results: Sequence[Result]
) -> None:
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
        if name not in ("envs", "python", "json")
    }
    figures = {"machine": machine, "settings": settings, "results": list(map(asdict, results))}
    arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
