"""What is said of the keys of a config is said once, where they are declared."""

import subprocess
import sys

import pytest

from selfreward.config.load import build_config
from selfreward.config.reference import explain, keys
from selfreward.errors import ConfigError
from selfreward.verbs.config_show import explained, explained_text
from tests.support import ROOT


def test_the_page_of_all_keys_is_what_the_config_says() -> None:
    script = [sys.executable, "docs/draw_config.py", "--check"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_key_says_what_it_is_for() -> None:
    assert [key.name for key in keys() if not key.doc] == []


def test_every_value_of_a_config_has_a_key_that_is_explained() -> None:
    def names(data: dict, at: str = "") -> list[str]:
        found = []
        for name, value in data.items():
            found += [at + name]
            is_group = isinstance(value, dict) and name not in ("columns", "chat_template_kwargs")
            found += names(value, f"{at}{name}.") if is_group else []
        return found

    words = ["judge.engine={kind: vllm}", "sft.selection={ranked: a.jsonl}", "judge.jury=[{}]"]
    data = build_config({}, words).model_dump(mode="json")
    for name in [*names(data), *names(data["judge"]["jury"][0], "judge.jury.0.")]:
        assert explain(name).name == name


def test_a_key_is_explained_with_its_value_here() -> None:
    config = build_config({}, ["judge.jury=[{weight: 2}]", "dpo.beta=0.3"])
    assert explained(config, "dpo.beta")["value"] == 0.3
    assert explained(config, "judge.jury.0.weight")["value"] == 2.0
    assert explained(config, "judge.jury.4.weight")["value"] is None
    text = explained_text(explained(config, "engine.concurrency"))
    assert "Requests in flight" in text
    assert "resume may change it  at any time" in text
    assert "int, 1 or more" in text


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("health.max_ties", "always"), ("iterations", "always"), ("dpo.beta", "unused"),
        ("judge.engine.kind", "always"), ("judge.jury.1.engine.concurrency", "always"),
        ("judge.template", "never"), ("sft.ift", "never"), ("sft.ift.limit", "never"),
        ("judge.jury.0.template", "never"), ("judge.votes", "unused"),
    ],
)  # fmt: skip
def test_when_resume_may_change_a_key_is_what_resume_does(name: str, changes: str) -> None:
    assert explain(name).changes == changes


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dpo.bta", "dpo.beta"),
        ("sft.ift.limt", "sft.ift"),
        ("dpo.num_train_epochs", "Other keys are TRL's `DPOConfig`"),
        ("judge.jury.0.break_ties", "judge.break_ties"),
        ("nothing", "config show CONFIG"),
    ],
)
def test_a_key_that_is_none_is_one_line_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match="no key") as error:
        explain(name)
    assert near in error.value.hint
