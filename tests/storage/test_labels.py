"""What people say of a run's answers: kept for good, apart from its records, of this run alone."""

import json
import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, NotFoundError
from selfreward.inputs.collect import create_run
from selfreward.storage.branch import create_branch
from selfreward.storage.directory import Run
from selfreward.storage.label import Item, Label, check_label, in_force, labeler_name
from selfreward.storage.labels import Labels, labels_path, run_identity
from selfreward.verbs.export import export
from selfreward.verbs.maintenance import collect, verify
from tests.support.labels import items, label
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL, at_runs, runs  # noqa: F401  (fixtures)


@pytest.fixture
def run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    """A finished run of one's own."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    shutil.copytree(runs / "whole", tmp_path / "whole")
    return Run(tmp_path / "whole")


def kept(run: Run) -> list[Label]:
    with Labels(run) as labels:
        return in_force(labels.history())


def sql(run: Run, statement: str, name: str = "labels.db") -> None:
    with closing(sqlite3.connect(run.path / name)) as db:
        db.execute(statement)
        db.commit()


def failed(run: Run) -> dict[str, str]:
    return {check["name"]: check["detail"] for check in verify(run) if not check["ok"]}


def test_a_label_changes_no_record(run: Run) -> None:
    before = (run.path / "records.db").read_bytes()
    (item, *_) = items(run, "ranking")
    label(run, item, ranks=tuple(1 for _ in item.samples))
    with Labels(run, writes=True) as labels:
        labels.undo("ann", "ranking")
    assert (run.path / "records.db").read_bytes() == before
    wal = run.path / "records.db-wal"  # a reader makes one, and leaves it empty
    assert not wal.exists() or wal.stat().st_size == 0


def test_a_later_label_of_the_same_person_counts_and_the_earlier_one_stays(run: Run) -> None:
    first, second, *_ = items(run, "ab")
    label(run, first, ranks=(1, 2))
    label(run, second, ranks=(1, 2))
    label(run, first, ranks=(2, 1))
    label(run, first, "bob", ranks=(1, 1))
    assert [(one.labeler, one.item, one.ranks) for one in kept(run)] == [
        ("ann", second, (1, 2)), ("ann", first, (2, 1)), ("bob", first, (1, 1)),
    ]  # fmt: skip
    with Labels(run) as labels:
        assert [one.ranks for one in labels.history()] == [(1, 2), (1, 2), (2, 1), (1, 1)]


def test_an_undo_takes_back_one_label_so_that_the_one_before_counts_again(run: Run) -> None:
    (item, *_) = items(run, "ab")
    label(run, item, "bob", ranks=(1, 1))
    label(run, item, ranks=(1, 2))
    label(run, item, ranks=(2, 1))
    with Labels(run, writes=True) as labels:
        gone = labels.undo("ann", "ab")
        assert gone is not None and gone.ranks == (2, 1)
        assert [one.ranks for one in labels.of_kind("ab")] == [(1, 1), (1, 2)]
        labels.undo("ann", "ab")
        assert labels.undo("ann", "ab") is None
        assert labels.undo("ann", "rating") is None
        assert len(labels.history()) == 5
        assert [one.labeler for one in labels.check() if one.undoes is None] == [
            "bob",
            "ann",
            "ann",
        ]


def test_the_file_refuses_every_change_of_what_is_in_it(run: Run) -> None:
    label(run, items(run, "ab")[0], ranks=(1, 2))
    for statement in ("UPDATE labels SET ranks = '[2, 1]'", "DELETE FROM labels"):
        with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
            sql(run, statement)


def test_a_label_of_another_run_is_refused(run: Run) -> None:
    label(run, items(run, "ab")[0], ranks=(1, 2))
    other = create_run(build_config({}, [*SMALL, "seed=1"]), "other")
    launch(other, lambda: None, ScriptedWorkers(other))
    shutil.copy(labels_path(run), labels_path(other))
    before = labels_path(other).read_bytes()
    for writes in (False, True):
        with pytest.raises(IntegrityError, match=r"holds labels of run whole, not of this run"):
            Labels(other, writes=writes)
    assert labels_path(other).read_bytes() == before
    assert list(failed(other)) == ["labels.db"]


def test_a_run_keeps_its_labels_however_it_goes_on(run: Run, tmp_path: Path) -> None:
    label(run, items(run, "ab")[0], ranks=(1, 2))
    known = run_identity(run)
    run.configure(["iterations=3", "launch.keep_engine=true"])
    run = Run(run.path)
    launch(run, lambda: None, ScriptedWorkers(run))
    run.path.rename(tmp_path / "renamed")
    moved = Run(tmp_path / "renamed")
    assert run_identity(moved) == known
    assert len(kept(moved)) == 1
    assert "labels.db" not in failed(moved)


def test_a_branch_takes_the_labels_on_the_records_that_it_takes_over(run: Run) -> None:
    for item in items(run, "ab"):
        label(run, item, ranks=(1, 2))
    assert {one.item.iteration for one in kept(run)} == {1, 2}
    with Labels(run, writes=True) as labels:
        labels.undo("ann", "ab")
    branch = create_branch(run, 1, "branch", ["dpo.learning_rate=3e-7"])
    assert run_identity(branch) != run_identity(run)
    ours = [one for one in kept(run) if one.item.iteration == 1]
    assert kept(branch) == ours != []
    assert failed(branch) == {}
    shutil.copy(labels_path(run), labels_path(branch))
    with pytest.raises(IntegrityError, match="holds labels of run whole"):
        Labels(branch)


def test_a_branch_of_a_run_without_labels_has_none(run: Run) -> None:
    assert not labels_path(create_branch(run, 1, "branch")).exists()


def test_gc_leaves_the_labels(run: Run) -> None:
    label(run, items(run, "ab")[0], ranks=(1, 2))
    before = labels_path(run).read_bytes()
    gone = {Path(item["path"]).name for item in collect(run, 1, dry_run=False)}
    assert gone and not any(name.startswith("labels") for name in gone)
    assert labels_path(run).read_bytes() == before
    assert len(kept(run)) == 1


@pytest.mark.parametrize("name", ["whole", "none"])
def test_verify_speaks_of_labels_where_there_are_any(run: Run, name: str) -> None:
    if name == "whole":
        label(run, items(run, "ab")[0], ranks=(1, 2))
    checks = {check["name"]: check for check in verify(run)}
    assert ("labels.db" in checks) == (name == "whole")
    assert all(check["ok"] for check in checks.values())


def test_verify_finds_an_answer_that_is_no_longer_what_was_labeled(run: Run) -> None:
    first, second, *_ = items(run, "ranking")
    label(run, second, ranks=tuple(range(1, len(second.samples) + 1)))
    number = label(run, first, ranks=tuple(range(1, len(first.samples) + 1)))
    where = f"iteration = {first.iteration} AND attempt = {first.attempt}"
    sql(run, f"UPDATE responses SET text = text || '!' WHERE {where}", "records.db")
    assert f"label {number}: the records no longer hold" in failed(run)["labels.db"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("ranks", "'[2, 1]'"), ("labeler", "'bob'"), ("note", "'x'"), ("at", "''")],
)
def test_verify_finds_a_cell_that_was_altered(run: Run, column: str, value: str) -> None:
    for item in items(run, "ab", 3):
        label(run, item, ranks=(1, 2))
    sql(run, "DROP TRIGGER no_update")
    sql(run, f"UPDATE labels SET {column} = {value} WHERE number = 2")
    assert "label 2 or one before it" in failed(run)["labels.db"]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE labels SET ranks = '[1'", "label 1"),
        ("UPDATE labels SET ranks = '[1]'", "one rank of 1 to 9 for each answer"),
        ("UPDATE labels SET samples = '[0]'", "asks about 1 answers"),
        ("UPDATE labels SET flags = '[\"none\"]'", "boxes ticked"),
        ("UPDATE labels SET digest = x'ff'", "label 1"),
        ("DELETE FROM run", "labels of no run"),
        ("PRAGMA user_version = 9", "schema version 9, this release reads 1"),
        ("DROP TABLE labels", "no such table"),
    ],
)
def test_damage_is_told_in_a_line(run: Run, statement: str, said: str) -> None:
    label(run, items(run, "ab")[0], ranks=(1, 2))
    sql(run, "DROP TRIGGER no_update")
    sql(run, statement)
    with pytest.raises(IntegrityError, match=said) as error, Labels(run) as labels:
        labels.history()
    assert "\n" not in error.value.message and str(labels_path(run)) in error.value.message
    assert list(failed(run)) == ["labels.db"]


def test_a_file_that_is_no_database_is_told_in_a_line_and_left_alone(run: Run) -> None:
    labels_path(run).write_bytes(b"no database at all" * 99)
    for writes in (False, True):
        with pytest.raises(IntegrityError, match="not a readable database"):
            Labels(run, writes=writes)
    assert labels_path(run).read_bytes() == b"no database at all" * 99


def test_a_file_that_was_only_begun_holds_no_labels_and_is_gone_on_with(run: Run) -> None:
    labels_path(run).touch()
    with pytest.raises(NotFoundError, match="no labels by people yet"):
        Labels(run)
    assert failed(run) == {}
    assert label(run, items(run, "ab")[0], ranks=(1, 2)) == 1
    assert failed(run) == {}


def test_without_labels_a_reader_is_told_how_to_give_some_and_makes_no_file(run: Run) -> None:
    with pytest.raises(NotFoundError, match="no labels by people yet"):
        Labels(run)
    assert not labels_path(run).exists()


def test_a_run_that_was_never_launched_has_nothing_to_label(at_runs: Path) -> None:  # noqa: F811
    new = create_run(build_config({}, SMALL), "new")
    with pytest.raises(NotFoundError, match="no records yet"):
        Labels(new, writes=True)
    assert not labels_path(new).exists()
    shutil.rmtree(new.path)


def _label_many(path: Path, labeler: str, item: Item) -> None:
    for rating in range(1, 8):
        label(Run(path), item, labeler, rating=rating)


def test_labelers_at_the_same_time_lose_nothing(run: Run) -> None:
    """The file does not exist before: they make it, too, at the same time."""
    (item, *_) = items(run, "rating")
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_label_many, args=(run.path, name, item)) for name in ("a", "b", "c")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with Labels(run) as labels:
        assert len(labels.check()) == 21
    assert [(one.labeler, one.rating) for one in sorted(kept(run), key=lambda x: x.labeler)] == [
        ("a", 7), ("b", 7), ("c", 7),
    ]  # fmt: skip


AB = Label("ann", Item("ab", 1, 0, (0, 2)), "", (2, 0), ranks=(1, 2))
RATING = Label("ann", Item("rating", 1, 0, (1,)), "", (1,), rating=4)


def test_whole_labels_are_labels() -> None:
    for one in (AB, RATING, replace(AB, ranks=None), replace(RATING, flags=("fails", "hedges"))):
        check_label(one)


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": (1,)}, {"ranks": (0, 1)}, {"ranks": (1, 10)}, {"ranks": (1, 2), "rating": 3},
        {"ranks": None, "rating": 3}, {"shown": (0, 1)}, {"shown": (0, 2, 2)},
        {"item": Item("ab", 1, 0, (2, 0))}, {"item": Item("ab", 1, 0, (0, 0))},
        {"item": Item("ab", 1, 0, (0, 1, 2))}, {"item": Item("ranking", 1, 0, (0,))},
        {"flags": ("fails",)}, {"note": "x" * 10_001}, {"seconds": -1.0},
        {"seconds": float("nan")}, {"labeler": " ann"}, {"labeler": ""},
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_label(replace(AB, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"rating": 0}, {"rating": 8}, {"rating": None, "ranks": (1,)}, {"flags": ("none",)},
        {"flags": ("satisfies", "violates")},
    ],
)  # fmt: skip
def test_what_is_no_rating_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_label(replace(RATING, **change))


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "a\nb", "a\x1b[2J", "\u202eevil", "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a labeler"):
        labeler_name(name)


def test_a_name_has_one_spelling() -> None:
    assert labeler_name(" Zoe\u0308  Ray ") == labeler_name("Zo\u00eb  Ray") == "Zo\u00eb  Ray"


def test_what_is_in_force_is_exported_and_nothing_else(run: Run, tmp_path: Path) -> None:
    first, second, *_ = items(run, "ranking")
    label(run, first, ranks=tuple(1 for _ in first.samples))
    label(run, first, ranks=tuple(range(1, len(first.samples) + 1)), labeler="ben")
    label(run, second, ranks=tuple(1 for _ in second.samples))
    with Labels(run, writes=True) as labels:
        labels.undo("ann", "ranking")
    found = export(run, tmp_path / "out", what=["labels"], kind="jsonl")
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    ]
    assert [(row["labeler"], row["samples"], row["ranks"]) for row in rows] == [
        ("ann", list(first.samples), [1 for _ in first.samples]),
        ("ben", list(first.samples), [*range(1, len(first.samples) + 1)]),
    ]
    assert [file.rows for file in found.files] == [2]
    assert rows[0]["digest"] == kept(run)[0].digest
