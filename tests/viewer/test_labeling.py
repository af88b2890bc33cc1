"""Labels over HTTP: blind on the way out, checked on the way in."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from selfreward.storage.directory import Run
from selfreward.storage.label import FLAGS, Label, in_force
from selfreward.storage.labels import Labels, labels_path
from selfreward.viewer import labeling
from selfreward.viewer.answers import Viewer
from selfreward.viewer.app import make_app
from selfreward.viewer.guard import Guard
from selfreward.viewer.runs import Runs
from tests.support.labels import label_all
from tests.support.runs import runs  # noqa: F401  (fixture)

HOST = "http://127.0.0.1:7860"
AT = "/api/run/whole/labels"


@pytest.fixture
def run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    for name in ("whole", "hostile"):
        shutil.copytree(runs / name, tmp_path / name)
    return Run(tmp_path / "whole")


@pytest.fixture
def desk(run: Run) -> Iterator[TestClient]:
    yield from opened()


def opened() -> Iterator[TestClient]:
    labeling.desk.forget()  # as after a start
    viewer = Viewer(Runs())
    app = Guard(make_app(viewer), token="a" * 16, host="127.0.0.1", port=7860)
    headers = {"authorization": f"Bearer {'a' * 16}", "origin": HOST}
    try:
        yield TestClient(app, HOST, headers=headers, raise_server_exceptions=False)
    finally:
        viewer.close()


def ask(desk: TestClient, mode: str, labeler: str = "ann", **more: Any) -> dict[str, Any]:
    answer = desk.get(f"{AT}/next", params={"mode": mode, "labeler": labeler, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def send(
    desk: TestClient, item: dict[str, Any], answer: Any, labeler: str = "ann", **more: Any
) -> Any:
    body = {"handle": item["handle"], "labeler": labeler, "answer": answer, **more}
    return desk.post(AT, json=body)


def counting(run: Run) -> list[Label]:
    if not labels_path(run).is_file():
        return []
    with Labels(run) as labels:
        return in_force(labels.history())


@pytest.mark.parametrize("mode", ["ab", "ranking", "rating"])
def test_an_item_goes_out_as_texts_and_handles_alone(run: Run, desk: TestClient, mode: str) -> None:
    seen: list[str] = []
    item = ask(desk, mode)["item"]
    while item is not None and len(seen) < 40:
        assert item.keys() - {"boxes"} == {"handle", "mode", "prompt", "answers"}
        assert all(answer.keys() == {"handle", "text"} for answer in item["answers"])
        seen += [item["handle"], *(answer["handle"] for answer in item["answers"])]
        item = ask(desk, mode, held=seen)["item"]
    assert len(seen) == len(set(seen)) > 10
    again = ask(desk, mode)["item"]
    assert again["handle"] not in seen  # a handle means nothing but this showing


def test_a_label_is_kept_by_samples_in_the_order_that_was_shown(run: Run, desk: TestClient) -> None:
    sides = set()
    for turn in range(6):
        item = ask(desk, "ab")["item"]
        better = item["answers"][turn % 2]
        assert send(desk, item, {"kind": "ab", "better": better["handle"]}).status_code == 200
        kept = counting(run)[-1]
        assert kept.ranks is not None and set(kept.shown) == set(kept.item.samples)
        best = kept.item.samples[kept.ranks.index(1)]
        assert best == kept.shown[turn % 2]
        with run.store() as store:
            query = "SELECT text FROM responses WHERE iteration=? AND attempt=? AND sample=?"
            text = next(store.query(query, (kept.item.iteration, kept.item.attempt, best)))[0]
        assert text == better["text"]
        sides.add(kept.shown == kept.item.samples)
    assert sides == {True, False}
    assert ask(desk, "ab")["labeled"] == 6


def test_each_kind_of_label_is_kept_as_it_was_given(run: Run, desk: TestClient) -> None:
    item = ask(desk, "ranking")["item"]
    ranks = {answer["handle"]: place // 2 + 1 for place, answer in enumerate(item["answers"])}
    assert send(desk, item, {"kind": "ranking", "ranks": ranks}).status_code == 200
    item = ask(desk, "rating")["item"]
    assert item["boxes"] == FLAGS
    answer = {"kind": "rating", "rating": 6, "flags": ["hedges", "fails"]}
    assert send(desk, item, answer, note=" so so ", seconds=1.5).status_code == 200
    item = ask(desk, "ab")["item"]
    assert send(desk, item, {"kind": "ab", "better": None}).status_code == 200
    assert send(desk, ask(desk, "ab")["item"], {"kind": "skip"}).status_code == 200
    ranking, rating, tie, skip = counting(run)
    assert dict(zip(ranking.item.samples, ranking.ranks or (), strict=True)) == {
        sample: place // 2 + 1 for place, sample in enumerate(ranking.shown)
    }
    assert (rating.rating, rating.flags, rating.note) == (6, ("fails", "hedges"), "so so")
    assert rating.seconds == 1.5
    assert tie.ranks == (1, 1) and skip.is_skip


def test_the_same_label_sent_twice_is_kept_once_and_a_new_mind_supersedes(
    run: Run, desk: TestClient
) -> None:
    item = ask(desk, "ab")["item"]
    first = {"kind": "ab", "better": item["answers"][0]["handle"]}
    assert send(desk, item, first).json() == send(desk, item, first).json() == {"number": 1}
    assert send(desk, item, {"kind": "ab", "better": None}).json() == {"number": 2}
    assert [one.ranks for one in counting(run)] == [(1, 1)]


def test_an_undo_shows_the_item_again_with_what_was_said(run: Run, desk: TestClient) -> None:
    item = ask(desk, "rating")["item"]
    send(desk, item, {"kind": "rating", "rating": 2, "flags": ["fails"]}, note="no")
    back = desk.post(f"{AT}/undo", json={"labeler": "ann", "mode": "rating"}).json()
    assert (back["item"]["prompt"], back["before"]["rating"]) == (item["prompt"], 2)
    assert (back["before"]["flags"], back["before"]["note"]) == (["fails"], "no")
    assert counting(run) == []
    assert send(desk, back["item"], {"kind": "rating", "rating": 3, "flags": []}).status_code == 200
    assert [one.rating for one in counting(run)] == [3]
    for _ in range(2):
        nothing = desk.post(f"{AT}/undo", json={"labeler": "bob", "mode": "rating"})
        assert nothing.json() == {"item": None}


def test_an_answer_that_was_altered_since_it_was_shown_is_refused_in_words(
    run: Run, desk: TestClient
) -> None:
    item = ask(desk, "ab")["item"]
    with closing(sqlite3.connect(run.records)) as db:
        db.execute("UPDATE responses SET text = text || '!'")
        db.commit()
    answer = send(desk, item, {"kind": "ab", "better": None})
    assert answer.status_code == 409
    assert "no longer hold the answers that were shown" in answer.json()["error"]["message"]
    assert counting(run) == []


def test_an_item_from_before_a_start_is_refused_and_asked_again(run: Run, desk: TestClient) -> None:
    item = ask(desk, "ab")["item"]
    for other in opened():
        answer = send(other, item, {"kind": "ab", "better": None})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "ForgottenError")
        again = ask(other, "ab")["item"]
        assert [a["text"] for a in again["answers"]] == [a["text"] for a in item["answers"]]
    assert counting(run) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"handle": "none"}, "not known"), ({"labeler": "bob"}, "not known"),
        ({"labeler": "\x1b[2J"}, "no name of a labeler"), ({"labeler": 1}, "Expected `str`"),
        ({"answer": {"kind": "none"}}, "Invalid value 'none'"),
        ({"answer": {"kind": "ab", "better": "none"}}, "no answer of this item"),
        ({"answer": {"kind": "ab", "better": None, "score": 5}}, "unknown field `score`"),
        ({"answer": {"kind": "rating", "rating": 4}}, "of kind rating on an item of kind ab"),
        ({"answer": {"kind": "ranking", "ranks": {"none": 1}}}, "a rank for each answer"),
        ({"note": "x" * 10_001}, "note of more than"), ({"seconds": -1}, "less than no time"),
        ({"iteration": 1}, "unknown field `iteration`"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused_and_nothing_kept(
    run: Run, desk: TestClient, change: dict[str, Any], said: str
) -> None:
    item = ask(desk, "ab")["item"]
    body = {"handle": item["handle"], "labeler": "ann", "answer": {"kind": "ab", "better": None}}
    answer = desk.post(AT, json=body | change)
    assert 400 <= answer.status_code < 500
    assert said in answer.json()["error"]["message"]
    assert counting(run) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "rating", "rating": 0}, {"kind": "rating", "rating": 8},
        {"kind": "rating", "rating": 4.5}, {"kind": "rating", "rating": 4, "flags": ["none"]},
        {"kind": "rating", "rating": 4, "flags": ["fails", "fails"]},
        {"kind": "rating", "rating": 4, "flags": ["satisfies", "violates"]},
    ],
)  # fmt: skip
def test_what_is_no_rating_is_refused(run: Run, desk: TestClient, answer: dict[str, Any]) -> None:
    assert send(desk, ask(desk, "rating")["item"], answer).status_code == 400
    assert counting(run) == []


@pytest.mark.parametrize("change", [{}, {"rank": 0}, {"rank": 10}, {"more": 1}])
def test_a_ranking_ranks_each_answer_and_no_other(
    run: Run, desk: TestClient, change: dict[str, int]
) -> None:
    item = ask(desk, "ranking")["item"]
    first, *rest = (answer["handle"] for answer in item["answers"])
    ranks = dict.fromkeys(rest, 1)
    if "rank" in change:
        ranks[first] = change["rank"]
    elif "more" in change:
        ranks |= {first: 1, "more": 1}
    assert send(desk, item, {"kind": "ranking", "ranks": ranks}).status_code == 400
    assert counting(run) == []


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {"content-type": "application/json"}, 400),
        (b"\xff", {"content-type": "application/json"}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (b" " * 64_001, {"content-type": "application/json"}, 413),
    ],
)
@pytest.mark.parametrize("path", [AT, f"{AT}/undo"])
def test_a_body_that_is_no_json_or_too_long_is_refused(
    run: Run, desk: TestClient, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = desk.post(path, content=content, headers=headers)
    assert answer.status_code == status and answer.json()["error"]["message"]
    assert not labels_path(run).exists()


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
@pytest.mark.parametrize("path", [AT, f"{AT}/undo"])
def test_a_label_needs_the_origin_of_the_viewer(
    run: Run, desk: TestClient, origin: str | None, path: str
) -> None:
    desk.headers.pop("origin")
    answer = desk.post(path, json={}, headers={} if origin is None else {"origin": origin})
    assert answer.status_code == 403
    assert not labels_path(run).exists()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"mode": "none", "labeler": "ann"}, "Invalid enum value 'none'"),
        ({"mode": "ab"}, "labeler"), ({"mode": "ab", "labeler": ""}, "no name of a labeler"),
        ({"mode": "ab", "labeler": "ann", "order": "best"}, "Invalid enum value 'best'"),
        ({"mode": "ab", "labeler": "ann", "answers": "x"}, "answers"),
        ({"mode": "ab", "labeler": "ann", "answers": "10"}, "2 to 9"),
        ({"mode": "ab", "labeler": "ann", "overlap": "2"}, "a share is from 0 to 1"),
        ({"mode": "ab", "labeler": "ann", "model": "M1"}, "unknown field `model`"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_asked_is_refused(
    desk: TestClient, params: dict[str, str], said: str
) -> None:
    answer = desk.get(f"{AT}/next", params=params)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_looking_for_the_next_item_writes_nothing(run: Run, desk: TestClient) -> None:
    for mode in ("ab", "ranking", "rating"):
        ask(desk, mode)
    assert desk.get(f"{AT}/summary").json() == {"labelers": [], "figures": None}
    assert not labels_path(run).exists()


def test_the_summary_counts_and_on_demand_has_the_figures_of_the_verb(
    run: Run, desk: TestClient
) -> None:
    label_all(run, "ann")
    plain = desk.get(f"{AT}/summary").json()
    (who,) = plain["labelers"]
    assert plain["figures"] is None and who["name"] == "ann" and who["ab"] == 12
    found = desk.get(f"{AT}/summary", params={"figures": "1"}).json()["figures"]
    assert found["judge"]["counts"]["pairs"] > 0 and found["people"] is None


def test_hostile_texts_go_out_as_they_are_in_json(run: Run, desk: TestClient) -> None:
    answer = desk.get("/api/run/hostile/labels/next", params={"mode": "ab", "labeler": "ann"})
    assert answer.headers["content-type"] == "application/json"
    with Run(run.path.parent / "hostile").store() as store:
        texts = {row[0] for row in store.query("SELECT text FROM responses")}
    assert {one["text"] for one in json.loads(answer.text)["item"]["answers"]} <= texts
