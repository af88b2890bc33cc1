"""Every `train.method` over the loop: what is trained on what, from where, and what is kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.base import FinishReason
from selfreward.errors import ConfigError, StoppedError
from selfreward.inputs.collect import create_run
from selfreward.inputs.shipped import SHARE
from selfreward.measures.consistency import CONSISTENCY, Consistency
from selfreward.measures.figures import IterationFigures
from selfreward.records import Drop, Judgment, PreferencePair, Prompt, Response
from selfreward.stages.jury import mean_scores
from selfreward.storage import durable
from selfreward.storage.committed import needed_models
from selfreward.storage.directory import Run, open_run
from selfreward.training.base import DpoRow, OnLog, OnStep, Training
from selfreward.verbs.lineage import lineage
from selfreward.verbs.maintenance import verify
from selfreward.verbs.plan import plan_of
from selfreward.workers import jobs
from selfreward.workers.rollout import _roles
from tests.support import loop_driver
from tests.support.families import make_family
from tests.support.loop_driver import ScriptedWorkers, scripted_fit
from tests.support.scripted import CONTROL_TOKENS, ScriptedChat
from tests.test_controller import SMALL, always_four
from tests.workers.test_jobs import RealTraining


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Training, Sequence[Any]]]:
    """What each model's training was asked for, by its name."""
    asked: dict[str, tuple[Training, Sequence[Any]]] = {}

    def fit(training: Training, rows: Sequence[Any], *, on_log: OnLog, on_step: OnStep) -> None:
        asked[training.output.name] = training, rows
        scripted_fit(training, rows, on_log=on_log, on_step=on_step)

    monkeypatch.setattr(loop_driver, "scripted_fit", fit)
    return asked


UNMEASURED = ["evaluation.ranked=null", "evaluation.questions=null", "evaluation.canaries=false"]


def looped(*words: str, reply: Any = None) -> Run:
    run = create_run(build_config({}, [*SMALL, *UNMEASURED, "iterations=2", *words]), "run")
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run, reply=reply))
    return run


LONG = "train.sft.max_length=9999"


def test_sft_imitates_one_response_of_each_prompt_and_needs_no_pairs(told: Any) -> None:
    run = looped("train.method=sft", LONG, "train.sft.learning_rate=3e-6", reply=always_four)
    training, rows = told["M2"]
    assert (training.method, training.key) == ("sft", "train.sft")
    assert training.options == {"learning_rate": 3e-6}
    with run.store() as store:
        accepted = [prompt for prompt in store.records(Prompt, 1) if prompt.dropped is None]
        assert store.records(PreferencePair, 1) == []
        stage = store.finished(1, "train")
        made = [(a.model, a.method, a.base) for a in lineage(store)]
    assert stage is not None and stage.rows == len(rows) == len(accepted) == 4
    assert made == [("M1", "SFT", "M0"), ("M2", "SFT", "M1"), ("M3", "SFT", "M2")]


@pytest.mark.parametrize(("start", "bases"), [("M0", ["M0", "M0"]), ("M1", ["M1", "M1"])])
def test_sft_can_begin_from_the_same_model_in_each_iteration(
    start: str, bases: list[str], told: Any
) -> None:
    run = looped("train.method=sft", LONG, f"train.sft.start={start}")
    assert [told[name][0].model.name for name in ("M2", "M3")] == bases
    with run.store() as store:
        assert [made.base for made in lineage(store)] == ["M0", *bases]


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_what_the_policy_as_judge_says_of_new_samples_decides_what_is_learned(method: str) -> None:
    weights = []
    for points in (4, 4, 1):
        words = (f"train.method={method}", "responses.n=2", f"{method}.num_generations=2")
        config = build_config({}, [*SMALL, *UNMEASURED, "iterations=1", *words])
        run = create_run(config, f"run{len(weights)}")

        def reply(prompt: str, number: int, points: int = points) -> tuple[str, FinishReason]:
            text, reason = always_four(prompt, number)
            return text.replace("Score: 4", f"Score: {points}"), reason

        launch(run, tick=lambda: None, workers=ScriptedWorkers(run, reply=reply))
        weights.append((run.model_directory(2) / "weights").read_text())
    assert weights[0] == weights[1] != weights[2]


