"""What passed once is not asked of the libraries again, and nothing else is left out."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config, load_config
from selfreward.errors import SelfRewardError
from selfreward.inputs.shipped import recipes
from selfreward.workers import checks, passed
from selfreward.workers.checks import check_config

BAD = ("?", -1, 0, [], {"?": 1}, True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "options"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one with each time that the libraries are asked."""
    calls: list[object] = []
    monkeypatch.setattr("selfreward.engines.kinds._check_vllm", lambda options: None)
    monkeypatch.setattr(checks, "_check_training", lambda *given: calls.append(given))
    return calls


def check(*words: str, here: bool = True) -> str:
    """What is refused; empty if it passes."""
    try:
        check_config(build_config({}, [*words]), {}, here=here)
    except SelfRewardError as error:
        return f"{error.message} {error.hint}"
    return ""


def cases() -> Iterator[str]:
    """Every option of SFT, DPO and LoRA with its own default and with values of other kinds."""
    from peft import LoraConfig
    from trl import DPOConfig, SFTConfig

    for group, kind in (("sft", SFTConfig), ("dpo", DPOConfig), ("lora", LoraConfig)):
        for at, field in enumerate(dataclasses.fields(kind)):
            plain = isinstance(field.default, str | int | float)
            values: tuple[Any, ...] = (*((field.default,) if plain else ()), BAD[at % len(BAD)])
            yield from (f"{group}.{field.name}={json.dumps(value)}" for value in values)
        yield f"{group}.no_such_option=1"


@pytest.mark.long
def test_what_is_kept_refuses_what_the_libraries_refuse_in_every_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from selfreward.errors import ConfigError

    outcomes = set()
    for word in cases():
        try:
            build_config({}, [word])
        except ConfigError:  # no matter of libraries
            continue
        with monkeypatch.context() as forgetful:
            forgetful.setattr(passed, "is_known", lambda name: False)
            fresh = check(word)
        assert [check(word), check(word)] == [fresh, fresh], word
        outcomes.add(fresh)
    assert len(outcomes) > 100
    assert "" in outcomes


def test_what_passed_is_not_asked_again(asked: list[object]) -> None:
    for times, word in ((1, "seed=1"), (1, "judge.votes=1"), (1, "engine.concurrency=3")):
        check(word)
        assert len(asked) == times
    for times, word in enumerate(
        ("dpo.learning_rate=1e-5", "dpo.beta=0.2", "sft.max_steps=3", "sft.eft_weight=2",
         "lora={r: 8}", "launch.processes=2", "engine={kind: vllm}", "sft=null",
         "rloo.num_generations=2", "grpo.top_p=0.9"), 2,
    ):  # fmt: skip
        check(word)
        check(word)
        assert len(asked) == times, word
    check(here=False)
    assert len(asked) == times + 1


def test_whatever_decides_it_has_it_asked_anew(
    asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text("{}")
    word = f"dpo.deepspeed={file}"
    changes = [
        lambda: file.write_text('{"a": 1}'),
        lambda: monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7"),
        lambda: (tmp_path / "trl-9.dist-info").mkdir(),
        lambda: (tmp_path / "trl-9.dist-info").rename(tmp_path / "trl-10.dist-info"),
        lambda: monkeypatch.setattr(passed, "_code", lambda: "another release"),
        lambda: monkeypatch.setattr(passed, "_DRIVER", file),
        lambda: monkeypatch.setattr("platform.node", lambda: "another machine"),
    ]
    monkeypatch.syspath_prepend(str(tmp_path))
    check(word)
    for times, change in enumerate(changes, 1):
        assert len(asked) == times
        change()
        check(word)
        check(word)
    assert len(asked) == len(changes) + 1


@pytest.mark.parametrize("named", ["/proc/self/mem", "/dev/zero", "/proc", "locked", "pipe"])
def test_text_that_happens_to_name_a_file_is_not_read(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").touch(mode=0o000)
    os.mkfifo(tmp_path / "pipe")
    config = build_config({}, [f"dpo.run_name={named}"])
    assert len(passed.name_of(config, here=True)) == 64


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"passed": "another"}', b"\xff\xfe"])
def test_a_damaged_file_passes_nothing(
    damage: str | bytes, asked: list[object], own_cache: Path
) -> None:
    check()
    [kept] = own_cache.iterdir()
    kept.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    check()
    check()
    assert len(asked) == 2
    assert [path.name for path in own_cache.iterdir()] == [kept.name]


def test_where_nothing_can_be_kept_everything_is_asked(
    asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "file"))
    check()
    check()
    assert len(asked) == 2


def test_a_refusal_is_not_kept(own_cache: Path) -> None:
    assert "dpo.learning_rat" in check("dpo.learning_rat=1")
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("place", "counts"),
    [("elsewhere", True), ("site-packages", True), ("site-packages/setuptools/_vendor", False)],
)
def test_what_a_package_brings_for_itself_is_no_package_of_its_own(
    place: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = passed._packages()
    (tmp_path / place / "made-1.0.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / place)])
    assert set(passed._packages()) - set(before) == ({"made-1.0.dist-info"} if counts else set())


def test_a_second_validate_imports_no_library() -> None:
    code = (
        "import sys; from selfreward.cli.main import invoke; "
        f"code = invoke(['validate', {str(recipes()['quickstart'])!r}]); "
        "print({'torch', 'trl', 'transformers', 'peft'} & {*sys.modules}); sys.exit(code)"
    )
    passed.keep(passed.name_of(load_config(recipes()["quickstart"]), here=True))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert run.stdout.splitlines()[-1] == "set()"
