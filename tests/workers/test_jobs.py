"""What child processes check before they load anything."""

from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.config.run import check_judge
from selfreward.engines.sessions import Sessions
from selfreward.errors import ConfigError, IntegrityError
from selfreward.inputs.collect import create_run
from selfreward.workers import jobs
from tests.support.families import make_family
from tests.support.rollout import run_on_bytes


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
        check_judge(build_config({"judge": {"model": "hosted"}}, words))
    assert caught.value.hint.startswith(hint)


def test_policy_and_another_judge_cannot_share_an_endpoint() -> None:
    shared = {"kind": "server", "endpoints": ["http://a:1/v1", "http://b:1/v1"]}
    more = {"kind": "server", "endpoints": ["http://b:1/v1"], "timeout_s": 9}
    judge = {"model": "org/judge", "engine": more}
    with pytest.raises(ConfigError, match="http://b:1/v1 serves the policy"):
        check_judge(build_config({"engine": shared, "judge": judge}))
    check_judge(build_config({"engine": shared, "judge": {**judge, "model": "policy"}}))


def test_each_judge_of_a_jury_is_checked_by_its_own_key() -> None:
    def check(*jury: dict) -> None:
        check_judge(build_config({"judge": {"jury": list(jury)}}))

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


def test_an_engine_that_is_passed_over_is_among_the_warnings_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    model = make_family(tmp_path / "model", "Llama, gelu")
    words = ["engine.kind=auto", f"judge.model={model}", "prompts.count=1"]
    run = create_run(build_config({"model": str(model), "sft": None}, words), "run")
    jobs.prepare(run)

    async def kind(sessions: Sessions) -> str:
        session = await sessions.get(run.config.engine, run.policy(0))
        return session.engine.kind  # type: ignore[attr-defined]

    with run.owned() as store, jobs.Generator() as generator:
        sessions = generator._open(run, store)
        assert generator._runner.run(kind(sessions)) == "transformers"
        [warning] = [text for _, event, text in store.events() if event == "warning"]
    assert "by transformers; engine.kind=auto tries transformers" in warning
