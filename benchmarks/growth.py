"""By how much the generating process grows with each judgment: a rollout with a scripted engine.

    python benchmarks/growth.py [--judgments 20000 100000] [--form written] [--json FILE]

Each size runs in a process of its own: prompts from a data set, 8 responses of 600 characters, 3
written votes of 300 each (or one ``expected`` vote). Rendering, records and commits are real; the
engine answers at once. It prints the peak of resident memory, and what each judgment added to it
from the smallest size to the largest. What has to stay is 64 requests in flight, the pool of
prompts, and the numbers of the responses that wait to be judged.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from selfreward.config.load import build_config
from selfreward.engines.base import Generation, Request
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs.collect import create_run
from selfreward.storage import durable
from selfreward.workers.rollout import generate_iteration

RESPONSES, VOTES = 8, 3
SENTENCE = "Bread rises because yeast eats sugar and gives off gas that the dough holds. "


def main() -> None:
    """Measure each size, then the difference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judgments", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--form", choices=("written", "expected"), default="written")
    parser.add_argument("--alone", action="store_true", help="one size, in this process")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(_rollout(arguments.judgments[0], arguments.form)))
        return
    found = []
    for size in sorted(arguments.judgments):
        command = [sys.executable, __file__, "--alone", "--form", arguments.form]
        done = subprocess.run([*command, "--judgments", str(size)], check=True, capture_output=True)
        found.append(json.loads(done.stdout))
        print("{judgments:,} judgments: peak {peak_mb:.0f} MB, {cpu_s:.0f} s".format(**found[-1]))
    first, last = found[0], found[-1]
    if last["judgments"] > first["judgments"]:
        more = 1e6 * (last["peak_mb"] - first["peak_mb"])
        each = more / (last["judgments"] - first["judgments"])
        print(f"{each:,.0f} bytes a judgment")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def _rollout(judgments: int, form: str) -> dict[str, float]:
    count = judgments // (RESPONSES * (VOTES if form == "written" else 1))
    with tempfile.TemporaryDirectory() as root:
        os.environ["SELFREWARD_RUNS"] = root
        rows = Path(root) / "rows.jsonl"
        rows.write_text("".join(f'{{"prompt": "Tell me fact {i} of it."}}\n' for i in range(count)))
        words = [f"prompts.count={count}", "sft=null", f"prompts.dataset={rows}", "iterations=1"]
        words += [f"judge.form={form}", f"judge.votes={VOTES}", f"responses.n={RESPONSES}"]
        words += ["judge.template=judge/expected.jinja"] if form == "expected" else []
        run = create_run(build_config({}, words), "run")
        durable.write_file(run.path / "models" / "M0.json", json.dumps({"path": "m", "digest": ""}))
        sessions = Sessions(lambda settings, model: Session(Instant(), Plain()))  # type: ignore[arg-type,return-value]
        with run.owned() as store:
            asyncio.run(generate_iteration(run, store, 1, sessions))
            made = next(store.query("SELECT count(*) FROM judgments"))[0]
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "judgments": made,
        "peak_mb": used.ru_maxrss * unit / 1e6,
        "cpu_s": used.ru_utime + used.ru_stime,
    }


class Plain:
    """A chat format in which a token is a code point."""

    def request(
        self, user: object, started: str, sampling: object, n: int = 1, seed: int = 0
    ) -> Request:
        """The request of a turn."""
        return Request(tuple(str(user).encode()), sampling, n, seed)  # type: ignore[arg-type]

    def score_prompt(
        self, user: str, before: str = "", started: str = ""
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A prompt and the score tokens."""
        return tuple(str(user).encode()), tuple(b"012345")

    def left_out(self, user: object) -> None:
        """Nothing is left out of a turn."""

    def control_token(self, text: str) -> None:
        """There are none."""

    def odd_ids(self, user: str, text: str, sampled: tuple[int, ...]) -> None:
        """Texts are tokenized as they were sampled."""

    def split_thinking(self, text: str, started: str = "") -> tuple[str, str]:
        """Nothing thinks."""
        return "", text


class Instant:
    """An engine without a model; each text differs from all others."""

    count = 0

    async def generate(self, request: Request) -> list[Generation]:
        """Answer at once."""
        await asyncio.sleep(0)
        if request.score_tokens:
            return [Generation("", (), "stop", probabilities=(0.1, 0.1, 0.2, 0.3, 0.2, 0.1))]
        self.count += 1
        times = 4 if request.n == VOTES else 8
        texts = [f"{self.count}.{i} {SENTENCE * times}" for i in range(request.n)]
        ids = tuple(range(times * 15))
        end = "\nScore: 3" if request.n == VOTES else ""
        return [Generation(text + end, ids, "stop", -100.0) for text in texts]

    async def load(self, model: Path) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to free."""


if __name__ == "__main__":
    main()
