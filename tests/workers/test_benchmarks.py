"""Benchmarks that every evaluation takes: what is asked, kept, held out and gone by."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfreward.charts import charts_of
from selfreward.config.load import build_config
from selfreward.config.readers import is_copied
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.inputs.heldout import held_out_of, read_benchmark
from selfreward.records import Prompt
from selfreward.storage.directory import Run, open_run
from selfreward.verbs.diff import diff_of
from selfreward.verbs.maintenance import verify
from selfreward.verbs.plan import plan_of
from selfreward.verbs.report import report_of
from selfreward.verbs.report_page import page
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.status import status_of
from selfreward.viewer.pages import run_page
from selfreward.workers import benchmark
from selfreward.workers.checks import check_run
from tests.support import plain
from tests.support.loop_driver import ScriptedWorkers

SMALL = [
    "iterations=2", "prompts.count=4", "prompts.window=2", "prompts.rouge_l_max=1.0",
    "judge.votes=2", "judge.min_parse_rate=0", "evaluation.ranked=null", "sft=null",
    "evaluation.canaries=false", "evaluation.questions=null", "prompts.seeds=seed/ift.jsonl",
]  # fmt: skip
NUM = 20
RIGHT = {"M0": 10, "M2": 15, "M3": 5}
"""Of the ``NUM`` questions, the first so many are answered rightly. M1 is M0."""


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Names of the models that are asked, with the first text of each time."""
    seen = []

    def weigh(model: Path, texts: Sequence[tuple[str, str]], on_done: Any, **_: Any) -> list[float]:
        seen.append((model.name, "".join(texts[0])))
        on_done(0)
        found = []
        for at, (_, choice) in enumerate(texts):
            knows = at // 2 < RIGHT[model.name]
            found.append(-1.0 if (choice == " right") is knows else -2.0)
            on_done(at + 1)
        return found

    monkeypatch.setattr(benchmark, "log_likelihoods", weigh)
    return seen


def task(path: Path, name: str, ask: str = "What is thing number {} of all those named") -> str:
    rows = [{"question": f"{ask.format(i)} {name}?", "choices": ["wrong", "right"], "answer": 1}
            for i in range(NUM)]  # fmt: skip
    file = path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def listed(path: Path, *names: str, more: str = "") -> str:
    each = [f"{{name: {name}, path: {task(path, name)}{more}}}" for name in names]
    return f"evaluation.benchmarks=[{', '.join(each)}]"


def make(*words: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*SMALL, *words]), name)


def loop(run: Run) -> Run:
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run))
    return open_run(run.name)


def digests(run: Run) -> list[tuple[int, str, str]]:
    with run.store() as store:
        return [(row.iteration, row.stage, row.digest) for row in store.stages()]


def test_every_model_takes_them_and_is_held_against_m1(runs: Path, asked: list[Any]) -> None:
    run = loop(make(listed(runs, "things")))
    first = "Question: What is thing number 0 of all those named things?\nAnswer: wrong"
    assert asked == [("M0", first), ("M2", first), ("M3", first)]
    found = [figures.benchmarks["things"] for figures in scores_of(run).iterations]
    assert [each.scores["acc"].value for each in found] == [0.5, 0.75, 0.25]
    assert [each.scores["acc"].n for each in found] == [NUM] * 3
    gains = [each.gains["acc"].value if each.gains else None for each in found]
    assert gains == [None, 0.25, -0.25]
    text = plain(scores_text(scores_of(run)))
    assert "things, 20 questions" in text and "Benchmarks, accuracy of M3 less that of M1" in text
    assert all(check["ok"] for check in verify(run))


