"""A viewer for tests: its application behind its guard, asked as a browser or a script would."""

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient

from selfreward.config.load import build_config
from selfreward.inputs.collect import create_run
from selfreward.records import Judgment, Prompt, Response, Stage
from selfreward.stages.pairs import build_pairs
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.viewer.answers import Viewer
from selfreward.viewer.app import make_app
from selfreward.viewer.guard import Guard
from selfreward.viewer.runs import Runs
from tests.support.runs import SMALL

TOKEN, PORT = "token-of-the-tests", 7860
HEADERS = {"authorization": f"Bearer {TOKEN}"}
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa mu naïve größer 東京 don't"


@contextmanager
def viewing(only: Run | None = None, host: str = "127.0.0.1") -> Iterator[TestClient]:
    """A client that knows the token."""
    viewer = Viewer(Runs(only))
    app = Guard(make_app(viewer), token=TOKEN, host=host, port=PORT)
    client = TestClient(
        app, f"http://127.0.0.1:{PORT}", headers=HEADERS, raise_server_exceptions=False,
        follow_redirects=False,
    )  # fmt: skip
    try:
        yield client
    finally:
        viewer.close()


def ask(client: TestClient, path: str, **params: Any) -> Any:
    """The JSON of an answer that is no error."""
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(client: TestClient, run: str, **params: Any) -> list[dict[str, Any]]:
    """All items of a list, page by page, once the side file has all of the run."""
    path = f"/api/run/{run}/list"
    wait_for_index(client, run)
    items, after = [], None
    while True:
        page = ask(client, path, **params, **({} if after is None else {"after": after}))
        index = page["index"]
        assert index["done"] == index["total"]
        items += page["items"]
        after = page["next"]
        if after is None:
            return items


def wait_for_index(client: TestClient, run: str) -> None:
    """Wait until the side file has all of a run."""
    end = time.monotonic() + 60
    while True:
        index = ask(client, f"/api/run/{run}/list", limit=1)["index"]
        if index["done"] == index["total"]:
            return
        assert time.monotonic() < end
        time.sleep(0.1)


def files_of(run: Run) -> dict[str, str]:
    """sha256 of every file of a run; SQLite's own two beside it hold nothing of it."""
    return {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.path.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def make_run(name: str, *, jury: bool = False) -> Run:
    """A run with nothing in it yet, of one judge or of three."""
    words = ["judge.jury=[{model: M1, weight: 2.0}, {model: M0, weight: 0.5}]"] if jury else []
    return create_run(build_config({}, [*SMALL, *words]), name)


def add_records(
    run: Run, iteration: int, attempts: range, *, jurors: int = 1, seed: int = 0
) -> None:
    """Made-up prompts, answers, votes, pairs and drops: with ties, failed votes and cut answers."""
    rng = random.Random(f"{iteration} {attempts} {seed}")
    prompts, responses, judgments = [], [], []
    for a in attempts:
        dropped = rng.choice([None, None, None, "similar", "too short"])
        prompts.append(Prompt(iteration, a, _text(rng), _text(rng), dropped, _text(rng), 9))
        for s in range(0 if dropped else 3):
            finish = rng.choice(["stop", "stop", "stop", "length"])
            responses.append(Response(iteration, a, s, _text(rng), finish, 9))
            for j in range(jurors):
                for v in range(2):
                    score = rng.choice([None, 1.0, 2.5, 3.0, 3.0, 5.0])
                    reason = None if score is not None else rng.choice(["no verdict", "cut off"])
                    judgments.append(
                        Judgment(iteration, a, s, v, "written", _text(rng), score, reason, juror=j)
                    )
    with Store.claim(run.records) as store:
        store.add([*prompts, *responses])
        rng.shuffle(judgments)
        for at in range(0, len(judgments), 7):
            store.add(judgments[at : at + 7])
        pairs, drops = build_pairs(
            prompts, responses, judgments, run.config.pairs, run.config.judge.weights
        )
        store.add([*pairs, *drops])
        store.set_progress(iteration, "judgments", 1, 2, 1.0)


def close_iteration(run: Run, iteration: int) -> None:
    """Say that its pairs are built."""
    with Store.claim(run.records) as store:
        store.finish_stage(Stage(iteration, "pairs", 0, 0, "-", "", 1.0, {}))


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS.split(), k=rng.randint(1, 12)))
