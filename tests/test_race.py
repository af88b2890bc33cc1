"""The race against others: the same work is the same, and a table says what was measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from benchmarks.peers import ours
from benchmarks.peers.race import (
    BASES,
    CONTENDERS,
    ENTRIES,
    last_line,
    make_env,
    measured,
    parameters_of,
)
from benchmarks.peers.table import Result, aligned, figure, ratio, text_of
from benchmarks.peers.work import (
    Answer,
    Report,
    Work,
    best_and_worst,
    expected_score,
    parse_score,
    read_report,
)
from selfreward.config.load import build_config
from selfreward.inputs.templates import load_template
from selfreward.stages import verdict
from tests.support import ROOT

FORMS = {"written": "judge/additive.jinja", "expected": "judge/expected.jinja"}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(
        model="bundled:smollm2-135m",
        scratch=str(tmp_path),
        prompts=["What is rain?", "What is snow?"],
        responses=4,
        tokens=64,
        judge_tokens=100,
        templates={form: (ROOT / "prompts" / path).read_text() for form, path in FORMS.items()},
        seed=0,
    )


def result(entry: str, repeat: int, wall: float, train: float = 4.0, pairs: int = 2) -> Result:
    report = Report({"sample": 2.0, "judge": 3.0, "train": train}, 100, 0, 8, 8, 4, pairs, 1)
    return Result(entry, "expected", repeat, wall, wall, 10**9, report)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It is fine.\nScore: 3", 3.0),
        ("Score: 4/5", 4.0),
        ("Total score: 2 points.", 2.0),
        ("**Score:** 5", 5.0),
        ("Score: 3.5", 3.5),
        ("Score: 0\n\n", 0.0),
        ("Score: 7", None),
        ("Score: 3\nBut it is short.", None),
        ("Score: 10", None),
        ("Three points", None),
        ("", None),
    ],
)
def test_a_score_is_read_as_ours_reads_it(text: str, score: float | None) -> None:
    assert parse_score(text, ended=True) == score
    assert verdict.parse_score(text, "stop")[0] == score
    assert parse_score(text, ended=False) is None


def test_the_expected_score_is_the_mean_by_what_falls_on_scores() -> None:
    assert expected_score([0, 0, 0.25, 0, 0, 0.25]) == 3.5


@pytest.mark.parametrize("form", FORMS)
def test_the_judge_is_told_what_ours_tells_it(work: Work, form: str) -> None:
    template = load_template(ROOT / "prompts" / FORMS[form], {"prompt", "response"})
    user, started = template.render(prompt="What is rain?", response="Water.")
    assert work.judge_prompt(form, "What is rain?", "Water.") == user
    assert not started


def test_pairs_leave_out_what_ours_leaves_out() -> None:
    def answer(prompt: str, text: str, score: float | None, ended: bool = True) -> Answer:
        return Answer(prompt, text, 5, ended, score)

    answers = [
        answer("p", "good", 4), answer("p", "bad", 1), answer("p", "cut", 5, ended=False),
        answer("p", "unread", None), answer("q", "a", 3), answer("q", "b", 3),
        answer("r", "same", 1), answer("r", "same", 2), answer("s", "alone", 2),
    ]  # fmt: skip
    assert best_and_worst(answers) == [("p", "good", "bad")]


def test_a_report_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(pairs=3)
    print("Loading weights")
    report.print()
    assert read_report(capsys.readouterr().out) == report
    assert read_report("Loading weights\n") is None
    assert read_report("") is None
    assert read_report('{"pears": 3}') is None


def test_ratios_are_within_a_repeat() -> None:
    results = [result("ours", 0, 10), result("ours", 1, 20), result("ours", 2, 10)]
    results += [result("hand", 0, 20), result("hand", 1, 80)]
    results.append(Result("hand", "expected", 2, 90, error="RuntimeError: no memory"))
    assert ratio(results, "hand", "ours", "whole") == 3.0
    assert ratio(results, "ours", "ours", "whole") == 1.0
    assert ratio(results, "hand", "theirs", "whole") is None


def test_what_was_not_done_has_no_figure() -> None:
    assert figure(result("hand", 0, 20), "pair") == 2.0
    assert figure(result("hand", 0, 20), "other") == 11.0
    idle = result("hand", 0, 20, train=0.0, pairs=0)
    assert figure(idle, "train") is figure(idle, "pair") is None
    assert figure(Result("hand", "expected", 0, 9, error="x"), "whole") is None


def test_an_entry_that_fails_stays_in_the_table() -> None:
    results = [result("ours", 0, 12), Result("hand", "expected", 0, 1, error="OSError: none")]
    text = text_of(results, {"expected": "ours"}, 2e9, {"ours": 1e12, "hand": 1e12})
    figures, ratios = text.split("\n\n")
    rows = figures.splitlines()
    assert rows[1].split()[:8] == ["ours", "12.0", "2.0", "3.0", "4.0", "2.0", "3.0", "50"]
    assert "10%" in rows[1] and "50%" in rows[1]
    assert rows[2].startswith("hand") and rows[2].endswith("FAILED: OSError: none")
    assert ratios.splitlines()[1].split() == ["ours", *["1.00"] * 6]
    assert ratios.splitlines()[2].split() == ["hand", *["-"] * 6]


def test_one_that_fails_at_times_says_so() -> None:
    results = [result("ours", 0, 12), Result("ours", "expected", 1, 1, error="OSError: none")]
    text = text_of(results, {"expected": "ours"}, 2e9, {"ours": 1e12})
    assert "1 of 2 FAILED: OSError: none" in text


def test_columns_are_aligned() -> None:
    assert aligned([["a", "bb", "note"], ["long", "1", ""]]) == "a     bb  note\nlong   1"


def test_the_last_error_is_told_without_its_frame() -> None:
    text = "ValueError: wrong\n│ more │\n╰──╯\nLoading: 100% 272/272 [00:00<00:00, 9.3it/s]\n"
    assert last_line(text) == "ValueError: wrong"
    assert last_line("begun\ndone\n") == "done"
    assert last_line("") == ""


@pytest.mark.parametrize("form", FORMS)
def test_ours_gets_the_same_work(work: Work, form: str) -> None:
    command = ours.command(Path("python"), work, form, {})
    assert command[:4] == ["python", "-m", "selfreward", "run"]
    config = build_config(json.loads(Path(command[4]).read_text()))
    assert config.judge.form == form and config.judge.votes == 1 and config.judge.truncated
    assert (config.responses.n, config.responses.max_new_tokens) == (4, 64)
    assert config.stages(1) == ("prompts", "responses", "judgments", "pairs", "train")
    rows = (Path(work.scratch) / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == work.prompts


def test_what_ours_tells_is_read_from_its_records() -> None:
    names = ("responses", "judgments", "train")
    status = {"stages": [{"stage": name, "seconds": at} for at, name in enumerate(names)]}
    found = {
        "responses": {"tokens": 50, "n": 8}, "pairs": {"n": 0},
        "judgments": {"tokens": 9, "n": 8, "parsed": 2},
    }  # fmt: skip
    report = ours.read(status, found, {"responses", "judgments", "pairs"})
    assert report.seconds == {"sample": 0, "judge": 1, "train": 2}
    assert (report.loads, report.parsed, report.note) == (1, 2, "no pairs: nothing trained")


def test_every_entry_has_its_files_and_a_base() -> None:
    peers = ROOT / "benchmarks/peers"
    readme = (peers / "README.md").read_text()
    for entry in ENTRIES.values():
        assert (peers / f"requirements-{entry.env}.txt").is_file()
        assert not entry.module or (peers / f"{entry.module}.py").is_file()
        assert ENTRIES[BASES[entry.form]].contender == "ours"
    assert all(f"| `{name}` |" in readme for name in CONTENDERS)


@pytest.mark.parametrize("env", ["trl", "distilabel"])
def test_all_have_the_versions_that_ours_has(env: str) -> None:
    """Else a ratio would be of these."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {pin.name: pin for pin in map(Requirement, (x for x in lines if x[:1].isalnum()))}
    texts = (ROOT / f"benchmarks/peers/requirements-{env}.txt").read_text().splitlines()
    for pin in map(Requirement, (text for text in texts if text[:1].isalnum())):
        if pin.name in ("transformers", "trl", "datasets", "accelerate"):
            assert pin.specifier == pinned[pin.name].specifier


