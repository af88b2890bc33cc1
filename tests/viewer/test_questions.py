"""What models answer to held-out questions: which are shown, in which order, against whom."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from selfreward.config.load import build_config
from selfreward.inputs.collect import create_run
from selfreward.inputs.questions import Question
from selfreward.storage.directory import Run
from selfreward.storage.starts import keep_start
from selfreward.viewer.pages import CUT
from tests.support.questions import answer, answered, ask_four
from tests.support.runs import SMALL
from tests.support.viewer import ask, viewing

LIST, ONE = "/api/run/asked/questions", "/api/run/asked/question/{}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return create_run(build_config({}, SMALL), "asked")


@pytest.fixture
def client(run: Run) -> Iterator[TestClient]:
    ask_four(run)
    with viewing() as client:
        yield client


def numbers(client: TestClient, **given: object) -> list[int]:
    return [one["number"] for one in ask(client, LIST, **given)["questions"]]


def refused(client: TestClient, path: str, status: int, **given: object) -> str:
    got = client.get(path, params=given)  # type: ignore[arg-type]
    assert got.status_code == status, got.text
    error = got.json()["error"]
    assert "\n" not in error["message"]
    return f"{error['message']} {error['hint']}"


def test_the_answer_that_shares_fewest_words_with_that_of_m1_comes_first(
    client: TestClient,
) -> None:
    page = ask(client, LIST)
    assert page["model"] == "M3"  # the newest
    # a b of a b c d: 1 - 2 * 2 / (4 + 4); three four, and nothing, share no word; same is the same
    changed = [(one["number"], one["changed"]) for one in page["questions"]]
    assert changed == [(1, 1.0), (3, 1.0), (0, 0.5), (2, 0.0)]
    older = ask(client, LIST, model="M2")["questions"]
    # one of one two: 1 - 2 * 1 / (2 + 1)
    assert [(one["number"], round(one["changed"], 6)) for one in older] == [
        (3, 1.0), (1, round(1 / 3, 6)), (0, 0.0), (2, 0.0)
    ]  # fmt: skip
    assert numbers(client, sort="number") == [0, 1, 2, 3]


def test_lengths_are_told_as_differences_to_m1(client: TestClient) -> None:
    first = ask(client, LIST, sort="number")["questions"][1]["answers"]
    assert [(a["model"], a["length"], a["longer"]) for a in first] == [
        ("M1", 7, 0), ("M2", 3, -4), ("M3", 10, 3)
    ]  # fmt: skip
    assert [a["truncated"] for a in first] == [True, False, False]
    last = ask(client, LIST, sort="number")["questions"][3]["answers"]
    assert [a["dropped"] for a in last] == [None, None, "empty"]


def test_questions_are_filtered_by_kind_and_by_what_a_model_and_a_judge_made_of_them(
    client: TestClient,
) -> None:
    page = ask(client, LIST, sort="number")
    assert page["judges"] == ["M1", "hosted"]
    assert page["kinds"] == {"naming": 2, "saying": 2}
    assert [one["answers"][2]["results"] for one in page["questions"]] == [
        ["won", "tie"], ["none", "won"], ["tie", "tie"], ["lost", "lost"]
    ]  # fmt: skip
    assert page["tally"] == {"won": 1, "tie": 1, "lost": 1, "none": 1}
    found = {r: numbers(client, result=r) for r in ("won", "tie", "lost", "none")}
    assert found == {"won": [0], "tie": [2], "lost": [3], "none": [1]}
    assert numbers(client, result="won", judge=1) == [1]
    assert numbers(client, result="won", model="M2") == [3]
    assert numbers(client, result="none", model="M1", sort="number") == [0, 1, 2, 3]
    assert numbers(client, kind="saying") == [1, 3]
    saying = ask(client, LIST, kind="saying", result="lost")
    assert saying["count"] == 1
    assert saying["tally"] == {"won": 0, "tie": 0, "lost": 1, "none": 1}  # of the kind


def test_next_and_previous_go_through_the_list_that_is_read(client: TestClient) -> None:
    for given in ({}, {"sort": "number"}, {"kind": "naming"}, {"model": "M2", "kind": "saying"}):
        order = numbers(client, **given)
        walked, at, before = [], order[0], None
        while at is not None:
            page = ask(client, ONE.format(at), **given)
            assert page["previous"] == before
            walked.append(at)
            before, at = at, page["next"]
        assert walked == order
    outside = ask(client, ONE.format(0), kind="saying")
    assert (outside["previous"], outside["next"]) == (None, None)


def test_a_question_has_every_answer_whom_it_met_and_who_said_so(
    client: TestClient, run: Run
) -> None:
    page = ask(client, ONE.format(0))
    assert (page["prompt"], page["kind"]) == ("Name four letters.", "naming")
    assert page["reference"] == "a b c d"
    assert [(a["model"], a["base"], a["text"]) for a in page["answers"]] == [
        ("M1", None, "a b c d"), ("M2", "M1", "a b c d"), ("M3", "M2", "a b x y")
    ]  # fmt: skip
    assert [a["changed"] for a in page["answers"]] == [0.0, 0.0, 0.5]
    last = [(c["opponent"], c["judge"], c["result"]) for c in page["answers"][2]["contests"]]
    assert last == [
        ("M1", "M1", "won"), ("M2", "M1", "lost"), ("M1", "hosted", "tie"), ("M2", "hosted", "tie")
    ]  # fmt: skip
    assert page["answers"][0]["contests"] == [
        {"opponent": "reference", "judge": "M1", "result": "tie"}
    ]
    with run.owned() as store:
        keep_start(store, 2, 1)  # M3 was made from M1
    assert [a["base"] for a in ask(client, ONE.format(0))["answers"]] == [None, "M1", "M1"]


def test_before_m1_has_answered_there_are_questions_alone(run: Run) -> None:
    with viewing() as client:
        page = ask(client, LIST)
        assert (page["models"], page["model"], page["judges"]) == ([], None, [])
        assert page["total"] == page["count"] == len(page["questions"]) == 60
        assert page["questions"][0]["changed"] is None
        one = ask(client, ONE.format(59))
        assert (one["answers"], one["previous"], one["next"]) == ([], 58, None)


def test_a_long_list_comes_page_by_page(run: Run) -> None:
    many = [Question(f"Question {number}") for number in range(450)]
    answered(run, many, {"M1": [answer("x")] * 450, "M2": [answer("y")] * 450}, {})
    with viewing() as client:
        pages: list[list[int]] = []
        after = 0
        while after is not None:
            page = ask(client, LIST, after=after)
            assert (page["first"], page["count"]) == (after, 450)
            pages.append([one["number"] for one in page["questions"]])
            after = page["next"]
    assert [len(page) for page in pages] == [200, 200, 50]
    assert [number for page in pages for number in page] == list(range(450))


def test_a_long_answer_is_cut_and_says_so_and_can_be_had_whole(run: Run) -> None:
    long = "word " * 50_000
    answered(run, [Question("Go on.")], {"M1": [answer(long)], "M2": [answer("short")]}, {})
    with viewing() as client:
        first, second = ask(client, ONE.format(0))["answers"]
        assert (len(first["text"]), first["cut"], first["length"]) == (
            CUT, {"text": 250_000}, 250_000
        )  # fmt: skip
        assert "cut" not in second and second["longer"] == 5 - 250_000
        assert ask(client, ONE.format(0), full=1)["answers"][0]["text"] == long


@pytest.mark.parametrize(
    ("given", "says"),
    [({"model": "M9"}, "model=M9: not known Known: M1, M2, M3."),
     ({"judge": "2"}, "judge=2: expected a whole number from 0 to 1"),
     ({"kind": "x"}, "kind=x: not known Known: naming, saying."),
     ({"result": "draw"}, "result=draw: not known Known: won, tie, lost, none."),
     ({"sort": "length"}, "sort=length: not known Known: changed, number."),
     ({"after": "-1"}, "after=-1: expected a whole number"),
     ({"iteration": "1"}, "iteration: no such parameter")],
)  # fmt: skip
def test_a_parameter_that_is_none_is_named_with_those_there_are(
    client: TestClient, given: dict[str, str], says: str
) -> None:
    assert says in refused(client, LIST, 400, **given)
    assert says in refused(client, ONE.format(0), 400, **given)


def test_what_is_not_there_or_does_not_belong_together_is_one_message(
    client: TestClient, run: Run
) -> None:
    assert "no held-out question 4 They go from 0 to 3." in refused(client, ONE.format(4), 404)
    create_run(build_config({}, [*SMALL, "evaluation.questions=null"]), "silent")
    said = refused(client, "/api/run/silent/questions", 404)
    assert "run silent asks its models no held-out questions" in said
    place = run.seed_file("questions")
    place.write_text('{"prompt": "Another."}\n')
    said = refused(client, LIST, 409)
    assert "answers of iteration 0 are not those to the 1 questions" in said
    place.write_text("{")
    assert "questions.jsonl" in refused(client, LIST, 400)
    place.unlink()
    assert "questions.jsonl" in refused(client, ONE.format(0), 400)
