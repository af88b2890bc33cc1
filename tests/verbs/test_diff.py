"""Two iterations or two runs side by side: what differs, by how much, and how surely."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, NotFoundError
from selfreward.inputs.collect import create_run
from selfreward.inputs.heldout import read_held_out
from selfreward.measures.figures import figures_of
from selfreward.measures.reports import Estimate, JudgeReport
from selfreward.measures.statistics import difference
from selfreward.storage.directory import Run, open_run
from selfreward.verbs.diff import Diff, Figure, diff_of
from selfreward.verbs.diff_text import diff_text
from selfreward.verbs.layout import table_width
from tests.support import plain
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import HOSTILE, SMALL, UNSAFE


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``one``, ``other`` with the same prompts and another judge, and ``new`` without work."""
    root = tmp_path_factory.mktemp("runs")
    data = root / "prompts.jsonl"
    rows = [f"What is the {word} of number {i}, and why?" for i in range(40) for word in ("use",)]
    data.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    fixed = [*SMALL, "prompts.author=dataset", f"prompts.dataset={data}", "prompts.count=12"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        for name, words in (
            ("one", []),
            ("other", ["judge.votes=2", "judge.template=judge/expected.jinja",
                       "judge.form=expected", "judge.votes=1"]),
        ):  # fmt: skip
            run = create_run(build_config({}, [*fixed, *words]), name)
            launch(run, lambda: None, ScriptedWorkers(run))
        create_run(build_config({}, SMALL), "new")
    return root


@pytest.fixture(autouse=True)
def at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(root))


@pytest.fixture
def runs_apart() -> Diff:
    return diff_of("one", "other")


def figure(diff: Diff, name: str) -> Figure:
    [found] = [each for each in diff.figures if each.name == name]
    return found


def test_two_iterations_of_a_run_have_their_own_figures_and_no_settings_that_differ() -> None:
    diff = diff_of("one:1", "one:2")
    assert diff.settings == ()
    assert (diff.a.iteration, diff.b.iteration) == (1, 2)
    with open_run("one").store() as store:
        scores = [figures_of(store, t).scores for t in (1, 2)]
    found = figure(diff, "mean score")
    assert [found.a, found.b] == [each.mean for each in scores]
    half = 1.96 * math.hypot(*(each.se or math.nan for each in scores))
    assert found.difference == pytest.approx(found.b - found.a)
    assert found.low == pytest.approx(found.difference - half)
    assert found.high == pytest.approx(found.difference + half)
    assert found.method == "errors"


def test_the_sides_change_places_with_the_arguments() -> None:
    there, back = diff_of("one:1", "other:2"), diff_of("other:2", "one:1")
    for x, y in zip(there.figures, back.figures, strict=True):
        assert (x.name, x.a, x.b) == (y.name, y.b, y.a)
        if x.difference is not None:
            assert y.difference == pytest.approx(-x.difference)
        if x.low is not None and x.high is not None:
            assert (y.low, y.high) == (pytest.approx(-x.high), pytest.approx(-x.low))


def test_the_settings_that_differ_are_told_and_no_others(runs_apart: Diff) -> None:
    told = {setting.key: (setting.a, setting.b) for setting in runs_apart.settings}
    keys = {"judge.votes", "judge.form", "judge.template"}
    copied = {key for key in told if key.startswith("templates/")}
    assert told.keys() == keys | copied
    assert told["judge.votes"] == (3, 1)
    assert copied == {"templates/judge.jinja"}


def test_a_key_that_an_earlier_release_lacks_differs_only_where_it_is_set(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "one", tmp_path / "old")
    resolved = tmp_path / "old" / "config.resolved.yaml"
    lines = resolved.read_text().splitlines(keepends=True)
    gone = ("system_prompt:", "iterations:")  # null and a number
    assert sum(line.startswith(gone) for line in lines) == 2
    resolved.write_text("".join(line for line in lines if not line.startswith(gone)))
    diff = diff_of("one", str(tmp_path / "old"))
    assert [(s.key, s.a, s.b) for s in diff.settings] == [
        ("iterations", Run(root / "one").config.iterations, None)
    ]


def test_prompts_that_both_answered_are_matched_by_text_and_compared_one_by_one(
    runs_apart: Diff,
) -> None:
    iteration = runs_apart.a.iteration
    with open_run("one").store() as one, open_run("other").store() as other:
        query = "SELECT text FROM prompts WHERE iteration = ? AND dropped IS NULL"
        texts = [{row[0] for row in s.query(query, (iteration,))} for s in (one, other)]
    assert {prompt.text for prompt in runs_apart.prompts} == texts[0] & texts[1]
    assert runs_apart.num_prompts == len(texts[0] & texts[1]) >= 10
    apart = [p.difference for p in runs_apart.prompts if p.difference is not None]
    assert [abs(x) for x in apart] == sorted((abs(x) for x in apart), reverse=True)
    found = figure(runs_apart, "mean score, same prompts")
    assert found.method == "paired"
    mean, error = np.mean(apart), np.std(apart, ddof=1) / math.sqrt(len(apart))
    assert found.difference == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error)


