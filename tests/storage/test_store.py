"""The record of truth: unique keys, fenced writers, whole batches, and no doubt about None."""

import json
import math
import sqlite3
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward.errors import IntegrityError, LockedError, NotFoundError, PreflightError
from selfreward.records import (
    Comparison,
    Criterion,
    Drop,
    JudgePair,
    Judgment,
    MetaJudgment,
    PreferencePair,
    Prompt,
    Response,
    Stage,
)
from selfreward.storage import database, seals
from selfreward.storage.store import ANEW, Store
from selfreward.storage.tables import SCHEMA_VERSION, TABLES, digest

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
COUNT = st.integers(0, 2**40)
SCORE = st.floats(0, 5)
KEY = COUNT.map(lambda n: n % 1000)

RECORDS: dict[type, st.SearchStrategy[Any]] = {
    Prompt: st.builds(Prompt, KEY, KEY, TEXT, TEXT, st.none() | TEXT, TEXT, COUNT),
    Response: st.builds(
        Response, KEY, KEY, KEY, TEXT, st.sampled_from(["stop", "length"]), COUNT, TEXT,
        st.none() | TEXT,
    ),
    Judgment: st.one_of(
        st.builds(
            Judgment, KEY, KEY, KEY, KEY, st.sampled_from(["written", "expected"]), TEXT, SCORE,
            st.none(), st.none() | st.tuples(*[st.floats(0, 1)] * 6), COUNT,
        ),
        st.builds(Judgment, KEY, KEY, KEY, KEY, st.just("written"), TEXT, st.none(), TEXT),
    ),
    PreferencePair: st.builds(
        PreferencePair, KEY, KEY, KEY, KEY, st.floats(2.5, 5), st.floats(0, 2.4)
    ),
    Drop: st.builds(Drop, KEY, TEXT, TEXT, TEXT, TEXT),
    Criterion: st.builds(Criterion, KEY, KEY, KEY, KEY, TEXT, st.floats(0.1, 9)),
    Comparison: st.builds(
        Comparison, KEY, KEY, st.just(1), st.just(2), TEXT, TEXT, st.sampled_from([None, 1, 2]),
        st.none(), st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)), COUNT,
    ),
    MetaJudgment: st.builds(
        MetaJudgment, KEY, KEY, KEY, st.just(1), st.just(2), TEXT, TEXT,
        st.sampled_from([None, 1, 2]), st.none(), st.none() | st.tuples(st.floats(0, 1)), COUNT,
    ),
    JudgePair: st.builds(
        JudgePair, KEY, KEY, KEY, KEY, KEY, st.floats(0, 400), st.floats(-400, -0.1)
    ),
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "records.db"
    database.create(path)
    return path


def prompt(attempt: int, text: str = "Name a fruit.", iteration: int = 1) -> Prompt:
    return Prompt(iteration, attempt, text, text, None)


def stage(**changes: Any) -> Stage:
    plain = {
        "iteration": 1, "stage": "prompts", "rows": 2, "drops": 0, "digest": "d",
        "fingerprint": "f", "seconds": 1.5, "versions": {"trl": "1.16.0"},
    }  # fmt: skip
    return Stage(**{**plain, **changes})


# What goes in comes out


@settings(max_examples=20)
@given(st.data())
def test_every_record_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("store") / "records.db"
    database.create(path)
    with Store.claim(path) as store:
        for kind, strategy in RECORDS.items():
            key = attrgetter(*TABLES[kind][1])
            records = data.draw(st.lists(strategy, max_size=6, unique_by=key))
            store.add(records)
            for record in records:
                assert record in store.records(kind, record.iteration)


def test_every_record_type_has_a_table() -> None:
    assert set(TABLES) == set(RECORDS)


def test_a_report_is_committed_with_its_stage_or_not_at_all(path: Path) -> None:
    with Store.claim(path) as store:
        store.finish_stage(stage(stage="evaluate"), reports={"judge": {"score": 0.1 + 0.2}})
        assert store.report(1, "judge", dict) == {"score": 0.1 + 0.2}
        assert store.report(1, "canaries", dict) is store.report(2, "judge", dict) is None
        with pytest.raises(IntegrityError):
            store.finish_stage(stage(stage="evaluate"), reports={"judge": {}, "canaries": {}})
        assert store.report(1, "judge", dict) == {"score": 0.1 + 0.2}
        assert store.report(1, "canaries", dict) is None


