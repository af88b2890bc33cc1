"""Settings of hypothesis (no clock, no database, the same examples each time) and the model."""

import traceback
from pathlib import Path

import pytest
from hypothesis import settings

from selfreward.cli import main as cli
from selfreward.inputs import models
from tests.support.fuzz import Law
from tests.support.models import vary_model

settings.register_profile("suite", deadline=None, database=None, derandomize=True)
settings.load_profile("suite")

STARTS_VLLM = {"test_engines.py", "test_vllm.py", "test_parity.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes (--dist loadgroup) share the tests by file, and vLLM's stay in one of them.

    vLLM binds its threads to all cores, and two of them on the same cores crawl.
    """
    for item in items:
        group = "vllm" if item.path.name in STARTS_VLLM else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The real 135M model, converted once into the user cache."""
    return models.resolve("bundled:smollm2-135m").path


@pytest.fixture(scope="session")
def other_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint of the real model."""
    return vary_model(model_dir, tmp_path_factory.mktemp("models") / "other", noise=0.05)


@pytest.fixture(scope="session")
def untied_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model with an output layer of its own."""
    return vary_model(model_dir, tmp_path_factory.mktemp("models") / "M1", noise=0, untied=True)


@pytest.fixture(scope="session")
def other_untied_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint of it."""
    return vary_model(model_dir, tmp_path_factory.mktemp("models") / "M2", noise=0.05, untied=True)


@pytest.fixture
def law(monkeypatch: pytest.MonkeyPatch) -> Law:
    """What no command line may break, with the traceback of each error kept to be shown."""
    found = Law(monkeypatch, [])
    monkeypatch.setattr(cli, "_trace", lambda: found.traces.append(traceback.format_exc()))
    return found
