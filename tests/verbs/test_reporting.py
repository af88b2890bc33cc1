"""Tables, status, progress, plans, checks and clean-up of runs."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml

from selfreward.config.load import build_config, load_config
from selfreward.errors import ConfigError, IntegrityError, NotFoundError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.inputs.shipped import config_file, recipes
from selfreward.records import (
    Judgment,
    PreferencePair,
    Progress,
    Prompt,
    Response,
    Stage,
    stages_of,
)
from selfreward.storage import durable
from selfreward.storage.directory import Run, open_run
from selfreward.verbs import (
    answer_rows,
    console,
    course,
    doctor,
    maintenance,
    plan,
    planned_stages,
    progress,
    score_rows,
    status,
)
from selfreward.verbs.config_show import origins_of
from selfreward.verbs.console import unmarked
from selfreward.verbs.init import write_starter
from selfreward.verbs.layout import bars, duration, indented, size, table
from selfreward.verbs.pairs import pairs_of
from selfreward.verbs.scores import Scores, scores_of, scores_text
from selfreward.verbs.show import prompt_of, prompt_text, select
from selfreward.verbs.validate import validate
from tests.support import DATA, ROOT
from tests.support.runs import SMALL, at_runs, runs  # noqa: F401

pytestmark = pytest.mark.usefixtures("at_runs")


@pytest.fixture
def whole(runs: Path) -> Run:  # noqa: F811
    return Run(runs / "whole")


@pytest.fixture
def copy(whole: Run, tmp_path: Path) -> Run:
    """A copy of the finished run that a test may damage."""
    shutil.copytree(whole.path, tmp_path / "copy")
    return Run(tmp_path / "copy")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return create_run(build_config({}, SMALL), "empty")


# Layout


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59, "59 s"), (59.9, "1 min 00 s"), (245, "4 min 05 s"),
     (3599.7, "1 h 00 min"), (7800, "2 h 10 min"), (360000, "100 h 00 min")],
)  # fmt: skip
def test_durations_are_shown_in_the_unit_that_people_use(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_sizes_bars_and_tables() -> None:
    assert [size(n) for n in (0, 999, 1500, 538e6, 2e9)] == [
        "0 B", "999 B", "2 kB", "538 MB", "2.0 GB",
    ]  # fmt: skip
    assert bars([0, 1, 8]) == " ▁█"
    assert bars([0, 0]) == "  "
    assert table([["a", "b"], ["漢字", "x"], ["overflows"]]) == "a     b\n漢字  x\noverflows"
    assert indented("one\n\n" + "w " * 30, "  ", 20).split("\n")[:2] == ["  one", ""]


# scores


def test_a_table_of_scores_has_no_nan_and_no_mean_without_error_and_n(whole: Run) -> None:
    text = scores_text(scores_of(whole))
    assert "nan" not in text.casefold().replace("finance", "")
    for line in text.splitlines():
        if line.startswith(("mean score", "margin")):
            assert line.count("±") == 2
    assert "n responses (prompts)" in text


def test_what_is_not_there_yet_says_why(empty: Run) -> None:
    with pytest.raises(NotFoundError):
        scores_of(empty)
    with empty.owned() as store:
        store.add([Prompt(1, 0, "p", "p", None), Response(1, 0, 0, "a", "stop", 1)])
        store.set_progress(1, "responses", 1, 3, 1.0)
    text = scores_text(scores_of(empty), everything=True)
    assert "n/a (no scores)" in text
    assert "n/a (not built)" in text
    assert "n/a (no pairs)" in text


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_table_is_wider_than_the_terminal(whole: Run, width: int, everything: bool) -> None:
    seed, *rounds = scores_of(whole).iterations
    longest = max(rounds, key=lambda figures: len(scores_text(Scores("r", (figures,)))))
    for num in range(1, 13):
        many = tuple(replace(longest, iteration=t, start=t) for t in range(1, num + 1))
        text = scores_text(Scores("many", (seed, *many)), width, everything)
        assert max(map(len, unmarked(text).splitlines())) <= width
        shown = [line for line in unmarked(text).splitlines() if line.startswith("policy ")]
        assert " ".join(shown).count("->") == num
        assert width < 200 or num < 5 or len(shown) < num  # some are side by side


def test_hostile_text_makes_no_table_wider(runs: Path) -> None:  # noqa: F811
    for width in (60, 80):
        text = console.sanitize(scores_text(scores_of(Run(runs / "hostile")), width, True))
        assert max(map(len, unmarked(text).splitlines())) <= width


def test_what_is_wrapped_keeps_every_word(whole: Run) -> None:
    wide = scores_text(scores_of(whole), 999, everything=True)
    narrow = scores_text(scores_of(whole), 60, everything=True)
    assert Counter(unmarked(wide).split()) <= Counter(unmarked(narrow).split())


def test_every_row_is_explained_in_the_docs() -> None:
    source = "".join(Path(rows.__file__).read_text() for rows in (score_rows, answer_rows))
    labels = re.findall(r'(?:Row\(\s*|^    )"( *\w[^"{]+)"[,:]', source, re.MULTILINE)
    text = (ROOT / "docs" / "scores.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    named = {name.strip(" *") for row in rows for name in row.split(";")}
    assert len(labels) > 40
    assert {label.strip() for label in labels} - named == set()


def test_what_scores_say_as_json_keeps_its_names() -> None:
    """Scripts read them: one that goes or moves needs a line in the changelog."""
    schemas = msgspec.json.schema(Scores)["$defs"]
    found = {name: sorted(schema["properties"]) for name, schema in schemas.items()}
    assert found == json.loads((DATA / "golden" / "scores.json").read_text())


def test_the_short_table_is_part_of_the_long_one(whole: Run) -> None:
    short, long = (
        unmarked(scores_text(scores_of(whole), 200, every)).splitlines() for every in (False, True)
    )
    rows = [line for line in short if "->" in line or "±" in line]
    assert len(short) < len(long)
    assert rows and {row.split("  ")[0] for row in rows[1:]} <= {r.split("  ")[0] for r in long}


# show and pairs


def test_show_holds_every_response_and_vote_of_a_prompt(whole: Run) -> None:
    iteration, attempts = select(whole, None, "first")
    assert iteration == 2
    with whole.store() as store:
        for attempt in attempts:
            shown = prompt_of(whole, iteration, attempt)
            responses = store.records(Response, iteration, attempt)
            judgments = store.records(Judgment, iteration, attempt)
            assert len(shown.responses) == len(responses)
            assert sum(len(r.votes) for r in shown.responses) == len(judgments)
            text = prompt_text(shown)
            assert all(line.strip() in text for r in responses for line in r.text.split("\n"))
            pair = store.records(PreferencePair, iteration, attempt)
            assert len(shown.pairs) == len(pair)
            assert bool(shown.no_pair) == (not pair)


def test_best_and_worst_are_ordered_by_score_and_failed_have_no_verdict(whole: Run) -> None:
    def scores(attempt: int) -> list[float]:
        found = [r.score for r in prompt_of(whole, 1, attempt).responses]
        return [score for score in found if score is not None]

    _, best = select(whole, 1, "best")
    assert [max(scores(a)) for a in best] == sorted((max(scores(a)) for a in best), reverse=True)
    _, worst = select(whole, 1, "worst")
    assert [min(scores(a)) for a in worst] == sorted(min(scores(a)) for a in worst)
    _, failed = select(whole, 1, "failed")
    for attempt in failed:
        votes = [v for r in prompt_of(whole, 1, attempt).responses for v in r.votes]
        assert any(vote.score is None for vote in votes)


def test_a_dropped_prompt_is_shown_with_its_reason() -> None:
    shown = prompt_of(open_run("hostile"), 1, 1)
    assert shown.prompt.dropped == "similar"
    assert "dropped: similar" in prompt_text(shown)
    assert shown.no_pair == "the prompt was dropped"


def test_with_one_vote_each_nothing_disagrees(empty: Run) -> None:
    judgment = Judgment(1, 0, 0, 0, "expected", "", 2.0, None, (0.0, 0.1, 0.5, 0.1, 0.0, 0.0))
    with empty.owned() as store:
        store.add([Prompt(1, 0, "p", "p", None), Response(1, 0, 0, "a", "stop", 1), judgment])
    with pytest.raises(ConfigError, match="one vote"):
        select(empty, None, "disagree")
    assert "(sum 0.700)" in prompt_text(prompt_of(empty, None, 0))


def test_iterations_and_pairs_that_do_not_exist_are_not_found(whole: Run, empty: Run) -> None:
    for call in (
        lambda: select(whole, 9, "first"),
        lambda: pairs_of(whole, 9),
        lambda: select(empty, None, "first"),
        lambda: pairs_of(empty, None),
    ):
        with pytest.raises(NotFoundError):
            call()


def test_pairs_and_prompts_without_a_pair_add_up(whole: Run) -> None:
    with whole.store() as store:
        for iteration in (1, 2):
            pairs = pairs_of(whole, iteration)
            accepted = [p for p in store.records(Prompt, iteration) if p.dropped is None]
            assert len(pairs["pairs"]) + pairs["prompts_dropped"].total() == len(accepted)
            assert all(p["chosen_score"] > p["rejected_score"] for p in pairs["pairs"])


# status and progress


def test_a_run_is_running_exactly_while_its_lock_is_held(empty: Run) -> None:
    assert status.status_of(empty).state == "stopped"
    with empty.owned():
        assert status.status_of(empty).state == "running"
        assert status.status_of(empty).owner.pid == os.getpid()
    assert status.status_of(empty).state == "stopped"


def test_the_last_event_tells_how_a_run_ended(empty: Run, whole: Run) -> None:
    assert status.status_of(whole).state == "finished"
    assert status.is_complete(whole)
    with empty.owned() as store:
        store.add_event("launched", "")
        store.add_event("error", "no pairs")
    found = status.status_of(empty)
    assert (found.state, found.error) == ("failed", "no pairs")
    assert "selfreward resume empty" in status.status_text(found)
    with empty.owned() as store:
        store.add_event("launched", "")
    assert status.status_of(empty).state == "stopped"
    assert not status.is_complete(empty)


def test_rate_and_time_left_follow_from_what_was_done() -> None:
    begun = Progress(1, "responses", 10, 40, 5.0, "", "")
    assert course.rate(begun) == 2.0
    assert course.eta(begun) == 15.0
    assert course.eta(replace(begun, done=0)) is None
    assert course.eta(replace(begun, done=1)) is None  # one unit, with all that is done once
    assert course.eta(replace(begun, seconds=0.5)) is None
    assert course.eta(replace(begun, total=0)) is None
    assert course.eta(replace(begun, done=50)) == 0


def test_a_stopped_run_has_no_time_left_and_says_so(empty: Run) -> None:
    with empty.owned() as store:
        store.plan({1: ["responses", "judgments"]})
        store.set_progress(1, "responses", 10, 40, 5.0)
        found = status.status_of(empty)
        assert (found.stages[0].state, found.eta_s) == ("working", 15.0)
    found = status.status_of(empty)
    assert (found.stages[0].state, found.stages[0].done) == ("stopped", 10)
    assert found.eta_s is found.stages[0].eta_s is found.run_eta_s is None
    text = status.status_text(found)
    assert "10/40" in text
    assert "left" not in text


def launched_at(monkeypatch: pytest.MonkeyPatch, run: Run, moments: list[tuple[str, str]]) -> None:
    """Events of these kinds, each at a time of its own on one day."""
    with run.owned() as store:
        for clock, kind in moments:
            monkeypatch.setattr(
                "selfreward.storage.store.now", lambda at=clock: f"2026-01-01T{at}Z"
            )
            store.add_event(kind, "")


def test_the_time_of_a_run_is_that_of_its_launches_and_not_of_the_nights_between(
    empty: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = [("10:00:00", "launched"), ("10:01:30", "stopped"), ("12:00:00", "removed")]
    again = [("22:59:59", "configured"), ("23:00:00", "launched")]  # resume KEY=VALUE
    launched_at(monkeypatch, empty, [*ended, *again])
    assert status.status_of(empty).seconds == 90
    with empty.owned() as store:  # killed: what it recorded last tells how long it worked
        monkeypatch.setattr("selfreward.storage.store.now", lambda: "2026-01-01T23:00:40Z")
        store.set_progress(1, "prompts", 1, 3, 1.0)
    assert status.status_of(empty).seconds == 130


def test_the_time_left_of_a_run_is_what_its_stages_took_before(empty: Run) -> None:
    def made(iteration: int, stage: str, seconds: float) -> Stage:
        return Stage(iteration, stage, 1, 0, "", "", seconds, {})

    with empty.owned() as store:
        store.plan({1: ["prompts", "train"], 2: ["prompts", "train"], 3: ["prompts", "train"]})
        store.finish_stage(made(1, "prompts", 30))
        assert status.status_of(empty).run_eta_s is None  # no training was timed
        store.finish_stage(made(1, "train", 100))
        store.set_progress(2, "prompts", 5, 10, 20.0)
        assert status.status_of(empty).run_eta_s == 20 + 100 + 30 + 100
        assert "about 4 min 10 s left" in status.status_text(status.status_of(empty))


def test_a_stage_of_an_earlier_launch_is_not_at_work_before_this_one_goes_on(
    empty: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown_lines(empty, lambda: 0.0, monkeypatch)
    at = "selfreward.storage.store.now"
    with empty.owned() as store, progress.Display(empty) as display:
        store.plan({1: ["responses", "judgments"]})
        monkeypatch.setattr(at, lambda: "2026-01-01T10:00:00Z")
        store.set_progress(1, "responses", 10, 40, 5.0)
        monkeypatch.setattr(at, lambda: "2026-01-01T11:00:00Z")
        store.add_event("launched", "")
        facts = {"path": "m", "digest": "0" * 64, "source": "m", "revision": None}
        durable.write_file(empty.path / "models" / "M0.json", json.dumps(facts))
        display.tick()
        assert "preparing responses: loading the model" in lines[-1]
        store.set_progress(1, "responses", 11, 40, 6.0)
        display.tick()
        assert "responses  11/40" in lines[-1]


def test_a_training_shows_its_last_loss(whole: Run) -> None:
    with whole.store() as store:
        assert {p.note for p in store.progress() if p.stage == "train"} == {"loss 0.25"}


def test_the_newest_run_is_the_one_written_to_last(empty: Run) -> None:
    create_run(build_config({}, SMALL), "later")
    assert status.newest_run().name == "later"
    with empty.owned() as store:
        store.add_event("launched", "")
    assert status.newest_run().name == "empty"


def test_ls_of_no_runs_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "none"))
    assert "selfreward run quickstart" in status.ls_text(status.ls_rows())
    with pytest.raises(NotFoundError):
        status.newest_run()


def test_a_damaged_run_does_not_hide_the_others(empty: Run) -> None:
    create_run(build_config({}, SMALL), "torn")
    create_run(build_config({}, SMALL), "bare")
    (empty.path.parent / "torn" / "records.db").write_bytes(b"torn")
    (empty.path.parent / "bare" / "config.resolved.yaml").unlink()
    rows = status.ls_rows()
    assert {row.run: row.state for row in rows} == {
        "empty": "stopped", "torn": "damaged", "bare": "damaged",
    }  # fmt: skip
    assert "not a readable database" in status.ls_text(rows)
    assert plan.plan_of(empty.config, None)["time"] is None


def shown_lines(run: Run, clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(progress.console, "note", lines.append)
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return lines


def test_plain_progress_has_a_line_per_five_percent_and_per_thirty_seconds(
    empty: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    lines = shown_lines(empty, lambda: now, monkeypatch)
    with empty.owned() as store, progress.Display(empty) as display:
        store.plan({1: ["responses", "judgments"]})
        for _ in range(120):  # a model is being loaded
            now += 0.3
            display.tick()
        assert len(lines) == 2
        lines.clear()
        for done in range(200):
            store.set_progress(1, "responses", done, 200, now)
            display.tick()
        assert 19 <= len(lines) <= 22
        assert all("\n" not in line for line in lines)
        lines.clear()
        for _ in range(1000):
            now += 0.1
            display.tick()
        assert 3 <= len(lines) <= 4
        lines.clear()
        store.finish_stage(Stage(1, "responses", 990, 10, "", "", 90.0, {}))
        store.set_progress(1, "judgments", 0, 10, 0.0)
        display.tick()
        assert lines[0] == "iteration 1 of 2: responses  finished, 990 in 1 min 30 s"
        assert "judgments" in lines[1]
        assert all(line.startswith("empty, iteration 1 of 2 (") for line in lines[1:])


def test_stages_finished_before_this_launch_are_not_announced_again(
    whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown_lines(whole, lambda: 0.0, monkeypatch)
    with progress.Display(whole) as display:
        display.tick()
    assert not [line for line in lines if "finished" in line]


def test_warnings_of_this_launch_are_shown_once(
    empty: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown_lines(empty, lambda: 0.0, monkeypatch)
    with empty.owned() as store:
        store.add_event("launched", "")
        store.add_event("warning", "of the launch before")
        with progress.Display(empty) as display:
            store.add_event("launched", "")
            store.add_event("warning", "too many ties")
            display.tick()
            display.tick()
    assert [line for line in lines if "warning" in line] == ["warning: too many ties"]
    assert status.status_of(empty).warnings == ("too many ties",)


@pytest.mark.parametrize(
    ("words", "iteration", "expected"),
    [
        ("", 0, "train evaluate"),
        ("sft=null", 0, "evaluate"),  # nothing is trained: M1 = M0
        ("evaluation.ranked=null evaluation.questions=null evaluation.canaries=false", 0, "train"),
        (
            "sft=null evaluation.ranked=null evaluation.questions=null evaluation.canaries=false",
            0,
            "",
        ),
        ("sft.selection={}", 0, "sft prompts responses judgments selection train evaluate"),
        ("", 1, "prompts responses judgments pairs train evaluate"),
        ("responses.anchors=2", 1, "prompts responses judgments pairs train evaluate"),
        (
            "responses.anchors=2 judge.break_ties=true judge.jury=[{},{}]",
            2,
            "prompts responses anchors judgments judgments/1 judgments/2 comparisons pairs train "
            "evaluate",
        ),
    ],
)
def test_iterations_have_the_stages_that_are_theirs(
    words: str, iteration: int, expected: str
) -> None:
    config = build_config({}, words.split())
    assert list(config.stages(iteration)) == expected.split()
    begun = set(config.stages(iteration))
    if begun:
        assert stages_of(iteration, begun, "evaluate" in begun) == config.stages(iteration)
    rows = course.stage_rows(iteration, config.stages(iteration), [], [])
    assert [row.stage for row in rows] == expected.split()
    assert {row.state for row in rows} <= {"waiting"}


def test_a_display_outlives_a_database_that_cannot_be_read(
    empty: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    records = empty.records.read_bytes()
    with progress.Display(empty) as display:
        empty.records.write_bytes(b"torn")
        display.tick()
        empty.records.unlink()
        display.tick()
        assert capsys.readouterr().err == ""
        empty.records.write_bytes(records)
        display.tick()
        assert "preparing" in capsys.readouterr().err


def test_on_a_terminal_progress_is_redrawn_in_place(whole: Run) -> None:
    """The live table, in a pseudo-terminal; the cursor is back at the end."""
    code = (
        "from selfreward.verbs.progress import Display\n"
        "from selfreward.storage.directory import open_run\n"
        "with Display(open_run('whole')) as display:\n"
        "    display.tick()\n"
    )
    leader, follower = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stderr=follower, env=environment, check=True)
    os.close(follower)
    output = os.read(leader, 1 << 16)
    os.close(leader)
    assert b"judgments" in output
    assert b"whole, iteration 2 of 2" in output
    assert output.rindex(b"\x1b[?25h") > output.rindex(b"\x1b[?25l")
    last = output[output.rindex(b"whole, iteration 2") :]
    assert b"\x1b[2K" not in last  # it stays when the display ends


# verify and gc


def test_a_finished_run_verifies_and_a_changed_byte_anywhere_does_not(copy: Run) -> None:
    base = copy.base_model()
    assert all(check["ok"] for check in maintenance.verify(copy)), maintenance.verify(copy)

    def failures() -> list[str]:
        return [check["name"] for check in maintenance.verify(Run(copy.path)) if not check["ok"]]

    weights = copy.model_directory(2) / "weights"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"?")
    assert failures() == ["M2"]
    weights.write_bytes(good)

    judge = copy.path / "templates" / "judge.jinja"
    good = judge.read_bytes()
    judge.write_bytes(good + b"\n")
    assert failures() == ["config, templates, seed data"]
    judge.write_bytes(good)

    with copy.owned() as store:
        attempt = store.records(Prompt, 1)[-1].attempt + 1
        store.add([Prompt(1, attempt, "more", "more", None)])
    assert failures() == ["iteration 1 prompts"]
    assert copy.base_model() == base


def test_a_damaged_database_fails_alone(copy: Run) -> None:
    size_before = copy.records.stat().st_size
    with open(copy.records, "r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * (size_before - 4096 * 3))
    found = maintenance.verify(copy)
    assert not found[0]["ok"]


def test_gc_frees_leftovers_checkpoints_and_old_models_and_the_run_still_verifies(
    copy: Run,
) -> None:
    (copy.path / "models" / f"{durable.TEMPORARY}x").mkdir()
    (copy.path / "models" / f"{durable.TEMPORARY}x" / "half").write_text("half")
    planned = maintenance.collect(copy, 1, dry_run=True)
    assert copy.model_directory(1).exists()
    done = maintenance.collect(copy, 1, dry_run=False)
    assert done == planned
    gone = {Path(item["path"]).relative_to(copy.path).as_posix() for item in done}
    assert {"models/M2", f"models/{durable.TEMPORARY}x"} <= gone
    assert {"checkpoints/M1", "checkpoints/M2", "checkpoints/M3"} <= gone
    assert not any((copy.path / path).exists() for path in gone)
    assert copy.model_directory(3).exists()
    assert copy.model_directory(1).exists()  # the best, and the judge of the answers
    checks = maintenance.verify(copy)
    assert all(check["ok"] for check in checks)
    assert "removed by gc" in maintenance.verify_text(checks)
    assert maintenance.collect(copy, 1, dry_run=False) == []
    said = maintenance.why_nothing(copy, 1)
    assert re.search(r"its models \(M1, M3: \d+ B\) are the newest 1, the best", said)
    assert "none goes without --keep N" in maintenance.why_nothing(copy, None)


def test_gc_keeps_every_model_unless_told_otherwise_and_m1_where_it_judges(
    copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "best_of", lambda run, figures: None)

    def models(keep: int | None) -> list[str]:
        items = maintenance.collect(Run(copy.path), keep, dry_run=True)
        return [Path(i["path"]).name for i in items if Path(i["path"]).parent.name == "models"]

    def set_to(**groups: dict[str, object]) -> None:
        path = copy.path / "config.resolved.yaml"
        config = yaml.safe_load(path.read_text())
        for group, values in groups.items():
            config[group] |= values
        path.write_text(yaml.safe_dump(config))

    assert models(None) == []
    assert models(1) == ["M2"]  # by default M1 judges the answers of all models
    set_to(evaluation={"contests": []})
    assert models(2) == ["M1"]
    assert models(1) == ["M1", "M2"]
    set_to(judge={"model": "M1"})
    assert models(1) == ["M2"]


def test_gc_of_a_run_that_made_no_model_says_so(empty: Run) -> None:
    assert maintenance.collect(empty, 1, dry_run=False) == []
    assert "the run has no model of its own" in maintenance.why_nothing(empty, 1)


def test_gc_removes_nothing_if_what_stays_is_damaged(copy: Run) -> None:
    (copy.model_directory(3) / "weights").write_text("damaged")
    with pytest.raises(IntegrityError):
        maintenance.collect(copy, 1, dry_run=False)
    assert copy.model_directory(1).exists()
    assert copy.checkpoints_directory(1).exists()


# plan, validate, config show, init, doctor


def test_a_plan_counts_what_the_run_then_makes(whole: Run) -> None:
    config = whole.config
    found = plan.plan_of(config, None)
    records = {row["stage"]: row["records"] for row in found["per_iteration"]}
    with whole.store() as store:
        for iteration in (1, 2):
            accepted = [p for p in store.records(Prompt, iteration) if p.dropped is None]
            responses = store.records(Response, iteration)
            judged = [r for r in responses if r.dropped is None]
            assert len(accepted) == records["prompts"]
            assert len(responses) == records["responses"]
            dropped = len(responses) - len(judged)
            made = len(store.records(Judgment, iteration))
            assert made + config.judge.num_votes * dropped == records["judgments"]
            sampled = sum(r.num_tokens for r in responses)
            assert sampled <= found["per_iteration"][1]["sampled"]
        asked = [s.rows for s in store.stages() if s.stage == "evaluate"]
    each = found["evaluation"]["texts"] + found["evaluation"]["questions"]
    assert len(asked) == found["evaluation"]["models"] == 3
    assert sum(asked) == 3 * each + found["evaluation"]["contests"]
    assert found["time"]["runs"] == 1
    assert found["time"]["seconds"] > 0


def test_time_is_unknown_where_nothing_was_measured(empty: Run) -> None:
    found = plan.plan_of(empty.config, None)
    assert found["time"] is None
    assert "time: unknown" in plan.plan_text(found)


@pytest.mark.parametrize(
    ("options", "rows", "processes", "steps"),
    [({}, 64, 1, 4), ({}, 65, 1, 5), ({"num_train_epochs": 2}, 65, 1, 9), ({}, 65, 2, 3),
     ({"max_steps": 7}, 64, 1, 7), ({"num_train_epochs": 0.1}, 5, 1, 1),
     ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}, 10, 1, 4)],
)  # fmt: skip
def test_steps_are_counted_as_the_trainer_does(
    options: dict, rows: int, processes: int, steps: int
) -> None:
    assert planned_stages.steps_of("sft", options, rows, processes) == steps


def test_every_recipe_validates_but_for_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreward.workers.checks.check_config", lambda *given, **named: None)
    for name, path in recipes().items():
        said = {part["name"] for part in validate(load_config(path), path)}
        asked = {"judge template", "prompts template", "seed prompts", "IFT", "EFT"}
        if name in ("constraints", "spin"):  # the judge is a function, and prompts are drawn
            asked = {"function", "prompts data set", "IFT"}
        if name == "scpo":  # whose judge is a function
            asked = asked - {"judge template", "EFT"} | {"function"}
        if name == "rlhf":  # whose judge is a reward model
            asked -= {"judge template", "EFT"}
        if name == "dice":  # whose judge is the model itself, without a seed step
            asked -= {"judge template", "IFT", "EFT"}
        assert asked <= said, name


def test_every_value_has_the_origin_that_set_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3\nsft:\n  ift: seed/ift.jsonl\ndpo: {beta: 0.2, warmup_steps: 5}\n")
    words = ["iterations=1", "dpo.beta=0.3", "judge.form=expected", "prompts={count: 5}"]
    origins = {
        row["key"]: (row["value"], row["origin"])
        for row in origins_of(load_config(path, words), path, words)
    }
    assert origins["seed"] == (3, f"{path}:1")
    assert origins["sft.ift.path"] == ("seed/ift.jsonl", f"{path}:3")
    assert origins["sft.eft.path"][1] == "default"
    assert origins["dpo.beta"] == (0.3, "override dpo.beta=0.3")
    assert origins["dpo.warmup_steps"] == (5, f"{path}:4")
    assert origins["judge.form"][1] == "override judge.form=expected"
    assert origins["judge.votes"][1] == "default"
    assert origins["iterations"][1] == "override iterations=1"
    assert origins["prompts.count"] == (5, "override prompts={count: 5}")
    assert origins["prompts.author"][1] == "default"


def test_init_copies_what_the_recipe_needs_and_overwrites_nothing(tmp_path: Path) -> None:
    files, _ = write_starter(tmp_path / "mine", "quickstart")
    assert [file.name for file in files] == ["quickstart.yaml", "expected.jinja", "few_shot.jinja"]
    assert load_config(files[0]) == load_config(config_file("quickstart"))
    files[0].write_text("{}")
    files[2].write_text("mine")
    with pytest.raises(ConfigError, match="nothing was written"):
        write_starter(tmp_path / "mine", "quickstart")
    assert files[0].read_text() == "{}"
    more, kept = write_starter(tmp_path / "mine", "self-rewarding")
    assert [file.name for file in more] == ["self-rewarding.yaml", "additive.jinja"]
    assert kept == [files[2]]
    assert files[2].read_text() == "mine"
    with pytest.raises(ConfigError, match="no recipe"):
        write_starter(tmp_path, "nothing")


def test_doctor_has_a_fix_for_all_that_is_not_well() -> None:
    checks = doctor.doctor()
    assert all(check["fix"] for check in checks if check["status"] != "ok")
    names = {check["name"] for check in checks}
    assert {"python", "memory", "write, fsync, lock", "file system"} <= names


def test_doctor_warns_of_another_distribution_that_writes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PyPI there is one named ``selfreward``."""
    monkeypatch.syspath_prepend(tmp_path)
    names = [check["name"] for check in doctor.doctor()]
    assert "selfreward" not in names
    (tmp_path / "selfreward-0.1.0.dist-info").mkdir()
    (tmp_path / "selfreward-0.1.0.dist-info" / "METADATA").write_text("Name: selfreward\n")
    [found] = [check for check in doctor.doctor() if check["name"] == "selfreward"]
    assert found["status"] == "warn" and found["fix"].startswith("pip uninstall selfreward")


