"""Values of a config that are fine each and come to nothing together."""

import re
from typing import get_args

import pytest

from selfreward.config.combinations import check_feasible, without_effect
from selfreward.config.judging import HealthConfig
from selfreward.config.load import build_config
from selfreward.errors import ConfigError
from selfreward.inputs.collect import create_run
from selfreward.records import GateName


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("prompts.count=16 pairs.min_pairs=17", "16 prompts with 4 responses each give 16 pairs"),
        ("prompts.count=16 prompts.max_attempts=3", "prompts.max_attempts=3 is below"),
        ("prompts.min_words=20 prompts.max_words=10", "no prompt would be accepted"),
        ("responses.temperature=0", "the same response each time"),
        ("judge.break_ties=true dpo.weigh_by=margin judge.form=written", "have no weight"),
        ("health.stop_on=[ties] health.max_ties=null", "health.max_ties is null"),
        ("health.stop_on=[mass] health.min_mass=null", "health.min_mass is null"),
        ("health.stop_on=[accuracy] evaluation.ranked=null", "there is no evaluation.ranked"),
        ("health.stop_on=[canary] evaluation.canaries=false", "there is no evaluation.canaries"),
    ],
)
def test_what_can_make_no_pair_and_a_brake_that_cannot_brake_are_refused_by_every_verb(
    words: str, says: str
) -> None:
    config = build_config({}, words.split())
    with pytest.raises(ConfigError, match=re.escape(says)):
        check_feasible(config)
    with pytest.raises(ConfigError, match=re.escape(says)):
        create_run(config, "run")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "prompts.count=16 pairs.min_pairs=96 pairs.rule=all_pairs",
        "prompts.count=16 pairs.min_pairs=17 train.method=sft",
        "responses.temperature=0 train.method=sft",
        "judge.break_ties=true dpo.weigh_by=margin judge.form=written train.method=sft",
        "prompts.count=3 prompts.max_attempts=3",
        "prompts.count=16 prompts.max_attempts=3 prompts.dataset=seed/ift.jsonl",
        "iterations=0 prompts.min_words=20 prompts.max_words=10",
        "prompts.dataset=seed/ift.jsonl responses.demonstrations=true responses.n=1 "
        "pairs.rule=all_pairs",
        "health.stop_on=[ties,drift,canary]",
    ],
)
def test_what_can_work_is_not_refused(words: str) -> None:
    check_feasible(build_config({}, words.split()))


def test_every_gate_has_a_figure_and_can_be_one_that_stops() -> None:
    for gate in get_args(GateName):
        check_feasible(build_config({}, [f"health.stop_on=[{gate}]"]))
        keys = [f"{bound}_{gate}" for bound in ("min", "max")]
        [key] = [key for key in keys if key in HealthConfig.model_fields]
        with pytest.raises(ConfigError, match=f"health.{key} is null"):
            check_feasible(build_config({}, [f"health.stop_on=[{gate}]", f"health.{key}=null"]))


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("", []),
        ("pairs.rho=0.9 pairs.max_per_prompt=1", ["pairs.rho", "pairs.max_per_prompt"]),
        ("pairs.rule=length_control pairs.rho=0.9", []),
        ("judge.votes=7", []),
        ("judge.votes=7 judge.form=expected", ["judge.votes"]),
        ("best.by=verifiable evaluation.contests=[]", ["best.by"]),
        ("best.by=judge_agreement evaluation.ranked=null", ["best.by"]),
        ("dpo.max_length=512", ["dpo.max_length"]),
    ],
)
def test_a_value_that_changes_nothing_is_told(words: str, keys: list[str]) -> None:
    assert [key for key, _ in without_effect(build_config({}, words.split()))] == keys
