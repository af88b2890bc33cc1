"""Rows of the seed step, all counted; and of pairs: the ids that were sampled."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, StoppedError
from selfreward.inputs.collect import create_run
from selfreward.records import PreferencePair, Prompt, Response
from selfreward.storage.branch import create_branch
from selfreward.storage.directory import Run
from selfreward.training.base import DpoRow
from selfreward.training.checks import check_reference
from selfreward.training.rows import _engines_fit, dpo_rows
from selfreward.training.seed_rows import sft_rows
from selfreward.verbs.plan import plan_of
from selfreward.verbs.validate import validate
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL
from tests.support.scripted import ScriptedChat

PLAIN = Response(1, 0, 0, "An apple.", "stop", 9)
ODD = Response(1, 0, 1, "No.", "stop", 2, token_ids=(777, 46))
THOUGHT = Response(
    1, 0, 2, "A pear.", "stop", 9, "Hm.", token_ids=tuple(map(ord, "<think>Hm.</think>A pear."))
)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], (*map(ord, "<think>Hm.</think>A pear."), 0)),
        (["dpo.train_thinking=false"], (*map(ord, "A pear."), 0)),
    ],
)
def test_dpo_trains_the_ids_that_were_sampled(
    words: list[str], chosen: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({}, words), "run")
    pairs = [PreferencePair(1, 0, 2, 1, 4.0, 1.0), PreferencePair(1, 0, 0, 1, 3.0, 1.0)]
    with run.owned() as store:
        store.add([Prompt(1, 0, "Name a fruit.", "", None), PLAIN, ODD, THOUGHT, *pairs])
        rows, drops = dpo_rows(run, store, 1, ScriptedChat())  # type: ignore[arg-type]
    assert drops == []
    assert {row.prompt_ids for row in rows} == {ScriptedChat().prompt_ids("Name a fruit.")}
    assert {row.rejected_ids for row in rows} == {(777, 46, 0)}
    assert [row.chosen_ids for row in rows] == [(*map(ord, "An apple."), 0), chosen]


KNOWN = ["dpo.reference_logprobs=engine", "engine.kind=ctranslate2"]


def row(name: str, chosen: Response, *words: str, ends: frozenset[int]) -> DpoRow:
    """Of a pair with a rejected answer of log-probability -2, in a run of its own."""
    run = create_run(build_config({}, [*KNOWN, *words]), name)
    chat: Any = ScriptedChat()
    chat.end_id, chat.end_ids = 0, ends
    with run.owned() as store:
        store.add([Prompt(1, 0, "Name a fruit.", "", None), chosen, replace(ODD, logprob=-2.0)])
        store.add([PreferencePair(1, 0, chosen.sample, 1, 4.0, 1.0)])
        [made], _ = dpo_rows(run, store, 1, chat)
    return made


def test_the_engine_stands_for_the_reference_only_for_what_it_sampled_and_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    number = count()

    def known(
        chosen: Response, *words: str, ends: frozenset[int] = frozenset({0})
    ) -> tuple[float, float] | None:
        return row(f"run-{next(number)}", chosen, *words, ends=ends).reference

    sampled, thought = replace(PLAIN, logprob=-5.5), replace(THOUGHT, logprob=-7.0)
    assert known(sampled) == (-5.5, -2.0)
    assert known(thought) == (-7.0, -2.0)
    assert known(sampled, "dpo.reference_logprobs=trl") is None
    assert known(PLAIN) is None  # the engine did not say
    assert known(replace(sampled, author="human")) is None
    assert known(thought, "dpo.train_thinking=false") is None  # it said it of the thinking too
    assert known(sampled, ends=frozenset({0, 7})) is None  # which of them it was is not kept


def test_what_is_replayed_was_sampled_by_a_model_that_is_no_more_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    words = [*KNOWN, "train.replay.aift=true"]
    chat: Any = ScriptedChat()
    chat.end_id, chat.end_ids = 0, frozenset({0})
    run = create_run(build_config({}, words), "run")
    with run.owned() as store:
        for t in (1, 2):
            store.add([Prompt(t, 0, f"Name fruit {t}.", "", None)])
            store.add([replace(r, iteration=t, logprob=-float(t)) for r in (PLAIN, ODD)])
            store.add([PreferencePair(t, 0, 0, 1, 4.0, 1.0)])
        rows, _ = dpo_rows(run, store, 2, chat)
    assert [row.reference for row in rows] == [(-2.0, -2.0), None]


@pytest.mark.parametrize(
    ("before", "known"), [("openvino", None), ("auto", None), ("ctranslate2", (-1.0, -1.0))]
)
def test_what_was_said_before_the_engine_was_changed_stands_for_no_reference(
    before: str, known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of engine decides no record, so it may change; OpenVINO's sums are no pass."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    chat: Any = ScriptedChat()
    chat.end_id, chat.end_ids = 0, frozenset({0})
    run = create_run(build_config({}, [*SMALL, "iterations=1", f"engine.kind={before}"]), "run")
    launch(run, lambda: None, ScriptedWorkers(run))
    branch = create_branch(run, 1, "branch", KNOWN)
    with branch.owned() as store:
        assert _engines_fit(branch, store) is (known is not None)

    run = create_run(build_config({}, [f"engine.kind={before}"]), "other")
    with run.owned() as store:
        store.add([Prompt(1, 0, "Name a fruit.", "", None)])
        store.add([replace(r, logprob=-1.0) for r in (PLAIN, ODD)])
        store.add([PreferencePair(1, 0, 0, 1, 4.0, 1.0)])
    run.configure(KNOWN)
    with run.owned() as store:
        [made], _ = dpo_rows(run, store, 1, chat)
    assert made.reference == known


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "does not go with engine.kind=auto"),
        (["engine.kind=vllm"], "does not go with engine.kind=vllm"),
        (["engine.kind=openvino"], "does not go with engine.kind=openvino"),
        (["engine.compute_type=int8"], "does not go with engine.compute_type=int8"),
        (["engine.kind=transformers", "engine.dtype=bfloat16"], "engine.dtype=bfloat16"),
        (["dpo.ld_alpha=0.5"], "does not go with dpo.ld_alpha=0.5"),
        (["dpo.bf16=true"], "does not go with dpo.bf16=True"),
        (["dpo.precompute_ref_log_probs=false"], "dpo.precompute_ref_log_probs=False"),
    ],
)
def test_an_engine_that_computes_otherwise_than_training_does_is_no_reference(
    words: list[str], said: str
) -> None:
    def check(*more: str) -> None:
        config = build_config({}, ["dpo.reference_logprobs=engine", *more])
        check_reference(config.dpo, config.engine)

    own = [] if said.endswith("=auto") else ["engine.kind=ctranslate2"]
    check("engine.kind=ctranslate2")
    check("engine.kind=transformers", "engine.dtype=float32")
    with pytest.raises(ConfigError, match=said):
        check(*own, *words)


def sft_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eft: list[dict[str, object]], *words: str
) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    (tmp_path / "eft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in eft))
    words = (f"sft.eft={tmp_path / 'eft.jsonl'}", "sft.max_length=9999", SEEDS, *words)
    return create_run(build_config({}, list(words)), "run")


SEEDS = "prompts.seeds=seed/ift.jsonl"
SCORED: list[dict[str, object]] = [
    {"prompt": "Name a fruit.", "response": "An apple.", "score": 4, "justification": "It is one."},
    {"prompt": "Name a fruit.", "response": "No.", "score": 0},
    {"prompt": "Name a fruit.", "response": "Fruit.", "score": 1, "justification": ""},
]


@pytest.mark.parametrize(
    ("form", "used"), [("written", 1), ("written_expected", 1), ("expected", 3)]
)
def test_validate_and_plan_count_the_eft_rows_that_training_takes(
    form: str, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "additive" if form.startswith("written") else "expected"
    words = (f"judge.form={form}", f"judge.template=judge/{template}.jinja")
    run = sft_run(tmp_path, monkeypatch, SCORED, *words)
    with run.store() as store:
        rows, drops = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
    plan = plan_of(run.config, None)["sft"]
    assert len(rows) == plan["rows"] == plan["ift_rows"] + used
    assert (plan["eft_rows"], plan["eft_without_justification"]) == (used, 3 - used)
    assert [drop.reason for drop in drops] == ["no justification"] * (3 - used)
    [said] = [part["detail"] for part in validate(run.config, None) if part["name"] == "EFT"]
    assert said.startswith(f"{used} row") and ("no justification" in said) == (used < 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft.ift={path: seed/ift.jsonl, limit: 3}", "sft.max_length=600"], r"sft\.eft .*trained"),
        (["sft.ift=null", "sft.max_length=600"], "no row to train on"),
    ],
)
def test_a_source_of_which_every_row_is_too_long_stops_the_seed_step(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sft_run(tmp_path, monkeypatch, SCORED[:1], *words)
    with run.store() as store, pytest.raises(StoppedError, match=said) as stopped:
        sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
    assert "eft:0: too long" in stopped.value.hint