def test_the_best_is_named_by_one_of_them_and_the_next_iteration_goes_on_from_it(
    runs: Path, asked: list[Any]
) -> None:
    by = ["best.by=benchmark.things", "best.continue_from=best"]
    RIGHT["M4"] = 16
    try:
        run = loop(make(listed(runs, "others", "things"), *by, "iterations=3"))
    finally:
        del RIGHT["M4"]
    found = scores_of(run)
    assert found.best is not None and found.best.value is not None
    assert (found.best.model, found.best.by, found.best.value.value) == (
        "M4", "benchmark.things", 0.8,
    )  # fmt: skip
    assert [figures.start for figures in found.iterations] == [0, 1, 2, 2]  # M3 fell behind M2
    assert "Of 4 models M4 is the best by benchmark.things: 80.0%" in plain(scores_text(found))


def test_a_run_whose_models_know_no_more_ends(runs: Path, asked: list[Any]) -> None:
    by = ["best.by=benchmark.things.acc_norm", "best.patience=1", "iterations=3"]
    run = loop(make(listed(runs, "things"), *by))
    assert [model for model, _ in asked] == ["M0", "M2", "M3"]  # and there is no M4
    with run.store() as store:
        [why] = [text for _, kind, text in store.events() if kind == "ended"]
    assert "no model is better than M2 by benchmark.things.acc_norm" in why


def test_less_than_the_margin_is_no_better(runs: Path, asked: list[Any]) -> None:
    run = loop(make(listed(runs, "things"), "best.by=benchmark.things", "best.margin=0.25"))
    best = scores_of(run).best
    assert best is not None and best.model == "M1"  # M2 is better by 0.25 and no more


def test_what_is_done_is_not_asked_again_and_the_records_are_the_same(
    runs: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = listed(runs, "others", "things")
    whole = loop(make(words, name="whole"))
    asked.clear()
    weigh = benchmark.log_likelihoods

    def dies(model: Path, texts: Sequence[tuple[str, str]], *rest: Any, **more: Any) -> list[float]:
        if model.name == "M2" and "named things" in texts[0][0]:
            raise PreflightError("the machine is gone")
        return weigh(model, texts, *rest, **more)

    cut = make(words, name="cut")
    monkeypatch.setattr(benchmark, "log_likelihoods", dies)
    with pytest.raises(PreflightError):
        loop(cut)
    progress = [row for row in status_of(cut).stages if row.stage == "evaluate"]
    assert [row.total for row in progress] == [4 * NUM]
    assert all(check["ok"] for check in verify(cut))
    monkeypatch.setattr(benchmark, "log_likelihoods", weigh)
    loop(cut)
    of_second = [text.split()[-3].strip("?") for model, text in asked if model == "M2"]
    assert of_second == ["others", "things"]  # others was kept
    assert digests(cut) == digests(whole)


def test_the_run_has_its_own_copy_which_decides_and_is_frozen(runs: Path, asked: list[Any]) -> None:
    run = make(listed(runs, "things", more=", limit: 12"))
    before = run.fingerprint
    (runs / "things.jsonl").unlink()
    assert len(read_benchmark(run, "things")) == 12
    loop(run)
    assert all(is_copied(f"evaluation.benchmarks.0.{key}") for key in ("path", "limit", "name"))
    copy = run.seed_file("benchmark-things")
    copy.write_text(copy.read_text().replace("right", "best"))
    assert Run(run.path).fingerprint != before
    with pytest.raises(IntegrityError, match="was made from another"):
        loop(Run(run.path))


def test_prompts_that_give_a_question_away_are_dropped_as_held_out(
    runs: Path, asked: list[Any]
) -> None:
    rows = [f"Say why the number {i} is of any use to anybody here." for i in range(8)]
    given = [f"What is thing number {i} of all those named things? Say it." for i in range(6)]
    dataset = runs / "asked.jsonl"
    dataset.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in [*given, *rows]))
    run = make(listed(runs, "things"), f"prompts.dataset={dataset}")
    assert len(held_out_of(run)) == NUM
    with loop(run).store() as store:
        found = [p for t in (1, 2) for p in store.records(Prompt, t)]
    assert {p.text for p in found if not p.dropped} == {*rows}
    lost = [p for p in found if p.dropped == "held out"]
    assert lost and {p.text for p in lost} <= {*given}
    assert scores_of(run).iterations[1].prompts.dropped.get("held out", 0) > 0


