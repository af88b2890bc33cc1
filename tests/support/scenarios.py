"""What users do that writes to a run's directory, each with how they go on after it was cut off."""

import contextlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfreward.config.load import load_config
from selfreward.errors import PreflightError
from selfreward.inputs.collect import run_inputs
from selfreward.inputs.shared import beginning, create_sharing_run
from selfreward.inputs.shipped import config_file
from selfreward.records import TRAINING, Response, Stage
from selfreward.storage import durable
from selfreward.storage.benchmarks import Benchmark, Score, add_benchmarks, read_benchmarks
from selfreward.storage.directory import Run, list_runs
from selfreward.storage.label import Item, Label, content
from selfreward.storage.labels import Labels, reading
from selfreward.storage.lines import Lines
from selfreward.storage.tables import digest
from selfreward.verbs.maintenance import verify
from tests.support.runs import KINDS
from tests.support.torture import SHORT, Act, words

RUN = ("run", "quickstart", "--name", "run", *SHORT)


@dataclass(frozen=True)
class Scenario:
    """Something that a user does."""

    start: str
    """What is there before: ``empty``, or a finished run ``whole``."""
    act: Act
    again: Act
    """What they do after it was cut off, until all is as it would have been; also for a last time
    where nothing is left to do."""


def _exists(name: str) -> bool:
    return Path("runs", name, "records.db").is_file()


def run_again() -> int | None:
    return words(*(("resume", "run") if _exists("run") else RUN))()


def extend() -> int | None:
    return words("resume", "run", "iterations=2", "judge.votes=1")()


def branch() -> int | None:
    label()
    line = ("resume", "run", "--retrain", "1", "--name", "other")
    return words(*(("resume", "other") if _exists("other") else line))()


def share() -> int | None:
    if not _exists("other"):
        source = config_file("quickstart")
        config = load_config(source, [*SHORT, "dpo.learning_rate=2e-6"])
        files = run_inputs(config, source)
        create_sharing_run("other", files, beginning(config, files, list_runs()))
    return words("resume", "other")()


def discard() -> int | None:
    """A run that finds no model goes, and leaves its name free."""
    code = words(*RUN, mood="missing")()
    return 0 if code == PreflightError.exit_code and not _exists("run") else code


def benchmark() -> int | None:
    run = Run(Path("runs", "run"))
    score = Benchmark(
        "M1", "d", "task", "selfreward", "1", "", 1, 1, {"acc": Score(1.0, None, None)}, {}, 1.0, ""
    )
    there = {each.model for each in read_benchmarks(run)}
    for model in ("M1", "M2"):
        if model not in there:
            add_benchmarks(run, [replace(score, model=model)])
    return 0


def label() -> int | None:
    """Three labels and an undo, each once."""
    run = Run(Path("runs", "run"))
    with run.store() as store:
        first = store.records(Response, 1)[0]
        item = Item("rating", 1, first.attempt, (first.sample,))
        known = content(store, item).digest
    for number in range(1, 5):
        with Labels(run, writes=True) as labels:
            if len(labels.history()) >= number:
                continue
            if number == 4:
                labels.undo("ann", "rating")
            else:
                labels.add(Label("ann", item, known, item.samples, rating=number))
    return 0


def collect() -> int | None:
    left = Path("runs", "run", "models", f"{durable.TEMPORARY}killed")
    if not left.exists():
        left.mkdir()
        (left / "weights").write_text("half")
        link = left.with_name(f"{durable.TEMPORARY}link")
        if not link.is_symlink():
            link.symlink_to("M1")
    return words("gc", "run", "--keep", "1")()


def publish() -> int | None:
    """Directories in the place of a whole one, of a broken one and of a link; lines of a file."""
    place = Path("runs", "published")
    durable.keep_if_writable(place / "cache", "finite")
    for name, text in (("kept", "first"), ("kept", "second"), ("taken", "old"), ("taken", "new")):
        with durable.publish_directory(place / name, replace=name == "taken") as directory:
            durable.write_file(directory / "weights", text)
    (place / "broken").mkdir(exist_ok=True)
    if not os.path.lexists(place / "link"):
        (place / "link").symlink_to("nowhere")
    for name in ("broken", "link"):
        with durable.publish_directory(place / name) as directory:
            durable.write_file(directory / "weights", "whole")
    with durable.publish_directory(place / "copied") as directory:
        durable.copy_file(place / "kept" / "weights", directory / "weights")
        (directory / durable.ADAPTER / "more").mkdir(parents=True)
        durable.write_file(directory / durable.ADAPTER / "more" / "weights", "adapter")
    if not durable.is_whole(place / "linked"):
        shutil.rmtree(place / "linked", ignore_errors=True)
        durable.link_directory(place / "copied", place / "linked")
    lines = Lines(place / "lines")
    for number in range(len(lines.rows), 3):
        lines.add([{"number": number}])
    return 0


SCENARIOS: dict[str, Scenario] = {
    "run": Scenario("empty", words(*RUN), run_again),
    "extend": Scenario("whole", extend, extend),
    "branch": Scenario("whole", branch, branch),
    "share": Scenario("whole", share, share),
    "discard": Scenario("empty", discard, discard),
    "gc": Scenario("whole", collect, collect),
    "labels": Scenario("whole", label, label),
    "benchmarks": Scenario("whole", benchmark, benchmark),
    "publish": Scenario("empty", publish, publish),
}


def start(root: Path, scenario: Scenario, whole: Path) -> None:
    """Make the place of a scenario, at ``root``.

    Args:
        whole: A runs directory with the finished run ``run``.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    if scenario.start == "whole":
        shutil.copytree(whole, root / "runs")


def made(root: Path) -> dict[str, Any]:
    """All that must not depend on what was cut off, and that ``verify`` passes."""
    found: dict[str, Any] = {}
    with contextlib.chdir(root):  # the scripted M0 lies in the run, and is named from here
        for path in sorted(Path("runs").glob("[!.]*/records.db")):
            run = Run(path.parent)
            bad = [check for check in verify(run) if not check["ok"]]
            assert not bad, bad
            found[run.name] = _made(run)
    for path in sorted((root / "runs" / "published").glob("[!.]*/")):
        if durable.is_whole(path):
            found[path.name] = (path / "weights").read_text()
    for path in root.glob("runs/published/lines"):
        found["lines"] = path.read_text().rpartition("\n")[0]
    return found


def _made(run: Run) -> dict[str, Any]:
    with run.store() as store:
        stages = store.stages()
        records = {
            f"{kind.__name__} {t}": digest(store.records(kind, t))  # type: ignore[type-var]
            for t in range(3)
            for kind in KINDS
        }
        logs = [store.train_log(t) for t in range(3)]
        closed = store.closed
    models = {path.name: durable.verify_directory(path) for path in run.path.glob("models/[MS]*/")}
    with reading(run) as kept:
        history = kept.check() if kept else []
        labels = [(each.number, each.rating, each.undoes) for each in history]
    return {
        "records": records, "logs": logs, "closed": closed, "models": models, "labels": labels,
        "stages": [_stage(stage) for stage in stages],
        "benchmarks": [(each.model, each.task) for each in read_benchmarks(run)],
        "iterations": run.config.iterations,
    }  # fmt: skip


def _stage(stage: Stage) -> tuple[Any, ...]:
    made = (stage.iteration, stage.stage, stage.rows, stage.drops, stage.digest)
    return (*made, stage.stage in TRAINING)