def test_what_is_replayed_is_what_was_trained_on_before(told: Any) -> None:
    replay = ("train.replay.aift=true", "train.replay.seed=true", "sft.eft_weight=2.0")
    looped("train.method=sft", LONG, *replay)
    seed, first, second = ([*told[name][1]] for name in ("M1", "M2", "M3"))
    assert len(first) == len(second) - 4 and first[-len(seed) :] == seed == second[-len(seed) :]
    assert second[4:8] == first[:4]
    assert [told[name][0].eft_weight for name in ("M1", "M2", "M3")] == [2.0, 2.0, 2.0]


def test_pairs_are_replayed_where_it_is_asked_for_and_only_there(told: Any) -> None:
    looped()
    alone = {name: [*told[name][1]] for name in ("M2", "M3")}
    told.clear()
    run = create_run(build_config({}, [*SMALL, "iterations=2", "train.replay.aift=true"]), "again")
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run))
    assert [*told["M2"][1]] == alone["M2"]
    assert [*told["M3"][1]][-len(alone["M2"]) :] == alone["M2"]


RANKED: list[dict[str, Any]] = [
    {
        "prompt": "Name a fruit.",
        "responses": [
            {"text": "A pear.", "rank": 2},
            {"text": "An apple, which is red.", "rank": 1},
            {"text": "A stone.", "rank": 3},
            {"text": "A log.", "rank": 3},
        ],
    },
    {"prompt": "Name a bird.", "chosen": "A wren.", "rejected": "A cow."},
    {"prompt": "Name a star.", "chosen": "The sun.", "rejected": f"{CONTROL_TOKENS[1]} The moon."},
    {"prompt": "Name a sea.", "chosen": "The Baltic. " * 400, "rejected": "A pond."},
    {
        "prompt": "Name a tree.",
        "responses": [{"text": "An oak.", "score": 4}, {"text": "A fir.", "score": 4}],
    },
    {"prompt": "Name a fish.", "chosen": "A carp.", "rejected": "A carp."},
]


def ranked(directory: Path, *more: dict[str, Any]) -> str:
    file = directory / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*RANKED, *more]))
    return f"train.preferences={file}"


def test_dpo_learns_what_people_preferred_and_says_what_of_it_it_could_not(
    runs: Path, told: Any
) -> None:
    run = looped(ranked(runs), "dpo.max_length=200", reply=always_four)
    training, rows = told["M2"]
    chat: Any = ScriptedChat()

    def pair(prompt: str, chosen: str, rejected: str) -> DpoRow:
        (prompt_ids, better), (_, worse) = (
            chat.continuation(prompt, "", text) for text in (chosen, rejected)
        )
        return DpoRow(prompt_ids, better, worse)

    assert training.method == "dpo" and [*rows] == [
        pair("Name a fruit.", "An apple, which is red.", "A stone."),
        pair("Name a bird.", "A wren.", "A cow."),
    ]
    assert [*told["M3"][1]] == [*rows]
    with run.store() as store:
        assert store.records(PreferencePair, 1) == []  # all have four points
        drops = {drop.item: drop.reason for drop in store.records(Drop, 1) if drop.stage == "train"}
        stage = store.finished(1, "train")
    assert drops == {
        "preferences:2": "control token",
        "preferences:3": "too long",
        "preferences:4": "tie",
        "preferences:duplicate": "duplicate",
        "preferences:one response": "one response",
    }
    assert stage is not None and (stage.rows, stage.drops) == (2, 5)


def test_what_models_are_measured_by_is_not_learned_as_a_preference(runs: Path) -> None:
    with (SHARE / "prompts/seed/questions.jsonl").open() as questions:
        question = json.loads(next(questions))["prompt"]
    asked = {"prompt": question, "chosen": "Yes, it is.", "rejected": "No."}
    with pytest.raises(ConfigError, match=r"train\.preferences") as error:
        create_run(build_config({}, [*SMALL, ranked(runs, asked)]), "run")
    assert question[:30] in error.value.message


