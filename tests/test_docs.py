"""What the documentation shows can be done: its snippets run, its data can be read."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import load_config
from selfreward.inputs.shipped import config_file
from selfreward.inputs.templates import load_template
from selfreward.records import FORMS
from selfreward.verbs.validate import validate
from selfreward.workers import children
from tests.support import ROOT
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[Any]:
    """Code blocks of a language, as parameters named by their page."""
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
        )
    ]


def own_data() -> list[tuple[dict[str, Any] | str, str]]:
    """Rows of the table of one's own data: a row of the data, and the words to write."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table = text.partition("| you have |")[2].partition("\n\n")[0]
    return [
        (json.loads(row) if row.startswith("{") else row, words)
        for row, words in re.findall(r"^\|[^|]*\| `(.*?)` \| `(.*?)` \|$", table, re.M)
    ]


def numbered(value: Any, number: int) -> Any:
    """The same row with other texts, so that no two of a file are alike."""
    if isinstance(value, dict):
        kept = ("role", "score", "rank", "from")
        return {key: one if key in kept else numbered(one, number) for key, one in value.items()}
    if isinstance(value, list):
        return [numbered(one, number) for one in value]
    return f"{value} {number}" if isinstance(value, str) else value


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".txt":
        path.write_text("".join(f"{row}\n" for row in rows))
    elif path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_test_that_the_documentation_names_exists() -> None:
    named = {
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"\btests/[\w./]*\w", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert sorted((page, path) for page, path in named if not (ROOT / path).exists()) == []


def test_the_table_of_own_data_has_rows() -> None:
    assert len(own_data()) >= 11


@pytest.mark.parametrize(("row", "words"), own_data(), ids=lambda value: str(value)[:50])
def test_own_data_is_read_as_the_table_says(
    row: dict[str, Any] | str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(re.findall(r"my/[\w.]+", words)[0]), [numbered(row, i) for i in range(40)])
    source = config_file("quickstart")
    parts = validate(load_config(source, [*shlex.split(words), "prompts.count=8"]), source)
    assert any(part["detail"].startswith("40 ") or ", 40 " in part["detail"] for part in parts), (
        parts
    )


@pytest.mark.parametrize("template", blocks("jinja"))
def test_the_templates_of_the_documentation_can_be_loaded(template: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(template)
    loaded = load_template(tmp_path / "mine.jinja", FORMS["written"].variables)
    user, started = loaded.render(prompt="Why?", response="Because.")
    assert "Because." in user
    assert started == ""


def test_the_python_of_the_page_on_python_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setattr(children, "Children", lambda run, store, tick: ScriptedWorkers(run))
    names: dict[str, Any] = {}
    code = "\n".join(block.values[0] for block in blocks("python") if "api-" in str(block.id))
    exec(code.replace('"quickstart", ', f'"quickstart", *{SMALL}, '), names)
    assert len(names["pairs"]) == names["demo"].pairs().num_rows > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", [b for b in blocks("python") if not str(b.id).startswith(("api-", "rewards-"))]
)
def test_the_python_of_the_documentation_runs(code: str, model_dir: Path, tmp_path: Path) -> None:
    answers = [{"text": "Paris.", "rank": 1}, {"text": "A brick.", "rank": 2}]
    rows = [{"prompt": "What is the capital of France?", "responses": answers}]
    write(tmp_path / "ranked.jsonl", rows)
    script = tmp_path / "snippet.py"
    script.write_text(f"{code}\nassert figures.parse_rate.value == 1, figures\n")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
