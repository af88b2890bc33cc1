"""What trackers get of a run, and that they change nothing of it, whatever they do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from selfreward import api
from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.config.run import is_runtime_key
from selfreward.controller import launch
from selfreward.errors import ConfigError, LockedError, PreflightError, StoppedError
from selfreward.inputs.collect import create_run
from selfreward.measures.figures import figures_of
from selfreward.records import Stage
from selfreward.storage.directory import Run
from selfreward.tracking import process
from selfreward.tracking.base import check_installed
from selfreward.tracking.follower import follow, watermark_path
from selfreward.tracking.process import Followers, send
from selfreward.tracking.rows import bounds, rows_after
from selfreward.tracking.watermark import Watermark
from selfreward.workers.checks import check_config
from tests.support import ROOT
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL, facts, runs  # noqa: F401

HANGS = """
import time
def init(**given):
    time.sleep(600)
class Settings:
    def __init__(self, **given):
        pass
"""
RAISES = HANGS.replace("time.sleep(600)", "raise OSError('no route to host')")
DIES = HANGS.replace("time.sleep(600)", "import os; os._exit(9)")


@pytest.fixture
def run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    """A finished run of its own."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    shutil.copytree(runs / "whole", tmp_path / "whole")
    return Run(tmp_path / "whole")


def expected(run: Run) -> list[tuple[int, dict[str, float]]]:
    """All rows, from the train log and the figures that ``scores --json`` prints."""
    rows: list[tuple[int, dict[str, float]]] = []
    with run.store() as store:
        for t in range(run.config.iterations + 1):
            group = "dpo" if t else "sft"
            for logged in store.train_log(t):
                values = {f"{group}/{k}": v for k, v in logged.items() if k != "step"}
                rows.append((len(rows) + 1, {"iteration": t, **values}))
            figures = json.loads(json.dumps(asdict(figures_of(store, t))))
            rows.append((len(rows) + 1, {"iteration": t, **dict(flat("figures", figures))}))
    return rows


