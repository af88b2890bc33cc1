"""Comparing engines on a model, and what is kept of it."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.engines.base import Generation
from selfreward.engines.proof import Found
from selfreward.engines.reference import Expected
from selfreward.inputs import models
from selfreward.verbs import doctor, parity
from selfreward.workers.parity import ask_in_child
from tests.support.families import make_family
from tests.support.models import make_model


def found(
    logprob: float | None = -3.5, token: int = 6, probability: float = 0.25
) -> dict[str, Any]:
    """What a child says, as it comes over the pipe."""
    expected = Expected((1, 2), (5, 6), -3.5, (1.0, 1.0), (5, 6, 7), (0.5, 0.25, 0.1))
    said = [
        Found(
            Generation("", (5, token), "length", logprob),
            Generation("", (), "stop", None, (0.5, probability, 0.1)),
        )
        for token, logprob, probability in ((6, -3.5, 0.25), (token, logprob, probability))
    ]
    answer = {"expected": [asdict(expected)] * 2, "found": list(map(asdict, said))}
    return json.loads(json.dumps(answer))


@pytest.mark.parametrize(
    ("answer", "agrees"),
    [
        (found(), True),
        (found(logprob=-3.5005, probability=0.25005), True),
        (found(logprob=None), True),
        (found(logprob=-3.502), False),
        (found(token=7), False),
        (found(probability=0.2502), False),
        ({"error": "it cannot run this model"}, False),
    ],
)
def test_an_engine_agrees_where_texts_are_the_same_and_numbers_within_tolerance(
    answer: dict[str, Any], agrees: bool
) -> None:
    row = parity.compare("ctranslate2", {"transformers": found(), "ctranslate2": answer})
    assert row["agrees"] is agrees
    assert row["error"] == answer.get("error")


def test_without_a_yardstick_nothing_agrees() -> None:
    row = parity.compare("ctranslate2", {"transformers": {"error": "x"}, "ctranslate2": found()})
    assert not row["agrees"]
    assert "nothing to compare with" in row["error"]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All engines agree on ``org/m``."""
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    model = models.Model(tmp_path, "abc", "org/m", None)
    monkeypatch.setattr(models, "resolve", lambda *_, **__: model)
    monkeypatch.setattr(parity, "ask_in_child", lambda kind, *_: found())


