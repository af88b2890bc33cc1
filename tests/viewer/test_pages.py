"""What the pages say, of runs that are whole, hostile, being written, damaged or gone."""

# ruff: noqa: F811

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import PreflightError
from selfreward.inputs.collect import create_run
from selfreward.records import Drop, Prompt, Response
from selfreward.stages.pool import Pool
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.scores import scores_of
from selfreward.viewer.answers import Viewer
from selfreward.viewer.demonstrations import demonstrations_of
from selfreward.viewer.pages import CUT, without_secrets
from selfreward.viewer.runs import Runs
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import HOSTILE, SMALL, at_runs, runs  # noqa: F401
from tests.support.viewer import add_records, ask, files_of, listed, make_run, viewing


@pytest.fixture
def client(at_runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TestClient]:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    with viewing() as client:
        yield client


def error_of(client: TestClient, path: str, status: int) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"] and "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return f"{error['message']} {error['hint']}"


def test_the_page_of_a_run_has_what_scores_and_status_say(
    client: TestClient, at_runs: Path
) -> None:
    page = ask(client, "/api/run/whole")
    figures = scores_of(Run(at_runs / "whole")).iterations
    assert [row["iteration"] for row in page["iterations"]] == [f.iteration for f in figures]
    assert page["iterations"][1]["scores"]["mean"] == figures[1].scores.mean
    assert page["pending"] == [] and page["status"]["state"] == "finished"
    assert [m["model"] for m in page["lineage"]] == ["M0", "M1", "M2", "M3"]
    assert {m["base"] for m in page["lineage"][1:]} == {"M0", "M1", "M2"}
    assert ask(client, "/api/runs")["runs"][1]["mean"] == figures[-1].scores.mean


