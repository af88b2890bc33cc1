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
from selfreward.measures.reports import Estimate, Gate
from selfreward.records import GateName
from selfreward.storage import database
from selfreward.storage.store import Store

NAMES: tuple[GateName, ...] = get_args(GateName)


def estimate(value: float) -> Estimate:
    return Estimate(value, None, None, 9)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> IterationFigures:
    path = tmp_path_factory.mktemp("run") / "records.db"
    database.create(path)
    with Store(path) as store:
        figures = iteration_figures(store, 1)
    return replace(
        figures,
        judgments=replace(figures.judgments, parse_rate=1.0),
        scores=replace(figures.scores, fives=0.1, prompt_std=0.5, spearman_length=0.1),
        pairs=replace(figures.pairs, tie_rate=0.0, chosen_length=100.0, rejected_length=90.0),
        drift=estimate(0.1),
        canaries=CanaryFigures(estimate(0.2), 0, None),
    )


BEYOND: dict[GateName, tuple[list[str], float]] = {
    "parse_rate": (["judgments", "parse_rate"], -0.01),
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
    at = 90.0 * limit if name == "length_ratio" else limit
    assert found(with_value(healthy, path, at))[name].passed is True
    failed = found(with_value(healthy, path, at + step))
    assert [gate.name for gate in failed.values() if gate.passed is False] == [name]
    assert not failed[name].stops
    assert f"health.{'min' if step < 0 else 'max'}_" in finding(failed[name])
    assert remedy(failed[name])


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
    if name == "length_ratio":
        path = ["pairs", "rejected_length"]
    gate = found(with_value(healthy, path, None))[name]
    assert (gate.value, gate.passed) == (None, None)


def test_before_an_evaluation_nothing_is_known_of_drift_and_canaries(
    healthy: IterationFigures,
) -> None:
    gates_ = found(replace(healthy, drift=None, canaries=None))
    assert [name for name, gate in gates_.items() if gate.passed is None] == ["drift", "canary"]


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
