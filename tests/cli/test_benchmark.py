"""``selfreward benchmark``: what it refuses, and what it says and keeps."""

import json
from pathlib import Path

import pytest

from selfreward.errors import ConfigError, NotFoundError, PreflightError
from selfreward.storage.benchmarks import benchmarks_path, read_benchmarks
from selfreward.storage.directory import Run
from selfreward.verbs import benchmark
from selfreward.verbs.benchmark import (
    benchmark_files,
    benchmark_lm_eval,
    contestants,
)
from selfreward.verbs.benchmark_table import benchmarks_text
from selfreward.verbs.named_models import NamedModel
from tests.support.runs import at_runs, runs

__all__ = ["at_runs", "runs"]
ROWS = [{"question": f"Is it {i}?", "choices": ["no", "yes"], "answer": i % 2} for i in range(12)]
QUIET = [].append


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "numbers" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_what_is_neither_a_run_nor_a_model_is_refused(at_runs: Path) -> None:
    with pytest.raises(ConfigError, match="whole is a run, not a model"):
        contestants(["whole"], QUIET)
    with pytest.raises(NotFoundError):
        contestants(["nowhere:M1"], QUIET)
    with pytest.raises(NotFoundError, match="has no M77"):
        contestants(["whole:M77"], QUIET)


def test_a_task_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--task .*none.jsonl: no such file"):
        benchmark_files([], [str(tmp_path / "none.jsonl")], report=QUIET)


def test_without_the_extra_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "has_module", lambda name: False)
    with pytest.raises(PreflightError) as refused:
        benchmark_lm_eval([], ["arc_easy"], report=QUIET)
    assert refused.value.hint == "Run `pip install 'selfreward-loop[eval]'`."


def test_a_model_is_asked_each_choice_once_and_its_result_kept_under_its_name(
    runs: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def says_yes(model: Path, texts: list, on_done: object, **options: object) -> list[float]:
        asked.extend(texts)
        return [-1.0 if continuation == " yes" else -2.0 for _, continuation in texts]

    monkeypatch.setattr(benchmark, "likelihoods_in_child", says_yes)
    run = Run(runs / "whole")
    who = [NamedModel("whole:M1", str(run.path), "digest", run=run)]
    try:
        [found] = benchmark_files(who, [task], limit=11, report=QUIET)
        assert read_benchmarks(run) == [found]
    finally:
        benchmarks_path(run).unlink(missing_ok=True)
    assert len(asked) == 22 and asked[1] == ("Question: Is it 0?\nAnswer:", " yes")
    assert (found.task, found.model, found.n, found.limit) == ("numbers/test", "M1", 11, 11)
    assert found.scores["acc"].value == pytest.approx(5 / 11)
    assert found.right["acc"] == (0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0)


def test_two_models_of_one_short_name_are_shown_by_their_full_ones(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tmp_path / "numbers.easy.jsonl"
    task.write_text('{"question": "Is it?", "choices": ["yes", "no"], "answer": 0}\n' * 2)
    given = iter([[-1.0, -2.0] * 2, [-2.0, -1.0] * 2])
    monkeypatch.setattr(benchmark, "likelihoods_in_child", lambda *a, **b: next(given))
    run = Run(runs / "whole")
    who = [NamedModel(f"{name}:M1", str(run.path), name, run=run) for name in ("a", "b")]
    try:
        found = benchmark_files(who, [str(task)], report=QUIET)
        assert {each.model for each in read_benchmarks(run)} == {"M1"}
    finally:
        benchmarks_path(run).unlink(missing_ok=True)
    assert [each.model for each in found] == ["a:M1", "b:M1"]
    assert {each.task for each in found} == {f"{tmp_path.name}/numbers.easy"}
    assert benchmarks_text(found).splitlines()[0].split() == ["benchmark", "a:M1", "b:M1"]


def test_what_lm_eval_finds_is_kept_by_metric_with_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {
        "alias": "mine", "acc,none": 0.5, "acc_stderr,none": 0.1,
        "exact_match,strict": 0.25, "exact_match_stderr,strict": "N/A",
    }  # fmt: skip
    given = {"results": {"mine": results}, "versions": {"mine": 1.0},
             "n-samples": {"mine": {"original": 40, "effective": 20}}}  # fmt: skip
    monkeypatch.setattr(benchmark, "has_module", lambda name: True)
    monkeypatch.setattr(benchmark, "lm_eval_in_child", lambda *args, **options: given)
    who = [NamedModel("org/model", str(tmp_path), "digest")]
    [found] = benchmark_lm_eval(who, ["mine"], report=QUIET)
    given["results"]["all"], given["group_subtasks"] = results, {"all": ["mine", "mine"]}
    assert [each.n for each in benchmark_lm_eval(who, ["all"], report=QUIET)] == [20, 40]
    assert (found.task, found.version, found.n) == ("mine", "1.0", 20)
    acc, match = found.scores["acc"], found.scores["exact_match (strict)"]
    assert (acc.value, acc.low, acc.high) == (0.5, pytest.approx(0.304), pytest.approx(0.696))
    assert (match.value, match.low, match.high) == (0.25, None, None)
