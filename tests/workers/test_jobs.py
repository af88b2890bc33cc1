"""What child processes check before they load anything."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.config.run import check_judges
from selfreward.controller import launch
from selfreward.engines.sessions import Sessions
from selfreward.errors import ConfigError, IntegrityError
from selfreward.inputs.collect import create_run
from selfreward.storage import durable
from selfreward.storage.branch import create_branch
from selfreward.training.base import OnLog, OnStep, Training
from selfreward.verbs.maintenance import verify
from selfreward.workers import jobs
from tests.support.families import make_family
from tests.support.loop_driver import ScriptedWorkers, scripted_fit
from tests.support.rollout import run_on_bytes
from tests.support.scripted import ScriptedChat


def test_a_base_model_altered_between_launches_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = run_on_bytes(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"others!")
    with (
        run.owned() as store,
        jobs.Generator() as generator,
        pytest.raises(IntegrityError, match="not the model that this run"),
    ):
        generator.generate(run, store, 1)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["judge.engine.kind=ctranslate2"], "Set judge.engine: {kind: server"),
        (["judge.engine.kind=server", "judge.form=expected"], "Set judge.form=written"),
    ],
)
def test_a_hosted_judge_needs_endpoints_and_gives_text_alone(words: list[str], hint: str) -> None:
    with pytest.raises(ConfigError, match="hosted") as caught:
        check_judges(build_config({"judge": {"model": "hosted"}}, words))
    assert caught.value.hint.startswith(hint)


def test_policy_and_another_judge_cannot_share_an_endpoint() -> None:
    shared = {"kind": "server", "endpoints": ["http://a:1/v1", "http://b:1/v1"]}
    more = {"kind": "server", "endpoints": ["http://b:1/v1"], "timeout_s": 9}
    judge = {"model": "org/judge", "engine": more}
    with pytest.raises(ConfigError, match="http://b:1/v1 serves the policy"):
        check_judges(build_config({"engine": shared, "judge": judge}))
    check_judges(build_config({"engine": shared, "judge": {**judge, "model": "policy"}}))


def test_each_judge_of_a_jury_is_checked_by_its_own_key() -> None:
    def check(*jury: dict) -> None:
        check_judges(build_config({"judge": {"jury": list(jury)}}))

    at = {"engine": {"kind": "server", "endpoints": ["http://a:1/v1"]}}
    with pytest.raises(ConfigError, match=r"judge.jury.1.engine.endpoints: .* judge.jury.0"):
        check({"model": "org/x", **at}, {"model": "org/y", **at})
    hosted = {"model": "hosted", **at}
    check(hosted, {"model": "hosted", "engine": {**at["engine"], "model": "another"}})
    with pytest.raises(ConfigError, match=r"judge.jury.1.form=expected"):
        check(hosted, {**hosted, "form": "expected"})
    with pytest.raises(ConfigError, match=r"judge.jury.0.engine.kind is auto"):
        check({"model": "hosted"})


def test_what_does_not_fit_into_the_models_positions_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    model = make_family(tmp_path / "gpt2", "GPT-2", n_positions=256)
    fits = [
        "prompts.max_new_tokens=64", "responses.max_new_tokens=64", "dpo.max_length=256",
        "sft.max_length=256",
    ]  # fmt: skip
    jobs.prepare(create_run(build_config({"model": str(model)}, fits), "fits"))
    for i, word in enumerate(("responses.max_new_tokens=250", "sft.max_length=257")):
        run = create_run(build_config({"model": str(model)}, [*fits, word]), f"run{i}")
        with pytest.raises(ConfigError, match="do not fit into the 256 positions") as error:
            jobs.prepare(run)
        assert error.value.message.startswith(word.partition("=")[0])


def test_preferences_of_which_none_can_be_learned_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    model = make_family(tmp_path / "gpt2", "GPT-2", n_positions=256)
    long = {"prompt": "Name a fruit.", "chosen": "A plum. " * 99, "rejected": "A brick."}
    file = tmp_path / "ranked.jsonl"
    words = [
        "prompts.max_new_tokens=64", "responses.max_new_tokens=64", "sft.max_length=256",
        "dpo.max_length=90", f"train.preferences={file}",
    ]  # fmt: skip
    file.write_text(json.dumps(long) + "\n")
    with pytest.raises(ConfigError, match=r"nothing in .*: too long 1") as error:
        jobs.prepare(create_run(build_config({"model": str(model)}, words), "long"))
    assert "dpo.max_length=90" in error.value.hint
    file.write_text("".join(json.dumps(row) + "\n" for row in (long, {**long, "chosen": "A fig."})))
    jobs.prepare(create_run(build_config({"model": str(model)}, words), "fits"))


def test_an_engine_that_is_passed_over_is_among_the_warnings_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    model = make_family(tmp_path / "model", "Phi 4-mini")
    words = ["engine.kind=auto", f"judge.model={model}", "prompts.count=1"]
    run = create_run(build_config({"model": str(model), "sft": None}, words), "run")
    jobs.prepare(run)

    async def kind(sessions: Sessions) -> str:
        session = await sessions.get(run.config.engine, run.policy(0))
        return session.engine.kind  # type: ignore[attr-defined]

    with run.owned() as store, jobs.Generator() as generator:
        sessions = generator._open(run, store)
        assert generator._runner.run(kind(sessions)) == "transformers"
        passed_over = [text for _, event, text in store.events() if event == "warning"]
    assert [text.rpartition(" ")[2] for text in passed_over] == ["ctranslate2", "transformers"]


class RealTraining(ScriptedWorkers):
    """Only the text is made up; prepares and trains as child processes do."""

    def prepare(self) -> None:
        jobs.prepare(self.run)

    def train(self, iteration: int, stage: str = "train") -> None:
        with self._epoch_store() as store:
            jobs.train(self.run, store, iteration, stage)


@pytest.mark.slow
def test_a_real_model_trained_anew_from_its_pairs_is_the_same_until_an_option_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    model = make_family(tmp_path / "model", "SmolLM 2")
    words = [
        "iterations=1", "sft=null", "prompts.count=4", "responses.n=3", "dpo.max_steps=2",
        "dpo.learning_rate=1e-3", "evaluation.ranked=null", "evaluation.questions=null",
        "evaluation.canaries=false",
    ]  # fmt: skip
    run = create_run(build_config({"model": str(model)}, words), "run")
    launch(run, lambda: None, RealTraining(run))
    digests = [durable.verify_directory(run.model_directory(2))]
    for name, other in (("same", []), ("faster", ["dpo.learning_rate=1e-2"])):
        made = create_branch(run, 1, name, other)
        launch(made, lambda: None, RealTraining(made))
        digests.append(durable.verify_directory(made.model_directory(2)))
        assert all(check["ok"] for check in verify(made)), verify(made)
    assert digests[0] == digests[1] != digests[2]


def test_a_training_says_when_its_steps_are_over_and_nothing_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({}, ["sft.max_length=9999"]), "run")
    workers = ScriptedWorkers(run)
    said: list[str] = []

    def fit(training: Training, rows: Sequence[Any], *, on_log: OnLog, on_step: OnStep) -> None:
        for step in (0, 1, 2):
            on_step(step, 3)
        assert said == []
        scripted_fit(training, rows, on_log=on_log, on_step=on_step)
        on_step(3, 3)
        assert set(said) == {jobs.STEPPED}

    with run.owned() as store:
        store.plan({0: run.config.stages(0)})
        workers.prepare()
        jobs.train_iteration(
            run,
            store,
            0,
            ScriptedChat(),  # type: ignore[arg-type]
            workers.open_session,
            fit,
            say=said.append,
        )
    assert said


@pytest.mark.parametrize("words", [[], ["chat_template=chat/chatml.jinja"]], ids=["own", "runs"])
def test_the_training_publishes_the_chat_template_of_the_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({}, [*words, "sft.max_length=9999"]), "run")
    told: list[Training] = []

    class Sees(ScriptedWorkers):
        def fit(self, training: Training, rows: Sequence[Any], **more: Any) -> None:
            told.append(training)
            super().fit(training, rows, **more)

    workers = Sees(run)
    with run.owned() as store:
        store.plan({0: run.config.stages(0)})
        workers.prepare()
        workers.train(0)
    [training] = told
    copy = run.path / "templates" / "chat.jinja"
    assert training.chat_template == (copy.read_text() if words else None)
