"""What our own code costs per request: a whole rollout with an engine that answers at once.

    python benchmarks/overhead.py [--prompts 500] [--json FILE]

Rendering, tokenizing, tasks, parsing and durable commits are ours and real; only the model is not
there. 4 responses per prompt, 64 requests in flight.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

from selfreward.config.load import build_config
from selfreward.engines.base import Generation, Request
from selfreward.engines.chat import Chat
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs import models
from selfreward.inputs.collect import create_run
from selfreward.storage import durable
from selfreward.workers.rollout import generate_iteration

ANSWER = "Bread rises because yeast eats sugar and gives off gas that the dough holds. " * 10


def main() -> None:
    """Time a rollout and divide by its requests."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    chat = Chat(models.resolve(arguments.model).path)
    engine = Instant()
    with tempfile.TemporaryDirectory() as root:
        os.environ["SELFREWARD_RUNS"] = root
        rows = Path(root) / "rows.jsonl"
        lines = (json.dumps({"prompt": f"Tell me fact {i} on bread."}) for i in range(10_000))
        rows.write_text("\n".join(lines))
        words = [f"prompts.count={arguments.prompts}", "sft=null", f"prompts.dataset={rows}"]
        words += ["judge.form=expected", "judge.template=judge/expected.jinja"]
        run = create_run(build_config({}, words), "run")
        facts = {"path": str(chat.model), "digest": ""}
        durable.write_file(run.path / "models" / "M0.json", json.dumps(facts))
        sessions = Sessions(lambda settings, model: Session(engine, chat))
        begin = time.perf_counter()
        with run.owned() as store:
            asyncio.run(generate_iteration(run, store, 1, sessions))
        seconds = time.perf_counter() - begin
    each = 1000 * seconds / engine.count
    print(f"{engine.count} requests in {seconds:.1f} s: {each:.2f} ms each   target: below 1")
    if arguments.json:
        arguments.json.write_text(json.dumps({"requests": engine.count, "ms": each}, indent=1))


class Instant:
    """An engine without a model."""

    count = 0

    async def generate(self, request: Request) -> list[Generation]:
        """Answer at once."""
        self.count += 1
        await asyncio.sleep(0)
        if request.score_tokens:
            return [Generation("", (), "stop", probabilities=(0.1, 0.1, 0.2, 0.3, 0.2, 0.1))]
        return [Generation(ANSWER, tuple(range(160)), "stop", -100.0)] * request.n

    async def load(self, model: Path) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to free."""


if __name__ == "__main__":
    main()