def test_doctor_fails_where_runs_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file, not a directory")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "file" / "runs"))
    failed = {check["name"] for check in doctor.doctor() if check["status"] == "fail"}
    assert "write, fsync, lock" in failed


def shown(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    """By name; whatever else is found, all these are in the table, and each failure has a fix."""
    found = {check["name"]: check for check in checks}
    assert {"python", "torch", "memory", "bundled:smollm2-135m", "CUDA", "vllm"} <= found.keys()
    assert all(check["fix"] for check in checks if check["status"] != "ok")
    return found


@pytest.mark.parametrize("variable", ["SELFREWARD_RUNS", "SELFREWARD_CACHE"])
def test_doctor_fails_where_a_place_can_only_be_read(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    write = durable.write_file

    def refuse(path: Path, data: str | bytes) -> None:  # as root nothing is read-only
        if path.is_relative_to(tmp_path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        write(path, data)

    monkeypatch.setattr(durable, "write_file", refuse)
    failed = [check for check in shown(doctor.doctor()).values() if check["status"] == "fail"]
    [check] = [check for check in failed if "Read-only" in check["detail"]]
    assert check["detail"].startswith(f"{tmp_path}: ")
    assert check["fix"] == f"set {variable} to a local directory that can be written"


def test_doctor_asks_no_database_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_journal_mode", lambda path: "delete")
    found = shown(doctor.doctor())
    assert found["write, fsync, lock"]["status"] == "fail"
    assert found["write, fsync, lock in the cache"]["status"] == "ok"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("x" * 300, "File name too long"),
        ("link", "is a link to nowhere, and nothing is there"),
        ("link/below", "is a link to nowhere, and nothing is there"),
        ("loop", "is a link to loop, and nothing is there"),
        ("loop/below", "Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("kind", ["runs", "cache"])
def test_a_place_that_cannot_be_is_a_row_of_doctor_and_the_table_stays(
    kind: str, place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv(f"SELFREWARD_{kind.upper()}", str(tmp_path / place))
    check = shown(doctor.doctor())[kind]
    assert check["status"] == "fail"
    assert said in check["detail"] and str(tmp_path / place[:4]) in check["detail"]


def test_doctor_without_a_home_says_what_to_set_and_the_table_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", "~no-such-user/cache")
    check = shown(doctor.doctor())["cache"]
    assert check["status"] == "fail"
    assert "no home directory is known for ~no-such-user" in check["detail"]
    assert check["fix"].startswith("Set HOME, or set SELFREWARD_CACHE")


DENIED = PermissionError(errno.EACCES, "Permission denied", "/sys/x"), "ask for the permission"


@pytest.mark.parametrize(
    ("name", "error", "fix"),
    [
        *((name, *DENIED) for name in ("_python", "_libraries", "_cpu", "_memory", "_disk",
        "_files", "_file_system", "_bundled", "_cuda", "_vllm", "_parity")),
        ("_memory", OSError("no words"), "mend what it names"),
        ("_memory", PreflightError("no words", "do this"), "do this"),
    ],
)  # fmt: skip
def test_a_check_of_doctor_that_fails_is_a_row_and_all_others_are_shown(
    name: str, error: Exception, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = doctor.doctor()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(doctor, name, fail)
    checks = doctor.doctor()
    failed = [check for check in checks if check not in whole]
    assert failed
    for check in failed:
        assert check["status"] == "fail"
        assert fix in check["fix"]
        assert check["detail"] in ("/sys/x: Permission denied", "no words")
    left = {check["name"] for check in whole} - {check["name"] for check in checks}
    assert not left or name == "_libraries"


def test_doctor_judges_the_file_system_to_which_a_link_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "runs").symlink_to("far")
    mounts = tmp_path / "mounts"
    mounts.write_bytes(f"/dev/a / ext4 rw 0 0\nhost:/x {tmp_path}/far nfs4 rw 0 0\n".encode()
                       + b"/dev/b /media/\xff ext4 rw 0 0\n")  # fmt: skip
    monkeypatch.setattr(doctor, "_MOUNTS", mounts)
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    check = shown(doctor.doctor())["file system"]
    assert check["status"] == "warn"
    assert check["detail"] == f"{tmp_path / 'far'} is on nfs4"
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "other"))
    assert shown(doctor.doctor())["file system"]["detail"] == "ext4"
