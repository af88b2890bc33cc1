"""Child processes answer, end with their parent, and never outlive the call."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from selfreward.config.load import build_config
from selfreward.errors import ConfigError, PreflightError, SelfRewardError
from selfreward.inputs.collect import create_run
from selfreward.records import Stage
from selfreward.storage.directory import Run
from selfreward.storage.durable import full_disk_named
from selfreward.workers import children as children_module
from selfreward.workers import process
from selfreward.workers.children import Children
from selfreward.workers.process import Child
from tests.support.rollout import run_on_bytes

ORPHAN = """
import queue, time, threading
from selfreward.workers import main
threading.Thread(target=main._read_jobs, args=(queue.SimpleQueue(),), daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""
PREPARE = {"epoch": 1, "work": "prepare", "iteration": 0}


def nothing(*given: object) -> None:
    pass


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
    assert process.wait(timeout=20) != 0
    process.stdout.close()


def test_scratch_that_nobody_holds_any_more_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def made(name: str, age_s: float, held: bool = True) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "socket").touch()
        if held:
            (directory / process._HELD).touch()
            os.utime(directory / process._HELD, (time.time() - age_s,) * 2)
        return directory

    killed, new = made("selfreward-killed", 3600), made("selfreward-new", 0)
    checkout = made("selfreward-checkout", 3600, held=False)
    with Child() as child:
        assert not killed.exists()
        assert new.exists()
        assert checkout.exists()
        mine = Path(child._scratch.name)
        os.utime(mine / process._HELD, (1, 1))
        with Child():
            assert mine.exists()  # somebody holds it
    assert not mine.exists()


@pytest.mark.slow
def test_an_error_in_a_child_is_raised_in_the_parent_with_its_kind_and_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({"engine": {"kind": "ctranslate"}}), "run")
    with (
        pytest.raises(ConfigError) as caught,
        run.owned() as store,
        closing(Children(run, store, lambda: None)) as children,
    ):
        children.prepare()
    assert "ctranslate" in caught.value.message
    assert "ctranslate2" in caught.value.message + caught.value.hint


def test_a_change_of_what_decides_records_is_checked_against_the_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    run = run_on_bytes(tmp_path / "base")
    done: list[str] = []

    def prepare() -> list[str]:
        with run.owned() as store:
            children = Children(run, store, lambda: None)
            monkeypatch.setattr(children, "_new", lambda trains: None)
            monkeypatch.setattr(children, "_work", lambda child, work, iteration: done.append(work))
            children.prepare()
        return done

    assert prepare() == []  # the base model was found before
    run.configure(["engine.concurrency=2"])
    assert prepare() == []
    run.configure(["dpo.max_length=512"])
    run.configure(["engine.concurrency=3"])
    assert prepare() == ["prepare"]
    assert prepare() == ["prepare"]


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({"sft": None}), "run")
    with (
        pytest.raises(SelfRewardError) as caught,
        run.owned() as store,
        closing(Children(run, store, lambda: None)) as children,
    ):
        children.generate(1)  # nobody expects it before ``prepare``
    assert caught.value.message == "the generate process of iteration 1 ended with code 1"
    assert "KeyError" in caught.value.hint


def test_a_child_does_not_outlive_an_interrupted_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({}), "run")
    before = set(psutil.Process().children(recursive=True))
    begin = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        run.owned() as store,
        closing(Children(run, store, interrupt)) as children,
    ):
        children.prepare()
    assert time.monotonic() - begin < 10
    assert set(psutil.Process().children(recursive=True)) == before


def test_what_a_child_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an engine's own processes would, that go on when their parent is killed."""
    pid = tmp_path / "pid"
    (tmp_path / "sitecustomize.py").write_text(
        "import subprocess, sys\nif 'selfreward.workers.main' in sys.orig_argv:\n"
        f"    open({str(pid)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child()
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.05)
    started = psutil.Process(int(pid.read_text()))
    os.kill(child._process.pid, signal.SIGKILL)
    assert child.do({"run": str(tmp_path), **PREPARE}, nothing, nothing) is None
    assert started.is_running()
    assert child.kill() == -signal.SIGKILL
    assert not Path(child._scratch.name).exists()
    assert not psutil.wait_procs([started], timeout=20)[1]