def test_records_come_in_key_order_whatever_order_they_were_added_in(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([prompt(2), prompt(0)])
        store.add([prompt(1), prompt(0, iteration=2)])
        assert [p.attempt for p in store.records(Prompt, 1)] == [0, 1, 2]
        assert store.records(Prompt, 1, attempt=2) == [prompt(2)]
        assert store.records(Prompt, 3) == []


def test_the_digest_sees_every_field_and_the_order() -> None:
    votes = [Judgment(1, 0, 0, v, "written", "", 3.0) for v in range(2)]
    plain = digest(votes)
    assert digest(votes) == plain
    assert digest(votes[::-1]) != plain
    changed = [Judgment(1, 0, 0, 0, "written", "", 3.0000000001), votes[1]]
    assert digest(changed) != plain
    assert digest([prompt(0, "a")]) != digest([prompt(0, "b")])


# Unique keys and whole batches


def test_a_key_can_be_taken_only_once_and_the_first_record_stays(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([prompt(0, "first")])
        with pytest.raises(IntegrityError, match="UNIQUE"):
            store.add([prompt(0, "second")])
        assert [p.text for p in store.records(Prompt, 1)] == ["first"]


@pytest.mark.parametrize("kind", RECORDS)
def test_every_table_has_a_unique_key(path: Path, kind: type) -> None:
    made = {
        Prompt: prompt(0),
        Response: Response(1, 0, 0, "a", "stop", 1),
        Judgment: Judgment(1, 0, 0, 0, "written", "", 3.0),
        PreferencePair: PreferencePair(1, 0, 0, 1, 4.0, 2.0),
        Drop: Drop(1, "pairs", "0", "tie"),
        Criterion: Criterion(1, 0, 0, 0, "Names the capital", 3.0),
        Comparison: Comparison(1, 0, 0, 1, "written", "", None),
        MetaJudgment: MetaJudgment(1, 0, 0, 0, 1, "written", "", None),
        JudgePair: JudgePair(1, 0, 0, 0, 1, 9.0, -9.0),
    }
    with Store.claim(path) as store:
        store.add([made[kind]])
        with pytest.raises(IntegrityError):
            store.add([made[kind]])


def test_a_batch_that_fails_leaves_nothing_of_itself(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([prompt(0)])
        with pytest.raises(IntegrityError):
            store.add([prompt(1), Drop(1, "prompts", "1", "x"), prompt(0)])
        assert [p.attempt for p in store.records(Prompt, 1)] == [0]
        assert store.records(Drop, 1) == []
        store.add([prompt(1)])


def test_a_batch_whose_making_raises_leaves_nothing_of_itself(path: Path) -> None:
    def broken() -> Any:
        yield prompt(0)
        raise KeyboardInterrupt

    with Store.claim(path) as store:
        with pytest.raises(KeyboardInterrupt):
            store.add(broken())
        assert store.records(Prompt, 1) == []
        store.add([prompt(0)])


# None, NaN and scores


@pytest.mark.parametrize(
    "record",
    [
        Judgment(1, 0, 0, 0, "written", "", math.nan),
        Judgment(1, 0, 0, 0, "written", "", math.inf),
        Judgment(1, 0, 0, 0, "written", "", -0.1),
        Judgment(1, 0, 0, 0, "written", "", 5.1),
        Judgment(1, 0, 0, 0, "written", "", None),
        Judgment(1, 0, 0, 0, "written", "", 3.0, "a reason too"),
        PreferencePair(1, 0, 0, 1, math.nan, 1.0),
        PreferencePair(1, 0, 0, 1, 3.0, math.nan),
        PreferencePair(1, 0, 0, 1, 2.0, 3.0),
    ],
)
def test_a_score_is_a_number_in_range_or_none_with_a_reason(path: Path, record: Any) -> None:
    with Store.claim(path) as store, pytest.raises(IntegrityError):
        store.add([record])


def test_a_failed_reading_comes_back_as_none_and_zero_as_zero(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([Judgment(1, 0, 0, 0, "written", "x", None, "empty")])
        store.add([Judgment(1, 0, 0, 1, "written", "x", 0.0)])
        first, second = store.records(Judgment, 1)
    assert first.score is None and first.reason == "empty"
    assert second.score == 0.0 and second.reason is None


def test_a_loss_that_is_not_a_number_comes_back_as_not_a_number(path: Path) -> None:
    with Store.claim(path) as store:
        store.log_training(1, 3, {"loss": math.nan, "grad_norm": math.inf, "lr": 0.0})
        [row] = store.train_log(1)
    assert math.isnan(row["loss"]) and math.isinf(row["grad_norm"])
    assert (row["lr"], row["step"]) == (0.0, 3)


def test_a_training_step_redone_replaces_what_it_logged(path: Path) -> None:
    with Store.claim(path) as store:
        store.log_training(0, 2, {"loss": 2.0})
        store.log_training(0, 1, {"loss": 1.0})
        store.log_training(0, 2, {"loss": 1.5})
        assert store.train_log(0) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.5}]
        assert store.train_log(1) == []


def test_who_clears_the_log_of_a_training_leaves_an_event_of_it(path: Path) -> None:
    with Store.claim(path) as store:
        store.log_training(1, 1, {"loss": 1.0})
        store.set_progress(0, "sft", 1, 2, 1.0)
        assert store.begun == [(0, "sft"), (1, "train")]
        store.note_change("configured", "{}", [(0, "sft"), (1, "train")])
        told = [(kind, text) for _, kind, text in store.events()]
        assert told == [(ANEW, "0 sft"), (ANEW, "1 train"), ("configured", "{}")]
        assert store.begun == [] and store.is_sealed(0, seals.EVENTS)
        store.note_change("configured", "{}", [])
        assert [kind for _, kind, _ in store.events()].count(ANEW) == 2


def test_a_snapshot_within_another_one_sees_what_that_one_does(path: Path) -> None:
    with Store.claim(path) as writer, Store(path) as reader:
        with reader.snapshot():
            assert reader.events() == []
            with reader.snapshot():
                writer.add_event("launched", "")
                assert reader.events() == []
            assert reader.events() == []
        assert len(reader.events()) == 1


# Stages


def test_a_stage_is_finished_with_its_row_and_its_last_records_together(path: Path) -> None:
    with Store.claim(path) as store:
        assert store.finished(1, "prompts") is None
        store.finish_stage(stage(), [prompt(0), prompt(1)])
        made = store.finished(1, "prompts")
        assert made is not None and made.finished
        assert made == stage(finished=made.finished)
        assert len(store.records(Prompt, 1)) == 2


def test_a_stage_whose_last_records_fail_is_not_finished(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([prompt(0)])
        with pytest.raises(IntegrityError):
            store.finish_stage(stage(), [prompt(1), prompt(0)])
        assert store.finished(1, "prompts") is None
        assert len(store.records(Prompt, 1)) == 1


def test_a_stage_is_finished_only_once_and_none_of_the_second_try_is_kept(path: Path) -> None:
    with Store.claim(path) as store:
        store.finish_stage(stage())
        with pytest.raises(IntegrityError):
            store.finish_stage(stage(digest="other"), [prompt(0)])
        assert store.records(Prompt, 1) == []
        assert [s.digest for s in store.stages()] == ["d"]


def test_figures_and_progress_are_replaced_and_read_back(path: Path) -> None:
    with Store.claim(path) as store:
        assert store.figures(1, dict) is None
        store.save_figures(1, {"mean": 2.5, "none": None})
        store.save_figures(1, {"mean": 3.5})
        assert store.figures(1, dict) == {"mean": 3.5}
        store.set_progress(1, "prompts", 1, 9, 0.5)
        store.set_progress(1, "responses", 0, 9, 0.0)
        store.set_progress(1, "prompts", 2, 9, 1.5, "fast")
        last = store.progress()[-1]
        assert (last.stage, last.done, last.seconds, last.note) == ("prompts", 2, 1.5, "fast")
        assert len(store.progress()) == 2


# Owners


def test_an_old_owner_commits_nothing_once_another_has_claimed(path: Path) -> None:
    old = Store.claim(path)
    old.add([prompt(0)])
    new = Store.claim(path)
    for write in (
        lambda: old.add([prompt(1)]),
        lambda: old.finish_stage(stage()),
        lambda: old.log_training(1, 1, {"loss": 1.0}),
        lambda: old.set_progress(1, "prompts", 1, 2, 0.0),
        lambda: old.save_figures(1, {}),
        lambda: old.add_event("x", "y"),
    ):
        with pytest.raises(LockedError, match="taken over"):
            write()
    new.add([prompt(1, "mine")])
    assert [p.text for p in new.records(Prompt, 1)] == ["Name a fruit.", "mine"]
    assert new.stages() == [] and new.events() == [] and new.train_log(1) == []
    old.close()
    new.close()


def test_a_child_writes_under_its_parents_epoch_only_while_that_is_in_force(path: Path) -> None:
    parent = Store.claim(path)
    child = Store(path, epoch=parent.epoch)
    child.add([prompt(0)])
    Store.claim(path).close()
    with pytest.raises(LockedError):
        child.add([prompt(1)])
    parent.close()
    child.close()


def test_epochs_only_grow_and_say_who_owns(path: Path) -> None:
    epochs = []
    for _ in range(3):
        with Store.claim(path) as store:
            epochs.append(store.epoch)
            assert store.owner()["epoch"] == store.epoch
    assert epochs == [1, 2, 3]


# Readers


def test_a_reader_sees_what_is_committed_while_another_writes(path: Path) -> None:
    with Store.claim(path) as writer, Store(path) as reader:
        writer.add([prompt(0)])
        assert len(reader.records(Prompt, 1)) == 1

        def half() -> Any:
            yield prompt(1)
            assert len(reader.records(Prompt, 1)) == 1
            yield prompt(2)

        writer.add(half())
        assert len(reader.records(Prompt, 1)) == 3


def test_a_reader_cannot_write(path: Path) -> None:
    with Store(path) as reader, pytest.raises((sqlite3.OperationalError, LockedError)):
        reader.add([prompt(0)])
    with Store(path) as reader:
        assert reader.records(Prompt, 1) == []


@pytest.mark.parametrize("name", ["plain", "with space", "100%", "a?b", "a#b", "ü", "%41"])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    database.create(directory / "records.db")
    with Store.claim(directory / "records.db") as store:
        store.add([prompt(0)])
    assert {p.name for p in tmp_path.iterdir()} == {name}
    with Store(directory / "records.db") as store:
        assert len(store.records(Prompt, 1)) == 1


# Files that are no store


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    for epoch in (None, 1):
        with pytest.raises(NotFoundError):
            Store(tmp_path / "records.db", epoch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a database, just text" * 99, b"SQLite format 3\0"])
def test_a_file_that_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        Store(path)
    assert path.read_bytes() == content


def test_the_stages_planned_come_back_in_order_and_a_new_plan_replaces_them(path: Path) -> None:
    with Store.claim(path) as store:
        assert store.planned(1) == []
        store.plan({0: ["train"], 1: ["prompts", "pairs", "evaluate"]})
        store.plan({0: [], 1: ["prompts", "comparisons", "pairs"], 2: ["prompts"]})
        assert [store.planned(t) for t in range(4)] == [
            [], ["prompts", "comparisons", "pairs"], ["prompts"], [],
        ]  # fmt: skip


@pytest.mark.parametrize("version", [3, SCHEMA_VERSION + 1])
def test_another_schema_version_is_refused_and_named(path: Path, version: int) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={version}")
    db.close()
    for open_ in (Store, Store.claim):
        with pytest.raises(IntegrityError, match=f"schema version {version}, this release reads"):
            open_(path)


def test_one_of_the_version_before_is_read_as_it_is_and_upgraded_once_it_is_owned(
    path: Path,
) -> None:
    with Store.claim(path) as store:
        store.add([prompt(0)])
    db = sqlite3.connect(path)
    db.executescript("DROP TABLE meta_judgments; DROP TABLE judge_pairs; PRAGMA user_version=7")
    db.close()
    with Store(path) as store:
        assert store.records(Prompt, 1) == [prompt(0)]
        assert store.records(MetaJudgment, 1) == store.records(JudgePair, 1) == []
    pair = JudgePair(1, 0, 0, 1, 2, 10.0, -10.0)
    with Store.claim(path) as store:
        store.add([pair])
    with Store(path) as store:
        assert (store.records(Prompt, 1), store.records(JudgePair, 1)) == ([prompt(0)], [pair])


def test_create_does_not_touch_a_store_that_is_there(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([prompt(0)])
    with pytest.raises(IntegrityError, match="already exists"):
        database.create(path)
    with Store(path) as store:
        assert len(store.records(Prompt, 1)) == 1


def test_check_finds_a_damaged_page(path: Path) -> None:
    with Store.claim(path) as store:
        store.add(prompt(i, "x" * 500) for i in range(200))
        assert store.check() == "ok"
    data = bytearray(path.read_bytes())
    at = data.rindex(b"x" * 400)
    data[at - 2000 : at + 400] = b"\xff" * 2400
    path.write_bytes(data)
    with Store(path) as store:
        assert store.check() != "ok"


# No space left


def test_a_full_database_is_a_preflight_error_and_earlier_rows_stay(path: Path) -> None:
    store = Store.claim(path)
    store.add([prompt(0)])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(PreflightError) as error:
        store.finish_stage(stage(), (prompt(i, "x" * 1000) for i in range(1, 200)))
    assert "disk space" in error.value.hint
    assert store.records(Prompt, 1) == [prompt(0)]
    assert store.finished(1, "prompts") is None
    store._db.execute("PRAGMA max_page_count=1000000")
    store.finish_stage(stage(), (prompt(i, "x" * 1000) for i in range(1, 200)))
    assert store.check() == "ok"
    store.close()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from selfreward.storage import database
from selfreward.errors import PreflightError
from selfreward.records import Prompt
from selfreward.storage.store import Store
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.claim(path)
store.add([Prompt(1, 0, "a", "a", None)])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
done = 1
try:
    while True:
        store.add([Prompt(1, done, "x" * 5000, "x", None)])
        done += 1
except PreflightError:
    print(done)
"""


def test_a_full_disk_is_a_preflight_error_and_what_was_committed_stays(path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    with Store.claim(path) as store:
        assert len(store.records(Prompt, 1)) == int(run.stdout) > 5
        assert store.check() == "ok"
        store.add([prompt(9999)])


def test_a_store_that_cannot_be_made_for_lack_of_space_is_a_preflight_error(
    tmp_path: Path,
) -> None:
    code = FULL_DISK.replace("store = Store.claim(path)\n", "").replace(
        'store.add([Prompt(1, 0, "a", "a", None)])\n', ""
    )
    code = code[: code.index("done = 1")].replace("200_000", "2_000") + (
        "try:\n    database.create(path)\nexcept PreflightError:\n    print('refused')\n"
    )
    path = tmp_path / "records.db"
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == "refused", run.stderr


KILLED = """
import os, sys
from pathlib import Path
from selfreward.records import Prompt
from selfreward.storage.store import Store
store = Store.claim(Path(sys.argv[1]))
store.add(Prompt(1, i, "a", "a", None) for i in range(10))

def rows():
    for i in range(10, 20):
        if i == 15:
            os.kill(os.getpid(), 9)
        yield Prompt(1, i, "b", "b", None)

store.add(rows())
"""


def test_a_writer_that_is_killed_within_a_batch_leaves_the_batches_before(path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert run.returncode == -9
    with Store.claim(path) as store:
        assert [p.attempt for p in store.records(Prompt, 1)] == list(range(10))
        assert store.check() == "ok"


def test_versions_and_figures_are_plain_json(path: Path) -> None:
    with Store.claim(path) as store:
        store.finish_stage(stage())
        store.save_figures(1, {"a": [1, 2]})
    db = sqlite3.connect(path)
    assert json.loads(db.execute("SELECT versions FROM stages").fetchone()[0]) == {"trl": "1.16.0"}
    assert json.loads(db.execute("SELECT data FROM figures").fetchone()[0]) == {"a": [1, 2]}
    db.close()
