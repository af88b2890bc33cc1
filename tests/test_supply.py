"""What is pinned is what is asked for, and what audits it says plainly what it could not ask."""

import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

SCRIPT = runpy.run_path(str(ROOT / ".ci" / "constraints.py"))
TEXT = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PINS = [Requirement(line) for line in TEXT.splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPORT = {
    "install": [
        {"metadata": {"name": name, "version": "1.0", "requires_dist": needs}}
        for name, needs in {
            "selfreward-loop": [
                "b_base", "Torch", "c[more]; extra == 'x'", "D; extra == 'y'", "w; os_name == 'nt'",
            ],
            "b.base": ["E"], "Torch": [], "c": ["f; extra == 'more'", "z; extra == 'other'"],
            "D": ["c", "Zed"], "E": [], "f": ["b-base"], "Zed": [],
        }.items()
    ]
}  # fmt: skip


def test_each_package_is_pinned_once_and_exactly() -> None:
    names = [canonicalize_name(pin.name) for pin in PINS]
    assert len(names) == len(set(names)) > 200
    assert all([one.operator for one in pin.specifier] == ["=="] for pin in PINS)


def test_all_that_the_sections_are_for_is_pinned_to_what_is_allowed() -> None:
    extras = {one for line in SCRIPT["headings_of"](TEXT) for one in SCRIPT["extras_of"](line)}
    assert extras <= PROJECT["optional-dependencies"].keys()
    asked = [Requirement(line) for line in PROJECT["dependencies"]]
    waiting, seen = [*extras], set[str]()
    while waiting:
        if (extra := waiting.pop()) in seen:
            continue
        seen.add(extra)
        for one in map(Requirement, PROJECT["optional-dependencies"][extra]):
            waiting += one.extras if one.name == PROJECT["name"] else []
            asked += [] if one.name == PROJECT["name"] else [one]
    versions = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    wrong = [
        str(one)
        for one in asked
        if (name := canonicalize_name(one.name)) not in SCRIPT["LEFT_OUT"]
        and not one.specifier.contains(versions.get(name, ""), prereleases=True)
    ]
    assert len(asked) > 40 and wrong == []


def test_each_package_stands_once_under_the_first_section_that_needs_it() -> None:
    headings = ["# [x] First: words.", "# [y, x] Second."]
    assert SCRIPT["pinned"](headings, REPORT) == (
        "# [x] First: words.\nb.base==1.0\nc==1.0\nE==1.0\nf==1.0\n"
        "\n# [y, x] Second.\nD==1.0\nZed==1.0\n"
    )


def test_a_heading_that_names_no_extra_is_refused() -> None:
    with pytest.raises(SystemExit, match="names no extras: # Ours"):
        SCRIPT["extras_of"]("# Ours")


@pytest.mark.long
def test_resolving_with_the_pins_that_are_there_changes_nothing() -> None:
    headings = SCRIPT["headings_of"](TEXT)
    extras = [extra for heading in headings for extra in SCRIPT["extras_of"](heading)]
    assert SCRIPT["pinned"](headings, SCRIPT["resolve"](extras, True)) == TEXT


def made(tmp_path: Path, target: str, tool: str, script: str) -> Any:
    """`make TARGET` with a tool of ours in place of the one that it calls."""
    (tmp_path / tool).write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / tool).chmod(0o755)
    command = ["make", "--old-file=.venv/.supply", target, f"BIN={tmp_path}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 1", 2), ("exit 127", 2)])
def test_an_audit_that_found_or_could_not_ask_something_fails_and_says_so(
    tmp_path: Path, script: str, code: int
) -> None:
    done = made(tmp_path, "audit", "pip-audit", f'echo "$@" > {tmp_path}/said; {script}')
    assert done.returncode == code, done.stderr
    assert ("nothing was found out" in done.stderr) == bool(code)
    said = (tmp_path / "said").read_text()
    assert "--strict" in said  # else what could not be asked about counts as clean
    pinned = (ROOT / "build" / "pinned.txt").read_text()
    assert pinned.endswith(TEXT) and pinned.startswith("torch==")


@pytest.mark.slow
def test_the_bill_of_materials_lists_all_that_is_pinned() -> None:
    """As CI makes it, with the cyclonedx-bom that is pinned."""
    pytest.importorskip("cyclonedx_py", reason="make sbom installs it")
    command = ["make", "--old-file=.venv/.supply", "sbom", f"BIN={Path(sys.executable).parent}"]
    subprocess.run(command, cwd=ROOT, check=True)
    bill = json.loads((ROOT / "build" / "sbom.json").read_bytes())
    listed = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    pins = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    assert listed.items() >= pins.items() and "torch" in listed
    assert bill["bomFormat"] == "CycloneDX"
