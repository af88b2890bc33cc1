"""Comparing engines on a model, and what is kept of it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.engines.base import Generation
from selfreward.engines.proof import Found
from selfreward.engines.reference import Expected
from selfreward.errors import IntegrityError
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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    model = models.Model(tmp_path, "abc", "org/m", None)
    monkeypatch.setattr(models, "resolve", lambda *_, **__: model)
    monkeypatch.setattr(
        parity, "ask_in_child", lambda kind, *_: found() if kind == "transformers" else others
    )
    assert invoke(["doctor", "--parity", "org/m"]) == code
    out = capsys.readouterr().out
    assert "yardstick" in out
    assert shown in out
    assert invoke(["doctor", "--parity", "org/m", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["agree"] is (code == 0)
    assert [kept["digest"] for kept in parity.recorded()] == ["abc"]


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
@pytest.mark.parametrize(("family", "agree"), [("SmolLM 2", True), ("Llama, gelu", False)])
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
    [kept] = parity.recorded()
    assert kept == json.loads(json.dumps(result))
    [check] = [c for c in doctor.doctor() if c["name"] == f"parity of {model_dir}"]
    assert check["status"] == "ok"
    assert check["detail"].startswith("transformers, openvino, ctranslate2")
    assert " agreed on " in check["detail"]
    text = parity.parity_text(result)
    assert "yardstick" in text and "3 of 3" in text


def test_doctor_warns_of_engines_that_disagreed_and_of_a_torn_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    assert parity.recorded() == []
    (tmp_path / "parity").mkdir()
    engines = {"transformers": {"agrees": True}, "ctranslate2": {"agrees": False}}
    result = {"model": "org/m", "at": "2026-01-02T03:04:05+00:00", "agree": False}
    (tmp_path / "parity" / "a.json").write_text(json.dumps({**result, "engines": engines}))
    [check] = [c for c in doctor.doctor() if c["name"] == "parity of org/m"]
    assert check["status"] == "warn"
    assert check["detail"] == "ctranslate2 did not agree on 2026-01-02"
    (tmp_path / "parity" / "b.json").write_text("{")
    with pytest.raises(IntegrityError, match="torn"):
        parity.recorded()
    [check] = [c for c in doctor.doctor() if c["name"] == "parity"]
    assert (check["status"], check["fix"]) == ("warn", "Delete it.")
