"""A built sdist and wheel hold what they should, and install and work outside the repository."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from selfreward import DISTRIBUTION, __version__
from tests.support import ROOT

FILES = DISTRIBUTION.replace("-", "_")
"""How names of the built files begin."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sdist lies, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", str(ROOT), "--outdir", str(out)], check=True)
    return out


def test_version_and_name_are_said_in_one_place_each() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION != "selfreward"
    assert project["dynamic"] == ["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\S+)(?: \((\d{4}-\d\d-\d\d)\))?$", changes, re.M)
    assert released[0] == ("Unreleased", "")
    assert released[1][0] == __version__ and all(day for _, day in released[1:])


def test_nothing_says_to_install_what_someone_else_publishes_under_our_name() -> None:
    """On PyPI ``selfreward`` is another project."""
    kinds = {".py", ".md", ".toml", ".yaml", ".yml", ".jinja", ".html", ".js", ".ipynb", ".txt", ""}
    command = (
        r"(?:pip3?|pipx|uv|uvx|poetry|conda|mamba)\b[^\n`]*\b(?:install|add|tool|run)\b[^\n`]*"
    )
    theirs = re.compile(command + r"(?<![-\w./])selfreward(?![-\w./])")
    assert theirs.search("pip install -U 'selfreward[view]'")
    assert not theirs.search("pip install 'selfreward-loop[view]'")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if Path(name).suffix in kinds]
    assert len(files) > 300
    told = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        if path.is_file() and path != Path(__file__)
        for line in path.read_text(encoding="utf-8").splitlines()
        if theirs.search(line)
    ]
    assert told == []


@pytest.mark.slow
def test_an_sdist_holds_what_git_tracks(built: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    tracked = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    top = f"{FILES}-{__version__}"
    with tarfile.open(built / f"{top}.tar.gz") as file:
        held = {name.removeprefix(f"{top}/") for name in file.getnames()}
    assert held == tracked | {"PKG-INFO"}


@pytest.mark.slow
def test_a_wheel_carries_recipes_templates_and_seed_data(built: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(built / f"{FILES}-{__version__}-py3-none-any.whl") as file:
        file.extractall(site)
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


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_wheel_works_in_an_environment_that_has_nothing_else(
    built: Path, tmp_path: Path
) -> None:
    """With what it asks for itself, in the versions that are tested; of no extra."""
    home = tmp_path / "clean"
    venv.create(home, with_pip=True)
    torch = f"torch=={metadata.version('torch').partition('+')[0]}"  # as the Makefile has it
    wheel = built / f"{FILES}-{__version__}-py3-none-any.whl"
    install = [home / "bin" / "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*install, torch, wheel, "--constraint", ROOT / "constraints.txt"], check=True)
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "SELFREWARD_", "VIRTUAL_ENV"))
    }

    def said(*words: str) -> str:
        done = subprocess.run(
            [home / "bin" / "selfreward", *words],
            env={**outside, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"},
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    assert said("--version") == f"selfreward {__version__}\n"
    assert str(home) in said("validate", "quickstart")
    assert "tokens sampled, at most" in said("plan", "quickstart")
    assert "not installed" not in said("doctor").partition("bundled")[0]
    subprocess.run([home / "bin" / "pip", "check"], check=True)
