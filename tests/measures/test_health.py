"""Health gates: each passes at its limit and fails beyond it, saying what was found."""

from dataclasses import replace
from typing import Any, get_args

import pytest

from selfreward.config import HealthConfig
from selfreward.config.load import build_config
from selfreward.errors import ConfigError
from selfreward.measures.evaluated import CanaryFigures
from selfreward.measures.figures import IterationFigures, iteration_figures
from selfreward.measures.health import (
    AFTER_EVALUATION,
    BEFORE_TRAINING,
    finding,
    gates,
    key_of,
    remedy,
)
from selfreward.measures.reports import Gate
from selfreward.records import GateName
from selfreward.storage import database
from selfreward.storage.store import Store
from tests.support.figures import estimate, judge_figures

NAMES: tuple[GateName, ...] = get_args(GateName)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> IterationFigures:
    path = tmp_path_factory.mktemp("run") / "records.db"
    database.create(path)
    with Store(path) as store:
        figures = iteration_figures(store, 1)
    return replace(
        figures,
        judgments=replace(figures.judgments, parse_rate=1.0, mass=0.99),
        responses=replace(figures.responses, n=1000, truncated=0),
        scores=replace(figures.scores, fives=0.1, prompt_std=0.5, spearman_length=0.1),
        pairs=replace(figures.pairs, tie_rate=0.0, chosen_length=100.0, rejected_length=90.0),
        judge=judge_figures(accuracy=(0.62, 0.55, 0.69), gain=(0.1, 0.02, 0.18)),
        drift=estimate(0.1),
        canaries=CanaryFigures(estimate(0.2), 0, None),
    )


BEYOND: dict[GateName, tuple[list[str], float]] = {
    "parse_rate": (["judgments", "parse_rate"], -0.01),
    "mass": (["judgments", "mass"], -0.01),
    "truncated": (["responses", "truncated"], 1),
    "accuracy": (["judge", "accuracy", "low"], -0.01),
    "over_longest": (["judge", "gain", "low"], -0.01),
    "ceiling": (["scores", "fives"], 0.01),
    "spread": (["scores", "prompt_std"], -0.01),
    "ties": (["pairs", "tie_rate"], 0.01),
    "length_ratio": (["pairs", "chosen_length"], 1.0),
    "length_correlation": (["scores", "spearman_length"], 0.01),
    "drift": (["drift", "value"], 0.01),
    "canary": (["canaries", "uplift", "value"], 0.01),
}


def with_value(figures: Any, path: list[str], value: float | None) -> Any:
    first, *rest = path
    inner = with_value(getattr(figures, first), rest, value) if rest else value
    return replace(figures, **{first: inner})


def found(figures: IterationFigures, **limits: Any) -> dict[str, Gate]:
    return {gate.name: gate for gate in gates(figures, HealthConfig(**limits))}


