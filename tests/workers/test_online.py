"""Reinforcement learning over the loop: the judges of the run say what samples are worth."""

import asyncio
import json
import operator
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.chat import Chat
from selfreward.engines.sessions import Session
from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.inputs.judge_templates import run_judge_templates
from selfreward.measures.curves import training_figures
from selfreward.measures.figures import IterationFigures
from selfreward.measures.sampled import num_sampled
from selfreward.records import Criterion, Judgment, Prompt, Response
from selfreward.stages.judge import judge_response
from selfreward.storage import durable
from selfreward.storage.directory import Run, open_run
from selfreward.training.base import Verdict
from selfreward.training.seed_rows import sft_rows
from selfreward.verbs.lineage import lineage
from selfreward.verbs.maintenance import verify
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.workers import checks
from selfreward.workers.checks import check_run
from selfreward.workers.online import judge_rewards
from tests.support import plain
from tests.support.families import make_family, make_reward_model
from tests.support.models import make_model
from tests.support.scripted import ScriptedChat, ScriptedEngine
from tests.support.training import weights
from tests.workers.test_jobs import RealTraining

SOURCE = """
def vowels(completions, **rest):
    if "boom" in completions:
        raise ValueError("boom")
    return [sum(c in "aeiou" for c in text) / len(text) for text in completions]

def odd(completions, **rest):
    return [None if len(text) % 2 else 0.5 for text in completions]

def hangs(completions, **rest):
    while True:
        pass
"""
ALONE = [
    "sft=null", "prompts.count=4", "responses.n=3", "evaluation.ranked=null", "iterations=1",
    "evaluation.questions=null", "evaluation.canaries=false", "judge.min_parse_rate=0",
]  # fmt: skip
VOWELS = "judge.function=my_rewards:vowels"
SHORT = [
    "rloo.max_completion_length=12", "grpo.max_completion_length=12", "grpo.num_generations=4",
    "rloo.learning_rate=1e-3", "grpo.learning_rate=1e-3",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text(SOURCE)
    return tmp_path


def new_run(*words: str, model: Path | None = None, name: str = "run") -> Run:
    data = {"model": str(model)} if model else {}
    return create_run(build_config(data, [*ALONE, *SHORT, *words]), name)


def refused(settings: Any, model: Any) -> Session:
    raise AssertionError("no model is asked")


PROMPTS = [Prompt(1, 7, "Sing.", "Sing.", None), Prompt(1, 9, "Count.", "Count.", None)]


def judged(
    run: Run,
    texts: Sequence[str],
    open_session: Any = refused,
    cut: Sequence[str] = (),
    chat: Any = None,
) -> list[Verdict]:
    """The verdicts on answers to one prompt; those in ``cut`` do not end."""
    chat = chat or Chat(make_model(Path("policy")))

    def ids(text: str) -> tuple[int, ...]:
        said = tuple(chat.tokenizer(text, add_special_tokens=False).input_ids)
        return said if text in cut else (*said, chat.end_id)

    with (
        run.store() as store,
        judge_rewards(run, store, 1, PROMPTS, chat, open_session) as rewards,
    ):
        assert chat.end_id in rewards.end_ids
        [found] = rewards([(1, [ids(text) for text in texts])])
    return found


def test_a_function_that_raises_for_one_response_loses_that_one_alone() -> None:
    found = judged(new_run("train.method=rloo", VOWELS), ["ab", "boom", "aaab", "zz"])
    assert found == [
        Verdict(2.5), Verdict(None, "raised ValueError"), Verdict(3.75), Verdict(0.0),
    ]  # fmt: skip


def test_what_is_off_the_scale_empty_or_cut_off_has_no_verdict() -> None:
    run = new_run("train.method=rloo", VOWELS, "judge.scale=[0, 0.6]")
    found = judged(run, ["aa", "", "ab", "<|end|>", "abab"], cut=["abab"])
    reasons = [verdict.reason for verdict in found]
    assert reasons == ["off the scale", "empty", None, "control token", "truncated"]
    assert found[2].score == pytest.approx(5 * 0.5 / 0.6)
    judges_all = new_run("train.method=rloo", VOWELS, "judge.truncated=true", name="other")
    assert judged(judges_all, ["abab"], cut=["abab"]) == [Verdict(2.5)]


def test_a_jury_gives_the_weighted_mean_over_those_that_sit() -> None:
    jury = "judge.jury=[{function: 'my_rewards:odd', weight: 3}]"
    run = new_run("train.method=rloo", VOWELS, jury)
    # odd gives 2.5 to an even number of letters and nothing to an odd one; it weighs 3 of 4
    found = judged(run, ["aa", "zz", "aaa"])
    assert found[:2] == [Verdict((5 + 3 * 2.5) / 4), Verdict(3 * 2.5 / 4)]
    assert found[2] == Verdict(None, "no value")


def test_a_function_gets_all_that_was_sampled_for_the_prompt() -> None:
    run = new_run("train.method=rloo", "judge.function=selfreward.rewards.votes:share")
    found = judged(run, ["answer: 1", "answer: 1", "answer: 2", "none"])
    assert found == [Verdict(2.5), Verdict(2.5), Verdict(1.25), Verdict(None, "no value")]


def test_a_judge_without_weight_is_not_asked() -> None:
    jury = "judge.jury=[{function: 'my_rewards:hangs', weight: 0, timeout_s: 0.1}]"
    assert judged(new_run("train.method=rloo", VOWELS, jury), ["ab"]) == [Verdict(2.5)]


def test_a_judge_that_hangs_on_everything_ends_the_training() -> None:
    run = new_run("train.method=rloo", "judge.function=my_rewards:hangs", "judge.timeout_s=0.05")
    with pytest.raises(PreflightError, match="5 calls in a row timed out"):
        judged(run, [letter * 3 for letter in "abcdefgh"])


def test_a_reward_model_gives_the_points_that_its_reward_has_on_the_scale(here: Path) -> None:
    from selfreward.engines.base import Request
    from selfreward.engines.reward import RewardModel

    path = make_reward_model(here / "reward")
    run = new_run(
        "train.method=rloo", f"judge.model={path}", "judge.form=reward", "judge.scale=[-9, 9]"
    )
    chat, closed = Chat(path), []

    class Watched(RewardModel):
        async def close(self) -> None:
            closed.append(True)
            await super().close()

    found = judged(run, ["a", "b c"], lambda *_: Session(Watched(path, chat), chat))
    assert closed == [True]
    for verdict, text in zip(found, ["a", "b c"], strict=True):

        async def reward(text: str = text) -> float | None:
            model = RewardModel(path, chat)
            [given] = await model.generate(Request(chat.conversation_ids("Count.", text)))
            await model.close()
            return given.reward

        given = asyncio.run(reward())
        assert given is not None and verdict.score == pytest.approx(5 * (given + 9) / 18, abs=1e-5)


WORDS = ["judge.model=policy"]


def votes_on(run: Run, engine: ScriptedEngine, text: str, juror: int = 0) -> list[Judgment]:
    """What a judge asked in words says of the first of the answers to the prompt that is used."""
    return asyncio.run(
        judge_response(
            engine, ScriptedChat(), run_judge_templates(run, juror)["judge"], PROMPTS[1],
            Response(1, 0, 0, text, "stop", 2), run.config.judge.jurors[juror],
            run_seed=run.config.seed, juror=juror, criteria=CRITERIA if juror == 0 else (),
        )
    )  # fmt: skip


def resolved(run: Run) -> None:
    base = {"path": str(run.path / "base"), "digest": "0"}
    (run.path / "models" / "M0.json").write_text(json.dumps(base))


CRITERIA = [Criterion(1, 9, 0, 0, "Numbers.", 3.0), Criterion(1, 9, 0, 1, "In order.", 1.0)]


@pytest.mark.parametrize(
    ("form", "template"),
    [
        ("written", "judge/additive.jinja"),
        ("expected", "judge/expected.jinja"),
        ("written_expected", "judge/additive.jinja"),
        ("criteria", "judge/criterion.jinja"),
    ],
)
def test_the_policy_judges_what_is_sampled_as_it_judges_its_responses(
    form: str, template: str
) -> None:
    jury = f"judge.jury=[{{model: M1, form: {form}, template: {template}, weight: 0}}]"
    words = [f"judge.form={form}", f"judge.template={template}", jury]
    run = new_run("train.method=rloo", *WORDS, *words)
    opened: list[tuple[str, Any]] = []
    engine = ScriptedEngine()

    def open_session(settings: Any, model: Any) -> Session:
        opened.append((settings.kind, model))
        return Session(engine, ScriptedChat())  # type: ignore[arg-type]

    with run.owned() as store:
        store.add([*PROMPTS, *CRITERIA])
    resolved(run)
    found = judged(run, ["one two"], open_session)
    assert opened == [("auto", run.policy(1))] and engine.closed
    votes = votes_on(run, ScriptedEngine(), "one two")
    scores = [vote.score for vote in votes if vote.score is not None]
    weights_ = [vote.weight for vote in votes if vote.score is not None]
    if scores:
        mean = sum(map(operator.mul, scores, weights_)) / sum(weights_)
        assert found[0].score == pytest.approx(mean)
    else:
        assert found == [Verdict(None, votes[0].reason)]


def test_an_implicit_judge_gives_what_its_two_models_do() -> None:
    jury = "{form: implicit, model: ./dpo, reference: ./sft, scale: [-10, 10]}"
    run = new_run("train.method=grpo", VOWELS, f"judge.jury=[{jury}]")
    opened: list[Any] = []

    def open_session(settings: Any, model: Any) -> Session:
        opened.append((settings.kind, settings.options, model))
        return Session(ScriptedEngine(), ScriptedChat())  # type: ignore[arg-type]

    [found] = judged(run, ["ab"], open_session)
    assert opened == [("implicit", {"reference": "./sft"}, "./dpo")]
    reward = sum(map(len, ScriptedChat().continuation("Count.", "", "ab"))) / 10
    assert found.score == pytest.approx((2.5 + 5 * (reward + 10) / 20) / 2)


def test_judges_of_one_model_share_it_and_all_count() -> None:
    jury = "judge.jury=[{form: expected, template: judge/expected.jinja, weight: 3}]"
    words = ["judge.form=expected", "judge.template=judge/expected.jinja", jury]
    run = new_run("train.method=rloo", *WORDS, *words, "engine.concurrency=2")
    resolved(run)
    engines: list[ScriptedEngine] = []

    def open_session(settings: Any, model: Any) -> Session:
        engines.append(ScriptedEngine(delay_s=0.01))
        return Session(engines[-1], ScriptedChat())  # type: ignore[arg-type]

    found = judged(run, ["one", "two", "three", "four"], open_session)
    [engine] = engines
    assert len(engine.requests) == 8 and engine.most_in_flight == 2
    assert all(verdict.score is not None for verdict in found)


@pytest.mark.parametrize("judge", [WORDS[0], "judge.model=M1"])
def test_vllm_beside_a_training_has_to_be_told_its_memory(
    judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*ALONE, *SHORT, "train.method=rloo", judge, "engine.kind=vllm"]
    monkeypatch.setattr(checks, "is_cpu_build", lambda: True)
    checks._check_beside(build_config({}, words))  # it takes 2 GB by itself
    monkeypatch.setattr(checks, "is_cpu_build", lambda: False)
    with pytest.raises(ConfigError, match="vLLM would take nine tenths of the memory") as error:
        checks._check_beside(build_config({}, words))
    assert "engine.gpu_memory_utilization=0.3" in error.value.hint
    checks._check_beside(build_config({}, [*words, "engine.gpu_memory_utilization=0.3"]))
    of_dpo = [word for word in words if word != "train.method=rloo"]
    checks._check_beside(build_config({}, of_dpo))


def test_endpoints_that_would_have_to_serve_two_models_at_once_are_refused() -> None:
    server = "engine={kind: server, endpoints: ['http://a:1/v1']}"
    words = [*ALONE, *SHORT, "train.method=rloo", server]
    checks._check_beside(build_config({}, [*words, "judge.jury=[{}]"]))
    two = [*words, "judge.jury=[{model: M1}]"]
    with pytest.raises(ConfigError, match="the same endpoints serve policy as a judge") as error:
        checks._check_beside(build_config({}, two))
    assert error.value.hint == "Set judge.jury.0.engine with endpoints of its own."
    apart = "{kind: server, endpoints: ['http://b:1/v1']}"
    checks._check_beside(build_config({}, [*words, f"judge.jury=[{{model: M1, engine: {apart}}}]"]))
    unasked = "judge.jury=[{model: M1, weight: 0}]"
    checks._check_beside(build_config({}, [*words, unasked]))
    checks._check_beside(build_config({}, [*two, "train.method=dpo"]))


def test_a_function_needs_no_memory_beside_a_training() -> None:
    words = [*ALONE, *SHORT, "train.method=rloo", VOWELS, "engine.kind=vllm"]
    checks._check_beside(build_config({}, words))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_a_run_trains_on_rewards_and_says_what_they_were(method: str, here: Path) -> None:
    model = make_family(here / "model", "SmolLM 2")
    run = new_run(f"train.method={method}", VOWELS, "judge.truncated=true", model=model)
    launch(run, lambda: None, RealTraining(run))
    before, after = weights(model), weights(run.policy(2))
    assert all(not before[name].equal(after[name]) for name in before)
    assert all(check["ok"] for check in verify(run)), verify(run)
    with run.store() as store:
        [made] = lineage(store)
        figures = store.figures(1, IterationFigures)
        log = store.train_log(1)
    assert (made.base, made.method, made.rows) == ("M1", method.upper(), 4)
    assert figures is not None and figures.training.online is not None
    online = figures.training.online
    assert online.sampled == 16 and online.reward is not None and online.kl is not None
    in_training = sum(row["sampled"] * row["completions/mean_length"] for row in log)
    judged = figures.prompts.tokens + figures.responses.tokens + figures.judgments.tokens
    assert in_training > 0 and num_sampled(figures) == judged + round(in_training)
    counted = sum(int(row["no_verdict"]) for row in log)
    assert sum(online.no_verdict.values()) == counted < 16
    assert 0 <= online.reward.mean <= 5 if online.reward.mean is not None else False
    shown = plain(scores_text(scores_of(run)))
    for row in ("  responses  ", "  without a verdict  ", "  mean points  ", "  KL to the ref"):
        assert row in shown, shown


@pytest.mark.long
def test_the_real_model_trains_on_what_it_says_of_its_samples(model_dir: Path) -> None:
    run = new_run(
        "train.method=rloo", *WORDS, "judge.form=expected", "judge.template=judge/expected.jinja",
        "judge.truncated=true", "engine.kind=ctranslate2", "rloo.max_steps=2", model=model_dir,
    )  # fmt: skip
    launch(run, lambda: None, RealTraining(run))
    before, after = weights(model_dir), weights(run.policy(2))
    assert all(not before[name].equal(after[name]) for name in before)
    with run.store() as store:
        online = training_figures(store, 1).online
    assert online is not None and online.sampled == 32
    assert sum(online.no_verdict.values()) < 32
    assert online.reward is not None and online.reward.mean is not None
    assert 0 < online.reward.mean < 5


@pytest.mark.slow
def test_a_run_that_ended_in_training_goes_on_to_the_model_of_an_undisturbed_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfreward.storage.tracker import Tracker

    model = make_family(here / "model", "SmolLM 2")
    words = ("train.method=rloo", VOWELS, "judge.truncated=true", "rloo.save_steps=1",
             "prompts.count=8")  # fmt: skip
    whole, cut = (new_run(*words, model=model, name=name) for name in ("whole", "cut"))
    launch(whole, lambda: None, RealTraining(whole))
    advance = Tracker.advance

    def killed(tracker: Tracker, done: int, total: int | None = None) -> None:
        if tracker._stage == "train" and done == 2:
            raise KeyboardInterrupt
        advance(tracker, done, total)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Tracker, "advance", killed)
        launch(cut, lambda: None, RealTraining(cut))
    again = open_run("cut")
    launch(again, lambda: None, RealTraining(again))
    digests = {durable.verify_directory(run.model_directory(2)) for run in (whole, again)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([VOWELS, "judge.jury=[{imported: ann}]"], "the votes of judge.jury.0, ann, come from"),
        ([VOWELS, "launch.processes=2"], "trains in one process so far; leave out launch.proc"),
        ([VOWELS, "train.replay.aift=true"], "samples anew; set train.replay.aift=false"),
        ([VOWELS, "train.replay.seed=true"], "takes prompts; set train.replay.seed=false"),
        ([VOWELS, "rloo.max_length=12"], "rloo.max_length=12 leaves no room for a prompt"),
        ([VOWELS, "rloo.beta=-1"], "rloo.beta: Input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({}, [*ALONE, *SHORT, "train.method=rloo", *words])
    assert said in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rloo.num_generation=4", "rloo.num_generation: RLOOConfig has no such option"),
        ("rloo.num_generations=5", r"rloo: generation_batch_size \(16\) must be divisible"),
        ("grpo.loss_type=ppo", "grpo.loss_type: found 'ppo'"),
        ("rloo.top_p=3", "rloo.top_p: found 3.0, expected 1 at most"),
        ("rloo.min_p=2", "rloo.min_p: found 2.0, expected 1 at most"),
        ("rloo.min_p=-1", "rloo.min_p: found -1.0, expected 0 or more"),
        ("rloo.epsilon=-1", "rloo.epsilon: found -1.0, expected 0 or more"),
        ("rloo.use_vllm=true", "rloo.use_vllm: TRL finds no vllm"),
    ],
)
def test_a_wrong_option_is_refused_before_any_model_is_loaded(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trl = import_module("trl.import_utils")
    monkeypatch.setattr(trl, "is_vllm_available", lambda: False)
    with pytest.raises((ConfigError, PreflightError), match=said):
        check_run(build_config({}, [*ALONE, *SHORT, "train.method=rloo", VOWELS, word]), None)


def test_a_vllm_that_trl_does_not_support_is_refused_where_trl_is_to_sample_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trl = import_module("trl.import_utils")
    monkeypatch.setattr(trl, "_is_package_available", lambda *_, **__: (True, "0.99.0+cpu"))
    config = build_config({}, [*ALONE, *SHORT, "train.method=rloo", VOWELS, "rloo.use_vllm=true"])
    with pytest.raises(PreflightError, match=r"TRL currently supports vLLM.* 0\.99\.0\+cpu"):
        check_run(config, None)


def test_prompts_that_leave_no_room_for_a_response_are_dropped_and_recorded(here: Path) -> None:
    model = make_family(here / "model", "SmolLM 2")
    run = new_run("train.method=rloo", VOWELS, "judge.truncated=true", "rloo.max_length=89",
                  model=model)  # fmt: skip
    launch(run, lambda: None, RealTraining(run))
    with run.store() as store:
        stage = store.finished(1, "train")
        reasons = store.drop_reasons(1, "train")
    assert stage is not None and stage.rows + stage.drops == 4
    assert stage.rows and set(reasons) == {"too long"}


def test_the_mix_is_what_the_seed_step_trained_on(here: Path) -> None:
    model = make_family(here / "model", "SmolLM 2", max_position_embeddings=2048)
    seed = ["sft.ift={path: seed/ift.jsonl, limit: 8}", "sft.eft=null", "sft.max_length=2000"]
    run = new_run("train.method=rloo", VOWELS, "judge.truncated=true", "rloo.ptx=0.5", *seed,
                  model=model)  # fmt: skip
    launch(run, lambda: None, RealTraining(run))
    with run.store() as store:
        rows, stage = sft_rows(run, store, "train", Chat(model)), store.finished(0, "train")
        figures = training_figures(store, 1).online
    assert stage is not None and stage.rows == len(rows[0]) == 8
    assert figures is not None and figures.mixed is not None and figures.mixed.mean
    assert "loss of seed rows" in plain(scores_text(scores_of(run), 120, everything=True))


def test_a_mix_without_seed_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rloo\.ptx=0\.5 mixes in the rows of the seed step"):
        build_config({}, [*ALONE, *SHORT, "train.method=rloo", VOWELS, "sft=null", "rloo.ptx=0.5"])
