"""kill -9 at each step on the disk, between steps and within a write: no step may be the last.

Failpoints are not built in: every call that changes the disk is one, see ``support/steps.py``.
"""

import ast
import random
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from selfreward.storage import store as of_storage
from tests.support import sqlite_steps
from tests.support.scenarios import RUN, SCENARIOS, made, start
from tests.support.steps import Plan, Step
from tests.support.torture import done, words

pytestmark = pytest.mark.skipif(
    sqlite_steps.library() is None or not Path("/proc/self/fd").exists(),
    reason="steps are watched on Linux, where Python is linked to a libsqlite3 of its own",
)
STORAGE = Path(of_storage.__file__).parent
CALLS = {
    "os.fsync", "os.rename", "os.replace", "os.link", "os.unlink", "os.mkdir", "shutil.rmtree",
    "shutil.copyfile", "shutil.copy2",
}  # fmt: skip
METHODS = (".unlink", ".mkdir", "._transaction", ".backup", ".executescript")
UNSEEN = {
    ("create", "shutil.rmtree(temporary, ignore_errors=True)"): "after a failure: test_disk_faults",
    ("durable", "temporary.unlink(missing_ok=True)"): "the same",
    ("durable", "os.rename(aside, target)"): "the same",
    ("durable", "shutil.copy2(path, to)"): "where there are no hard links: test_branch",
    ("durable", "os.fsync(file.fileno())"): "the same",
    ("store", "self._db.execute('COMMIT')"): "ends what only reads",
}
"""Calls that no scenario comes to."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs directory with a finished run."""
    root = tmp_path_factory.mktemp("whole")
    ended = done(root, words(*RUN))
    assert ended.code == 0, ended.said
    return root / "runs"


def durable_calls() -> Iterator[tuple[str, str, range]]:
    """Module, text and lines of every call in ``storage`` that changes the disk."""
    for path in sorted(STORAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, text = ast.unparse(node.func), ast.unparse(node)
            opens = name == "open" and any(mode in text for mode in ("'xb'", "'ab'", "'wb'"))
            commits = name.endswith(".execute") and "'COMMIT'" in text
            if name in CALLS or name.endswith(METHODS) or opens or commits:
                yield path.stem, text, range(node.lineno, (node.end_lineno or 0) + 1)


def undisturbed(root: Path, name: str, whole: Path) -> tuple[list[Step], dict[str, object]]:
    """The steps of a scenario, and what it makes."""
    start(root, SCENARIOS[name], whole)
    ended = done(root, SCENARIOS[name].act, Plan())
    assert ended.code == 0, ended.said
    return ended.steps, made(root)


def check(root: Path, name: str, whole: Path, plan: Plan, expected: object) -> None:
    """Carry a scenario out with a kill, then go on as a user would."""
    start(root, SCENARIOS[name], whole)
    ended = done(root, SCENARIOS[name].act, plan)
    assert ended.code == -9, (plan, ended)
    made(root)  # what is there is whole: `verify` passes
    ended = done(root, SCENARIOS[name].again)
    assert ended.code == 0, (plan, ended.said)
    assert made(root) == expected, plan


def one_of_each(steps: list[Step], draw: random.Random) -> list[int]:
    """The number of one step by each name that there is."""
    places: dict[str, list[int]] = {}
    for number, step in enumerate(steps, 1):
        places.setdefault(step.name, []).append(number)
    return [draw.choice(numbers) for numbers in places.values()]


def plans_of(steps: list[Step], draw: random.Random) -> list[Plan]:
    """A kill before each step, which is after the one before.

    What SQLite writes before it syncs, page by page, is one step: a kill and a tear are drawn.
    """
    plans = []
    numbered = enumerate(steps, 1)
    for (_, is_write), group in groupby(numbered, lambda at: (at[1].name, "write" in at[1].name)):
        numbers = [number for number, _ in group]
        if is_write:
            plans.append(Plan(tear=draw.choice(numbers)))
            numbers = [draw.choice(numbers)]
        plans += [Plan(kill=number) for number in numbers]
    return plans


@pytest.mark.slow
def test_every_durable_call_of_storage_is_a_step_of_a_scenario(tmp_path: Path, whole: Path) -> None:
    seen: set[tuple[str, int]] = set()
    for name in SCENARIOS:
        steps, _ = undisturbed(tmp_path / name, name, whole)
        seen |= {(module, line) for step in steps for module, _, line in step.calls}
    calls = [*durable_calls()]
    assert len(calls) > 40
    missed = [
        (module, text)
        for module, text, lines in calls
        if not any((module, line) in seen for line in lines)
    ]
    assert sorted(missed) == sorted(UNSEEN)


@pytest.mark.parametrize("name", ["run"])
def test_a_kill_at_one_step_of_each_name_loses_nothing(
    tmp_path: Path, whole: Path, name: str
) -> None:
    steps, expected = undisturbed(tmp_path / "place", name, whole)
    draw = random.Random(0)
    for number in draw.sample(one_of_each(steps, draw), 6):
        check(tmp_path / "place", name, whole, Plan(kill=number), expected)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_step_or_within_a_write_loses_nothing(
    tmp_path: Path, whole: Path, name: str
) -> None:
    steps, expected = undisturbed(tmp_path / "place", name, whole)
    plans = plans_of(steps, random.Random(name))
    for plan in plans:
        check(tmp_path / "place", name, whole, plan, expected)
    print(f"{name}: {len(plans)} kills")