def test_a_plan_counts_the_pairs_of_people(runs: Path) -> None:
    config = build_config({}, [*SMALL, ranked(runs), "iterations=1", "dpo.num_train_epochs=8"])
    plan = plan_of(config, None)
    row = next(row for row in plan["per_iteration"] if row["stage"] == "train")
    assert (row["records"], row["sampled"]) == (4, 0)
    assert row["note"] == f"pairs of people at most, {row['steps']} steps"


def test_sft_that_finds_nothing_good_enough_stops_with_the_scores_and_goes_on_with_less() -> None:
    with pytest.raises(StoppedError, match="no response to train on; dropped: score 4") as error:
        looped("train.method=sft", LONG, "train.sft.min_score=5", reply=always_four)
    assert "best 4 < 5 points" in error.value.hint
    assert "`selfreward resume run train.sft.min_score=...`" in error.value.hint
    run = open_run("run")
    run.configure(["train.sft.min_score=4"])
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run, reply=always_four))
    with run.store() as store:
        trained = [(s.rows, s.drops) for s in store.stages() if s.stage == "train"]
    assert trained[1:] == [(4, 0), (4, 0)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.method=none", "train.replay.aift=true"], "train.method=none trains nothing"),
        (["train.replay.seed=true"], "takes pairs; set train.replay.seed=false"),
        (["train.method=sft", "train.replay.seed=true", "sft=null"], "but sft is null"),
        (
            ["train.method=sfd"],
            "Input should be 'dpo', 'sft', 'rloo', 'grpo' or 'none'",
        ),
        (
            ["train.preferences=seed/eft.jsonl", "train.method=sft"],
            "train.preferences: train.method=sft trains on no pairs",
        ),
        (
            ["train.preferences=seed/eft.jsonl", "train.replay.aift=true"],
            "train.preferences: train.replay.aift=true would add",
        ),
        (
            ["train.preferences=seed/eft.jsonl", "dpo.weigh_by=margin"],
            "train.preferences: dpo.weigh_by=margin is known of the run's own pairs alone",
        ),
        (
            [
                "train.preferences=seed/eft.jsonl",
                "engine.kind=transformers",
                "dpo.reference_logprobs=engine",
            ],
            "train.preferences: dpo.reference_logprobs=engine is known of what M(t) sampled alone",
        ),
        (
            ["train.preferences=seed/eft.jsonl", "meta={}"],
            "train.preferences: meta adds the run's own pairs",
        ),
        (["train.sft.min_score=6"], "train.sft.min_score: Input should be less than or equal to 5"),
    ],
)
def test_a_method_without_its_data_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({}, words)
    assert said in error.value.message and "\n" not in error.value.message


