"""How fast the store takes records, checks them at a launch, and ``scores`` answers on a million.

    python benchmarks/store.py [--judgments 1000000] [--form written] [--keep DIRECTORY]

Writes a run of four iterations through ``Store.add`` in batches of 256, each batch a transaction
that reaches the disk (WAL, synchronous=FULL). Three iterations are closed, so that their figures
are kept; the last is still being judged, so that its figures are computed on every call.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from selfreward.config.load import dump_config
from selfreward.config.run import Config
from selfreward.measures.figures import iteration_figures
from selfreward.records import Judgment, Prompt, Record, Response, Stage
from selfreward.storage import database
from selfreward.storage.committed import check_records
from selfreward.storage.store import Store

BATCH = 256
ITERATIONS = 4
NUM_RESPONSES = 4
SENTENCE = "the answer gives most of what was asked for but leaves out one step and its reason"
WORDS = SENTENCE.split()
Text = Callable[[random.Random, int], str]
"""Makes a text of about so many words."""


def main() -> None:
    """Write, then read, and print what both took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judgments", type=int, default=1_000_000)
    parser.add_argument("--form", choices=("written", "expected"), default="written")
    parser.add_argument("--keep", type=Path, help="write the run here and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = arguments.keep or Path(temporary) / "benchmark"
        if not run.exists():
            write_run(run, arguments.judgments, arguments.form)
        with Store(run / "records.db") as store:
            start = time.perf_counter()
            iteration_figures(store, ITERATIONS)
            print(f"figures of the open iteration: {time.perf_counter() - start:.2f} s")
            start = time.process_time()
            check_records(store)
            seconds, made = time.process_time() - start, 0
            for table in ("prompts", "responses", "judgments"):
                query = f"SELECT count(*) FROM {table} WHERE iteration < ?"
                made += next(store.query(query, (ITERATIONS,)))[0]
            print(f"check at a launch of {made:,} records: {seconds:.1f} s of processor time")
        for _ in range(3):
            start = time.perf_counter()
            command = [sys.executable, "-m", "selfreward", "scores", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"selfreward scores: {time.perf_counter() - start:.2f} s")


def write_run(run: Path, num_judgments: int, form: str, text: Text | None = None) -> None:
    """Write the run that is described above, with texts of one's own."""
    run.mkdir(parents=True)
    (run / "config.resolved.yaml").write_text(dump_config(Config(iterations=ITERATIONS)))
    database.create(run / "records.db")
    num_votes = 3 if form == "written" else 1
    num_prompts = num_judgments // (ITERATIONS * NUM_RESPONSES * num_votes)
    spent, written = 0.0, 0
    with Store.claim(run / "records.db") as store:
        for iteration in range(1, ITERATIONS + 1):
            records = made_records(iteration, num_prompts, num_votes, form, text or _text)
            for batch in _batches(records):
                start = time.perf_counter()
                store.add(batch)
                spent += time.perf_counter() - start
                written += len(batch)
            store.set_progress(iteration, "judgments", 1, 2, 1.0)
            if iteration == ITERATIONS:
                break
            for stage in ("prompts", "responses", "judgments", "pairs", "train"):
                store.finish_stage(Stage(iteration, stage, 0, 0, "", "", 1.0, {}))
            store.save_figures(iteration, iteration_figures(store, iteration))
    megabytes = (run / "records.db").stat().st_size / 1e6
    print(f"{written:,} records in {spent:.1f} s: {written / spent:,.0f} records/s")
    print(f"records.db: {megabytes:,.0f} MB")


def made_records(
    iteration: int, num_prompts: int, num_votes: int, form: str, text: Text, start: int = 0
) -> Iterator[Record]:
    """Prompts from attempt ``start`` on, each with its responses and their judgments."""
    rng = random.Random(f"{iteration} {start}")
    for attempt in range(start, start + num_prompts):
        yield Prompt(iteration, attempt, text(rng, 15), text(rng, 15), None, "", 20)
        for sample in range(NUM_RESPONSES):
            yield Response(iteration, attempt, sample, text(rng, 100), "stop", 120)
            for vote in range(num_votes):
                key = (iteration, attempt, sample, vote)
                if form == "written":
                    score = float(rng.randint(0, 5))
                    raw = f"{text(rng, 60)}\n\nScore: {score:.0f}"
                    yield Judgment(*key, form, raw, score, num_tokens=80)
                else:
                    masses = tuple(rng.random() / 6 for _ in range(6))
                    score = sum(i * p for i, p in enumerate(masses)) / sum(masses)
                    yield Judgment(*key, form, "", score, probabilities=masses)


def _text(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(num_words // 2, num_words * 3 // 2)))


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(islice(iterator, BATCH)):
        yield batch


if __name__ == "__main__":
    main()
