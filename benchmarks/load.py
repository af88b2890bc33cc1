"""What large runs cost: the whole stream, readers of a million judgments, the filter of prompts.

    python benchmarks/load.py [stream|store|filter|iterations ...] [--scale 1] [--json FILE]

- `stream`: 20,000 prompts of a data set, 4 answers each, 3 votes on each, by an engine that answers
  at once: records a second and peak memory of the process that runs the stream.
- `store`: what the verbs that read take on a run of a million judgments, each in its own process.
- `filter`: 5,000 new prompts against 20,000 known ones (`prompts.rouge_l_max=0.7`), and whether the
  verdicts are those of ROUGE-L against each of them, for as many as ten seconds allow.
- `iterations`: a run of ten, with scripted text and weights: how memory, open files and the files
  of the run grow from one to the next.

Seconds are of processor time unless a line says otherwise. Each measure runs in its own process.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from growth import Instant, Plain
from store import write_run

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs.collect import create_run
from selfreward.stages.pool import Pool, rouge_l
from selfreward.stages.words import words
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.workers.rollout import generate_iteration

ROOT = Path(__file__).parents[1]
UNIT = 1 if sys.platform == "darwin" else 1024
"""Of ``ru_maxrss``, in bytes."""
TOLD = """
import re, sys, time
from pathlib import Path
from selfreward.cli.main import invoke
code = invoke(sys.argv[1:])
[peak] = re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(time.process_time(), peak, file=sys.stderr)
"""
"""A verb that tells its processor time and peak memory, in kB, on Linux: that of ``getrusage``
begins with what its parent had."""
Figures = dict[str, float]


def main() -> None:
    """Measure in processes of their own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the size")
    parser.add_argument("--alone", action="store_true", help="in this process")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.alone:
        [what] = arguments.what
        with tempfile.TemporaryDirectory() as root:
            os.environ["SELFREWARD_RUNS"] = root
            print(json.dumps(MEASURES[what](Path(root), arguments.scale)))
        return
    found: dict[str, Figures] = {}
    for what in arguments.what or MEASURES:
        command = [sys.executable, __file__, "--alone", what, "--scale", str(arguments.scale)]
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | path)
        found[what] = json.loads(done.stdout.splitlines()[-1])
        print(what)
        for name, value in found[what].items():
            print(f"  {name:44} {value:>12,.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def stream(root: Path, scale: float) -> Figures:
    """The generating process over a whole iteration."""
    count = int(20_000 * scale)
    rows = root / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "Tell me fact {i} of it."}}\n' for i in range(count)))
    settings = [
        f"prompts.count={count}", f"prompts.dataset={rows}", "sft=null", "iterations=1",
        "responses.n=4", "judge.form=written", "judge.votes=3",
    ]  # fmt: skip
    run = create_run(build_config({}, settings), "run")
    durable.write_file(run.path / "models" / "M0.json", json.dumps({"path": "m", "digest": ""}))
    sessions = Sessions(lambda settings, model: Session(Instant(), Plain()))  # type: ignore[arg-type,return-value]
    wall, spent = time.perf_counter(), time.process_time()
    with run.owned() as store:
        asyncio.run(generate_iteration(run, store, 1, sessions))
        made = sum(
            next(store.query(f"SELECT count(*) FROM {table}"))[0]
            for table in ("prompts", "responses", "judgments")
        )
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    return {
        "records": made,
        "records a second": made / spent,
        "records a second, by the clock": made / wall,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e6,
    }


def store(root: Path, scale: float) -> Figures:
    """Each verb that reads."""
    run = root / "million"
    sys.stdout, printed = sys.stderr, sys.stdout  # what it prints is of another benchmark
    write_run(run, int(1_000_000 * scale), "written")
    sys.stdout = printed
    found: Figures = {"records.db, MB": (run / "records.db").stat().st_size / 1e6}
    for verb in (
        ["status", str(run)],
        ["scores", str(run)],
        ["show", str(run), "--best", "3"],
        ["pairs", str(run)],
        ["verify", str(run)],
    ):
        done = subprocess.run(
            [sys.executable, "-c", TOLD, *verb], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            check=True, text=True,
        )  # fmt: skip
        seconds, kilobytes = map(float, done.stderr.split()[-2:])
        found[f"{verb[0]}, seconds"], found[f"{verb[0]}, peak MB"] = seconds, kilobytes / 1000
    return found


def filter_(root: Path, scale: float) -> Figures:
    """The pool of prompts."""
    draw = random.Random(0)
    vocabulary = [f"word{i}" for i in range(30_000)]
    often = list(accumulate(1 / (1 + i) for i in range(len(vocabulary))))  # Zipf

    def new() -> str:
        return " ".join(draw.choices(vocabulary, cum_weights=often, k=draw.randint(6, 40)))

    def like(text: str) -> str:
        these = text.split()
        for _ in range(len(these) * 3 // 10):
            these[draw.randrange(len(these))] = draw.choice(vocabulary)
        return " ".join(these)

    known = [new() for _ in range(int(20_000 * scale))]
    asked = [like(draw.choice(known)) if i % 5 == 0 else new() for i in range(int(5_000 * scale))]
    spent, pool = time.process_time(), Pool(known)
    verdicts = [pool.nearest(text, 0.7) for text in asked]
    spent = time.process_time() - spent
    taken_apart = [words(text) for text in known]
    until, checked, same = time.process_time() + 10, 0, 0
    for text, verdict in zip(asked, verdicts, strict=True):
        if time.process_time() > until:
            break
        these = words(text)
        near = (i for i, other in enumerate(taken_apart) if rouge_l(these, other) >= 0.7)
        at = next(near, None)
        checked, same = checked + 1, same + (verdict == (None if at is None else known[at]))
    return {
        "seconds": spent,
        "similar": sum(verdict is not None for verdict in verdicts),
        "verdicts held against ROUGE-L": checked,
        "of them the same": same,
    }


def iterations(root: Path, scale: float) -> Figures:
    """What is held at the end of each iteration, in the process of the loop."""
    from tests.support.loop_driver import ScriptedWorkers

    held: list[tuple[float, int, int]] = []

    class Looked(ScriptedWorkers):
        def train(self, iteration: int, stage: str = "train") -> None:
            super().train(iteration, stage)
            gc.collect()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            files = sum(path.is_file() for path in self.run.path.rglob("*"))
            held.append((resident / 1e6, len(os.listdir("/proc/self/fd")), files))

    os.chdir(root)
    settings = [
        "iterations=10", f"prompts.count={int(50 * scale)}", "responses.n=4", "judge.form=written",
        "judge.template=judge/additive.jinja", "judge.min_parse_rate=0", "sft.max_length=9999",
        "prompts.rouge_l_max=0.99",
    ]  # fmt: skip
    run: Run = create_run(build_config({}, settings), "run")
    launch(run, lambda: None, Looked(run))
    third, last = held[3], held[-1]
    return {
        "MB after iteration 3": third[0],
        "MB after iteration 10": last[0],
        "open files after iteration 3": third[1],
        "open files after iteration 10": last[1],
        "files of the run a further iteration": (last[2] - third[2]) / 7,
    }


MEASURES: dict[str, Callable[[Path, float], Figures]] = {
    "stream": stream, "store": store, "filter": filter_, "iterations": iterations,
}  # fmt: skip

if __name__ == "__main__":
    main()
