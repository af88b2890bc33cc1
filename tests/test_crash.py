"""kill -9, SIGTERM and rivals at any moment: what is committed stays, and nothing doubles.

The whole loop with scripted text and weights, in processes that are forked, so that a kill costs a
fraction of a second (``support/torture.py``). How many in `make torture`: SELFREWARD_KILLS.
"""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from selfreward.errors import LockedError
from selfreward.records import Judgment
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.status import status_of
from tests.support.scenarios import RUN, SCENARIOS, made, run_again, start
from tests.support.steps import Plan
from tests.support.torture import begin, done, end, words

LONG = [
    *RUN, "iterations=2", "prompts.count=12", "prompts.window=4", "prompts.rouge_l_max=0.99",
    "responses.n=4", "judge.votes=3", "engine.concurrency=4", "prompts.seeds=seed/ift.jsonl",
    "sft.ift={path: seed/ift.jsonl, limit: 5}", "sft.eft={path: seed/eft.jsonl, limit: 2}",
]  # fmt: skip
SLOW = "0.004"
"""Seconds that an answer takes at most, so that answers do not come back in order."""
RESUME = words("resume", "run", delay=SLOW)
KILLS = int(os.environ.get("SELFREWARD_KILLS", "1000"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a run that was cut off before its first record."""
    root = tmp_path_factory.mktemp("begun")
    process, run = begin(root, words(*LONG, mood="forever")), Run(root / "runs" / "run")
    wait_for(run, lambda store: launches(store) == 1)
    process.kill()
    end(root, process)
    return root


@pytest.fixture(scope="module")
def expected(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, float]:
    """What the run makes when it is left alone, and in how many seconds."""
    root = tmp_path_factory.mktemp("expected") / "place"
    shutil.copytree(begun, root)
    before = time.monotonic()
    ended = done(root, RESUME)
    assert ended.code == 0, ended.said
    return made(root), time.monotonic() - before


def place(begun: Path, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(begun, root)
    return root


def finish(root: Path, expected: object) -> None:
    ended = done(root, RESUME)
    assert ended.code == 0, ended.said
    assert made(root) == expected


@pytest.mark.parametrize(
    "num_kills",
    [10, pytest.param(KILLS, marks=[pytest.mark.torture, pytest.mark.timeout(7200)])],
)
def test_random_kills_leave_the_records_of_an_uninterrupted_run(
    num_kills: int, begun: Path, expected: tuple[object, float], tmp_path: Path
) -> None:
    whole, seconds = expected
    draw = random.Random(num_kills)
    kills = runs = 0
    while kills < num_kills:
        root, runs = place(begun, tmp_path / "place"), runs + 1
        for _ in range(12):
            process = begin(root, RESUME)
            time.sleep(draw.uniform(0.0, 0.6) * seconds)
            process.kill()
            if end(root, process).code == 0:
                break
            kills += 1
        finish(root, whole)
    print(f"{kills} kills at random moments, {runs} runs")


def test_what_a_kill_leaves_committed_is_never_rewritten(
    begun: Path, expected: tuple[object, float], tmp_path: Path
) -> None:
    root = place(begun, tmp_path / "place")
    run = Run(root / "runs" / "run")
    process = begin(root, RESUME)
    wait_for(run, has_judged)
    process.kill()
    end(root, process)
    query = "SELECT rowid, * FROM judgments ORDER BY rowid"
    with contextlib.closing(sqlite3.connect(run.records)) as db:
        before = db.execute(query).fetchall()
    finish(root, expected[0])
    with contextlib.closing(sqlite3.connect(run.records)) as db:
        after = db.execute(query).fetchall()
    assert len(before) > 10
    assert after[: len(before)] == before


@pytest.mark.parametrize(
    "num_pairs",
    [3, pytest.param(KILLS // 10, marks=[pytest.mark.torture, pytest.mark.timeout(7200)])],
)
def test_a_kill_of_what_recovers_from_a_kill_loses_nothing(num_pairs: int, tmp_path: Path) -> None:
    root, scenario = tmp_path / "place", SCENARIOS["run"]
    start(root, scenario, root)
    steps = done(root, scenario.act, Plan()).steps
    whole = made(root)
    draw = random.Random(num_pairs)
    for _ in range(num_pairs):
        start(root, scenario, root)
        killed = done(root, scenario.act, Plan(kill=draw.randrange(len(steps) // 3, len(steps))))
        assert killed.code == -signal.SIGKILL
        left = done(root, run_again, Plan(kill=draw.randint(1, 12)))  # it cleans up and claims
        assert left.code in (0, -signal.SIGKILL)
        assert done(root, run_again).code == 0
        assert made(root) == whole
    print(f"{num_pairs} kills, each with another in the recovery")


@pytest.mark.parametrize("num_moments", [6, pytest.param(20, marks=pytest.mark.torture)])
def test_sigterm_at_any_moment_ends_a_run_with_143_and_what_was_committed_stays(
    num_moments: int, begun: Path, expected: tuple[object, float], tmp_path: Path
) -> None:
    root, (whole, seconds) = place(begun, tmp_path / "place"), expected
    codes = []
    for moment in range(num_moments):
        with Run(root / "runs" / "run").store() as store:
            before_it = launches(store)
        process = begin(root, RESUME)
        if moment:  # the first one comes before it listens to signals, or soon after
            wait_for(Run(root / "runs" / "run"), lambda store, n=before_it: launches(store) > n)
        time.sleep(0.4 * moment / num_moments * seconds)
        before = time.monotonic()
        process.terminate()
        ended = end(root, process)
        assert time.monotonic() - before < 10
        # Before it listens to signals the system ends it, which a shell calls 143, too.
        assert ended.code in (0, 143) or (moment == 0 and ended.code == -signal.SIGTERM), ended
        assert ended.code == 0 or "selfreward resume run" in ended.said or not ended.said
        codes.append(ended.code)
        made(root)  # `verify` passes
        if ended.code == 0:
            place(begun, root)
    assert codes.count(143) > num_moments // 2
    finish(root, whole)


def wait_for(run: Run, is_so: Callable[[Store], bool]) -> None:
    """Wait until something holds of a run under way."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if run.records.is_file():
            with run.store() as store:
                if is_so(store):
                    return
        time.sleep(0.01)
    pytest.fail("it took more than a minute")


def stop_between_commits(owner: psutil.Process, run: Run) -> None:
    """Stop a process while it holds no lock of its run's database, for which others would wait."""
    while True:
        owner.suspend()
        while (status := owner.status()) != psutil.STATUS_STOPPED:
            assert status != psutil.STATUS_ZOMBIE, "it has ended before it could be stopped"
            time.sleep(0.001)
        with contextlib.closing(sqlite3.connect(run.records, timeout=0)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                owner.resume()
                time.sleep(0.001)


def launches(store: Store) -> int:
    return sum(kind == "launched" for _, kind, _ in store.events())


def has_judged(store: Store) -> bool:
    return len(store.records(Judgment, 1)) > 10


@pytest.mark.parametrize(
    "rounds", [1, pytest.param(KILLS // 20, marks=[pytest.mark.torture, pytest.mark.timeout(7200)])]
)
def test_of_eight_that_resume_a_run_at_once_one_goes_on_and_the_others_exit_4(
    rounds: int, begun: Path, tmp_path: Path
) -> None:
    for _ in range(rounds):
        root = place(begun, tmp_path / "place")
        forever = words("resume", "run", mood="forever")
        rivals = [begin(root, forever) for _ in range(8)]
        deadline = time.monotonic() + 60
        while sum(rival.is_alive() for rival in rivals) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        [winner] = [rival for rival in rivals if rival.is_alive()]
        winner.terminate()
        ended = [end(root, rival) for rival in rivals]
        assert sorted(each.code for each in ended) == [LockedError.exit_code] * 7 + [143]
        assert sum(each.is_clean for each in ended) == 7
        with Run(root / "runs" / "run").store() as store:
            assert launches(store) == 2  # of the run that was begun, and of the winner
    print(f"{rounds} rounds of 8 rivals")


def test_a_stopped_owner_that_wakes_after_another_took_over_commits_nothing(
    begun: Path, expected: tuple[object, float], tmp_path: Path
) -> None:
    root = place(begun, tmp_path / "place")
    run = Run(root / "runs" / "run")
    owner = begin(root, RESUME)
    wait_for(run, has_judged)
    stop_between_commits(psutil.Process(owner.pid), run)
    try:
        refused = done(root, RESUME)
        assert refused.code == LockedError.exit_code and refused.is_clean
        (run.path / "run.lock").unlink()  # as where a file system knows no locks
        finish(root, expected[0])
    finally:
        os.kill(owner.pid or 0, signal.SIGCONT)
    woken = end(root, owner)
    assert woken.code == LockedError.exit_code, woken.said
    assert woken.is_clean and "was taken over" in woken.said
    assert made(root) == expected[0]


@pytest.mark.parametrize("clock", ["jumps", "frozen"])
def test_a_wrong_clock_changes_no_record(
    clock: str, begun: Path, expected: tuple[object, float], tmp_path: Path
) -> None:
    root = place(begun, tmp_path / "place")
    ended = done(root, words("resume", "run", delay=SLOW, clock=clock))
    assert ended.code == 0, ended.said
    assert made(root) == expected[0]
    with contextlib.chdir(root):
        status = status_of(Run(Path("runs", "run")))
    assert status.seconds >= 0 and (status.eta_s is None or status.eta_s >= 0)
