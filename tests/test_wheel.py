"""An installed wheel works outside the repository, with recipes, templates and seed data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.mark.slow
def test_a_wheel_carries_recipes_templates_and_seed_data(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(ROOT)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "SELFREWARD_RUNS": str(tmp_path)}
    script = (
        "from selfreward.inputs import shipped; from selfreward.config.load import load_config;"
        "from selfreward.inputs.collect import create_run; print(shipped.SHARE);"
        "[create_run(load_config(path), name) for name, path in shipped.recipes().items()]"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(site))
    pages = {path.name for path in (ROOT / "selfreward" / "viewer" / "static").iterdir()}
    assert {path.name for path in (site / "selfreward" / "viewer" / "static").iterdir()} == pages
    made = {path.parent.name for path in tmp_path.glob("*/records.db")}
    assert made == {path.stem for path in (ROOT / "runs").glob("*.yaml")}
    shipped = {path.name for path in (ROOT / "runs" / "experiments").iterdir()}
    share = site / "selfreward" / "share" / "runs" / "experiments"
    assert shipped and {path.name for path in share.iterdir()} == shipped
