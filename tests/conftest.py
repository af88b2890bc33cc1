"""Settings of hypothesis (no clock, no database, the same examples each time) and the model."""

from pathlib import Path

import pytest
from hypothesis import settings

from selfreward import models

settings.register_profile("suite", deadline=None, database=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The real 135M model, converted once into the user cache."""
    return models.resolve("bundled:smollm2-135m").path
