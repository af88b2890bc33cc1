"""The power fails at any step, and what was not synced is gone, or some of it: none is missed."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from selfreward.storage.directory import Run
from tests.storage.test_steps import pytestmark as pytestmark
from tests.storage.test_steps import whole  # noqa: F401  (a fixture)
from tests.support.lost_writes import Disk, Keeps
from tests.support.runs import KINDS
from tests.support.scenarios import SCENARIOS, made, start
from tests.support.steps import Plan, Step
from tests.support.torture import done

OUTAGES = [keeps for keeps in get_args(Keeps) if keeps != "all"]


def committed(root: Path) -> dict[str, dict[str, int]]:
    """Rows by run and table."""
    found = {}
    for path in sorted((root / "runs").glob("[!.]*/records.db")):
        with Run(path.parent).store() as store:
            rows = {"stages": len(store.stages()), "events": len(store.events())}
            for kind in KINDS:
                rows[kind.__name__] = sum(len(store.records(kind, t)) for t in range(3))
            found[path.parent.name] = rows
    return found


def is_acknowledged(step: Step) -> bool:
    """Whether what it ends counts from now on: it is a commit of the store."""
    return step.primitive == "sqlite sync" and step.name.startswith("sqlite sync in store.")


def outages(root: Path, name: str, whole: Path) -> Iterator[tuple[int, Step, Disk]]:  # noqa: F811
    """The disk after each step of a scenario."""
    start(root, SCENARIOS[name], whole)
    disk = Disk(root)
    ended = done(root, SCENARIOS[name].act, Plan(), keeps_data=True)
    assert ended.code == 0, ended.said
    steps = ended.steps
    for number, (step, _) in enumerate(zip(steps, disk.after(steps), strict=True), 1):
        yield number, step, disk


def check(root: Path, name: str, disk: Disk, step: Step, keeps: Keeps, seed: int) -> str:
    """Let the power fail and return a digest of what is left; what was committed is there."""
    shutil.rmtree(root, ignore_errors=True)
    digest = disk.write(root, keeps, random.Random(seed))
    if is_acknowledged(step):
        with_all = root.with_name("with-all")
        shutil.rmtree(with_all, ignore_errors=True)
        disk.write(with_all, "all", random.Random(seed))
        assert committed(root) == committed(with_all), (name, seed, step, keeps)
    return digest


def go_on(root: Path, name: str, expected: object, at: object) -> None:
    """What is left passes `verify`, and comes to what an undisturbed run comes to."""
    made(root)
    ended = done(root, SCENARIOS[name].again)
    assert ended.code == 0, (at, ended.said)
    assert made(root) == expected, at


def expected_of(root: Path, name: str, whole: Path) -> object:  # noqa: F811
    start(root, SCENARIOS[name], whole)
    assert done(root, SCENARIOS[name].act).code == 0
    return made(root)


def test_after_an_outage_all_that_was_committed_is_there_and_the_run_goes_on(
    tmp_path: Path,
    whole: Path,  # noqa: F811
) -> None:
    expected = expected_of(tmp_path / "expected", "run", whole)
    draw = random.Random(0)
    for number, step, disk in outages(tmp_path / "place", "run", whole):
        for keeps in OUTAGES:
            if is_acknowledged(step):
                check(tmp_path / "left", "run", disk, step, keeps, number)
            if draw.random() < 0.003:
                check(tmp_path / "left", "run", disk, step, keeps, number)
                go_on(tmp_path / "left", "run", expected, (number, step, keeps))


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCENARIOS)
def test_after_an_outage_at_any_step_the_run_goes_on(
    tmp_path: Path,
    whole: Path,  # noqa: F811
    name: str,
) -> None:
    expected = expected_of(tmp_path / "expected", name, whole)
    seen = set()
    for number, step, disk in outages(tmp_path / "place", name, whole):
        if step.primitive == "sqlite write" and number % 8:
            continue
        for keeps in OUTAGES:
            digest = check(tmp_path / "left", name, disk, step, keeps, number)
            if digest not in seen:
                go_on(tmp_path / "left", name, expected, (number, step, keeps))
                seen.add(digest)
    print(f"{name}: {len(seen)} different states of the disk")