BUSY = """
import asyncio, os, signal, sys
if 'selfreward.workers.main' in sys.orig_argv:
    from selfreward.workers.jobs import Generator

    def end():
        os.kill(os.getpid(), signal.SIGTERM)

    async def task():
        end()

    async def serve(where):
        async with asyncio.TaskGroup() as group:
            if where == 'task':
                group.create_task(task())
            else:
                asyncio.get_running_loop().call_soon(end)
            await asyncio.sleep(90)

    Generator.judge = lambda self, job, say: asyncio.run(serve(job['text']))
"""


@pytest.mark.parametrize("where", ["task", "callback"])
def test_sigterm_ends_a_child_with_143_whatever_asyncio_does_just_then(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BUSY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    begin = time.monotonic()
    with Child() as child, pytest.raises(SelfRewardError, match="ended with code 143"):
        child.work({"work": "judge", "text": where}, "test")
    assert time.monotonic() - begin < 60


class Numbered:
    """A child that does nothing, and what each of them was asked."""

    made: ClassVar["list[Numbered]"] = []

    def __init__(self, devices: str | None = None, imports: tuple[str, ...] = ()) -> None:
        self.devices, self.trains = devices, any("trl" in name for name in imports)
        self.imports, self.is_alive = imports, True
        self.works, self.logs = list[str](), list[str]()
        self.beside: list[Numbered] = []
        """Who lives while it makes its steps."""
        self.made.append(self)

    def work(
        self, job: dict[str, Any], name: str, tick: Callable[[], None], hear: Callable[[str], None]
    ) -> None:
        assert self.is_alive
        self.works.append(job["work"])
        self.logs.append(Path(job.get("log", "")).name)
        if job["work"] in ("sft", "train"):
            self.beside = [child for child in self.made if child.is_alive and child is not self]
            hear("stepped")
            hear("stepped")

    def close(self, grace_s: float = 0) -> None:
        self.is_alive = False

    kill = close

    def __enter__(self) -> "Numbered":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@pytest.fixture
def numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Children]]:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(children_module, "Child", Numbered)
    monkeypatch.setattr(Numbered, "made", [])
    with ExitStack() as stack:

        def children(*words: str) -> Children:
            run = run_on_bytes(tmp_path / "base", *words)
            return Children(run, stack.enter_context(run.owned()), lambda: None)

        yield children
    assert not any(child.is_alive for child in Numbered.made)


def test_while_a_child_works_the_next_one_imports_what_it_will_need(
    numbered: Callable[..., Children],
) -> None:
    with closing(numbered("iterations=2")) as children:
        for iteration in (1, 2):
            children.generate(iteration)
            assert children._next is Numbered.made[-1]
            assert children._next.trains  # type: ignore[attr-defined]
            children.train(iteration)
            assert not children._next.trains  # type: ignore[attr-defined]
            children.evaluate(iteration)
            assert children._next is None  # it goes on to generate, or nothing follows
    works = [child.works for child in Numbered.made]
    assert [child.beside for child in Numbered.made] == [[]] * 5  # nobody waits beside a training
    assert works == [["generate"], ["train"], ["evaluate", "generate"], ["train"], ["evaluate"]]
    assert [bool(child.imports) for child in Numbered.made] == [False] + [True] * 4


