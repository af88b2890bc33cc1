"""Whatever is damaged in a run is told as damage, and nothing is built on it."""

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.inputs.collect import create_run
from selfreward.workers import children
from tests.support import damage
from tests.support.cli_driver import Workers
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL

READERS = [
    ["status", "run"], ["ls"], ["scores", "run"], ["show", "run", "--best", "1"],
    ["show", "run"], ["show", "run", "--failed"], ["pairs", "run"], ["show", "run", "0"],
]  # fmt: skip


class StopsAtTraining(ScriptedWorkers):
    def train(self, iteration: int, stage: str = "train") -> None:
        if iteration:
            raise KeyboardInterrupt
        super().train(iteration, stage)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run ``whole``, and ``half``, which is to train on its pairs next."""
    root = tmp_path_factory.mktemp("originals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        whole = create_run(build_config({}, [*SMALL, "iterations=1"]), "whole")
        launch(whole, lambda: None, ScriptedWorkers(whole))
        words = [
            "iterations=1",
            "evaluation.ranked=null",
            "evaluation.questions=null",
            "evaluation.canaries=false",
        ]
        half = create_run(build_config({}, [*SMALL, *words]), "half")
        with pytest.raises(KeyboardInterrupt):
            launch(half, lambda: None, StopsAtTraining(half))
    return root


@pytest.fixture
def copied(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Makes a fresh copy of a run, as ``run`` in the runs directory in force."""
    monkeypatch.setattr(children, "Children", Workers)

    def copy(name: str) -> Path:
        root = tmp_path / "runs"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(originals / name, root / "run")
        monkeypatch.setenv("SELFREWARD_RUNS", str(root))
        return root / "run"

    return copy


def hurt(path: Path, seed: int) -> tuple[str, random.Random]:
    """Damage a run; says how."""
    draw = random.Random(seed)
    kind = damage.ALL[seed % len(damage.ALL)]
    return f"{seed} {kind.__name__}: {kind(path, draw)}", draw


def check(copied: Callable[[str], Path], seeds: range, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in seeds:
        name = "whole" if seed // len(damage.ALL) % 2 else "half"
        path = copied(name)
        before = damage.committed(path)
        how, draw = hurt(path, seed)
        is_changed = damage.committed(path) != before
        for words in (["verify", "run"], draw.choice([*READERS, *[["resume", "run"]] * 4])):
            code = invoke(words)
            said = capsys.readouterr()
            assert code in (0, 5), (how, words, code, said.err[-800:])
            builds = words[0] == "resume" and name == "half"
            if is_changed and (words[0] == "verify" or builds):
                assert code == 5, (how, words, said.out[-800:])


@pytest.mark.slow
def test_no_damage_whatever_is_told_as_a_bug(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    check(copied, range(200), capsys)


@pytest.mark.long
@pytest.mark.parametrize("start", range(200, 6200, 300))
def test_no_damage_whatever_is_told_as_a_bug_in_many_more_cases(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str], start: int
) -> None:
    check(copied, range(start, start + 300), capsys)


@pytest.mark.parametrize("more", [[], ["--json"], ["--watch"], ["--watch", "--json"]], ids=" ".join)
@pytest.mark.parametrize("odd", ["'NaN'", "x'fffe'", "0.5"])
def test_status_tells_a_stage_of_no_iteration_as_damage_however_it_is_asked(
    odd: str, more: list[str], copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(sqlite3.connect(copied("whole") / "records.db")) as records:
        records.execute(f"UPDATE planned SET iteration = {odd} WHERE rowid = 3")
        records.commit()
    code = invoke(["status", "run", *more])
    said = capsys.readouterr().err
    assert code == 5 and "table planned" in said and "internal error" not in said
    assert invoke(["verify", "run"]) == 5


@pytest.mark.parametrize("table", damage.RECORDS)
def test_a_table_that_cannot_be_read_is_told_though_nothing_was_in_it(
    table: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = copied("half") / "records.db"
    with contextlib.closing(sqlite3.connect(file)) as records:
        [(root,)] = records.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
        [(size,)] = records.execute("PRAGMA page_size")
    data = bytearray(file.read_bytes())
    data[(root - 1) * size : root * size] = b"\xff" * size
    file.write_bytes(data)
    assert [invoke([verb, "run"]) for verb in ("verify", "resume")] == [5, 5]
    assert "malformed" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["verify", "resume"])
@pytest.mark.parametrize("name", ["half", "whole"])
def test_a_directory_in_place_of_a_manifest_is_damage(
    name: str, verb: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = copied(name) / "models" / "M1" / "MANIFEST.json"
    manifest.unlink()
    manifest.mkdir()
    code = invoke([verb, "run"])
    assert code == 5 or (code, verb, name) == (0, "resume", "whole"), capsys.readouterr().err


@pytest.mark.parametrize("name", ["models/M0.json", "checkpoints"])
def test_what_stands_in_place_of_a_file_or_directory_of_the_run_is_damage(
    name: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = copied("half") / name
    if place.is_dir():
        shutil.rmtree(place)
    if place.exists():
        place.unlink()
        place.mkdir()
    else:
        place.touch()
    assert invoke(["resume", "run"]) == 5
    said = capsys.readouterr().err
    assert f"error: {place}" in said and "remove it" in said


@pytest.mark.parametrize("verb", ["verify", "resume", "status"])
def test_a_time_that_is_none_is_damage(
    verb: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(sqlite3.connect(copied("half") / "records.db")) as records:
        records.execute("UPDATE progress SET at = 'odd'")
        records.commit()
    assert invoke([verb, "run"]) == 5
    said = capsys.readouterr()
    assert "'odd' is no time" in said.out + said.err


@pytest.mark.parametrize("verb", ["validate", "plan", "run"])
def test_more_iterations_than_can_be_planned_are_refused(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([verb, "quickstart", f"iterations={10**30}"]) == 2
    assert "iterations" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["ls", "status run", "scores run", "resume run"])
@pytest.mark.parametrize("key", ["model", "iterations", "seed", "judge", "evaluation"])
@pytest.mark.parametrize("odd", [None, [], {1: 2}, True])
def test_a_key_of_the_config_of_another_type_is_damage(
    odd: object,
    key: str,
    verb: str,
    copied: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = copied("half") / "config.resolved.yaml"
    written = yaml.safe_load(file.read_text())
    other = 2.5 if type(odd) is type(written[key]) else odd
    file.write_text(yaml.safe_dump(written | {key: other}))
    code = invoke(verb.split())
    said = capsys.readouterr()
    assert code == (0 if verb == "ls" else 5), said.err
    assert "damaged" in said.out if verb == "ls" else f"{key}" in said.err