def flat(name: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [
            pair for k, v in value.items() if k != "iteration" for pair in flat(f"{name}/{k}", v)
        ]
    return [(name, float(value))] if isinstance(value, int | float) else []


def events(run: Run) -> list[tuple[int, dict[str, float]]]:
    """What is in the event files, in order of their steps."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    paths = (run.path / "tracking" / "tensorboard").glob("events.*")
    found = [event for path in paths for event in EventFileLoader(str(path)).Load()]
    rows = [
        (event.step, {v.tag: v.tensor.float_val[0] for v in event.summary.value})
        for event in found
        if event.summary.value
    ]
    return sorted(rows, key=lambda row: row[0])


def same(found: list[tuple[int, dict[str, float]]], known: list[Any]) -> bool:
    assert [step for step, _ in found] == [step for step, _ in known]
    for (_, values), (_, others) in zip(found, known, strict=True):
        assert values == pytest.approx(others, rel=1e-6)
    return True


def test_tensorboard_has_each_number_of_the_train_log_and_of_scores_once(run: Run) -> None:
    pytest.importorskip("tensorboard")
    known = expected(run)
    assert {"dpo/loss", "sft/loss"} < {name for _, values in known for name in values}
    for _ in range(2):
        follow(run, "tensorboard", lambda: True)
        assert same(events(run), known)
    watermark_path(run, "tensorboard").unlink()
    follow(run, "tensorboard", lambda: True)
    assert same(events(run), known)
    assert Watermark.read(watermark_path(run, "tensorboard")).sent == len(known)


KILLED = """
import os, signal, sys
from pathlib import Path
from selfreward.storage.directory import Run
from selfreward.tracking import follower, tensorboard
left = [int(sys.argv[2])]
log = tensorboard.TensorBoard.log
def log_and_die(self, row):
    if not left[0]:
        self._writer.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    log(self, row)
tensorboard.TensorBoard.log = log_and_die
follower._BATCH = 2
follower.follow(Run(Path(sys.argv[1])), "tensorboard", lambda: True)
"""


@pytest.mark.slow
def test_a_tracker_killed_at_any_row_is_caught_up_with_exactly_once(run: Run) -> None:
    pytest.importorskip("tensorboard")
    for rows in (0, 1, 3):
        command = [sys.executable, "-c", KILLED, str(run.path), str(rows)]
        assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert 0 < len(events(run)) < len(expected(run))
    send(run, "tensorboard")
    assert same(events(run), expected(run))


def test_what_a_run_makes_arrives_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setattr(process, "WAIT_S", 200.0)  # other tests run beside it
    run = create_run(build_config({}, [*SMALL, "track=[tensorboard]"]), "live")
    with Followers(run, run.config.track) as followers:
        launch(run, lambda: None, ScriptedWorkers(run))
    assert followers.behind == []
    assert same(events(run), expected(run))


@pytest.mark.slow
@pytest.mark.parametrize("library", [HANGS, RAISES, DIES], ids=["hangs", "raises", "dies"])
def test_a_tracker_that_fails_changes_no_record_and_takes_no_more_than_the_bound(
    library: str,
    runs: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "wandb.py").write_text(library)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setattr(process, "WAIT_S", 3.0)
    run = create_run(build_config({}, [*SMALL, "track=[wandb]"]), "whole")
    with Followers(run, run.config.track) as followers:
        launch(run, lambda: None, ScriptedWorkers(run))
        ended = time.monotonic()
    assert time.monotonic() - ended < 3.0 + 3.0
    assert followers.behind == ["wandb"]
    assert facts(run)["records"] == facts(Run(runs / "whole"))["records"]
    assert not watermark_path(run, "wandb").exists()
    [pid] = [followers._processes["wandb"].pid]
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_a_run_that_is_stopped_hardly_waits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    with pytest.raises(KeyboardInterrupt), Followers(run, ["wandb"]) as followers:
        ended = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - ended < process.HURRY_S + 3.0
    assert followers.behind == ["wandb"]


def test_the_follower_of_a_process_that_was_killed_ends_by_itself(run: Run, tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text(HANGS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "selfreward.tracking.main", str(run.path), "wandb", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as follower:
        assert follower.stdin is not None
        follower.stdin.close()  # as the kernel does when the run's process dies
        assert follower.wait(60) == 3


def test_only_one_process_at_a_time_sends_to_a_tracker(run: Run) -> None:
    from filelock import FileLock

    path = watermark_path(run, "tensorboard")
    path.parent.mkdir()
    with FileLock(path.with_suffix(".lock")), pytest.raises(LockedError, match="another process"):
        follow(run, "tensorboard", lambda: True)


def test_rows_have_places_that_follow_from_the_records(run: Run) -> None:
    with run.store() as store:
        rows = [*rows_after(store, 0)]
        assert [row.at for row in rows] == [*range(1, len(rows) + 1)]
        assert [*rows_after(store, 2)] == rows[2:]
        assert bounds(store) == (len(rows) - 1, len(rows))


def test_the_last_step_of_an_open_training_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({}, SMALL), "open")
    with run.owned() as store:
        for step in (1, 2, 3):
            store.log_training(0, step, {"loss": 1 / step})
        assert [row.at for row in rows_after(store, 0)] == [1, 2]
        store.note_change("changed", "dpo.beta", [(0, "train")])
        store.log_training(0, 1, {"loss": 9.0})
        assert Watermark(2).begun_anew(*bounds(store)) == Watermark(0, 2)


def test_a_training_begun_anew_is_sent_behind_the_one_before() -> None:
    assert Watermark(12).begun_anew(10, 12) == Watermark(12)
    assert Watermark(12).begun_anew(10, 15) == Watermark(12)
    assert Watermark(12).begun_anew(10, 10) == Watermark(10, 2)
    assert Watermark(10, 2).behind(13) == Watermark(11, 2)
    assert Watermark(10, 2).behind(0) == Watermark(10, 2)


def losses(run: Run) -> list[float]:
    """What is in the event files of the loss of the seed step, in order of their steps."""
    return [values["sft/loss"] for _, values in events(run)]


def train(run: Run, *logged: float) -> None:
    """Log steps of the seed step, from the first on."""
    with run.owned() as store:
        store.set_progress(0, "train", len(logged), 9, 1.0)
        for step, loss in enumerate(logged, 1):
            store.log_training(0, step, {"loss": loss})


OLD, NEW = [101.0, 102.0, 103.0, 104.0, 105.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that has recorded nothing."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return create_run(build_config({}, SMALL), "begun")


def test_a_training_begun_anew_is_sent_whole_however_far_it_is_when_the_tracker_comes_back(
    begun: Run,
) -> None:
    pytest.importorskip("tensorboard")
    train(begun, *OLD)
    follow(begun, "tensorboard", lambda: True)
    begun.configure(["sft.learning_rate=1e-9"])
    train(begun, *NEW)
    for _ in range(2):
        follow(begun, "tensorboard", lambda: True)
        assert losses(begun) == [*OLD[:-1], *NEW[:-1]]
    begun.configure(["sft.learning_rate=1e-8"])
    begun.configure(["sft.learning_rate=1e-7"])
    train(begun, *OLD, *NEW)
    follow(begun, "tensorboard", lambda: True)
    assert losses(begun) == [*OLD[:-1], *NEW[:-1], *OLD, *NEW[:-1]]
    assert [step for step, _ in events(begun)] == [*range(1, 24)]


@pytest.mark.parametrize("had_mark", [True, False])
def test_a_training_begun_anew_is_sent_whole_though_the_mark_of_the_one_before_was_not_kept(
    begun: Run, had_mark: bool
) -> None:
    pytest.importorskip("tensorboard")
    path = watermark_path(begun, "tensorboard")
    train(begun, *OLD[:3])
    if had_mark:
        follow(begun, "tensorboard", lambda: True)
        kept = path.read_bytes()
    train(begun, *OLD)
    follow(begun, "tensorboard", lambda: True)
    if had_mark:
        path.write_bytes(kept)  # as after a kill between flush and mark
    else:
        path.unlink()
    assert losses(begun) == OLD[:-1]
    begun.configure(["sft.learning_rate=1e-9"])
    train(begun, *NEW)
    for _ in range(2):
        follow(begun, "tensorboard", lambda: True)
        assert losses(begun) == [*OLD[:-1], *NEW[:-1]]


def test_a_tracker_killed_while_it_has_a_training_begun_anew_gets_no_row_of_it_twice(
    begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    train(begun, *NEW)
    begun.configure(["sft.learning_rate=1e-9"])  # before the tracker had anything
    train(begun, *OLD)
    kept: list[Watermark] = []
    write = Watermark.write

    def write_and_die(mark: Watermark, path: Path) -> None:
        assert not mark.sent
        write(mark, path)
        kept.append(mark)

    with monkeypatch.context() as patch:
        patch.setattr(Watermark, "write", write_and_die)
        with pytest.raises(AssertionError):
            follow(begun, "tensorboard", lambda: True)
    assert kept == [Watermark(0, 0, 1)] and losses(begun) == OLD[:-1]
    follow(begun, "tensorboard", lambda: True)
    assert losses(begun) == OLD[:-1]


def test_a_training_begun_anew_while_a_tracker_is_open_follows_all_that_it_has_taken(
    begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from selfreward.tracking.tensorboard import TensorBoard

    done: list[Any] = []
    close, write = TensorBoard.close, Watermark.write
    monkeypatch.setattr(TensorBoard, "flush", lambda tracker: False)  # as wandb
    monkeypatch.setattr(TensorBoard, "close", lambda t: done.append("closed") or close(t))
    monkeypatch.setattr(Watermark, "write", lambda m, path: done.append(m) or write(m, path))
    train(begun, *OLD)
    looks = iter([False, False, True])

    def is_ended() -> bool:
        is_last = next(looks)
        if is_last:
            begun.configure(["sft.learning_rate=1e-9"])
            train(begun, *NEW)
        return is_last

    monkeypatch.setattr("selfreward.tracking.follower._LOOK_S", 0.0)
    follow(begun, "tensorboard", is_ended)
    assert losses(begun) == [*OLD[:-1], *NEW[:-1]]
    first, last = Watermark(4), Watermark(7, 4, 1)
    assert done == ["closed", first, Watermark(0, 4, 1), "closed", last]


def test_of_a_training_begun_anew_alone_what_was_sent_counts_no_more(begun: Run) -> None:
    pytest.importorskip("tensorboard")
    train(begun, *OLD)
    follow(begun, "tensorboard", lambda: True)
    begun.configure(["engine.concurrency=3"])  # decides nothing
    follow(begun, "tensorboard", lambda: True)
    assert losses(begun) == OLD[:-1]
    with begun.owned() as store:
        store.finish_stage(Stage(0, "train", 1, 0, "x", "f", 1.0, {}))
        for step, loss in enumerate(NEW[:3], 1):
            store.log_training(1, step, {"loss": loss})
    follow(begun, "tensorboard", lambda: True)
    begun.configure(["dpo.learning_rate=1e-9"])
    with begun.owned() as store:
        for step, loss in enumerate(NEW, 1):
            store.log_training(1, step, {"loss": 10 * loss})
    follow(begun, "tensorboard", lambda: True)
    found = [*map(dict.values, (values for _, values in events(begun)))]
    assert [[*values][-1] for values in found] == [*OLD, 1.0, 2.0, *(10 * x for x in NEW[:-1])]


def test_a_mark_of_an_earlier_version_is_read_and_goes_on(begun: Run) -> None:
    pytest.importorskip("tensorboard")
    train(begun, *OLD)
    follow(begun, "tensorboard", lambda: True)
    path = watermark_path(begun, "tensorboard")
    path.write_text('{"sent": 4, "shift": 0}')
    assert Watermark.read(path) == Watermark(4, 0)
    train(begun, *OLD, *NEW)
    follow(begun, "tensorboard", lambda: True)
    assert losses(begun) == [*OLD, *NEW[:-1]]
    path.write_text('{"sent": 12, "shift": 0}')
    begun.configure(["sft.learning_rate=1e-9"])
    train(begun, *NEW)
    follow(begun, "tensorboard", lambda: True)
    assert losses(begun) == [*OLD, *NEW[:-1], *NEW[:-1]]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"sent": "x", "shift": 0}', "null"])
def test_a_damaged_watermark_is_none(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(damage)
    assert Watermark.read(path) == Watermark()
    Watermark(3, 1).write(path)
    assert Watermark.read(path) == Watermark(3, 1)
    Watermark(3, 1, 2).write(path)
    assert Watermark.read(path) == Watermark(3, 1, 2)


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("selfreward.tracking.base.has_module", lambda name: False)
    config = build_config({}, ["track=[mlflow]"])
    with pytest.raises(PreflightError) as found:
        check_config(config, {})
    assert found.value.message == "track: mlflow is not installed"
    assert "pip install 'selfreward-loop[mlflow]'" in found.value.hint


def test_a_directory_is_no_installed_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as ``wandb/``, which wandb itself leaves where it ran."""
    (tmp_path / "left_behind" / "run-1").mkdir(parents=True)
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "__init__.py").touch()
    (tmp_path / "module.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PreflightError, match="left_behind is not installed"):
        check_installed("left_behind")
    check_installed("library")
    check_installed("module")


def test_track_names_trackers_and_decides_nothing() -> None:
    assert build_config({}, ["track=[wandb, mlflow]"]).track == ("wandb", "mlflow")
    assert is_runtime_key("track")
    for words in ("track=[comet]", "track=[wandb, wandb]"):
        with pytest.raises(ConfigError, match="track"):
            build_config({}, [words])


def test_the_verb_sends_what_is_missing_and_says_how_much(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    count = len(expected(run))
    for sent in (count, 0):
        assert invoke(["track", "whole", "--to", "tensorboard", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == [{"tracker": "tensorboard", "sent": sent, "rows": count}]
    assert invoke(["track", "whole"]) == 2
    assert "names no trackers" in capsys.readouterr().err
    assert invoke(["track", "whole", "--to", "comet"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("is_finished", [True, False])
def test_what_is_said_of_a_tracker_that_is_behind_names_a_command_that_sends_it_the_rest(
    is_finished: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setattr(process, "WAIT_S", 0.0)
    monkeypatch.setattr(
        "selfreward.controller.launch", lambda run, tick: launch(run, tick, ScriptedWorkers(run))
    )
    few = [] if is_finished else ["pairs.min_pairs=18", "pairs.rule=all_pairs"]
    run = create_run(build_config({}, [*SMALL, "track=[tensorboard]", *few]), "tr")
    said: list[str] = []
    with nullcontext() if is_finished else pytest.raises(StoppedError):
        api.launch(run, lambda: None, say=said.append)
    [line] = said
    told, _, command = line.partition(": selfreward ")
    assert told == "tensorboard has not got all of the run; send it the rest with"
    if is_finished:
        assert invoke(["resume", "tr"]) == 0
        assert capsys.readouterr().err.splitlines()[1:] == said
    assert invoke(command.split()) == 0
    with run.store() as store:
        assert len(events(run)) == len([*rows_after(store, 0)]) > 0
    capsys.readouterr()
    if is_finished:
        assert invoke(["resume", "tr"]) == 0
        assert "tensorboard" not in capsys.readouterr().err


@pytest.mark.slow
def test_resume_with_other_trackers_of_a_finished_run_sends_it_or_says_how_each_gets_it(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("selfreward.tracking.base.has_module", lambda name: True)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (tmp_path / "mlflow.py").write_text("raise OSError('no route to host')")
    monkeypatch.setattr(process, "WAIT_S", 200.0)  # other tests run beside it
    for _ in range(2):
        assert invoke(["resume", "whole", "track=[mlflow,tensorboard]"]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "got all" in line]
        assert told == [process.told_behind(run, "mlflow")]
        assert same(events(run), expected(run))


def test_of_a_run_that_left_nothing_no_tracker_is_said_to_be_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(run: Run, tick: object) -> None:
        raise PreflightError("model: org/m is not in the hub cache")

    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setattr(process, "WAIT_S", 0.0)
    monkeypatch.setattr("selfreward.controller.launch", missing)
    run = create_run(build_config({}, [*SMALL, "track=[tensorboard]"]), "gone")
    said: list[str] = []
    with pytest.raises(PreflightError):
        api.launch(run, lambda: None, is_new=True, say=said.append)
    assert said == [] and not run.path.exists()


def test_the_verb_shows_why_a_tracker_took_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(RAISES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    with pytest.raises(PreflightError) as found:
        send(run, "wandb")
    assert found.value.message == "wandb did not take all of run whole: OSError: no route to host"
    log = run.path / "logs" / "track-wandb.log"
    assert found.value.hint == f"In full: {log}."
    (tmp_path / "wandb.py").write_text(DIES)
    with pytest.raises(PreflightError, match=r"its process ended with code 9$"):
        send(run, "wandb")  # which says nothing, unlike the time before
    log.unlink()
    log.mkdir()
    with pytest.raises(PreflightError, match="Is a directory"):
        send(run, "wandb")


@pytest.mark.slow
def test_each_tracker_is_tried_and_one_error_names_all_that_failed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "wandb.py").write_text(RAISES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr("selfreward.tracking.base.has_module", lambda name: name != "mlflow")
    count = len(expected(run))
    words = ["track", "whole", "--to", "wandb", "--to", "mlflow", "--to", "tensorboard"]
    assert invoke(words) == 7
    assert same(events(run), expected(run))
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["wandb", "0", "0"], ["mlflow", "0", "0"], ["tensorboard", str(count), str(count)]
    ]  # fmt: skip
    error, hint = err.splitlines()
    assert error == (
        "error: wandb did not take all of run whole: OSError: no route to host; "
        "track: mlflow is not installed"
    )
    assert "logs/track-wandb.log" in hint and "pip install 'selfreward-loop[mlflow]'" in hint
    assert invoke([*words, "--json"]) == 7
    shown, end = json.JSONDecoder().raw_decode(out := capsys.readouterr().out)
    assert [row["sent"] for row in shown] == [0, 0, 0]
    assert json.loads(out[end:])["error"]["code"] == 7


def test_wandb_offline_has_each_row_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for _ in range(2):
        send(run, "wandb")
    assert same(wandb_rows(run), expected(run))


def wandb_rows(run: Run) -> list[tuple[int, dict[str, float]]]:
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in (run.path / "tracking").rglob("*.wandb"):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                step = int(items.pop("_step", record.history.step.num))
                rows.append((step, {k: v for k, v in items.items() if not k.startswith("_")}))
    return sorted(rows, key=lambda row: row[0])


def leveldb_records(data: bytes) -> list[bytes]:
    """Records of a file in LevelDB's log format, behind a header of 7 bytes, as wandb writes it."""
    block, found, at = 32768, [b""], 7
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        found[-1] += data[at + 7 : at + 7 + length]
        if kind in (1, 4):  # whole, or its last part
            found.append(b"")
        at += 7 + length
    return found[:-1]


def test_mlflow_in_a_local_file_has_each_row_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):
        send(run, "mlflow")
        watermark_path(run, "mlflow").unlink()
    import sqlite3

    with sqlite3.connect(run.path / "tracking" / "mlflow.db") as db:
        found: dict[int, dict[str, float]] = {}
        for key, step, value in db.execute("SELECT key, step, value FROM metrics"):
            assert key not in found.setdefault(step, {})
            found[step][key] = value
    rows = [
        (step, {k: v for k, v in found[step].items() if not k.startswith("selfreward/")})
        for step in sorted(found)
    ]
    assert same(rows, expected(run))


def test_trackio_in_its_local_file_has_each_row_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for _ in range(2):
        send(run, "trackio")
        watermark_path(run, "trackio").unlink()
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S; "
        "[name] = S.get_runs('selfreward'); print(json.dumps(S.get_logs('selfreward', name)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    logs = json.loads(done.stdout.splitlines()[-1])
    rows = [
        (row["step"], {k: v for k, v in row.items() if k not in ("step", "timestamp")})
        for row in logs
    ]
    assert same(sorted(rows, key=lambda row: row[0]), expected(run))
