"""What child processes check before they load anything."""

import json
from pathlib import Path

import pytest

from selfreward import jobs, models
from selfreward.configfile import build_config
from selfreward.creation import create_run
from selfreward.errors import IntegrityError


def test_a_base_model_altered_between_launches_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    run = create_run(build_config({"model": str(base), "sft": None}), "run")
    facts = {"path": str(base), "digest": models.digest(base)}
    (run.path / "models" / "M0.json").write_text(json.dumps(facts))
    (base / "model.safetensors").write_bytes(b"others!")
    with run.owned() as store, pytest.raises(IntegrityError, match="not the model that this run"):
        jobs.generate(run, store, 1)
