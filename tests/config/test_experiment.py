"""Experiment files: what they say, and how what is wrong in one is told."""

from pathlib import Path

import pytest

from selfreward.config.experiment import load_experiment
from selfreward.config.load import words_of
from selfreward.config.yamlfile import parse_overrides
from selfreward.errors import ConfigError

GOOD = """
base: quickstart
common:
  iterations: 1
  dpo: {learning_rate: 1e-5}
arms:
  plain: {}
  rpo: {dpo: {loss_type: [sigmoid, sft], beta: 0.2}, dpo.beta: 0.3}
  other: {recipe: cream, responses.n: 4}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_an_arm_is_its_base_or_recipe_with_the_overrides_of_all_arms_then_its_own(
    tmp_path: Path,
) -> None:
    found = load_experiment(write(tmp_path / "e.yaml", GOOD))
    assert [*found.arms] == ["plain", "rpo", "other"] and found.seeds == (1, 2, 3)
    assert [found.source(arm) for arm in found.arms] == ["quickstart", "quickstart", "cream"]
    common = [(("iterations",), 1), (("dpo", "learning_rate"), 1e-5)]
    assert parse_overrides(found.words("plain")) == common
    assert parse_overrides(found.words("rpo")) == [
        *common,
        (("dpo", "loss_type"), ["sigmoid", "sft"]), (("dpo", "beta"), 0.2), (("dpo", "beta"), 0.3),
    ]  # fmt: skip
    assert parse_overrides(found.words("other")) == [*common, (("responses", "n"), 4)]


def test_overrides_are_read_back_as_they_were() -> None:
    said = {
        "system_prompt": '\U0001f600 \u2028 \\ud83d\\ude00 \x7f "{[',
        "judge": {"jury": [{"x": "\U0010ffff"}]},
    }
    assert parse_overrides([*words_of(said)]) == [
        (("system_prompt",), said["system_prompt"]), (("judge", "jury"), [{"x": "\U0010ffff"}]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said", "hint"),
    [
        ("  plain: {}", "  rpo: {}", "e.yaml:8: key 'rpo' is already on line 7", "Keep one"),
        ("  plain: {}", "  RPO: {}", "e.yaml:6: arms: two arms of one name: RPO and rpo", ""),
        ("  plain: {}", "  a b: {}", "'a b' is no name of an arm", ""),
        ("  plain: {}", "  plain:", "e.yaml:7: arms.plain: has no overrides", "plain: {}"),
        ("  plain: {}", "  plain: {seed: 3}", "e.yaml:7: arms.plain.seed", "`seeds`"),
        ("iterations: 1", "recipe: cream", "e.yaml:4: common.recipe", "`base`"),
        ("base: quickstart", "basis: quickstart", "e.yaml:2: unknown key 'basis'", "base?"),
        ("base: quickstart\n", "", "e.yaml: the key base is missing", "base, common, arms, seeds"),
        ("base: quickstart", "base: 3", "e.yaml:2: base: ", "base: quickstart"),
        ("base: quickstart", "base: ''", "e.yaml:2: base: ", ""),
        ("  plain: {}", "  plain: {recipe: null}", "plain.recipe is None", ""),
        ("  plain: {}", "  plain: 3", "e.yaml:7: arms.plain: found 3, no mapping", "plain: {}"),
        ("common:", "seeds: [1, 2, 1]\ncommon:", "e.yaml:3: seeds: names 1 twice", ""),
        ("common:", "seeds: [-1]\ncommon:", "seeds.0: ", ""),
        ("common:", "seeds: []\ncommon:", "seeds: ", "seeds: [1, 2, 3]"),
        ("common:", "seeds: 3\ncommon:", "seeds: ", ""),
        ("iterations: 1", "api_key: sk-abcdefghijklmnopqrstuv", "e.yaml:4", ""),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_in_a_line_with_its_place(
    tmp_path: Path, old: str, new: str, said: str, hint: str
) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(ConfigError) as error:
        load_experiment(write(tmp_path / "e.yaml", text))
    assert said in error.value.message and hint in error.value.hint
    assert "\n" not in error.value.message and "sk-abc" not in error.value.message


def test_an_experiment_without_arms_is_refused(tmp_path: Path) -> None:
    for arms in ("{}", "[a, b]", "3"):
        with pytest.raises(ConfigError, match=r"e\.yaml:2: arms: "):
            load_experiment(write(tmp_path / "e.yaml", f"base: quickstart\narms: {arms}\n"))