@pytest.mark.parametrize(
    ("words", "work", "logs"),
    [
        (["sft=null"], "evaluate", ["0-prepare.log", "0-evaluate.log", ""]),
        (["launch.keep_engine=true"], "evaluate", ["0-prepare.log", "0-evaluate.log", "", ""]),
        (["sft={}"], "train", ["0-prepare.log", "0-train.log"]),
    ],
)
def test_the_child_that_prepares_goes_on_and_each_work_has_its_log(
    words: list[str],
    work: str,
    logs: list[str],
    numbered: Callable[..., Children],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Run, "base_model", lambda run: {})
    with closing(numbered(*words)) as children:
        children.prepare()
        getattr(children, work)(0)
        if work == "evaluate":  # the engine that it keeps prints to the log that it began with
            children.generate(1)
            children.train(1)
            children.evaluate(1)
    first = Numbered.made[0]
    assert first.works[:2] == ["prepare", work]
    assert first.logs == logs
    assert first.trains == (work == "train")


@pytest.mark.parametrize(
    ("words", "works"),
    [
        (["launch.keep_engine=true"], [["generate", "evaluate"], ["train"]]),
        (["engine={kind: vllm, enable_sleep_mode: true}"],
         [["generate", "sleep", "evaluate"], ["train"]]),
        (["evaluation.ranked=null", "evaluation.canaries=false", "evaluation.questions=null"],
         [["generate"], ["train"]]),
    ],
)  # fmt: skip
def test_no_child_is_started_that_nothing_needs(
    words: list[str], works: list[list[str]], numbered: Callable[..., Children]
) -> None:
    with closing(numbered("iterations=1", *words)) as children:
        children.generate(1)
        children.train(1)
        if children._run.config.evaluation.is_on:
            children.evaluate(1)
    assert [child.works for child in Numbered.made] == works


def test_a_child_that_died_while_it_waited_is_replaced(numbered: Callable[..., Children]) -> None:
    with closing(numbered()) as children:
        children.generate(1)
        Numbered.made[-1].is_alive = False
        children.train(1)
    assert [child.works for child in Numbered.made[:3]] == [["generate"], [], ["train"]]


def test_a_child_sees_the_devices_of_its_work(numbered: Callable[..., Children]) -> None:
    with closing(numbered("launch.engine_devices='0'", "launch.train_devices='1'")) as children:
        children.generate(1)
        children.train(1)
        children.train(1)  # it is resumed where something else was expected
    worked = [(child.devices, child.works) for child in Numbered.made if child.works]
    assert worked == [("0", ["generate"]), ("1", ["train"]), ("1", ["train"])]