@pytest.mark.parametrize(
    ("others", "code", "shown"),
    [
        (found(), 0, "agrees"),
        (found(probability=0.3), 7, "differs"),
        ({"error": "cannot convert"}, 7, "cannot convert"),  # nothing was compared
    ],
)
def test_the_verb_shows_a_table_and_fails_where_engines_differ(
    others: dict[str, Any],
    code: int,
    shown: str,
    asked: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        parity, "ask_in_child", lambda kind, *_: found() if kind == "transformers" else others
    )
    assert invoke(["doctor", "--parity", "org/m"]) == code
    out = capsys.readouterr().out
    assert "yardstick" in out
    assert shown in out
    assert invoke(["doctor", "--parity", "org/m", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["agree"] is (code == 0)
    [kept], problems = parity.recorded()
    assert (kept["digest"], problems) == ("abc", [])


@pytest.mark.slow
def test_an_engine_that_cannot_be_asked_gives_its_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ask_in_child("transformers", make_model(tmp_path / "mute", template=None))
    assert refused["error"].endswith("or set chat_template to a file or to chat/chatml.jinja.")
    assert "has no chat template Use an instruct model" in refused["error"]
    died = ask_in_child("transformers", tmp_path / "nowhere")["error"]
    assert died.startswith("the transformers process ended with code 1 ")
    assert "nowhere" in died and "\n" not in died
    monkeypatch.setattr("selfreward.workers.parity._TIMEOUT_S", 0)
    assert ask_in_child("transformers", tmp_path) == {"error": "no answer in 0 s"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "agree"),
    [pytest.param("SmolLM 2", True, marks=pytest.mark.long), ("Llama, gelu", False)],
)
def test_engines_are_compared_as_they_are_before_they_are_used(
    family: str, agree: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    model = make_family(tmp_path / "model", family)
    result = parity.measure(str(model), report=lambda line: None)
    assert result["agree"] is agree
    assert result["engines"]["transformers"]["agrees"]
    assert result["engines"]["ctranslate2"]["agrees"] is agree
    assert result["engines"]["ctranslate2"]["prompts"] == 3


@pytest.mark.long
def test_the_engines_agree_on_the_real_model_and_doctor_shows_it_later(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    result = parity.measure(str(model_dir), report=lambda line: None)
    assert result["agree"]
    for engine in result["engines"].values():
        assert engine["error"] is None
        assert engine["texts"] == engine["prompts"] == 3
    [kept], _ = parity.recorded()
    assert kept == json.loads(json.dumps(result))
    [check] = [c for c in doctor.doctor() if c["name"] == f"parity of {model_dir}"]
    assert check["status"] == "ok"
    assert check["detail"].startswith("transformers, openvino, ctranslate2")
    assert " agreed on " in check["detail"]
    text = parity.parity_text(result)
    assert "yardstick" in text and "3 of 3" in text


ROW = {
    "version": "1.0", "agrees": True, "texts": 3, "prompts": 3, "logprob": 0.0, "probability": 0,
    "error": None,
}  # fmt: skip
KEPT = {
    "model": "org/m", "digest": "abc", "at": "2026-01-02T03:04:05+00:00", "agree": False,
    "engines": {"transformers": ROW, "ctranslate2": {**ROW, "agrees": False, "texts": 2}},
}  # fmt: skip


def without(key: str) -> str:
    return json.dumps({name: value for name, value in KEPT.items() if name != key})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept; one is there."""
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    assert parity.recorded() == ([], [])
    (tmp_path / "parity").mkdir()
    (tmp_path / "parity" / "a.json").write_text(json.dumps(KEPT))
    return tmp_path / "parity"


def rows(name: str) -> list[doctor.Check]:
    return [check for check in doctor.doctor() if check["name"] == name]


def test_doctor_warns_of_engines_that_disagreed(kept: Path) -> None:
    [check] = rows("parity of org/m")
    assert check["status"] == "warn"
    assert check["detail"] == "ctranslate2 did not agree on 2026-01-02"
    assert rows("parity") == []


@pytest.mark.parametrize(
    "damage",
    ["", "{", "{}", "[]", "null", "5", "[[]]", '"x"', "\xff", "[" * 100_000, "9" * 5000,
     without("at"), without("engines"), without("model"), without("agree"),
     json.dumps(KEPT | {"engines": {"transformers": {}}}), json.dumps(KEPT | {"engines": []}),
     json.dumps(KEPT | {"at": 5}), json.dumps(KEPT | {"agree": "yes"})],
    ids=lambda damage: damage[:20],
)  # fmt: skip
def test_doctor_names_a_kept_result_that_is_none_and_shows_all_the_rest(
    damage: str, kept: Path
) -> None:
    (kept / "b.json").write_text(damage, encoding="latin-1")
    [check] = rows("parity")
    assert (check["status"], check["fix"]) == ("warn", "Delete it.")
    assert check["detail"].startswith(f"{kept / 'b.json'}: no result of --parity (")
    assert "\n" not in check["detail"]
    assert len(rows("parity of org/m")) == 1


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_doctor_waits_for_nothing_and_names_what_is_no_file(
    make: Callable[[Path], None], kept: Path
) -> None:
    make(kept / "b.json")
    [check] = rows("parity")
    assert check["detail"] == f"{kept / 'b.json'}: no result of --parity (not a file)"
    assert len(rows("parity of org/m")) == 1


@pytest.mark.parametrize("in_the_way", ["parity", "parity/abc.json/x"])
def test_a_result_that_cannot_be_kept_is_shown_with_the_reason(
    in_the_way: str,
    asked: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / in_the_way
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")  # as root nothing is read-only
    assert invoke(["doctor", "--parity", "org/m", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["agree"] is True
    [warning] = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    assert f"not kept: {tmp_path / 'parity'}" in warning


def test_numbers_that_are_none_differ_and_are_shown_as_none(
    asked: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = {"transformers": found(), "openvino": found(logprob=math.nan, probability=math.inf)}
    monkeypatch.setattr(parity, "ask_in_child", lambda kind, *_: answers.get(kind, found()))
    assert invoke(["doctor", "--parity", "org/m", "--json"]) == 7
    engine = json.loads(capsys.readouterr().out)["engines"]["openvino"]
    assert (engine["agrees"], engine["logprob"], engine["probability"]) == (False, None, None)
    _, problems = parity.recorded()
    assert problems == []
