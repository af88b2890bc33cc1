"""Child processes answer, end with their parent, and never outlive the call."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfreward.children import Children, _full_disk_named, _run_child
from selfreward.configfile import build_config
from selfreward.creation import create_run
from selfreward.errors import ConfigError, PreflightError, SelfRewardError

ORPHAN = """
import threading, time
from selfreward import children
threading.Thread(target=children._end_with_parent, daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_child_ends_when_its_parent_closes_the_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdin.close()
    assert process.wait(timeout=5) != 0
    process.stdout.close()


def test_an_error_in_a_child_is_raised_in_the_parent_with_its_kind_and_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({"engine": {"kind": "ctranslate"}}), "run")
    with run.owned() as store, pytest.raises(ConfigError) as caught:
        Children(run, store, lambda: None).prepare()
    assert "ctranslate" in caught.value.message
    assert "ctranslate2" in caught.value.message + caught.value.hint


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({"sft": None}), "run")
    (run.path / "models" / "M0.json").write_text("{torn")  # written whole, so nobody expects this
    with run.owned() as store, pytest.raises(SelfRewardError) as caught:
        Children(run, store, lambda: None).generate(1)
    assert caught.value.message == "the generate process of iteration 1 ended with code 1"
    assert "JSONDecodeError" in caught.value.hint


def test_a_child_does_not_outlive_an_interrupted_call(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    job = {"run": str(tmp_path), "epoch": 1, "work": "prepare", "iteration": 0}
    begin = time.monotonic()
    with open(tmp_path / "log", "wb") as log, pytest.raises(KeyboardInterrupt):
        _run_child(job, log, interrupt)
    assert time.monotonic() - begin < 10


def test_a_failed_write_on_a_full_disk_is_named_as_such_and_other_failures_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="writer failed"), _full_disk_named(str(tmp_path)):
        raise RuntimeError("writer failed")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(PreflightError, match="disk is full"), _full_disk_named(str(tmp_path)):
        raise RuntimeError("writer failed")