def test_judges_of_the_same_held_out_responses_are_compared_prompt_by_prompt(
    runs_apart: Diff, root: Path
) -> None:
    found = figure(runs_apart, "judge agrees with people")
    assert found.method == "paired"
    reports = []
    for name in ("one", "other"):
        with open_run(name).store() as store:
            reports.append(store.report(runs_apart.a.iteration, "judge", JudgeReport))
    rankings = read_held_out(root / "one" / "seeds" / "heldout.jsonl", None)
    differences: dict[str, list[float]] = {}
    texts = [(r.prompt, n, x) for n, r in enumerate(rankings) for x in r.responses]
    scores = [[row.score for row in report.responses] for report in reports]
    for i, (prompt, ranking, x) in enumerate(texts[: len(scores[0])]):
        for j, (_, other, y) in enumerate(texts[: len(scores[0])]):
            if ranking == other and x.preference > y.preference:
                hits = [_hit(side[i], side[j]) for side in scores]
                differences.setdefault(prompt, []).append(hits[1] - hits[0])
    rows = list(differences.values())
    assert found.difference == pytest.approx(np.mean([x for row in rows for x in row]))
    draws = np.random.default_rng(1).integers(0, len(rows), (4000, len(rows)))
    sums, counts = np.array([sum(row) for row in rows]), np.array([len(row) for row in rows])
    resampled = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def _hit(better: float | None, worse: float | None) -> float:
    if better is None or worse is None:
        return 0.0
    return float(better > worse) + (better == worse) / 2


def test_judges_of_other_responses_are_not_compared_prompt_by_prompt(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "other", tmp_path / "other")
    held_out = tmp_path / "other" / "seeds" / "heldout.jsonl"
    held_out.write_text(held_out.read_text().replace("a", "b"))
    diff = diff_of("one", str(tmp_path / "other"))
    assert figure(diff, "judge agrees with people").method == "bootstrap"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (Estimate(1, 0, 2, 5), Estimate(3, 2.5, 4, 9), (2, 2 - 1.25**0.5, 2 + 2**0.5)),
        (Estimate(1, None, None, 5), Estimate(3, 2, 4, 9), (2, None, None)),
        (Estimate(None, None, None, 0), Estimate(3, 2, 4, 9), (None, None, None)),
    ],
)  # fmt: skip
def test_the_interval_of_a_difference_is_made_of_the_ends_that_face_each_other(
    a: Estimate, b: Estimate, expected: tuple[float | None, ...]
) -> None:
    found = difference(a, b)
    assert (found.value, found.low, found.high) == pytest.approx(expected)


def test_the_text_fits_the_terminal_and_its_intervals_are_those_of_the_figures(
    runs_apart: Diff,
) -> None:
    for width in (40, 60, 80, 200):
        text = diff_text(runs_apart, width)
        assert table_width([[line] for line in text.splitlines()]) <= width
        for setting in runs_apart.settings:
            assert setting.key in text.replace("\n", "") or width < 60
    found = figure(runs_apart, "mean score")
    row = next(line for line in text.splitlines() if line.startswith("mean score "))
    assert f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" in row


def test_hostile_text_in_a_prompt_does_not_reach_the_terminal(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    for name in ("a", "b"):
        shutil.copytree(root / "one", tmp_path / name)
        db = sqlite3.connect(tmp_path / name / "records.db")
        where = "rowid = (SELECT min(rowid) FROM prompts WHERE iteration = 1 AND dropped IS NULL)"
        db.execute(f"UPDATE prompts SET text = ? WHERE {where}", (HOSTILE,))
        db.commit()
        db.close()
    assert invoke(["diff", f"{tmp_path}/a:1", f"{tmp_path}/b:1"]) == 0
    text = capsys.readouterr()
    assert "owned" in text.out
    assert not UNSAFE - {"\n"} & set(text.out + text.err)


def test_the_json_has_every_field(runs_apart: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["diff", "one", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plain(runs_apart)


def test_an_unfinished_iteration_is_compared_and_said_to_be_one(root: Path, tmp_path: Path) -> None:
    import sqlite3

    shutil.copytree(root / "one", tmp_path / "half")
    db = sqlite3.connect(tmp_path / "half" / "records.db")
    db.execute("DELETE FROM stages WHERE iteration = 2 AND stage IN ('train', 'evaluate')")
    db.commit()
    db.close()
    diff = diff_of("one:2", f"{tmp_path / 'half'}:2")
    assert (diff.a.is_whole, diff.b.is_whole) == (True, False)
    assert "half, iteration 2, not finished" in diff_text(diff)


@pytest.mark.parametrize(
    ("a", "b", "kind", "said"),
    [
        ("one", "nobody", NotFoundError, "nobody"),
        ("one:7", "one:1", NotFoundError, "has no iteration 7"),
        ("one:M1", "one:2", ConfigError, "expected RUN or RUN:T"),
        ("one:1", "one:1", ConfigError, "the same iteration"),
        ("one", "one", ConfigError, "the same iteration"),
        ("one", "new", NotFoundError, "no iteration in common"),
        ("one:1", "new", NotFoundError, "has no iteration 1"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    a: str, b: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        diff_of(a, b)


def test_a_damaged_run_is_told_as_damage(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "one", tmp_path / "torn")
    (tmp_path / "torn" / "config.resolved.yaml").write_text("judge: [")
    with pytest.raises(IntegrityError, match="resolved"):
        diff_of("one", str(tmp_path / "torn"))