def test_there_is_a_limit_for_every_gate_and_a_gate_for_every_limit(
    healthy: IterationFigures,
) -> None:
    gates_ = found(healthy)
    assert set(gates_) == set(NAMES) == {*BEFORE_TRAINING, *AFTER_EVALUATION}
    keys = {key_of(gate).removeprefix("health.") for gate in gates_.values()}
    assert keys | {"stop_on"} == set(HealthConfig.model_fields)
    assert all(gate.passed for gate in gates_.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_gate_passes_at_its_limit_and_fails_beyond_it(
    healthy: IterationFigures, name: GateName
) -> None:
    path, step = BEYOND[name]
    limit = found(healthy)[name].limit
    at = limit * {"length_ratio": 90.0, "truncated": 1000}.get(name, 1)
    is_strict = name in ("accuracy", "over_longest")
    assert found(with_value(healthy, path, at))[name].passed is not is_strict
    failed = found(with_value(healthy, path, at + step))
    assert [gate.name for gate in failed.values() if gate.passed is False] == [name]
    assert not failed[name].stops
    assert f"health.{'min' if step < 0 else 'max'}_" in finding(failed[name])
    assert remedy(failed[name], healthy)


# A function has no probability on scores.
@pytest.mark.parametrize("name", [name for name in BEFORE_TRAINING if name != "mass"])
def test_nobody_is_told_to_give_a_function_data(healthy: IterationFigures, name: GateName) -> None:
    computed = replace(healthy, judgments=replace(healthy.judgments, form="function"))
    said = remedy(found(healthy)[name], computed)
    assert "EFT" not in said
    assert "judge." not in said


@pytest.mark.parametrize("name", ["drift", "length_correlation"])
def test_drift_and_correlation_fail_in_either_direction(
    healthy: IterationFigures, name: GateName
) -> None:
    path, _ = BEYOND[name]
    gate = found(with_value(healthy, path, -0.99))[name]
    assert gate.passed is False
    assert "-0.99" in finding(gate)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_measured_neither_passes_nor_fails(
    healthy: IterationFigures, name: GateName
) -> None:
    path, _ = BEYOND[name]
    path = {"length_ratio": ["pairs", "rejected_length"]}.get(name, path)
    nothing = 0 if name == "truncated" else None
    path = ["responses", "n"] if name == "truncated" else path
    gate = found(with_value(healthy, path, nothing))[name]
    assert (gate.value, gate.passed) == (None, None)


def test_before_an_evaluation_nothing_is_known_of_the_new_model(healthy: IterationFigures) -> None:
    gates_ = found(replace(healthy, judge=None, drift=None, canaries=None))
    unknown = [name for name, gate in gates_.items() if gate.passed is None]
    assert unknown == list(AFTER_EVALUATION)


@pytest.mark.parametrize(
    ("accuracy", "gain", "failing"),
    [
        ((0.529, 0.42, 0.653), (0.05, -0.06, 0.17), {"accuracy", "over_longest"}),
        ((0.66, 0.59, 0.73), (-0.13, -0.2, -0.06), {"over_longest"}),
        ((0.5, 0.5, 0.5), (0.01, -0.09, 0.11), {"accuracy", "over_longest"}),  # always the same
        ((0.74, 0.7, 0.78), (0.2, 0.12, 0.28), set()),
    ],
)
def test_a_judge_that_is_not_told_from_chance_or_from_length_fails(
    healthy: IterationFigures,
    accuracy: tuple[float, ...],
    gain: tuple[float, ...],
    failing: set[str],
) -> None:
    gates_ = found(replace(healthy, judge=judge_figures(accuracy, gain)))
    assert {name for name, gate in gates_.items() if gate.passed is False} == failing


def test_a_judge_that_puts_no_probability_on_scores_fails_though_all_its_votes_have_a_verdict(
    healthy: IterationFigures,
) -> None:
    judgments = replace(healthy.judgments, parse_rate=1.0, mass=0.0002)
    gate = found(replace(healthy, judgments=judgments))["mass"]
    assert gate.passed is False
    assert "a probability of 0.0002" in finding(gate)


def test_null_is_no_gate(healthy: IterationFigures) -> None:
    assert "ties" not in found(healthy, max_ties=None)


def test_only_the_gates_named_stop(healthy: IterationFigures) -> None:
    stopping = found(healthy, stop_on=("ties", "drift"))
    assert [name for name, gate in stopping.items() if gate.stops] == ["ties", "drift"]


def test_a_gate_that_does_not_exist_is_refused_with_the_names_of_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"stop_on.*'parse_rate'.*'canary'"):
        build_config({}, ["health.stop_on=[tie]"])
    assert build_config({}, ["health.stop_on=[ties]"]).health.stop_on == ("ties",)


def test_limits_are_keys_that_a_resume_may_change() -> None:
    from selfreward.config.run import RUNTIME_KEYS

    assert {f"health.{key}" for key in HealthConfig.model_fields} <= RUNTIME_KEYS
