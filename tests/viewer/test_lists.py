"""Lists and search against the records themselves, sorted and searched by brute force."""

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from selfreward.errors import ConfigError
from selfreward.measures.votes import scored_responses
from selfreward.records import Drop, Judgment, PreferencePair, Prompt, Response
from selfreward.stages.jury import means_by_response
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.viewer import lists
from selfreward.viewer.asked import asked, fts_query
from selfreward.viewer.index import extend
from selfreward.viewer.lists import page
from selfreward.viewer.side import SORTED, Key, open_side, pack, side_file, unpack
from tests.support.viewer import (
    add_records,
    ask,
    files_of,
    listed,
    make_run,
    viewing,
    wait_for_index,
)

Rows = list[dict[str, Any]]
HAS = {"prompts": 2, "responses": 3, "judgments": 5}
"""Numbers in the key of each kind."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runs directory with the run ``one``, of one judge, and the run ``jury``, of three."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        patch.setenv("SELFREWARD_CACHE", str(root / "cache"))
        for name, jurors in (("one", 1), ("jury", 3)):
            run = make_run(name, jury=jurors > 1)
            for iteration in (1, 2):
                add_records(run, iteration, range(25), jurors=jurors)
        yield root


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    with viewing() as client:
        yield client


def truth(run: Run, kind: str) -> Rows:
    """What a list has to say of each record, from the records alone, in key order."""
    rows: Rows = []
    with run.store() as store:
        for t in (1, 2):
            prompts, responses = store.records(Prompt, t), store.records(Response, t)
            judgments, pairs = store.records(Judgment, t), store.records(PreferencePair, t)
            drops = store.records(Drop, t)
            dropped = {drop.item: drop.reason for drop in drops if drop.stage == "pairs"}
            scored = {(s.attempt, s.sample): s for s in scored_responses(store, t)}
            means = means_by_response(judgments)
            apart = {
                key: max(m.values()) - min(m.values()) for key, m in means.items() if len(m) > 1
            }
            if kind == "prompts":
                rows += [_prompt(p, scored, apart, pairs, dropped) for p in prompts]
            if kind == "responses":
                rows += [_response(r, scored, apart, pairs, dropped) for r in responses]
            if kind == "judgments":
                rows += [
                    {"key": (t, j.attempt, j.sample, j.juror, j.vote), "score": j.score,
                     "length": len(j.raw), "reason": j.reason, "text": j.raw}
                    for j in judgments
                ]  # fmt: skip
    return rows


def _prompt(p: Prompt, scored: Any, apart: Any, pairs: Any, dropped: Any) -> dict[str, Any]:
    scores = [s.score for key, s in scored.items() if key[0] == p.attempt]
    differ = [apart[key] for key in scored if key[0] == p.attempt and key in apart]
    text = p.text if p.dropped is None else p.raw
    return {
        "key": (p.iteration, p.attempt),
        "score": sum(scores) / len(scores) if scores else None,
        "spread": max(scores) - min(scores) if scores else None,
        "length": len(text),
        "margin": max((x.margin for x in pairs if x.attempt == p.attempt), default=None),
        "disagreement": max(differ, default=None),
        "reason": p.dropped or dropped.get(str(p.attempt)),
        "text": text,
    }


def _response(r: Response, scored: Any, apart: Any, pairs: Any, dropped: Any) -> dict[str, Any]:
    key = r.attempt, r.sample
    found = scored.get(key)
    of = [pair for pair in pairs if pair.attempt == r.attempt]
    roles = [
        name for name in ("chosen", "rejected") if any(getattr(p, name) == r.sample for p in of)
    ]
    return {
        "key": (r.iteration, *key),
        "score": found.score if found else None,
        "spread": found.spread if found else None,
        "length": len(r.text),
        "disagreement": apart.get(key) if found else None,
        "reason": dropped.get(f"{r.attempt}/{r.sample}"),
        "role": ", ".join(roles) or None,
        "text": r.text,
    }


def key_of(item: dict[str, Any]) -> tuple[int, ...]:
    numbers = [item[name] for name in Key._fields]
    return tuple(number for number in numbers if number is not None)


def catch_up(run: Run) -> None:
    with run.store() as store, closing(open_side(run, store)) as side:
        while extend(side, store).behind:
            pass


def opened(root: Path, name: str) -> Run:
    return Run(root / name)


@pytest.mark.parametrize("name", ["one", "jury"])
@pytest.mark.parametrize("kind", ["prompts", "responses", "judgments"])
def test_a_list_says_of_each_record_what_the_records_say(
    client: TestClient, root: Path, kind: str, name: str
) -> None:
    rows = truth(opened(root, name), kind)
    items = listed(client, name, kind=kind, limit=200)
    assert [key_of(item) for item in items] == [row["key"] for row in rows]
    for item, row in zip(items, rows, strict=True):
        for field, value in row.items():
            if field != "key":
                assert item[field] == pytest.approx(value), (row["key"], field)
    for field in SORTED[kind]:
        values = {row[field] for row in rows}
        assert len(values) > (field == "disagreement" and name == "one") or not values - {None}


def paged(run: Run, **params: Any) -> list[tuple[int, ...]]:
    """The keys of all rows of a list, page by page."""
    catch_up(run)
    keys: list[tuple[int, ...]] = []
    given = {name: str(value) for name, value in params.items()}
    with run.store() as store, closing(open_side(run, store)) as side:
        while True:
            ids, after, _ = page(side, asked(given))
            keys += [unpack(packed)[: HAS[params["kind"]]] for packed in ids]
            if after is None:
                return keys
            given["after"] = after


@pytest.mark.parametrize("few", [lists.FEW, 0], ids=["looked up", "walked"])
@pytest.mark.parametrize(
    ("name", "kind", "sort"),
    [(n, k, s) for n in ("one", "jury") for k in HAS for s in ("attempt", *SORTED[k])],
)
def test_every_order_is_that_of_a_sort_of_all_records(
    root: Path, name: str, kind: str, sort: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "FEW", few)
    run = opened(root, name)
    catch_up(run)
    every = [row for row in truth(run, kind) if sort == "attempt" or row[sort] is not None]
    if sort != "attempt":
        with run.store() as store, closing(open_side(run, store)) as side:
            exact = dict(side.execute(f"SELECT id, {sort} FROM {kind}"))
        for row in every:  # the last bit of a mean may differ from ours
            assert exact[pack(Key(*row["key"]))] == pytest.approx(row[sort])
        every.sort(key=lambda row: (exact[pack(Key(*row["key"]))], row["key"]))
    for iteration, order, limit in product(("all", "2"), ("asc", "desc"), (200, 7)):
        rows = [row for row in every if iteration == "all" or row["key"][0] == 2]
        rows = rows[::-1] if order == "desc" else rows
        given = {"kind": kind, "sort": sort, "order": order, "iteration": iteration, "limit": limit}
        assert paged(run, **given) == [row["key"] for row in rows]
        kept = [r["key"] for r in rows if r["score"] is not None and 2.5 <= r["score"] <= 4.0]
        assert paged(run, **given, min_score=2.5, max_score=4.0) == kept
        assert len(kept) < len(every) or (name, sort) == ("one", "disagreement")


@pytest.mark.parametrize("few", [lists.FEW, 0], ids=["looked up", "walked"])
@pytest.mark.parametrize("kind", ["prompts", "responses", "judgments"])
def test_filters_leave_what_they_say(
    client: TestClient, root: Path, kind: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "FEW", few)
    rows = truth(opened(root, "jury"), kind)
    for reason in {row["reason"] for row in rows} - {None}:
        found = listed(client, "jury", kind=kind, reason=reason, limit=9)
        assert [key_of(i) for i in found] == [r["key"] for r in rows if r["reason"] == reason]
    found = listed(client, "jury", kind=kind, failed=1, limit=9)
    assert [key_of(i) for i in found] == [r["key"] for r in rows if r["score"] is None]
    if kind == "judgments":
        found = listed(client, "jury", kind=kind, juror=2, limit=9, order="desc")
        assert [key_of(i) for i in found][::-1] == [r["key"] for r in rows if r["key"][3] == 2]


def test_drops_are_the_dropped_prompts_and_what_stages_left_out(
    client: TestClient, root: Path
) -> None:
    expected = []
    with opened(root, "one").store() as store:
        for t in (1, 2):
            expected += [
                (t, "prompts", str(p.attempt), p.dropped)
                for p in store.records(Prompt, t) if p.dropped
            ]  # fmt: skip
            expected += [(d.iteration, d.stage, d.item, d.reason) for d in store.records(Drop, t)]

    def named(item: dict[str, Any]) -> tuple[Any, ...]:
        numbers = [str(item[n]) for n in ("attempt", "sample") if item[n] is not None]
        return item["iteration"], item["stage"], "/".join(numbers), item["reason"]

    found = listed(client, "one", kind="drops", limit=7)
    assert sorted(map(named, found)) == sorted(expected)
    places = [(item["iteration"], item["attempt"], item["sample"] or 0) for item in found]
    assert places == sorted(places)
    ties = listed(client, "one", kind="drops", stage="pairs", reason="truncated", iteration=1)
    assert {(i["iteration"], i["stage"], i["reason"]) for i in ties} == {(1, "pairs", "truncated")}
    assert all(item["text"] for item in found)


@pytest.mark.slow
@pytest.mark.parametrize("few", [lists.FEW, 0], ids=["looked up", "walked"])
@pytest.mark.parametrize("kind", ["prompts", "responses", "judgments"])
def test_search_finds_what_is_there_in_any_order(
    client: TestClient, root: Path, kind: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "FEW", few)
    rows = truth(opened(root, "one"), kind)

    def having(*words: str) -> list[tuple[int, ...]]:
        return [row["key"] for row in rows if set(words) <= set(row["text"].split())]

    def found(q: str, **params: Any) -> list[tuple[int, ...]]:
        return [key_of(item) for item in listed(client, "one", kind=kind, q=q, limit=5, **params)]

    assert found("alpha") == having("alpha") != []
    assert found("ALPHA  beta") == having("alpha", "beta") != []
    assert found("naive") == having("naïve")  # accents do not matter
    assert found("東京") == having("東京")
    assert found("zet*") == having("zeta")
    assert found("alpha", order="desc", iteration=2) == [
        key for key in reversed(having("alpha")) if key[0] == 2
    ]
    assert found("nowhere") == []
    text = next(row["text"] for row in rows if len(row["text"].split()) > 3)
    phrase = " ".join(text.split()[1:3])
    inside = [r["key"] for r in rows if f" {phrase} " in f" {r['text']} "]
    assert found(f'"{phrase}"') == inside
    assert sorted(found("alpha", sort="length")) == having("alpha")
    lengths = [i["length"] for i in listed(client, "one", kind=kind, q="alpha", sort="length")]
    assert lengths == sorted(lengths)


HOSTILE_QUERIES = [
    '"', '""', '"""', "'", "alpha AND", "OR", "NOT alpha", "alpha NEAR beta", "*", "a*b", "^alpha",
    "alpha:beta", "{alpha}", "alpha)(", "-alpha", "alpha\x00beta", "\x00", "%", "_", "a" * 5000,
    "alpha " * 500, "\ud7ff", "\U0001f600", "[x]", "+", "text:alpha", '"alpha', 'alpha"beta"gamma',
    "'; DROP TABLE prompts; --",
]  # fmt: skip


