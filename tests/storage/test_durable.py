"""Files and directories exist whole or not at all, and any change to them is found."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selfreward.errors import IntegrityError
from selfreward.storage import durable
from selfreward.storage.durable import MANIFEST, TEMPORARY

CONTENT = {"weights": b"0123456789" * 50, "config.json": b"{}", "deep/er/x": b"x", "empty": b""}


def publish(target: Path, content: dict[str, bytes] = CONTENT, **facts: object) -> None:
    with durable.publish_directory(target, facts=facts) as directory:
        for name, data in content.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    publish(tmp_path / "M1")
    return tmp_path / "M1"


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.name.startswith(TEMPORARY)]


# Files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    durable.write_file(tmp_path / "a", "first")
    durable.write_file(tmp_path / "a", b"\x00second")
    assert (tmp_path / "a").read_bytes() == b"\x00second"
    assert leftovers(tmp_path) == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.write_file(tmp_path / "a", "first")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_file(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    assert leftovers(tmp_path) == []


def test_an_error_names_what_was_to_be_made_not_its_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError) as of_open:
        durable.write_file(tmp_path / "none" / "a", "x")
    with pytest.raises(OSError) as of_replace:
        durable.write_file(tmp_path / "taken", "x")
    with pytest.raises(OSError) as of_body, durable.publish_directory(tmp_path / "M1") as directory:
        (directory / "no" / "weights").write_text("x")
    with pytest.raises(OSError) as of_other, durable.publish_directory(tmp_path / "M1"):
        (tmp_path / "none").read_text()
    named = [error.value.filename for error in (of_open, of_replace, of_body, of_other)]
    expected = ["none/a", "taken", "M1/no/weights", "none"]
    assert [str(name) for name in named] == [str(tmp_path / name) for name in expected]
    assert TEMPORARY not in "".join(str(e.value) for e in (of_open, of_replace, of_body))
    assert leftovers(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_named_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: Path, *args: object, **more: object) -> None:
        if path.name.startswith(TEMPORARY):
            raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(OSError) as error, durable.publish_directory(Path("/proc/cleaned")):
        pass
    assert str(error.value) == "[Errno 2] No such file or directory: '/proc/cleaned'"


# Directories


def test_a_published_directory_is_whole_and_keeps_its_facts(target: Path) -> None:
    assert durable.is_whole(target)
    publish(target.with_name("M2"), source="x")
    assert durable.read_manifest(target.with_name("M2"))["source"] == "x"
    for name, data in CONTENT.items():
        assert (target / name).read_bytes() == data
    assert leftovers(target.parent) == []


def test_the_digest_is_of_names_and_contents_alone(tmp_path: Path, target: Path) -> None:
    publish(tmp_path / "again", dict(reversed(CONTENT.items())), other="facts")
    assert durable.verify_directory(tmp_path / "again") == durable.verify_directory(target)
    for change in ({"empty": b"x"}, {"more": b""}):
        publish(tmp_path / f"changed {change}", {**CONTENT, **change})
        digest = durable.verify_directory(tmp_path / f"changed {change}")
        assert digest != durable.verify_directory(target)
    assert durable.seal_directory(target) == durable.verify_directory(target)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_appears_if_the_body_raises(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), durable.publish_directory(tmp_path / "M1") as directory:
        (directory / "weights").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_whole_target_is_kept_and_the_new_one_thrown_away(target: Path) -> None:
    publish(target, {"weights": b"other"})
    assert (target / "weights").read_bytes() == CONTENT["weights"]
    assert durable.is_whole(target)
    assert leftovers(target.parent) == []


def test_of_two_that_publish_at_once_the_first_is_kept(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rename = target.with_name("first"), durable.rename
    target.rename(first)

    def beaten(source: Path, to: Path) -> None:
        first.rename(target)
        rename(source, to)

    monkeypatch.setattr(durable, "rename", beaten)
    kept = (first / "weights").read_bytes()
    with durable.publish_directory(target) as directory:
        (directory / "weights").write_bytes(b"second")
    assert (target / "weights").read_bytes() == kept
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_target_that_is_not_whole_is_replaced(target: Path) -> None:
    (target / "weights").write_bytes(b"cut")
    publish(target, {"weights": b"other"})
    assert (target / "weights").read_bytes() == b"other"
    assert sorted(p.name for p in target.iterdir()) == sorted([MANIFEST, "weights"])


KILLED = """
import os, signal, sys
from pathlib import Path
from selfreward.storage import durable

last = int(sys.argv[2])
count = 0

def step():
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)

