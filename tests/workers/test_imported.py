"""Judgments from elsewhere: a run waits for them, and makes pairs of them as of any others."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, NotFoundError, StoppedError
from selfreward.inputs.collect import create_run
from selfreward.measures.figures import iteration_figures
from selfreward.measures.labels import _votes
from selfreward.records import FinishReason, Judgment, PreferencePair, Response
from selfreward.storage.changes import IMPORTED
from selfreward.storage.directory import Run
from selfreward.storage.label import Content
from selfreward.verbs.export import export
from selfreward.verbs.imported import import_votes
from selfreward.verbs.maintenance import verify
from selfreward.verbs.plan import plan_of
from selfreward.verbs.show import prompt_of, prompt_text
from selfreward.verbs.status import status_of, status_text
from selfreward.verbs.validate import validate
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import facts
from tests.support.scripted import Reply, scripted_reply

WORDS = [
    "iterations=1", "prompts.count=4", "prompts.window=2", "prompts.rouge_l_max=1.0",
    "responses.n=3", "judge.votes=1", "judge.min_parse_rate=0", "sft=null",
    "evaluation={ranked: null, questions: null, canaries: false}", "prompts.seeds=seed/ift.jsonl",
    "judge.jury=[{imported: people, weight: 100}]",
]  # fmt: skip
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*words: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*WORDS, *words]), name)


def go_on(run: Run) -> None:
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run))


def waiting(*words: str, name: str = "run", reply: Reply | None = None) -> Run:
    """A run that waits for votes."""
    run = make(*words, name=name)
    with pytest.raises(StoppedError, match="waits for votes of people"):
        launch(run, tick=lambda: None, workers=ScriptedWorkers(run, reply=reply))
    return run


def test_a_run_that_waits_for_votes_says_so_and_has_not_failed() -> None:
    found = status_of(waiting())
    assert (found.state, found.error) == ("waiting", None)
    assert found.waits is not None
    assert "iteration 1 waits for votes of people (judge.jury.0) on 12 responses" in found.waits
    assert "selfreward import run --judgments run-wanted-1/wanted.csv" in status_text(found)


def wanted(run: Run) -> list[Row]:
    export(run, Path("out"), what=["wanted"], kind="jsonl", force=True)
    return [json.loads(line) for line in Path("out/wanted.jsonl").read_text().splitlines()]


def by_sample(row: Row) -> Row:
    """A voice that likes the later sample better."""
    return {**row, "score": row["sample"] * 2}


def write(rows: list[Row], name: str = "given.jsonl") -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_waits_and_then_pairs_what_people_prefer() -> None:
    run = waiting()
    with run.store() as store:
        assert store.finished(1, "judgments") and not store.finished(1, "judgments/1")
        assert not store.records(PreferencePair, 1)
    rows = wanted(run)
    found = import_votes(run, write([by_sample(row) for row in rows]))
    assert (found.votes, found.waits, found.name) == (len(rows), 0, "people")
    go_on(run)
    with run.store() as store:
        votes = [j for j in store.records(Judgment, 1) if j.juror == 1]
        assert len(votes) == len(rows) and {v.form for v in votes} == {"imported"}
        pairs = store.records(PreferencePair, 1)
        assert pairs and all(pair.chosen > pair.rejected for pair in pairs)
        stage = store.finished(1, "judgments/1")
        assert stage is not None and stage.rows == len(rows)
    assert all(check["ok"] for check in verify(run))


def test_what_is_wanted_are_the_responses_that_a_model_judges_and_nobody_s_score_is_shown() -> None:
    run = waiting()
    with run.store() as store:
        fit = [r for r in store.records(Response, 1) if not r.dropped and not r.truncated]
    rows = wanted(run)
    assert [(r["attempt"], r["sample"]) for r in rows] == [(r.attempt, r.sample) for r in fit]
    assert {row["score"] for row in rows} == {None}
    assert rows[0]["digest"] == Content(rows[0]["prompt"], (rows[0]["text"],)).digest
    import_votes(run, write([by_sample(row) for row in rows[1:]]))
    assert [row["digest"] for row in wanted(run)] == [rows[0]["digest"]]


def a_list(prompt: str, number: int) -> tuple[str, FinishReason]:
    """As the scripted engine says it, but what gives no verdict begins as a list does."""
    text, reason = scripted_reply(prompt, number)
    return (text if "Score: <" in prompt[-200:] else f"- {text}"), reason


def test_a_csv_without_digests_brings_texts_that_a_spreadsheet_would_compute() -> None:
    run = waiting(reply=a_list)
    export(run, Path("csv"), what=["wanted"], kind="csv")
    with open("csv/wanted.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert rows and all(row["text"].startswith("'- ") for row in rows)
    with open("mine.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "digest"])
        writer.writeheader()
        for row in rows:
            del row["digest"]
            writer.writerow(row | {"score": "2", "note": "'=fine"})
    assert import_votes(run, Path("mine.csv")).votes == len(rows)
    with run.store() as store:
        notes = {j.raw for j in store.records(Judgment, 1) if j.form == "imported"}
    assert notes == {"=fine"}


def test_labels_are_not_held_against_votes_that_are_these_labels() -> None:
    run = waiting()
    rows = [by_sample(row) for row in wanted(run)]
    with run.store() as store:
        before = _votes(store, 1, rows[0]["attempt"])
    import_votes(run, write(rows))
    with run.store() as store:
        assert len(store.records(Judgment, 1)) > 2 * len(rows) - 1
        assert _votes(store, 1, rows[0]["attempt"]) == before


def test_votes_that_come_in_parts_make_the_run_that_all_at_once_do() -> None:
    whole, parts = waiting(name="whole"), waiting(name="parts")
    rows = [by_sample(row) for row in wanted(whole)]
    import_votes(whole, write(rows))
    import_votes(parts, write(rows[5:]))
    with pytest.raises(StoppedError, match=r"people \(judge.jury.0\) on 5 responses"):
        go_on(parts)
    import_votes(parts, write(rows[:5]))
    go_on(whole)
    go_on(parts)
    mine, others = facts(whole), facts(parts)
    assert mine == others


def test_what_will_not_come_is_a_vote_without_a_score_for_that_reason() -> None:
    run = waiting()
    rows = [by_sample(row) for row in wanted(run)]
    found = import_votes(run, write(rows[3:]), complete=True)
    assert (found.votes, found.given_up, found.waits) == (len(rows) - 3, 3, 0)
    go_on(run)
    with run.store() as store:
        votes = [j for j in store.records(Judgment, 1) if j.juror == 1]
    assert [v.reason for v in votes].count("not imported") == 3 and len(votes) == len(rows)
    assert all((v.score is None) == (v.reason is not None) for v in votes)


def test_where_votes_come_from_is_an_event_committed_with_them() -> None:
    run = waiting()
    path = write([by_sample(row) for row in wanted(run)])
    found = import_votes(run, path)
    with run.store() as store:
        [text] = [text for _, kind, text in store.events() if kind == IMPORTED]
    told = json.loads(text)
    assert (told["name"], told["file"], told["sha256"]) == ("people", "given.jsonl", found.sha256)


def test_votes_are_shown_counted_and_exported_as_any_juror_s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = waiting()
    rows = [{**by_sample(row), "note": "well said"} for row in wanted(run)]
    import_votes(run, write(rows))
    go_on(run)
    with run.store() as store:
        attempt = rows[0]["attempt"]
        figures = iteration_figures(store, 1)
    text = prompt_text(prompt_of(run, 1, attempt))
    assert "judge.jury.0" in text and "well said" in text
    assert figures.jury is not None
    assert [(j.judge, j.n) for j in figures.jury.judges][1] == ("judge.jury.0", len(rows))
    export(run, Path("all"), what=["judgments"], kind="jsonl")
    kept = [json.loads(line) for line in Path("all/judgments.jsonl").read_text().splitlines()]
    assert [j["score"] for j in kept if j["juror"] == 1] == [row["score"] for row in rows]
    with pytest.raises(NotFoundError, match="has no wanted"):
        export(run, Path("out2"), what=["wanted"])


def test_a_csv_that_a_spreadsheet_saved_comes_in_whatever_it_made_of_the_text() -> None:
    run = waiting()
    export(run, Path("out"), what=["wanted"], kind="csv")
    with open("out/wanted.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open("mine.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "attempt": f"{row['attempt']}.0", "text": "#NAME?", "score": 4})
    assert import_votes(run, Path("mine.csv")).votes == len(rows)


def rating(row: Row, rating: int, labeler: str = "ann", kind: str = "rating") -> Row:
    names = ("iteration", "attempt", "digest")
    return {**{name: row[name] for name in names}, "kind": kind, "labeler": labeler,
            "samples": [row["sample"]], "rating": rating}  # fmt: skip


def test_of_labels_the_ratings_come_in_as_points_a_vote_for_each_person() -> None:
    run = waiting()
    rows = wanted(run)
    given = [rating(rows[0], 7, "bob"), rating(rows[0], 1, "ann"), rating(rows[1], 4)]
    found = import_votes(run, write([*given, rating(rows[2], 3, kind="ab")]), "labels")
    assert (found.votes, found.left_out) == (3, {"ab, which has no points": 1})
    with run.store() as store:
        votes = [j for j in store.records(Judgment, 1) if j.juror == 1]
    assert [(v.sample, v.vote, v.score) for v in votes] == [
        (rows[0]["sample"], 0, 0.0), (rows[0]["sample"], 1, 5.0), (rows[1]["sample"], 0, 2.5),
    ]  # fmt: skip


def twice(rows: list[Row]) -> list[Row]:
    return [rows[0], rows[0]]


def with_(**changes: Any) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [{**rows[0], **changes}]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (with_(score=5.5), "given.jsonl:1: score 5.5: expected points, 0 to 5"),
        (with_(score="nan"), "score 'nan'"),
        (with_(score=True), "score True"),
        (with_(score="good"), "score 'good'"),
        (with_(attempt=77), "the run has no response iteration 1, attempt 77"),
        (with_(iteration=2), "the run has no response iteration 2"),
        (with_(attempt="x"), "column 'attempt' must be a whole number, found 'x'"),
        (with_(digest="0" * 64), "are not those of this run"),
        (with_(digest=None, text="another"), "are not those of this run"),
        (with_(digest=None, text=None), "neither 'digest' nor 'text'"),
        (with_(judge="bots"), "is for 'bots', not for people"),
        (with_(note=3), "column 'note' must be a text"),
        (with_(score=None), r"holds no score \(no score 1\)"),
        (twice, "given.jsonl:2: the response is that of given.jsonl:1"),
    ],
)
def test_a_row_that_cannot_be_sure_is_refused_with_its_number_and_nothing_comes_in(
    made: Callable[[list[Row]], list[Row]], message: str
) -> None:
    run = waiting()
    path = write(made([by_sample(row) for row in wanted(run)]))
    with pytest.raises(ConfigError, match=message) as error:
        import_votes(run, path)
    assert "\n" not in error.value.message
    with run.store() as store:
        assert not [j for j in store.records(Judgment, 1) if j.juror == 1]


def test_what_is_not_waited_for_is_refused() -> None:
    run = waiting()
    rows = [by_sample(row) for row in wanted(run)]
    import_votes(run, write(rows[:2]))
    with pytest.raises(ConfigError, match="has a vote of people already"):
        import_votes(run, write(rows[:1]))
    with pytest.raises(NotFoundError, match="no judge is called bots"):
        import_votes(run, write(rows), name="bots")
    with pytest.raises(ConfigError, match="no such file"):
        import_votes(run, Path("nowhere.jsonl"))
    import_votes(run, write(rows[2:]))
    go_on(run)
    with pytest.raises(ConfigError, match="judgments of iteration 1 by people are closed"):
        import_votes(run, write(rows[:1]))
    with pytest.raises(NotFoundError, match="waits for no votes of people"):
        import_votes(run, None, complete=True)
    other = make("judge.jury=[]", name="other")
    with pytest.raises(NotFoundError, match="has no judge that is imported"):
        import_votes(other, write(rows))


def test_comparisons_wait_for_votes_from_elsewhere_and_then_are_made() -> None:
    run = waiting("judge.break_ties=true")
    with run.store() as store:
        assert not store.finished(1, "comparisons")
    import_votes(run, write([{**row, "score": 3} for row in wanted(run)]))
    go_on(run)
    with run.store() as store:
        order = [row.stage for row in store.stages() if row.iteration == 1]
    assert order.index("comparisons") > order.index("judgments/1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge.imported=people"], "the first one is asked while the run goes on"),
        (["judge.jury=[{imported: a}, {imported: a}]"], "two judges are imported under one name"),
        (["judge.jury=[{imported: 'a b'}]"], "a name has 1 to 64 letters"),
        (["judge.jury=[{imported: a, model: M1}]"], "model=M1 goes without imported"),
        (["judge.jury=[{imported: a, form: written}]"], "form=written goes without imported"),
        (["judge.jury=[{model: imported}]"], "by the key imported: NAME alone"),
        (["judge.jury=[{imported: a, engine: {kind: auto}}]"], "engine goes without imported"),
    ],
)
def test_a_judge_that_is_imported_is_nothing_else(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({}, words)


def test_validate_and_plan_take_what_run_takes() -> None:
    config = build_config({}, WORDS)
    assert validate(config, None)
    plan_of(config, None)


def test_the_verb_says_what_came_in_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    run = waiting()
    rows = [by_sample(row) for row in wanted(run)]
    write(rows[:4])
    assert invoke(["import", "run", "--judgments", "given.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "4 votes of people from given.jsonl" in said and "still wait" in said
    assert "go on with: selfreward resume run" in said
    assert invoke(["import", "run"]) == 2
    assert invoke(["import", "run", "--complete", "--json"]) == 0