@pytest.mark.slow
def test_what_a_child_that_waited_prints_goes_to_the_log_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    (tmp_path / "early.py").write_text("print('while it waits')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = run_on_bytes(tmp_path / "base")
    with run.owned() as store, Child(imports=["early"]) as child:
        job = {"run": str(run.path), "epoch": store.epoch, "work": "train", "iteration": 1}
        with pytest.raises(SelfRewardError, match="the test ended with code 1") as caught:
            child.work(job | {"log": str(run.log_path(1, "train"))}, "test")
    log = run.log_path(1, "train").read_text()
    assert "Traceback" in log and "while it waits" not in log
    assert log.splitlines()[-1] in caught.value.hint


def test_a_child_that_dies_before_it_takes_its_job_is_reported_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "early.py").write_text(
        "import os, time\ntime.sleep(1)\nprint('broken', flush=True)\nos._exit(1)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "logs" / "1-train.log"
    with Child(imports=["early"]) as child, pytest.raises(SelfRewardError) as caught:
        child.work({"work": "train", "log": str(log)}, "test")
    assert caught.value.message == "the test ended with code 1"
    assert f"Its log, {log}, ends with" in caught.value.hint
    assert "broken" in caught.value.hint


def test_what_cannot_be_imported_early_keeps_no_job_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    (tmp_path / "early.py").write_text("raise OSError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = run_on_bytes(tmp_path / "base")
    with run.owned() as store, Child(imports=["early", "json:no_such_name"]) as child:
        for stage in run.config.rollout_stages(1):  # so that no model is needed
            store.finish_stage(Stage(1, stage, 0, 0, "", "", 0.0, {}))
        job = {"run": str(run.path), "epoch": store.epoch, "work": "generate", "iteration": 1}
        child.work(job, "test")
        said = child._logs[0].read_text()
    assert "early cannot be imported: OSError: no such library" in said
    assert "json:no_such_name cannot be imported: AttributeError" in said


@pytest.mark.slow
def test_a_child_prints_to_the_log_that_it_was_given_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = run_on_bytes(tmp_path / "base")
    first, second = run.log_path(0, "evaluate"), run.log_path(1, "train")
    with run.owned() as store, Child() as child:
        for stage in run.config.rollout_stages(1):  # so that no model is needed
            store.finish_stage(Stage(1, stage, 0, 0, "", "", 0.0, {}))
        job = {"run": str(run.path), "epoch": store.epoch, "iteration": 1}
        child.work(job | {"work": "generate", "log": str(first)}, "test")
        with pytest.raises(SelfRewardError):
            child.work(job | {"work": "train"}, "test")
    assert "Traceback" in first.read_text()
    with run.owned() as store, Child() as child:
        job = {"run": str(run.path), "epoch": store.epoch, "iteration": 1}
        child.work(job | {"work": "generate", "log": str(first)}, "test")
        with pytest.raises(SelfRewardError, match="test ended") as caught:
            child.work(job | {"work": "train", "log": str(second)}, "test")
    assert "Traceback" in second.read_text() and str(second) in caught.value.hint


SLOW = """
import sys, time

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(20)

sys.held = Slow()
"""
"""Python takes it apart as it ends, after it has closed the pipe to the parent."""


def test_a_bug_in_a_child_is_told_with_its_traceback_however_slow_python_is_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with Child() as child, pytest.raises(SelfRewardError, match="ended with code 1") as caught:
        child.work({"work": "no such work"}, "test")
    assert "KeyError: 'run'" in caught.value.hint


def test_a_child_that_has_no_job_yet_is_ended_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "early.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child(imports=["early"])
    begin = time.monotonic()
    assert child.kill(grace_s=0) < 0
    assert time.monotonic() - begin < process.GRACE_S


def test_a_child_does_one_job_after_another_and_ends_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = run_on_bytes(tmp_path / "base")
    with run.owned() as store, Child() as child:
        for stage in run.config.rollout_stages(1):  # so that no model is needed
            store.finish_stage(Stage(1, stage, 0, 0, "", "", 0.0, {}))
        job = {"run": str(run.path), "epoch": store.epoch, "work": "generate", "iteration": 1}
        assert [child.do(job, nothing, nothing) for _ in range(2)] == [{}, {}]
        child.close()
        assert child.kill() == 0


@pytest.fixture
def saying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets children say the text of a job three times."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'selfreward.workers.main' in sys.orig_argv:\n"
        "    from selfreward.workers.jobs import Generator\n"
        "    def judge(self, job, say):\n"
        "        print('noise of a library')\n"
        "        for number in range(3):\n"
        "            say([number, job['text']])\n"
        "    Generator.judge = judge\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("saying")
def test_what_a_child_says_while_it_works_is_heard_in_order_and_whole() -> None:
    text, heard = "long" * 100_000, []
    with Child() as child:
        for _ in range(2):
            child.work({"work": "judge", "text": text}, "test", hear=heard.append)
    assert heard == [[number, text] for number in (0, 1, 2)] * 2


@pytest.mark.usefixtures("saying")
def test_a_child_whose_words_cannot_be_used_is_ended() -> None:
    def refuse(said: object) -> None:
        raise KeyError

    child = Child()
    with pytest.raises(KeyError):
        child.work({"work": "judge", "text": ""}, "test", hear=refuse)
    assert child._process.poll() is not None
    assert not Path(child._scratch.name).exists()


def test_a_failed_write_on_a_full_disk_is_named_as_such_and_other_failures_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="writer failed"), full_disk_named(str(tmp_path)):
        raise RuntimeError("writer failed")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(PreflightError, match="disk is full"), full_disk_named(str(tmp_path)):
        raise RuntimeError("writer failed")
