"""No damaged run directory whatever is told as a bug, by any verb that takes a run.

``tests/storage/test_damage.py`` says in which of these cases the damage has to be found.
"""

import contextlib
import random
import shutil
from pathlib import Path

import pytest

from selfreward.cli.main import _launch  # noqa: F401  (imported before the children are replaced)
from selfreward.storage.directory import runs_root
from selfreward.workers import children
from tests.support import damage
from tests.support.cli_driver import Workers
from tests.support.fuzz import Law
from tests.support.runs import at_runs, runs  # noqa: F401

VERBS = [
    ["status", "run", "--json"], ["ls", "--json"], ["scores", "run", "--all"], ["scores", "run",
    "--json"],
    ["show", "run", "--disagree", "2"], ["show", "run", "1", "--json"], ["show", "run", "--worst",
    "1"],
    ["pairs", "run", "--try", "all"], ["pairs", "run", "--json"], ["pairs", "run", "--try",
    "best_worst", "--min-margin", "1"],
    ["gc", "run"], ["gc", "run", "--keep", "1", "--dry-run"], ["verify", "run", "--json"],
    ["resume", "run", "iterations=3"], ["resume", "run", "dpo.beta=0.2"], ["resume", "run",
    "health.max_ties=null"],
    ["resume", "run", "--retrain", "1", "--name", "again"], ["run", "quickstart", "--name", "run"],
    ["run", "quickstart", "--from", "run:M1", "--name", "next"], ["plan", "quickstart"],
    ["judge", "M1", "--data", "seed/heldout.jsonl", "--like", "run", "--limit", "1"], ["status",
    "run", "--watch"],
]  # fmt: skip


def check(law: Law, tmp_path: Path, original: Path, cases: range) -> None:
    law.patch.setattr(children, "Children", Workers)
    law.patch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "runs" / "run"
    for case in cases:
        draw = random.Random(f"store {case}")
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        shutil.copytree(original, path)
        how = [draw.choice(damage.ALL)(path, draw)]
        if draw.random() < 0.3:
            with contextlib.suppress(Exception):  # what is damaged may not let itself be damaged
                how.append(draw.choice(damage.ALL)(path, draw))
        said = law.obey(draw.choice(VERBS), (case, how))
        assert said.code in (0, 2, 3, 5, 6, 7), (case, how, said)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs")
def test_no_damage_whatever_is_told_as_a_bug_by_any_verb(
    law: Law,
    tmp_path: Path,
) -> None:
    check(law, tmp_path, runs_root() / "whole", range(80))


@pytest.mark.long
@pytest.mark.parametrize("start", range(80, 6080, 500))
@pytest.mark.usefixtures("at_runs")
def test_no_damage_of_many_more_is_told_as_a_bug_by_any_verb(
    law: Law,
    tmp_path: Path,
    start: int,
) -> None:
    check(law, tmp_path, runs_root() / "whole", range(start, start + 500))