def test_a_wrong_option_of_the_method_is_refused_under_the_key_it_stands_at() -> None:
    from selfreward.workers.checks import check_run

    for words, said in (
        (["train.sft.learnin_rate=1"], "train.sft.learnin_rate: SFTConfig has no such option"),
        (["train.method=sft", "train.sft.packing=true"], "train.sft.packing cannot be set"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_run(build_config({}, words), None)


BARE = ["iterations=2", "prompts.count=4", "responses.n=3", "sft=null", *UNMEASURED]


def test_without_training_the_next_model_has_the_weights_and_the_digest_of_the_one_before(
    tmp_path: Path,
) -> None:
    model = make_family(tmp_path / "model", "SmolLM 2")
    words = [*BARE, "train.method=none", "launch.processes=2"]
    run = create_run(build_config({"model": str(model)}, words), "run")
    launch(run, lambda: None, RealTraining(run))
    before, after = (durable.verify_directory(run.model_directory(i)) for i in (2, 3))
    assert before == after
    assert all(check["ok"] for check in verify(run)), verify(run)
    with run.store() as store:
        stages = [(s.rows, s.drops) for s in store.stages() if s.stage == "train"]
        assert [made.method for made in lineage(store)] == ["no training"] * 2
    assert stages == [(0, 0), (0, 0)]
    jobs_of = [durable.read_manifest(run.model_directory(i))["job"] for i in (2, 3)]
    assert jobs_of[0] == jobs_of[1]


def test_a_real_training_by_sft_moves_the_weights_and_goes_on_after_a_branch(
    tmp_path: Path,
) -> None:
    from selfreward.storage.branch import create_branch

    model = make_family(tmp_path / "model", "SmolLM 2")
    words = [*BARE, "train.method=sft", "train.sft.max_steps=2", "train.sft.learning_rate=1e-3"]
    run = create_run(build_config({"model": str(model)}, [*words, "iterations=1"]), "run")
    launch(run, lambda: None, RealTraining(run))
    with run.store() as store:
        losses = [row["loss"] for row in store.train_log(1)]
    assert len(losses) == 2 and losses[0] > losses[1] > 0
    digests = {durable.verify_directory(run.model_directory(2))}
    for name, method in (("dpo", "dpo"), ("none", "none")):
        other = create_branch(run, 1, name, [f"train.method={method}", "dpo.max_steps=1"])
        launch(other, lambda: None, RealTraining(other))
        digests.add(durable.verify_directory(other.model_directory(2)))
        with other.store() as store:
            assert lineage(store)[-1].method == {"dpo": "DPO", "none": "no training"}[method]
    assert len(digests) == 3


JURY = "judge.jury=[{model: previous, weight: 0, form: expected, template: judge/expected.jinja}]"


def test_cream_weighs_by_the_order_in_which_the_model_before_puts_the_same_responses(
    told: Any,
) -> None:
    run = looped("dpo.weigh_by=consistency", "judge.votes=1", JURY)
    for iteration, name in ((1, "M2"), (2, "M3")):
        with run.store() as store:
            found = store.report(iteration, CONSISTENCY, Consistency)
            figures = store.figures(iteration, IterationFigures)
        assert found and found.value is not None and found.prompts > 0 and figures
        assert figures.training.consistency == found
        assert {row.weight for row in told[name][1]} == {found.value}
        assert {row.turned for row in told[name][1]} == {1 - found.value}
    with run.store() as store:
        judges = {t: [r.model for r in _roles(run, store, t) if r.juror == 1] for t in (1, 2)}
        assert needed_models(run, store) == {"M2", "M3"}
        scored = mean_scores(store.records(Response, 1), store.records(Judgment, 1), (1.0, 0.0))
        alone = [judgment for judgment in store.records(Judgment, 1) if judgment.juror == 0]
        assert scored == mean_scores(store.records(Response, 1), alone)
    assert judges == {1: [run.policy(0)], 2: [run.policy(1)]}


def test_scpo_weighs_a_pair_by_its_margin_as_a_share_of_the_scale(told: Any) -> None:
    run = looped("dpo.weigh_by=margin")
    with run.store() as store:
        margins = [pair.margin / 5 for pair in store.records(PreferencePair, 1)]
    assert [row.weight for row in told["M2"][1]] == margins and max(margins) <= 1
    assert {row.turned for row in told["M2"][1]} == {0.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["judge.model=previous"], "model=previous is of a judge in judge.jury"),
        (["judge.weight=0"], "no response would have a score"),
        (["evaluation.contests=[{model: previous}]"], "is a model that is measured"),
    ],
)
def test_the_model_before_has_one_place(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config({}, words)


def test_a_run_made_before_there_were_methods_is_trained_by_dpo() -> None:
    run = create_run(build_config({}, SMALL), "run")
    text = run.resolved.read_text()
    start = text.index("\ntrain:")
    end = text.index("\ndpo:")
    run.resolved.write_text(text[:start] + text[end:])
    again = Run(run.path)
    assert again.config.train.method == "dpo"
    assert "train" not in json.loads(json.dumps(again._written[0]))
    assert jobs._method(again.config, 1) == "dpo"