def watched(function):
    def call(*args, **kwargs):
        step()
        return function(*args, **kwargs)
    return call

for name in ("mkdir", "fsync", "replace", "rename", "open", "unlink", "rmdir"):
    setattr(os, name, watched(getattr(os, name)))
with durable.publish_directory(Path(sys.argv[1])) as directory:
    (directory / "weights").write_bytes(b"0123456789")
    (directory / "config.json").write_bytes(b"{}")
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("earlier", ["nothing", "torn"])
def test_a_process_killed_at_any_step_leaves_a_whole_directory_or_none(
    tmp_path: Path, earlier: str
) -> None:
    """``earlier``: what lay under the target's name before."""
    for step in range(1, 200):
        target = tmp_path / f"{step}" / "M1"
        if earlier == "torn":
            publish(target)
            (target / "weights").write_bytes(b"cut")
        else:
            target.parent.mkdir()
        run = subprocess.run(
            [sys.executable, "-c", KILLED, str(target), str(step)], capture_output=True, check=False
        )
        others = [p.name for p in target.parent.iterdir() if p != target]
        assert all(name.startswith(TEMPORARY) for name in others)
        if (target / "weights").is_file() and (target / "weights").read_bytes() != b"cut":
            assert durable.is_whole(target)
        publish(target, {"weights": b"0123456789", "config.json": b"{}"})
        assert durable.is_whole(target)
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert run.stdout == b"done\n"
    assert step > 8


# Changes


def test_an_altered_byte_is_found_in_every_file(target: Path) -> None:
    rng = random.Random(0)
    for name, data in CONTENT.items():
        if not data:
            continue
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1
        (target / name).write_bytes(changed)
        with pytest.raises(IntegrityError, match=f"{name}: content differs"):
            durable.verify_directory(target)
        durable.verify_directory(target, deep=False)
        (target / name).write_bytes(data)
    durable.verify_directory(target)


@pytest.mark.parametrize("deep", [True, False])
def test_a_cut_a_grown_and_a_missing_file_are_found_even_without_reading(
    target: Path, deep: bool
) -> None:
    for name, data in CONTENT.items():
        (target / name).write_bytes(data[:-1] if data else b"grown")
        with pytest.raises(IntegrityError, match=f"{name}: {len(data) - 1 if data else 5} bytes"):
            durable.verify_directory(target, deep=deep)
        (target / name).unlink()
        with pytest.raises(IntegrityError, match=f"{name}: listed in .* but missing"):
            durable.verify_directory(target, deep=deep)
        (target / name).write_bytes(data)
    durable.verify_directory(target)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_x.py", f"deep/{MANIFEST}"])
def test_an_added_file_is_found(target: Path, name: str) -> None:
    (target / name).write_text("x")
    with pytest.raises(IntegrityError, match=f"{name}: not listed"):
        durable.verify_directory(target, deep=False)


def test_hidden_files_may_be_added(target: Path) -> None:
    (target / ".DS_Store").write_text("x")
    (target / "deep" / ".cache").mkdir()
    (target / "deep" / ".cache" / "x").write_text("x")
    assert durable.is_whole(target)


def test_a_directory_without_a_manifest_was_never_finished(target: Path) -> None:
    (target / MANIFEST).unlink()
    with pytest.raises(IntegrityError, match="never finished"):
        durable.verify_directory(target)
    with pytest.raises(IntegrityError, match="never finished"):
        durable.verify_directory(target / "weights")
    with pytest.raises(IntegrityError, match="never finished"):
        durable.verify_directory(target.with_name("none"))


def test_a_manifest_cut_at_any_byte_is_torn(target: Path) -> None:
    whole = (target / MANIFEST).read_bytes()
    for end in range(len(whole)):
        (target / MANIFEST).write_bytes(whole[:end])
        with pytest.raises(IntegrityError):
            durable.verify_directory(target)


def test_a_manifest_with_an_altered_byte_never_passes_for_another(target: Path) -> None:
    """White space may change; anything else is an IntegrityError and no other error."""
    whole, digest = (target / MANIFEST).read_bytes(), durable.verify_directory(target)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        (target / MANIFEST).write_bytes(changed)
        try:
            assert durable.verify_directory(target) == digest
        except IntegrityError:
            continue


@pytest.mark.parametrize("files", [None, [], {"weights": 3}, {"weights": {"bytes": 3}}])
def test_a_manifest_of_another_shape_is_refused(target: Path, files: object) -> None:
    (target / MANIFEST).write_text(json.dumps({"files": files}))
    with pytest.raises(IntegrityError):
        durable.verify_directory(target)