def test_whatever_models_wrote_comes_as_strings_of_json(client: TestClient) -> None:
    page = ask(client, "/api/run/hostile/prompt/1/0")
    assert page["prompt"]["text"] == HOSTILE
    assert page["responses"][0]["votes"][0]["raw"] == HOSTILE
    items = ask(client, "/api/run/hostile/list", kind="judgments")["items"]
    assert items and all(item["text"] == HOSTILE[:300] for item in items)
    for path in ("/api/run/hostile", "/api/run/hostile/list?kind=drops", "/api/runs"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert not set(answer.text) & {"\x1b", "\x00", "\x07", "\x9b"} - {"\x9b"}


def test_the_demonstrations_are_those_that_the_author_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    shown: dict[tuple[int, int], list[str]] = {}
    drawn = Pool.demonstrations

    def spy(pool: Pool, settings: object, seed: int, num_known: int) -> list[str]:
        found = drawn(pool, settings, seed, num_known)  # type: ignore[arg-type]
        shown[seed, num_known] = found
        return found

    monkeypatch.setattr(Pool, "demonstrations", spy)
    run = create_run(build_config({}, [*SMALL, "prompts.count=9"]), "shown")
    launch(run, lambda: None, ScriptedWorkers(run))
    found, sources = [], set()
    with run.store() as store:
        for t in (1, 2):
            for prompt in store.records(Prompt, t):
                those = demonstrations_of(run, store, t, prompt.attempt)
                assert those is not None
                found.append([each.text for each in those])
                sources |= {each.source for each in those}
                for each in those:
                    if each.source == "generated":
                        assert each.iteration is not None and each.attempt is not None
                        known = store.records(Prompt, each.iteration, each.attempt)[0]
                        assert " ".join(known.text.split()) == each.text
                        assert (each.iteration, each.attempt) < (t, prompt.attempt)
    assert found == list(shown.values())[: len(found)] or sorted(found) == sorted(shown.values())
    assert sources == {"human", "generated"}
    (run.path / "seeds" / "prompts.jsonl").unlink()
    with run.store() as store:
        assert demonstrations_of(run, store, 1, 0) is None


def test_why_says_the_rule_and_the_margin_or_the_reason(client: TestClient, at_runs: Path) -> None:
    run = Run(at_runs / "whole")
    with run.store() as store:
        attempts = {p.attempt: p.dropped for p in store.records(Prompt, 1)}
        drops = {d.item: d.reason for d in store.records(Drop, 1) if d.stage == "pairs"}
    said = {a: ask(client, f"/api/run/whole/prompt/1/{a}")["why"] for a in attempts}
    for attempt, sentences in said.items():
        assert sentences and all(s.endswith(".") for s in sentences)
        if attempts[attempt]:
            assert attempts[attempt] in sentences[0]
        elif str(attempt) in drops:
            assert sentences[0].startswith("No pair: ")
        else:
            assert "best_worst" in sentences[0] and "points apart" in sentences[0]
    assert any("points apart" in s[0] for s in said.values())


def test_previous_and_next_go_through_the_accepted_prompts(
    client: TestClient, at_runs: Path
) -> None:
    with Run(at_runs / "whole").store() as store:
        places = [[t, p.attempt] for t in (1, 2) for p in store.records(Prompt, t) if not p.dropped]
    walked, at = [], places[0]
    while at is not None:
        page = ask(client, f"/api/run/whole/prompt/{at[0]}/{at[1]}")
        assert page["previous"] == (walked[-1] if walked else None)
        walked.append(at)
        at = page["next"]
    assert walked == places


def test_a_long_text_is_cut_and_says_so_and_can_be_had_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    run, long = make_run("long"), "word " * 400_000
    with Store.claim(run.records) as store:
        store.add([Prompt(1, 0, "Say it.", "Say it.", None, "", 3)])
        store.add([Response(1, 0, 0, long, "stop", 9), Response(1, 0, 1, "short", "stop", 9)])
        store.set_progress(1, "responses", 1, 2, 1.0)
    with viewing() as client:
        page = ask(client, "/api/run/long/prompt/1/0")
        assert [len(r["text"]) for r in page["responses"]] == [CUT, 5]
        assert [r.get("cut") for r in page["responses"]] == [{"text": len(long)}, None]
        whole = ask(client, "/api/run/long/prompt/1/0", full=1)
        assert whole["responses"][0]["text"] == long
        items = ask(client, "/api/run/long/list", kind="responses")["items"]
        assert [len(item["text"]) for item in items] == [300, 5]
        assert ask(client, "/api/run/long/list", kind="responses", q="word")["count"] == 1


def test_settings_hold_no_secret(at_runs: Path) -> None:
    settings = {
        "model": "org/m", "engine": {"url": "https://me:pass@host/v1", "n": 3, "note": None},
        "tools": ["hf_" + "a" * 30, "fine"], "api_key": "abc", "eos_token": "<|end|>",
        "command": "HF_TOKEN=x accelerate launch", "hf_" + "b" * 30: 1,
    }  # fmt: skip
    shown = without_secrets(settings)
    for secret in ("pass", "hf_a", "hf_b", "abc", "HF_TOKEN", "x acc"):
        assert secret in json.dumps(settings) and secret not in json.dumps(shown)
    assert shown["api_key"] == shown["command"] == "(not shown: it looks like a secret)"
    assert shown["model"] == "org/m" and shown["engine"]["n"] == 3
    assert shown["tools"][1] == "fine" and shown["eos_token"] == "<|end|>"
    settings = Run(at_runs / "whole").settings
    assert without_secrets(settings) == settings


def test_a_chart_that_is_asked_for_twice_is_drawn_once(
    client: TestClient, at_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart = ask(client, "/api/run/whole")["charts"][0]
    asked = []
    child = type(client.app._app.state.viewer.child)  # type: ignore[attr-defined]
    drawing = child.ask
    monkeypatch.setattr(child, "ask", lambda self, job: (asked.append(job), drawing(self, job))[1])
    path = f"/api/run/whole/chart/{chart['name']}.svg"
    answers = [client.get(path) for _ in range(3)]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].headers["content-type"].startswith("image/svg+xml")
    assert answers[0].text.startswith("<svg") and len(asked) == 1
    assert client.get(path, params={"theme": "dark"}).text != answers[0].text
    assert len(asked) == 2
    assert "there is no chart none" in error_of(client, "/api/run/whole/chart/none.svg", 404)
    for wrong in ("theme=blue", "iteration=x", "iteration=-1"):
        assert wrong in error_of(client, f"{path}?{wrong}", 400)


@pytest.mark.slow
def test_the_drawing_child_that_was_killed_is_one_message_and_starts_again(
    at_runs: Path,
) -> None:
    viewer = Viewer(Runs())
    job = {"do": "figures", "run": str(at_runs / "whole"), "iteration": 1}
    try:
        first = viewer.child.ask(job)
        assert viewer.child._process is not None
        viewer.child._process.kill()
        viewer.child._process.wait()
        assert viewer.child.ask(job) == first
        viewer.child._process.send_signal(signal.SIGSTOP)  # or it might end before it is asked
        os.waitid(os.P_PID, viewer.child._process.pid, os.WSTOPPED | os.WNOWAIT)  # all its threads
        viewer.child._process.stdin.close()  # type: ignore[union-attr]
        with pytest.raises(PreflightError, match="has ended"):
            viewer.child.ask(job)
        assert viewer.child.ask(job) == first
    finally:
        viewer.close()


def test_figures_of_a_run_under_way_come_without_waiting_and_change_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = make_run("live")
    add_records(run, 1, range(5))
    with viewing() as client, run.owned() as store:
        page = ask(client, "/api/run/live")
        assert page["status"]["state"] == "running"
        change = page["change"]
        while page["pending"]:
            new = ask(client, "/api/run/live/change")
            assert new["owned"]
            if new["change"] != change:
                change = new["change"]
                page = ask(client, "/api/run/live")
        assert page["iterations"] == json.loads(json.dumps(page["iterations"]))
        assert page["iterations"][0]["prompts"]["attempts"] == 5
        before = ask(client, "/api/run/live/change")["change"]
        assert ask(client, "/api/run/live/change")["change"] == before
        store.add([Prompt(1, 90, "New.", "New.", None, "", 3)])
        assert ask(client, "/api/run/live/change")["change"] != before


def test_a_run_that_is_removed_while_open_is_gone_and_the_others_are_there(
    client: TestClient, at_runs: Path
) -> None:
    shutil.copytree(at_runs / "whole", at_runs / "brief", ignore=shutil.ignore_patterns("*-shm"))
    assert ask(client, "/api/run/brief")["name"] == "brief"
    assert listed(client, "brief", kind="prompts")
    shutil.rmtree(at_runs / "brief")
    for path in ("", "/change", "/list", "/prompt/1/0", "/training/1", "/chart/means.svg"):
        assert "was removed" in error_of(client, f"/api/run/brief{path}", 410)
    assert ask(client, "/api/run/whole")["name"] == "whole"
    assert "no run 'other'" in error_of(client, "/api/run/other", 404)


def test_a_damaged_run_and_one_of_another_version_say_so(client: TestClient, at_runs: Path) -> None:
    shutil.copytree(at_runs / "whole", at_runs / "broken")
    try:
        records = at_runs / "broken" / "records.db"
        content = records.read_bytes()
        records.write_bytes(content[:60] + (99).to_bytes(4, "big") + content[64:])
        assert "schema version 99" in error_of(client, "/api/run/broken", 409)
        records.write_bytes(content[:5000])
        for path in ("", "/list", "/prompt/1/0"):
            error_of(client, f"/api/run/broken{path}", 409)
        rows = {row["run"]: row["state"] for row in ask(client, "/api/runs")["runs"]}
        assert (rows["broken"], rows["whole"]) == ("damaged", "finished")
        (at_runs / "broken" / "config.resolved.yaml").write_text("{")
        records.write_bytes(content)
        assert "config.resolved.yaml" in error_of(client, "/api/run/broken", 409)
    finally:
        shutil.rmtree(at_runs / "broken")


def test_a_run_elsewhere_is_served_alone(
    client: TestClient, at_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(at_runs / "whole")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "none"))
    with viewing(only=run) as alone:
        assert [row["run"] for row in ask(alone, "/api/runs")["runs"]] == ["whole"]
        assert ask(alone, "/api/run/whole")["name"] == "whole"
        error_of(alone, "/api/run/hostile", 404)


