"""Secrets are refused before anything is written, and no message repeats them."""

from pathlib import Path

import pytest

from selfreward.config.load import build_config, load_config, load_copy
from selfreward.config.yamlfile import dump_yaml
from selfreward.errors import ConfigError

KEY = "sk-proj-" + "Ab1" * 8
HUB = "hf_" + "Ab1Cd2" * 5
SECRETS: list[tuple[dict[str, object], str]] = [
    ({"engine": {"kind": "server", "api_key_env": KEY}}, KEY),
    ({"engine": {"kind": "server", "api_key_env": "d41d8cd98f00b204e9800998ecf8427e"}}, "d41d8cd9"),
    ({"judge": {"engine": {"kind": "server", "api_key": "hunter2"}}}, "hunter2"),
    ({"judge": {"jury": [{"engine": {"kind": "server", "api_key_env": KEY}}]}}, KEY),
    ({"engine": {"kind": "server", "endpoints": ["https://me:hunter2@host/v1"]}}, "hunter2"),
    ({"dpo": {"hub_token": HUB}}, HUB),
    ({"dpo": {"hub_token": "hunter2"}}, "hunter2"),
    ({"sft": {"report_password": "hunter2"}}, "hunter2"),
    ({"launch": {"command": f"env HF_TOKEN={HUB} accelerate launch"}}, HUB),
    ({"launch": {"command": "env WANDB_API_KEY=hunter2 torchrun"}}, "hunter2"),
    ({"model": f"https://oauth2:{HUB}@huggingface.co/org/name"}, HUB),
    ({"system_prompt": f"Your key is {HUB}."}, HUB),
    ({"engine": {"kind": "server", "headers": {"Authorization": f"Bearer {'x1' * 12}"}}}, "x1x1"),
    ({"chat_template_kwargs": {"token": "eyJhbGciOi.eyJzdWIiOi.abc"}}, "eyJ"),
    ({HUB: 1}, HUB),
]


def words(data: object, at: str = "") -> list[str]:
    if isinstance(data, dict):
        return [w for k, v in data.items() for w in words(v, f"{at}.{k}" if at else str(k))]
    return [f"{at}={dump_yaml([data])[2:].strip()}"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("data", "secret"), SECRETS)
def test_a_secret_in_a_file_is_refused_and_not_repeated(
    tmp_path: Path, data: dict[str, object], secret: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(data))
    with pytest.raises(ConfigError, match="written into the run") as error:
        load_config(path)
    assert secret not in str(error.value)
    assert secret not in error.value.hint
    assert f"{path}" in error.value.message
    with pytest.raises(ConfigError) as error:  # of another kind: a run's copy is read as it is
        load_copy(path, ["iterations=-1"])
    assert "written into the run" not in error.value.message


@pytest.mark.parametrize(("data", "secret"), [s for s in SECRETS if "jury" not in str(s)])
def test_a_secret_in_a_word_is_refused_and_not_repeated(
    data: dict[str, object], secret: str
) -> None:
    for word in words(data):
        if secret[:4] in word:
            with pytest.raises(ConfigError, match="written into the run") as error:
                build_config({}, [word])
            assert secret not in str(error.value)


def test_a_word_that_is_no_setting_but_a_token_is_not_repeated() -> None:
    for word in (KEY, f"engine.x='{KEY}", f"iterations={KEY}"):
        with pytest.raises(ConfigError) as error:
            build_config({}, [word])
        assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "word",
    [
        "engine={kind: server, api_key_env: JUDGE_KEY}", "dpo.pad_token=<pad>", "dpo.eos_token=x",
        "model=org/sk-model", "launch.command=env HF_TOKEN=$HF_TOKEN accelerate launch",
        "launch.command=accelerate launch --config_file a.yaml", "system_prompt=Keep the token=3.",
        "engine={kind: server, endpoints: ['http://localhost:8000/v1']}", "model=hf_model",
        "sft.ift=data/password_questions.jsonl", "chat_template_kwargs.token_limit=3",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_taken(word: str) -> None:
    key, _, value = word.partition("=")
    held = build_config({}, [word]).model_dump(mode="json")
    for part in key.split("."):
        held = held[part]
    said = value.split("'")[1] if "'" in value else value.rstrip("}").rpartition(": ")[2]
    assert said in str(held)


def test_a_variable_of_any_spelling_may_be_named_where_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("judgeKey", "x")
    config = build_config({}, ["engine={kind: server, api_key_env: judgeKey}"])
    assert config.engine.options["api_key_env"] == "judgeKey"
