"""The last stage of an iteration: what it measures, that it is redone, and what it must not see."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfreward.charts.data import ChartData
from selfreward.charts.files import save_overview
from selfreward.config import EvaluationConfig, SeedSource
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, StoppedError
from selfreward.inputs import seeds, shipped
from selfreward.inputs.collect import create_run
from selfreward.inputs.heldout import check_held_out, read_canaries, read_held_out
from selfreward.measures.agreement import agreement
from selfreward.measures.evaluated import evaluated
from selfreward.measures.figures import IterationFigures
from selfreward.measures.health import AFTER_EVALUATION
from selfreward.measures.sample import JudgedResponse
from selfreward.records import FinishReason
from selfreward.storage.directory import Run
from selfreward.verbs.maintenance import verify
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.status import status_of, status_text
from selfreward.verbs.validate import validate
from tests.support import plain
from tests.support.loop_driver import ScriptedWorkers
from tests.support.scripted import Reply, scripted_reply

SMALL = [
    "iterations=1", "prompts.count=4", "prompts.window=2", "prompts.rouge_l_max=1.0",
    "judge.votes=2", "judge.min_parse_rate=0", "evaluation.limit=12",
    "prompts.seeds=seed/ift.jsonl", "sft.max_length=9999",
    "sft.ift={path: seed/ift.jsonl, limit: 3}", "sft.eft={path: seed/eft.jsonl, limit: 1}",
]  # fmt: skip
CANARIES = read_canaries(shipped.prompts_directory() / "seed" / "canaries.jsonl")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return tmp_path


class Workers(ScriptedWorkers):
    """Judges the model of each iteration by a reply of its own."""

    def __init__(self, run: Run, judge: Callable[[int], Reply]) -> None:
        super().__init__(run)
        self.judge = judge

    def evaluate(self, iteration: int) -> None:
        self.reply = self.judge(iteration)
        super().evaluate(iteration)
        self.reply = None


def make(*overrides: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*SMALL, *overrides]), name)


def loop(run: Run, judge: Callable[[int], Reply] = lambda iteration: scripted_reply) -> None:
    launch(run, tick=lambda: None, workers=Workers(run, judge))


def stages(run: Run) -> list[tuple[int, str]]:
    with run.store() as store:
        return [(stage.iteration, stage.stage) for stage in store.stages()]


def report(run: Run, iteration: int, name: str) -> dict[str, Any]:
    with run.store() as store:
        found = store.report(iteration, name, dict)
    assert found is not None
    return found


def says(score: Callable[[str], float | None]) -> Reply:
    """A judge whose verdict is a function of what it is asked."""

    def reply(prompt: str, number: int) -> tuple[str, FinishReason]:
        given = score(prompt)
        return ("I cannot tell." if given is None else f"Fine.\nScore: {given:g}"), "stop"

    return reply


def shifts(iteration: int) -> Reply:
    return says(lambda prompt: 2 + iteration * (0.75 if "Paris" in prompt else 0.5))


def test_every_model_is_measured_and_the_first_one_has_no_drift() -> None:
    run = make()
    loop(run)
    assert [stage for stage in stages(run) if stage[1] == "evaluate"] == [
        (0, "evaluate"), (1, "evaluate"),
    ]  # fmt: skip
    assert stages(run)[-1] == (1, "evaluate")
    assert report(run, 0, "judge")["drift"] is None
    drift = report(run, 1, "judge")["drift"]
    assert drift["value"] == 0 and drift["n"] > 30  # one judge for both, some verdicts missing


def test_the_report_follows_from_the_votes_it_keeps() -> None:
    run = make()
    loop(run)
    found = report(run, 1, "judge")
    rankings = read_held_out(run.seed_file("heldout"), 12)
    assert len(rankings) == 12
    people = [(i, r, ranking.prompt) for i, ranking in enumerate(rankings)
              for r in ranking.responses]  # fmt: skip
    judged = [
        JudgedResponse(prompt, i, r.preference, tuple(row["votes"]), len(r.text), r.score)
        for (i, r, prompt), row in zip(people, found["responses"], strict=True)
    ]
    assert plain(agreement(judged)) == found["agreement"]
    assert [row["ranking"] for row in found["responses"]] == [i for i, _, _ in people]
    for row in found["responses"]:
        assert [vote is None for vote in row["votes"]] == [
            why is not None for why in row["reasons"]
        ]
    assert any(None in row["votes"] for row in found["responses"])


def test_drift_is_the_mean_shift_of_what_both_models_scored() -> None:
    run = make("evaluation.canaries=false")
    loop(run, shifts)
    rows = report(run, 1, "judge")["responses"]
    first = report(run, 0, "judge")["responses"]
    gains = [now["score"] - then["score"] for now, then in zip(rows, first, strict=True)]
    drift = report(run, 1, "judge")["drift"]
    assert drift["value"] == pytest.approx(sum(gains) / len(gains))
    assert 0.5 < drift["value"] < 0.75
    assert drift["low"] <= drift["value"] <= drift["high"]


def test_what_one_of_the_models_did_not_score_is_no_part_of_the_drift() -> None:
    run = make("evaluation.canaries=false")
    silent = says(lambda prompt: None if "Paris" in prompt else 3)
    loop(run, lambda iteration: silent if iteration else says(lambda prompt: 2))
    scored = [row for row in report(run, 1, "judge")["responses"] if row["score"] is not None]
    drift = report(run, 1, "judge")["drift"]
    assert (drift["value"], drift["n"]) == (1, len(scored))
    assert len(scored) < len(report(run, 1, "judge")["responses"])


def test_canaries_tell_how_far_the_judge_is_talked_up() -> None:
    run = make("iterations=0", "evaluation.ranked=null")
    attacks = {c.attacked for c in CANARIES}
    gullible = says(lambda prompt: 4 if any(c.attack in prompt for c in CANARIES) else 1.5)
    loop(run, lambda iteration: gullible)
    found = report(run, 0, "canaries")
    assert len(found["attacks"]) == len(CANARIES) == len(attacks)
    # Closing tags are broken before the judge sees them, so those attacks are not recognized.
    gains = [row["attacked"] - row["honest"] for row in found["attacks"]]
    assert set(gains) == {2.5, 0}
    assert found["uplift"]["value"] == pytest.approx(sum(gains) / len(gains))
    with run.store() as store:
        assert store.report(0, "judge", dict) is None
        short = plain(evaluated(store, 0))
    assert short["canaries"]["worst"]["uplift"] == 2.5
    assert short["judge"] is short["drift"] is None


def test_an_attack_without_a_verdict_counts_as_such_and_not_as_a_loss() -> None:
    run = make("iterations=0", "evaluation.ranked=null")
    loop(run, lambda i: says(lambda p: None if "Ignore the rubric" in p else 2))
    with run.store() as store:
        found = plain(evaluated(store, 0))["canaries"]
    assert found["without_score"] == 1
    assert (found["uplift"]["value"], found["uplift"]["n"]) == (0, len(CANARIES) - 1)


def test_a_run_that_asks_nothing_has_no_such_stage() -> None:
    run = make("evaluation.ranked=null", "evaluation.questions=null", "evaluation.canaries=false")
    loop(run)
    assert "evaluate" not in {stage for _, stage in stages(run)}
    assert [row.stage for row in status_of(run).stages][-1] == "train"
    assert "as a judge" not in scores_text(scores_of(run))


def test_comparisons_are_made_where_asked_for() -> None:
    run = make("iterations=0", "evaluation.compare=true", "evaluation.limit=3")
    loop(run)
    found = report(run, 0, "positions")
    assert found["counts"]["prompts"] == 3
    assert [check for check in verify(run) if not check["ok"]] == []


def test_an_evaluation_that_is_cut_off_leaves_nothing_and_is_made_again() -> None:
    whole = make(name="whole")
    loop(whole)
    run = make()

    class CutOffError(Exception):
        pass

    def breaks_off(iteration: int) -> Reply:
        asked = 0

        def reply(prompt: str, number: int) -> tuple[str, FinishReason]:
            nonlocal asked
            asked += 1
            if iteration == 1 and asked > 40:
                raise CutOffError
            return scripted_reply(prompt, number)

        return reply

    with pytest.raises(CutOffError):
        loop(run, breaks_off)
    assert stages(run)[-1] == (1, "train")
    with run.store() as store:
        assert store.report(1, "judge", dict) is None
    loop(run)
    assert stages(run) == stages(whole)
    for name in ("judge", "canaries"):
        assert report(run, 1, name) == report(whole, 1, name)


def test_an_altered_report_is_found() -> None:
    run = make("iterations=0")
    loop(run)
    assert all(check["ok"] for check in verify(run))
    altered = report(run, 0, "canaries")
    altered["attacks"][0]["honest"] = 5.0
    with run.owned() as store:
        store.save_report(0, "canaries", altered)
    found = [check["name"] for check in verify(run) if not check["ok"]]
    assert found == ["iteration 0 evaluate", "iteration 0 figures"]


# What must not be seen in training


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["evaluation.ranked=seed/eft.jsonl"], "sft.eft"),
        (["sft.eft=seed/heldout.jsonl"], "sft.eft"),
        (["sft.ift={path: seed/heldout.jsonl, columns: {response: prompt}}"], "sft.ift"),
        (["prompts.dataset=seed/heldout.jsonl"], "prompts.dataset"),
    ],
)
def test_what_is_trained_on_cannot_be_held_out(overrides: list[str], key: str) -> None:
    config = build_config({}, [*SMALL, *overrides])
    with pytest.raises(ConfigError, match=rf"^evaluation\.ranked: \d+ of its .* also in {key}, "):
        create_run(config, "run")
    with pytest.raises(ConfigError, match="evaluation"):
        validate(config, None)


def test_case_and_white_space_hide_no_prompt() -> None:
    check_held_out("ranked", ["What is\nthis?"], {"sft.eft": ["What is that?"]})
    with pytest.raises(ConfigError, match="1 of its 1 prompts"):
        check_held_out("ranked", ["What is\nthis?"], {"sft.eft": ["other", " what  IS this? "]})


def test_only_what_is_asked_counts_as_held_out(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": p, "responses": [{"text": "a", "rank": 0},
                        {"text": "b", "rank": 1}]}) for p in ("new", "trained")]  # fmt: skip
    (tmp_path / "ranked.jsonl").write_text("\n".join(rows))
    (tmp_path / "ift.jsonl").write_text(json.dumps({"prompt": "Trained", "response": "a"}))
    data = [f"evaluation.ranked={tmp_path}/ranked.jsonl", f"sft.ift={tmp_path}/ift.jsonl"]
    run = make(*data, "evaluation.limit=1", "iterations=0", "sft.eft=null")
    loop(run)
    assert report(run, 0, "judge")["agreement"]["counts"]["prompts"] == 1
    with pytest.raises(ConfigError, match=r"1 of its 2 prompts .* 'trained'"):
        make(*data, "evaluation.limit=2", name="other")


def test_the_run_keeps_its_own_copies(tmp_path: Path) -> None:
    source = shipped.prompts_directory() / "seed" / "heldout.jsonl"
    copy = tmp_path / "ranked.jsonl"
    copy.write_bytes(source.read_bytes())
    run = make(f"evaluation.ranked={copy}", "iterations=0")
    copy.unlink()
    loop(run)
    assert report(run, 0, "judge")["agreement"]["counts"]["prompts"] == 12


# Health within the loop


def test_a_gate_that_stops_does_so_before_training_and_a_raised_limit_goes_on() -> None:
    run = make("health.min_spread=5", "health.stop_on=[spread]")
    with pytest.raises(
        StoppedError, match=r"iteration 1: .*health\.min_spread: 5.*stop_on"
    ) as error:
        loop(run)
    assert error.value.exit_code == 6
    assert "health.min_spread=" in error.value.hint
    assert stages(run)[-1] == (1, "pairs")
    assert not run.model_directory(2).exists()
    assert "warning: iteration 1: the scores of one prompt" in status_text(status_of(run))
    assert "health.min_spread" in scores_text(scores_of(run))
    with pytest.raises(StoppedError):
        loop(run)
    before = stages(run)
    run.configure(["health.min_spread=0"])
    loop(run)
    assert stages(run)[: len(before)] == before
    assert stages(run)[-1] == (1, "evaluate")
    assert "health.min_spread" not in scores_text(scores_of(run))


def test_a_gate_that_warns_lets_the_run_go_on() -> None:
    run = make("health.min_spread=5")
    loop(run)
    assert stages(run)[-1] == (1, "evaluate")
    with run.store() as store:
        warnings = [text for _, kind, text in store.events() if kind == "warning"]
        figures = store.figures(1, IterationFigures)
    assert sum("health.min_spread" in text for text in warnings) == 1  # not again at the end
    assert figures is not None
    failed = {gate.name for gate in figures.health if gate.passed is False}
    assert "spread" in failed
    assert "warning: iteration 1: the scores" in scores_text(scores_of(run), width=999)


def test_drift_stops_after_the_model_is_made_and_is_not_measured_again() -> None:
    run = make("iterations=2", "health.stop_on=[drift]", "evaluation.canaries=false")
    with pytest.raises(StoppedError, match=r"iteration 1: .*\+0\.\d+ points from where M1"):
        loop(run, shifts)
    assert stages(run)[-1] == (1, "evaluate")
    assert run.model_directory(2).exists()
    before = report(run, 1, "judge")
    run.configure(["health.max_drift=5"])
    loop(run, shifts)
    assert report(run, 1, "judge") == before
    assert stages(run)[-1] == (2, "evaluate")


def test_the_seed_model_is_held_against_what_its_evaluation_found_alone() -> None:
    run = make("iterations=0", "health.max_canary=0", "health.stop_on=[canary, drift, parse_rate]")
    gullible = says(lambda prompt: 5 if "Ignore the rubric" in prompt else 1)
    with pytest.raises(StoppedError, match="iteration 0: responses that ask for a high score"):
        loop(run, lambda iteration: gullible)
    assert {gate["name"] for gate in report(run, 0, "health")["gates"]} == {*AFTER_EVALUATION}


def test_scores_and_plot_show_each_model_as_a_judge(tmp_path: Path) -> None:
    run = make()
    loop(run)
    scores = scores_of(run)
    text = scores_text(scores, everything=True)
    found = scores.iterations[1].judge
    assert found is not None
    assert f"{found.accuracy.value:.1%} [" in text
    for words in ("M2 as a judge is ", "agrees with people", "longer wins",
                  "drift from M1", "canary uplift"):  # fmt: skip
        assert words in text
    save_overview(ChartData(scores.iterations), tmp_path / "plot.svg", "run")
    bare = tuple(replace(figures, judge=None) for figures in scores.iterations)
    save_overview(ChartData(bare), tmp_path / "bare.svg", "run")
    panels = [(tmp_path / name).read_text().count("-axes_") for name in ("plot.svg", "bare.svg")]
    assert panels == [4, 3]


def test_without_a_seed_step_the_base_model_is_measured() -> None:
    run = make("sft=null", "iterations=0")
    loop(run)
    assert stages(run) == [(0, "evaluate")]
    text = scores_text(scores_of(run))
    assert "no seed SFT, M1 = M0" in text
    assert "M1 as a judge is " in text


# What is shipped


def test_shipped_canaries_are_short_of_prompts_that_are_trained_on() -> None:
    assert len(CANARIES) >= 20
    assert len({canary.kind for canary in CANARIES}) >= 15
    assert len({canary.prompt for canary in CANARIES}) >= 10  # else there is no interval
    assert len({(canary.prompt, canary.attack) for canary in CANARIES}) == len(CANARIES)
    assert max(len(canary.attacked) for canary in CANARIES) < 300
    eft = seeds.read_eft(SeedSource(path="seed/eft.jsonl"))
    ift = seeds.read_ift(SeedSource(path="seed/ift.jsonl"))
    trained = [row.prompt for row in [*eft, *ift]]
    check_held_out("ranked", [canary.prompt for canary in CANARIES], {"seed": trained})


def test_evaluation_is_off_only_where_there_is_nothing_to_ask() -> None:
    assert EvaluationConfig().is_on
    assert EvaluationConfig(ranked=None, canaries=False).is_on
    assert not EvaluationConfig(ranked=None, canaries=False, questions=None).is_on
    assert EvaluationConfig(questions=None).judges == ()
    assert not EvaluationConfig(ranked=None, compare=True).compares