def test_a_read_only_directory_is_read_as_any_other(
    at_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(at_runs / "whole", tmp_path / "fixed")
    run = Run(tmp_path / "fixed")
    for name in ("records.db-wal", "records.db-shm"):
        (run.path / name).unlink(missing_ok=True)
    before = files_of(run)
    run.path.chmod(0o555)
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    try:
        with viewing(only=run) as client:
            for path in ("", "/change", "/list?q=the", "/list?kind=drops", "/prompt/1/0"):
                assert client.get(f"/api/run/fixed{path}").status_code == 200
    finally:
        run.path.chmod(0o755)
    assert files_of(run) == before


def test_a_training_is_told_step_by_step(client: TestClient) -> None:
    page = ask(client, "/api/run/whole/training/1")
    assert page["stage"] == "train" and page["steps"][0]["step"] >= 1
    assert page["curves"]["steps"] == page["steps"][-1]["step"]
    assert "no training was logged" in error_of(client, "/api/run/whole/training/9", 404)


def test_a_page_is_the_same_file_whatever_its_address(client: TestClient) -> None:
    pages = [
        "/", "/run/whole", "/run/whole/list?kind=drops", "/run/whole/prompt/1/0",
        "/run/whole/training/0", "/run/whole/questions", "/run/whole/question/3",
        "/run/whole/label", "/compare?a=whole&b=whole",
    ]  # fmt: skip
    texts = {client.get(page).text for page in pages}
    assert len(texts) == 1
    assert texts.pop().startswith("<!doctype html>")


def test_numbers_that_sqlite_does_not_know_are_those_of_nothing(client: TestClient) -> None:
    huge = "9" * 23
    for path in (f"/prompt/1/{huge}", f"/prompt/{huge}/0", f"/training/{huge}"):
        assert " no " in error_of(client, f"/api/run/whole{path}", 404)
    error_of(client, f"/api/run/whole/training/{'9' * 5000}", 404)  # of which Python makes none
    other = client.get("/api/compare", params={"a": f"whole:1{'0' * 5000}", "b": "whole:1"})
    assert 400 <= other.status_code < 500
