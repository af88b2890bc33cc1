"""A full or read-only disk: what may go does, what may be read is, and links are not followed."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import IntegrityError, PreflightError
from selfreward.inputs import models
from selfreward.inputs.collect import create_run
from selfreward.storage import database, durable
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.maintenance import collect, verify
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL

TEMPORARY = f"{durable.TEMPORARY}killed"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    words = [
        "iterations=1",
        "evaluation.ranked=null",
        "evaluation.questions=null",
        "evaluation.canaries=false",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        run = create_run(build_config({}, [*SMALL, *words]), "run")
        launch(run, lambda: None, ScriptedWorkers(run))
    return run.path


@pytest.fixture
def run(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    root = tmp_path / "runs"
    monkeypatch.setenv("SELFREWARD_RUNS", str(root))
    shutil.copytree(original, root / "run")
    return Run(root / "run")


def fill(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "weights").write_text("half")


def test_a_launch_removes_what_killed_processes_left_before_it_writes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [
        run.path / "models" / TEMPORARY,
        run.path / "checkpoints" / TEMPORARY,
        run.path.parent / TEMPORARY,
    ]
    for path in left:
        fill(path)
    there_at_claim = []
    claim = Store.claim

    def look(path: Path) -> Store:
        there_at_claim.extend(path for path in left if path.exists())
        return claim(path)

    monkeypatch.setattr(Store, "claim", look)
    launch(run, lambda: None, ScriptedWorkers(run))
    assert there_at_claim == []
    assert not any(path.exists() for path in left)


def test_gc_frees_space_where_the_database_cannot_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(run.path / "models" / TEMPORARY)

    def full(path: Path) -> Store:
        raise PreflightError(f"{path}: database or disk is full")

    monkeypatch.setattr(Store, "claim", full)
    freed = {Path(item["path"]).name for item in collect(run, None, dry_run=False)}
    assert freed == {TEMPORARY, "M1", "M2"}  # the latter two are checkpoints
    assert not (run.path / "checkpoints" / "M2").exists()
    with pytest.raises(PreflightError):
        collect(run, 1, dry_run=False)
    assert run.model_directory(1).exists()


@pytest.mark.parametrize("inside", ["models/M1", "checkpoints/M2", f"models/{TEMPORARY}"])
def test_a_link_is_removed_and_what_it_leads_to_stays(
    run: Run, tmp_path: Path, inside: str
) -> None:
    elsewhere, link = tmp_path / "elsewhere", run.path / inside
    if link.exists():
        shutil.move(link, elsewhere)
    else:
        fill(elsewhere)
    before = sorted(path.name for path in elsewhere.rglob("*"))
    link.symlink_to(elsewhere)
    collect(run, 1, dry_run=False)
    assert not os.path.lexists(link)
    assert sorted(path.name for path in elsewhere.rglob("*")) == before
    assert list(run.path.rglob(f"{durable.TEMPORARY}*")) == []
    assert all(check["ok"] for check in verify(run))


def test_a_linked_model_that_is_not_whole_is_replaced_and_its_place_stays(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere")
    (tmp_path / "M1").symlink_to(tmp_path / "elsewhere")
    with durable.publish_directory(tmp_path / "M1") as directory:
        durable.write_file(directory / "weights", "whole")
    assert not (tmp_path / "M1").is_symlink()
    assert (tmp_path / "elsewhere" / "weights").read_text() == "half"


READ = """
import resource, signal, sys
from selfreward.cli.main import invoke
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(max(map(invoke, (["scores", "run", "--json"], ["status", "run"], ["show", "run"]))))
"""


def test_a_finished_run_is_read_where_not_a_byte_can_be_written(run: Run) -> None:
    assert not run.records.with_name("records.db-wal").exists()
    done = subprocess.run(
        [sys.executable, "-c", READ], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert '"iterations"' in done.stdout


def test_what_waits_in_the_wal_is_never_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, tried = database._connect, []

    def fails(path: Path, options: str) -> Any:
        tried.append(options)
        if "immutable" in options:
            return connect(path, options)
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorname = "SQLITE_CANTOPEN"
        raise error

    monkeypatch.setattr(database, "_connect", fails)
    run.store().close()
    assert tried == ["mode=ro", "mode=ro&immutable=1"]
    run.records.with_name("records.db-wal").write_bytes(b"waits")
    with pytest.raises(PreflightError, match="unable to open"):
        run.store()


def test_a_lock_that_is_no_file_is_damage(run: Run) -> None:
    (run.path / "run.lock").unlink(missing_ok=True)
    (run.path / "run.lock").mkdir()
    assert invoke(["resume", "run", "iterations=2"]) == IntegrityError.exit_code
    assert invoke(["gc", "run"]) == IntegrityError.exit_code


def _os(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/disk/weights")


def _in_words() -> Exception:
    return RuntimeError("Error while serializing: I/O error: File too large (os error 27)")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: _os(errno.ENOSPC), "/disk/weights: No space"),
        (lambda: _os(errno.EDQUOT), "/disk/weights: "),
        (lambda: _os(errno.EFBIG), "/disk/weights: File too large"),
        (lambda: _os(errno.EIO), "/disk/weights: Input/output error"),
        (lambda: _os(errno.ENOTDIR), "/disk/weights: Not a directory"),
        (_in_words, "File too large"),
        (lambda: RuntimeError("PytorchStreamWriter failed writing file data.pkl"), "Pytorch"),
    ],
)
def test_a_disk_that_fails_a_child_is_told_with_the_file(
    tmp_path: Path, make: Callable[[], Exception], said: str
) -> None:
    with pytest.raises(PreflightError, match=said), durable.full_disk_named(str(tmp_path)):
        raise make()


def test_a_bug_in_a_child_stays_a_bug(tmp_path: Path) -> None:
    with pytest.raises(KeyError), durable.full_disk_named(str(tmp_path)):
        try:
            raise _os(errno.ENOENT)
        except OSError:
            raise KeyError("a bug") from None


def test_a_cache_that_can_only_be_read_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF and more")
    with durable.publish_directory(tmp_path / "models" / models._sha256(gguf)) as directory:
        durable.write_file(directory / "weights", "converted")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", read_only)
    monkeypatch.setattr(os, "open", read_only)
    assert models._convert(gguf, lambda line: None).is_dir()
    durable.keep_if_writable(tmp_path / "finite" / "mark", "")