@pytest.mark.parametrize("q", HOSTILE_QUERIES)
def test_no_query_of_a_user_is_a_syntax_error(client: TestClient, q: str) -> None:
    answer = client.get("/api/run/one/list", params={"kind": "judgments", "q": q})
    assert answer.status_code == 200 or answer.json()["error"]["kind"] == "ConfigError"
    assert answer.status_code == 200 or "no word to look for" in answer.json()["error"]["message"]


@given(st.text(max_size=40))
def test_whatever_is_typed_is_a_query_or_refused(text: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE VIRTUAL TABLE t USING fts5(text, content='')")
        try:
            query = fts_query(text)
        except ConfigError:
            assert not any(c.isalnum() for c in text)
            return
        db.execute("SELECT rowid FROM t WHERE t MATCH ?", (query,)).fetchall()


def test_what_is_added_is_found_at_once_and_pages_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    run = make_run("live")
    add_records(run, 1, range(20))
    stop = threading.Event()

    def write() -> None:
        start = 20
        while start < 60 and not stop.wait(0.05):
            add_records(run, 1, range(start, start + 2))
            start += 2

    writer = threading.Thread(target=write)
    with viewing() as client:
        before = [key_of(item) for item in listed(client, "live", kind="judgments", limit=200)]
        writer.start()
        try:
            for sort, order in (("attempt", "asc"), ("length", "desc"), ("score", "asc")):
                seen, after = [], None
                while True:
                    given = {"kind": "judgments", "sort": sort, "order": order, "limit": 20}
                    got = ask(client, "/api/run/live/list", **given,
                               **({"after": after} if after else {}))  # fmt: skip
                    seen += [key_of(item) for item in got["items"]]
                    after = got["next"]
                    if after is None:
                        break
                assert len(seen) == len(set(seen))
                with_value = listed_before(before, run, sort)
                assert set(with_value) <= set(seen)
        finally:
            stop.set()
            writer.join()
        add_new = Judgment(1, 0, 0, 99, "written", "unheardof word", 3.0)
        with Store.claim(run.records) as store:
            store.add([add_new])
        found = listed(client, "live", kind="judgments", q="unheardof")
        assert [key_of(item) for item in found] == [(1, 0, 0, 0, 99)]


def listed_before(keys: list[tuple[int, ...]], run: Run, sort: str) -> list[tuple[int, ...]]:
    with run.store() as store:
        scored = {
            (j.iteration, j.attempt, j.sample, j.juror, j.vote)
            for j in store.records(Judgment, 1)
            if j.score is not None or sort != "score"
        }
    return [key for key in keys if key in scored]


@pytest.mark.slow
def test_a_page_that_is_cut_off_by_time_goes_on_where_it_stopped(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [key_of(i) for i in listed(client, "jury", kind="judgments", juror=1, limit=200)]
    monkeypatch.setattr(lists, "SECONDS", -1.0)
    found = [key_of(i) for i in listed(client, "jury", kind="judgments", juror=1, limit=200)]
    assert found == expected != []
    first = ask(client, "/api/run/jury/list", kind="judgments", juror=1, limit=200)
    assert len(first["items"]) < min(200, len(expected)) and first["next"] is not None


def test_a_page_without_a_filter_is_whole_however_slow_the_machine_is(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_index(client, "jury")
    monkeypatch.setattr(lists, "SECONDS", -1.0)
    for sort in ("attempt", "score"):
        page = ask(client, "/api/run/jury/list", kind="responses", sort=sort, limit=20)
        assert len(page["items"]) == 20 and page["next"] is not None


def test_the_side_file_is_the_same_however_it_was_filled(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents(rows: int) -> dict[str, list[Any]]:
        monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / str(rows)))
        with run.store() as store, closing(open_side(run, store)) as side:
            while extend(side, store, rows).behind:
                pass
            return {
                kind: side.execute(f"SELECT * FROM {kind} ORDER BY id").fetchall()
                for kind in SORTED
            }

    run = opened(root, "jury")
    assert contents(20) == contents(1000)


def test_nothing_of_the_run_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(root, "one")
    before = files_of(run)
    monkeypatch.setenv("SELFREWARD_CACHE", str(root / "cache" / "other"))
    with viewing() as client:
        for kind in SORTED:
            assert listed(client, "one", kind=kind)
        assert ask(client, "/api/run/one")["name"] == "one"
        assert ask(client, "/api/run/one/prompt/1/0")["attempt"] == 0
        assert ask(client, "/api/run/one/change")["owned"] is False
    assert files_of(run) == before


def test_another_database_in_the_same_place_has_another_side_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    run = make_run("again")
    add_records(run, 1, range(10))
    older = run.records.read_bytes()
    add_records(run, 1, range(10, 20))
    with viewing() as client:
        assert len(listed(client, "again", kind="prompts")) == 20
        run.records.write_bytes(older)  # a copy from before put back in its place
        assert len(listed(client, "again", kind="prompts")) == 10
        add_records(run, 1, range(10, 20), seed=1)
        found = listed(client, "again", kind="judgments")
        with run.store() as store:
            assert [i["text"] for i in found] == [j.raw for j in store.records(Judgment, 1)]
    assert len([*(tmp_path / "cache" / "viewer").glob("*.db")]) == 1


def test_a_side_file_that_is_damaged_is_made_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    run = opened(root, "one")
    catch_up(run)
    with run.store() as store:
        path = side_file(run, store)
    for damage in (b"", b"no database at all" * 100, path.read_bytes()[:4096] + b"\xff" * 40_000):
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        path.write_bytes(damage)
        with viewing() as client:
            answer = client.get("/api/run/one/list").json()
            assert "items" in answer or "removed" in answer["error"]["message"]
            assert len(listed(client, "one", kind="prompts")) == 50


def test_a_cache_that_cannot_be_written_is_one_message(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "file"))
    answer = client.get("/api/run/one/list")
    assert answer.status_code == 503
    assert "SELFREWARD_CACHE" in answer.json()["error"]["hint"]
    assert ask(client, "/api/run/one/prompt/1/0")["attempt"] == 0  # the other pages go on


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"kind": "people"}, "kind=people"),
        ({"sort": "margin", "kind": "judgments"}, "sort=margin"),
        ({"sort": "id"}, "sort=id"), ({"order": "down"}, "order=down"),
        ({"iteration": "-1"}, "iteration=-1"), ({"iteration": "x"}, "iteration=x"),
        ({"iteration": "9" * 30}, "iteration="), ({"limit": "many"}, "limit=many"),
        ({"min_score": "nan"}, "min_score=nan"), ({"max_score": "1e999"}, "max_score="),
        ({"after": "!"}, "after"), ({"after": "W10="}, "after"),
        ({"after": "WzEsMmUzMDBd"}, "after"),
        ({"after": "W05hTiwgNV0="}, "after"),
        ({"after": "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5LCA1XQ=="}, "after"),
        ({"after": "WzEsIDkyMjMzNzIwMzY4NTQ3NzU4MDdd"}, "after"),
        ({"failed": "yes"}, "failed=yes"), ({"juror": "1"}, "juror"), ({"stage": "pairs"}, "stage"),
        ({"q": "a", "kind": "drops"}, "q:"), ({"q": "***"}, "q:"), ({"sorted": "1"}, "sorted"),
    ],
)  # fmt: skip
def test_each_bad_parameter_is_one_message(
    client: TestClient, params: dict[str, str], says: str
) -> None:
    answer = client.get("/api/run/one/list", params=params)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["message"].startswith(says)
    assert "\n" not in error["message"]


def test_a_list_of_an_iteration_that_is_not_there_is_empty(client: TestClient) -> None:
    for params in ({}, {"q": "alpha"}, {"sort": "score"}, {"failed": 1}, {"reason": "tie"}):
        assert listed(client, "one", iteration=7, **params) == []


def test_ids_sort_as_keys_do() -> None:
    rng = random.Random(0)
    keys = sorted(
        Key(rng.randrange(9), rng.randrange(2**26), rng.randrange(99), rng.randrange(9),
            rng.randrange(200))
        for _ in range(500)
    )  # fmt: skip
    assert sorted(map(pack, keys)) == [*map(pack, keys)]
    assert [unpack(pack(key)) for key in keys] == keys
