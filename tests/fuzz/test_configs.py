"""No config whatever is told as a bug, and what ``validate`` accepts a run accepts as well."""

import random
from pathlib import Path

import pytest
import transformers.utils.logging

from selfreward.inputs.shipped import recipes
from selfreward.workers import children
from tests.support import fuzz_configs
from tests.support.fuzz import Law
from tests.support.preflight import REACHED, Preflight


def check(law: Law, tmp_path: Path, cases: range) -> None:
    """Files and words that are wrong mostly: each verb says so, and no run is made."""
    known, sources = fuzz_configs.config_keys(), [path.read_bytes() for path in recipes().values()]
    runs = set_up(law, tmp_path)
    for case in cases:
        draw = random.Random(case)
        words = [
            "quickstart",
            *(fuzz_configs.odd_word(draw, known) for _ in range(draw.choice([1, 1, 2, 4]))),
        ]
        if draw.random() < 0.7:
            file = tmp_path / "config.yaml"
            file.write_bytes(fuzz_configs.odd_config(draw, known, sources))
            words = [str(file), *words[1:]][: draw.choice([1, 1, 1, 2])]
        verb = draw.choice([["validate"], ["validate"], ["plan"], ["config", "show"], ["run"]])
        said = law.obey([*verb, *words], case)
        assert said.code in (0, 2, 6, 7), (case, said)
        assert not list(runs.glob("*")), (case, said)


def check_accepted(law: Law, tmp_path: Path, cases: range) -> int:
    """Words that may well be right: ``validate``, ``plan`` and a run say the same of them.

    Returns:
        How many were accepted.
    """
    types, accepted, runs = fuzz_configs.key_types(), 0, set_up(law, tmp_path)
    for case in cases:
        draw = random.Random(case)
        words = [
            "quickstart",
            *(fuzz_configs.likely_word(draw, types) for _ in range(draw.choice([1, 1, 2, 3]))),
        ]
        said = law.obey(["validate", *words], case)
        assert said.code in (0, 2, 7), (case, said)
        planned = law.obey(["plan", *words], case)  # of another machine, which may have more
        assert planned.code == said.code or (said.code == 7 and planned.code == 0), (
            case,
            said,
            planned,
        )
        launched = law.obey(["run", *words, "--name", "x"], case)
        assert (launched.code == 6) == (said.code == 0), (case, said, launched)
        assert (REACHED in launched.err) == (said.code == 0), (case, said, launched)
        assert not list(runs.glob("*")), (case, launched)
        accepted += said.code == 0
    return accepted


def set_up(law: Law, tmp_path: Path) -> Path:
    """Runs go as far as their preflight; returns where they would lie."""
    # Its handler keeps the stream that it was made with, and that of a command is closed after it.
    transformers.utils.logging.get_logger()
    law.patch.setattr(children, "Children", Preflight)
    law.patch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    law.patch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.slow
def test_no_config_whatever_is_told_as_a_bug(law: Law, tmp_path: Path) -> None:
    check(law, tmp_path, range(350))


@pytest.mark.slow
def test_what_validate_accepts_a_run_does_not_refuse_before_its_model(
    law: Law,
    tmp_path: Path,
) -> None:
    assert check_accepted(law, tmp_path, range(40)) > 9


@pytest.mark.long
@pytest.mark.parametrize("start", range(350, 20_350, 2000))
def test_no_config_of_many_more_is_told_as_a_bug(law: Law, tmp_path: Path, start: int) -> None:
    check(law, tmp_path, range(start, start + 2000))


@pytest.mark.long
@pytest.mark.parametrize("start", range(40, 3040, 500))
def test_what_validate_accepts_of_many_more_a_run_does_not_refuse(
    law: Law,
    tmp_path: Path,
    start: int,
) -> None:
    assert check_accepted(law, tmp_path, range(start, start + 500))
