"""A finished run on a mount that can only be read, and on one that is full: real ones, as root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfreward.storage.directory import runs_root
from tests.support.fuzz import Law
from tests.support.runs import at_runs, runs  # noqa: F401

READERS = [
    ["scores", "whole"], ["show", "whole", "--best", "1"], ["status", "whole"], ["ls"],
    ["verify", "whole"], ["pairs", "whole"], ["pairs", "whole", "--try", "all"],
    ["scores", "whole", "--json"],
]  # fmt: skip


def mount(*words: str) -> None:
    """Mount, or skip the test where that may not be done here."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@contextmanager
def mounted(path: Path, megabytes: int) -> Iterator[Path]:
    """A small file system of its own."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root, and the mount of Linux")
    path.mkdir()
    mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.usefixtures("at_runs")
def test_a_finished_run_on_a_read_only_mount_can_be_looked_at_and_says_that_it_cannot_go_on(
    law: Law,
    tmp_path: Path,
) -> None:
    with mounted(tmp_path / "disk", 64) as disk:
        shutil.copytree(runs_root() / "whole", disk / "whole")
        mount("-o", "remount,ro", str(disk))
        with pytest.raises(OSError, match="Read-only"):
            (disk / "x").write_text("x")
        law.patch.setenv("SELFREWARD_RUNS", str(disk))
        for words in READERS:
            assert law.obey(words).code == 0, words
        for words in (["resume", "whole"], ["resume", "whole", "iterations=3"], ["gc", "whole"],
                      ["gc", "whole", "--dry-run"], ["resume", "whole", "--retrain", "1", "--name",
                      "again"],
                      ["run", "quickstart", "--name", "new"]):  # fmt: skip
            said = law.obey(words)
            assert said.code == 7 or words == ["resume", "whole"], said  # it is finished
            assert said.code == 0 or "hint: " in said.err, said


@pytest.mark.usefixtures("at_runs")
def test_a_finished_run_on_a_full_disk_can_be_looked_at_and_says_how_to_go_on(
    law: Law,
    tmp_path: Path,
) -> None:
    with mounted(tmp_path / "disk", 8) as disk:
        shutil.copytree(runs_root() / "whole", disk / "whole")
        with (
            open(disk / "filler", "wb", buffering=0) as file,
            pytest.raises(OSError, match="No space"),
        ):
            while True:
                file.write(bytes(1 << 12))
        law.patch.setenv("SELFREWARD_RUNS", str(disk))
        for words in READERS:
            assert law.obey(words).code == 0, words
        for words in (["resume", "whole", "iterations=3"], ["gc", "whole", "--keep", "1"],
                      ["resume", "whole", "--retrain", "1", "--name", "again"],
                      ["run", "quickstart", "--name", "new"]):  # fmt: skip
            said = law.obey(words)
            assert said.code in (0, 7), said
            assert said.code == 0 or "hint: " in said.err, said
        assert not (disk / "new").exists()
        assert not (disk / "again").exists()
        (disk / "filler").unlink()
        assert law.obey(["verify", "whole"]).code == 0


@pytest.mark.parametrize("variable", ["SELFREWARD_RUNS", "SELFREWARD_CACHE"])
def test_doctor_says_that_nothing_can_be_written_on_a_read_only_mount(
    variable: str, law: Law, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", 1) as disk:
        mount("-o", "remount,ro", str(disk))
        law.patch.setenv(variable, str(disk))
        said = law.obey(["doctor"])
        assert said.code == 7
        rows = [line for line in said.out.splitlines() if "Read-only file system" in line]
        assert len(rows) == 1 and variable in rows[0]
