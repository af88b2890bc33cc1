"""The n-th step on the disk fails, for every n, as SQLite tests itself: nothing is lost or hidden.

Each step fails once, with no space and with an I/O error, and once more with a disk that stays
full from then on (https://www.sqlite.org/testing.html#i_o_error_testing).
"""

import errno
import random
from pathlib import Path

import pytest

from selfreward.errors import PreflightError
from tests.storage.test_steps import pytestmark as pytestmark
from tests.storage.test_steps import undisturbed, whole  # noqa: F401  (a fixture)
from tests.support.scenarios import SCENARIOS, made, start
from tests.support.steps import Plan
from tests.support.torture import done

FAULTS = {
    "no space": Plan(number=errno.ENOSPC),
    "I/O error": Plan(number=errno.EIO),
    "full for good": Plan(number=errno.ENOSPC, forever=True),
}
CLEARS = ("unlink", "rmdir", "sqlite delete")
"""What only takes away: where it fails the work is done all the same."""


def check(root: Path, name: str, whole: Path, plan: Plan, expected: object) -> bool:  # noqa: F811
    """Carry a scenario out on a disk that fails; whether it failed before the end."""
    start(root, SCENARIOS[name], whole)
    ended = done(root, SCENARIOS[name].act, plan)
    if ended.failed is None:
        assert ended.code == 0, (plan, ended)
        return False
    if ended.code == 0:
        assert made(root) == expected, (plan, ended)
    else:
        assert ended.is_clean, (plan, ended)
        assert ended.code == PreflightError.exit_code, (plan, ended)
        made(root)  # `verify` passes
    ended = done(root, SCENARIOS[name].again)
    assert ended.code == 0, (plan, ended)
    assert made(root) == expected, plan
    return True


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_is_told_in_a_line_and_the_run_goes_on_once_it_works(
    tmp_path: Path,
    whole: Path,  # noqa: F811
    fault: str,
) -> None:
    steps, expected = undisturbed(tmp_path / "place", "run", whole)
    draw = random.Random(fault)
    for number in draw.sample(range(1, len(steps)), 2):
        plan = Plan(fail=number, number=FAULTS[fault].number, forever=FAULTS[fault].forever)
        assert check(tmp_path / "place", "run", whole, plan, expected)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("fault", FAULTS)
def test_whichever_step_fails_it_is_told_and_the_run_goes_on(
    tmp_path: Path,
    whole: Path,  # noqa: F811
    fault: str,
    name: str,
) -> None:
    _, expected = undisturbed(tmp_path / "place", name, whole)
    number = 1
    plan = FAULTS[fault]
    while check(
        tmp_path / "place",
        name,
        whole,
        Plan(fail=number, number=plan.number, forever=plan.forever),
        expected,
    ):
        number += 1
    print(f"{name}, {fault}: {number - 1} faults")