def test_a_command_is_measured_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "work = 'x = bytearray(60_000_000)\\nfor i in range(20_000_000): pass'\n"
        "subprocess.run([sys.executable, '-c', work])\n"
        "sys.exit(3)"
    )
    one = Result("it", "written", 0)
    command = [sys.executable, "-c", code]
    assert measured(command, {}, tmp_path / "out", tmp_path / "err", 60, one) == 3
    assert 0.1 < one.cpu < one.wall + 0.1
    assert one.peak > 60_000_000


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    one = Result("it", "written", 0)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert measured(command, {}, tmp_path / "out", tmp_path / "err", 0.2, one) is None
    assert one.wall < 30


def test_an_environment_is_made_once_and_a_failure_is_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, failing = [], subprocess.CompletedProcess([], 1, "", "ERROR: no such version\n")

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        (tmp_path / "some").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0) if len(ran) < 3 else failing

    monkeypatch.setattr("benchmarks.peers.race.HERE", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "requirements-some.txt").write_text("one==1\n")
    python = tmp_path / "some/bin/python"
    assert make_env(tmp_path, "some") == make_env(tmp_path, "some") == python
    assert [command[2] for command in ran] == ["venv", "pip"]
    (tmp_path / "requirements-some.txt").write_text("one==2\n")
    assert make_env(tmp_path, "some") == "no environment: ERROR: no such version"


def test_parameters_are_counted_by_shape(tmp_path: Path) -> None:
    head = json.dumps({"__metadata__": {}, "a": {"shape": [3, 4]}, "b": {"shape": [5]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    assert parameters_of(tmp_path) == 17
