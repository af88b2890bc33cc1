"""Settings of hypothesis (no clock, no database, the same examples each time) and the model."""

import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from selfreward.cli import main as cli
from selfreward.inputs import models
from tests.support.fuzz import Law
from tests.support.models import vary_model

settings.register_profile("suite", deadline=None, database=None, derandomize=True)
settings.load_profile("suite")

STARTS_VLLM = {"test_vllm.py", "test_parity.py"}


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Gives each file of tests to one process, and all tests that start vLLM to the same one.

    vLLM binds its threads to all cores, and two of them on the same cores crawl.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, case = nodeid.partition("::")
        return "vllm" if Path(file).name in STARTS_VLLM or "[vllm" in case else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    """What ``--dist loadfile`` means here."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


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
