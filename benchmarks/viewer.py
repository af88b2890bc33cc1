"""How fast the viewer answers about a million judgments while a run goes on writing beside it.

    python benchmarks/viewer.py [--judgments 1000000] [--rounds 40] [--keep DIRECTORY]

Writes the run of ``store.py`` with texts of 30,000 words in Zipf's frequencies, starts
`selfreward view` on it, and a process that commits 10 times a second, 100 records each. Prints the
time to the first byte, that of the first index, and of each page, list and search the median and
95th percentile in milliseconds, beside the memory of the viewer, its children not counted, and its
processor time, which tells on a busy machine what waiting for it does not.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import psutil
from store import ITERATIONS, NUM_RESPONSES, made_records, write_run

from selfreward.storage.store import Store

TOKEN = "benchmark-token"
VOCABULARY = 30_000
COMMITS_S, PROMPTS = 10, 6  # 6 prompts are 102 records


def main() -> None:
    """Write, serve, ask, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judgments", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="write the run here and leave it")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        _write_on(arguments.write)
        return
    with tempfile.TemporaryDirectory() as temporary:
        run = arguments.keep or Path(temporary) / "runs" / "benchmark"
        if not run.exists():
            write_run(run, arguments.judgments, "written", text)
        os.environ["SELFREWARD_CACHE"] = str(Path(temporary) / "cache")
        _measure(run, arguments.judgments, arguments.rounds)


def text(rng: random.Random, num_words: int) -> str:
    """Words as frequent as they are in a language: the second half as often as the first, ..."""
    count = rng.randint(num_words // 2, num_words * 3 // 2)
    return " ".join(f"w{int(VOCABULARY ** rng.random())}" for _ in range(count))


def _write_on(run: Path) -> None:
    """Commit records to the last iteration until killed."""
    with Store.claim(run / "records.db") as store:
        query = "SELECT max(attempt) + 1 FROM prompts WHERE iteration = ?"
        start = next(store.query(query, (ITERATIONS,)))[0]
        for number in itertools.count():
            first = start + number * PROMPTS
            store.add([*made_records(ITERATIONS, PROMPTS, 3, "written", text, first)])
            time.sleep(1 / COMMITS_S)


def _measure(run: Path, judgments: int, rounds: int) -> None:
    start = time.perf_counter()
    command = [sys.executable, "-m", "selfreward", "view", str(run), "--no-browser", "--port", "0",
               "--token", TOKEN, "--json"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert server.stdout is not None
    port = json.loads(server.stdout.readline())["port"]
    writer = None
    try:
        ask = Client(port, run.name)
        ask("page", "")
        seconds = time.perf_counter() - start
        print(
            f"start to the first byte: {seconds:.2f} s, {_processor(server.pid):.2f} of processor"
        )
        _index(ask, server.pid)
        writer = subprocess.Popen([sys.executable, __file__, "--write", str(run)])
        time.sleep(2)
        attempts = judgments // (ITERATIONS * NUM_RESPONSES * 3)
        for name, path in _requests(attempts).items():
            before = _processor(server.pid)
            times = [ask("api", path()) for _ in range(rounds)]
            each = 1000 * (_processor(server.pid) - before) / rounds
            _report(f"{name}: {each:.0f} ms of processor time", times, server.pid)
    finally:
        for process in (writer, server):
            if process is not None:
                process.terminate()
                process.wait()


def _index(ask: "Client", pid: int) -> None:
    """Wait for the first index, asking for other pages meanwhile."""
    start, meanwhile, spent = time.perf_counter(), [], 0.0
    while True:
        ask("api", "/list?limit=1")
        index = ask.answer["index"]
        if index["done"] == index["total"]:
            break
        spent = max([spent, *(_processor(child.pid) for child in psutil.Process(pid).children())])
        meanwhile += [ask("api", ""), ask("api", "/prompt/1/5")]
        time.sleep(0.5)
    seconds = time.perf_counter() - start
    print(f"first index of {index['total']:,} texts: {seconds:.0f} s, {spent:.0f} of processor")
    _report("pages meanwhile", meanwhile, pid)


def _requests(attempts: int) -> dict[str, Callable[[], str]]:
    rng = random.Random(0)

    def listed(query: str) -> Callable[[], str]:
        return lambda: f"/list?{query}"

    def deep(query: str) -> Callable[[], str]:
        """A page from somewhere in the middle: by score, as a cursor would say it."""
        return lambda: f"/list?{query}&min_score={rng.uniform(1, 4):.3f}"

    return {
        "run": lambda: "",
        "change": lambda: "/change",
        "prompt": lambda: f"/prompt/{rng.randint(1, 3)}/{rng.randrange(attempts)}",
        "training": lambda: "/training/1",
        "list of judgments": listed("kind=judgments"),
        "list of judgments, last first": listed("kind=judgments&order=desc&iteration=2"),
        "list of responses by score": listed("kind=responses&sort=score&order=desc"),
        "list of responses by spread": listed("kind=responses&sort=spread&order=desc&iteration=3"),
        "list of responses by length": listed("kind=responses&sort=length"),
        "list of prompts by spread": listed("kind=prompts&sort=spread&order=desc"),
        "list of responses in a range of scores": deep("kind=responses&sort=length"),
        "search, a rare word": lambda: f"/list?kind=judgments&q=w{rng.randint(9000, 29999)}",
        "search, a word in 1 of 100": lambda: f"/list?kind=judgments&q=w{rng.randint(500, 700)}",
        "search, the most common word": listed("kind=judgments&q=w1"),
        "search, two words by score": lambda: (
            "/list?kind=responses&sort=score&order=desc"
            f"&q=w{rng.randint(20, 60)}+w{rng.randint(1, 9)}"
        ),
        "search, the most common word by length": listed("kind=judgments&q=w1&sort=length"),
        "search, a phrase": listed("kind=responses&q=%22w1+w2%22"),
        "search, the start of a word": listed("kind=judgments&q=w12*"),
    }


class Client:
    """Asks, one thing at a time, over one connection."""

    def __init__(self, port: int, run: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._run = run
        self.answer: dict[str, dict[str, int]] = {}

    def __call__(self, kind: str, path: str) -> float:
        """Seconds that an answer took."""
        prefix = "/api/run/" if kind == "api" else "/run/"
        start = time.perf_counter()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._connection.request("GET", f"{prefix}{self._run}{path}", headers=headers)
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - start
        if answer.status == 200 and kind == "api":
            self.answer = json.loads(body)
        elif answer.status not in (200, 404):
            raise SystemExit(f"{path}: {answer.status} {body[:500]!r}")
        return seconds


def _processor(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    spent = psutil.Process(pid).cpu_times()
    return spent.user + spent.system


def _report(name: str, times: list[float], pid: int) -> None:
    ordered = sorted(1000 * each for each in times) or [0.0]
    late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    memory = psutil.Process(pid).memory_info().rss / 2**20
    print(f"{name}; median {statistics.median(ordered):.0f} ms, p95 {late:.0f} ms; {memory:.0f} MB")


if __name__ == "__main__":
    main()