def test_a_question_that_is_also_trained_on_is_refused(runs: Path) -> None:
    trained = runs / "ift.jsonl"
    text = "what is thing number 7 of all those named things?"
    trained.write_text(json.dumps({"prompt": text, "response": "It is."}) + "\n")
    config = [*SMALL, listed(runs, "things"), f"sft={{ift: {trained}, eft: null}}"]
    with pytest.raises(ConfigError) as refused:
        check_run(build_config({}, config), None)
    assert "evaluation.benchmarks.0: 1 of its 20 prompts are also in sft.ift" in str(refused.value)
    assert "evaluation.benchmarks=[] runs without" in refused.value.hint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["best.by=benchmark.other"], "needs a benchmark other in evaluation.benchmarks, and there "
         "is only things"),
        (["evaluation.benchmarks=[]", "best.by=benchmark.other"], "and there is none"),
        (["best.by=benchmark"], "should be win_rate, judge_agreement, verifiable, benchmark.NAME"),
        (["best.by=benchmark.things.f1"], "benchmark.NAME.acc_norm"),
        (["evaluation.benchmarks.0.name=a.b"], "evaluation.benchmarks.0.name"),
        (["evaluation.benchmarks.0.style=chat"], "evaluation.benchmarks.0.style"),
        (["evaluation.benchmarks=[{name: a, path: a.jsonl}, {name: A, path: b.jsonl}]"],
         "two of them have one name"),
        (["evaluation.benchmarks=[{name: a}]"], "evaluation.benchmarks.0.path"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_refused_with_its_key(runs: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build_config({}, [*SMALL, listed(runs, "things"), *words])
    assert said in refused.value.message


def test_a_file_that_is_not_there_or_has_another_shape_is_refused(runs: Path) -> None:
    (runs / "shape.jsonl").write_text('{"prompt": "a"}\n')
    for name, said in (("none", "no such file"), ("shape", "needs a text in 'question'")):
        word = f"evaluation.benchmarks=[{{name: a, path: {runs / name}.jsonl}}]"
        with pytest.raises(ConfigError, match=said):
            check_run(build_config({}, [*SMALL, word]), None)


def test_columns_may_have_other_names(runs: Path) -> None:
    row = {"stem": "Is it?", "options": ["no", "yes"], "key": 1}
    (runs / "mine.jsonl").write_text(json.dumps(row) + "\n")
    columns = "columns: {question: stem, choices: options, answer: key}"
    word = f"evaluation.benchmarks=[{{name: a, path: {runs / 'mine.jsonl'}, {columns}}}]"
    [found] = read_benchmark(make(word), "a")
    assert (found.question, found.choices, found.answer) == ("Is it?", ("no", "yes"), 1)


def test_report_viewer_diff_and_plan_show_them(runs: Path, asked: list[Any]) -> None:
    words = listed(runs, "things")
    run = loop(make(words))
    report, data = report_of(run)
    assert "benchmarks" in [chart.name for chart in charts_of(data.iterations)]
    assert report.benchmarks is not None and report.benchmarks.head[1:] == ("M1", "M2", "M3")
    assert "alignment tax" in page(report)
    shown = run_page(run, lambda store, t: scores_of(run).iterations[t])
    assert shown["benchmarks"][0] == ["benchmark", "M1", "M2", "M3"]
    assert shown["benchmarks"][2][2].startswith("75.0% [")
    [figure] = [
        each for each in diff_of("run:1", "run:2").figures if each.name == "benchmark things"
    ]
    assert (figure.a, figure.b, figure.difference, figure.method) == (0.75, 0.25, -0.5, "paired")
    planned = plan_of(build_config({}, [*SMALL, words]), None)
    assert planned["evaluation"]["choices"] == 2 * NUM
