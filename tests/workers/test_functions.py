"""Reward functions in place of a model: found, called, ended, and what a run makes of them."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.config import JurorConfig
from selfreward.config.load import build_config, load_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.inputs.functions import find_function
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.stages.functions import Given, judge_by_function, share_of
from selfreward.storage.directory import Run
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.workers import functions
from selfreward.workers.checks import check_run
from selfreward.workers.functions import FunctionProcess
from tests.support import ROOT, plain
from tests.support.loop_driver import ScriptedWorkers

ALONE = [
    "sft=null", "prompts.count=4", "responses.n=3", "evaluation.ranked=null",
    "evaluation.canaries=false", "judge.min_parse_rate=0", "iterations=1",
]  # fmt: skip
SHORT = "def short(completions, **rest):\n    return [1 / (1 + len(c)) for c in completions]\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(source: str) -> None:
    Path("my_rewards.py").write_text(source)


def ask(
    source: str,
    *completions: str,
    timeout_s: float = 60,
    name: str = "f",
    columns: Mapping[str, Any] | None = None,
) -> list[Given]:
    """What a function of this source gives all of these at once."""
    write(source)
    function, given = find_function(f"my_rewards:{name}", "judge.function"), columns or {}

    async def score() -> list[Given]:
        async with FunctionProcess(function, "judge.function", timeout_s, list(given)) as process:
            asks = (process.score("Sing.", text, given) for text in completions)
            return list(await asyncio.gather(*asks))

    return asyncio.run(score())


def values(given: list[Given]) -> list[float | None]:
    return [one.value for one in given]


# The process


def test_sync_and_async_functions_give_a_value_for_each() -> None:
    body = "def f(prompts, completions):\n    return [float(len(c)) for c in completions]\n"
    assert values(ask(body, "a", "bb", "ccc")) == [1, 2, 3]
    assert values(ask(f"async {body}", "a", "bb", "ccc")) == [1, 2, 3]


def test_columns_reach_the_function_by_name() -> None:
    body = "def f(completions, answer):\n    return [c == a for c, a in zip(completions, answer)]\n"
    assert values(ask(body, "2", "3", columns={"answer": "2"})) == [1, 0]


def test_a_function_that_raises_for_one_row_loses_that_rows_vote_alone() -> None:
    body = "def f(completions, **rest):\n    return [1 / (len(c) - 1) for c in completions]\n"
    first, raised, last = ask(body, "abc", "a", "ab")
    assert (first.value, last.value) == (0.5, 1)
    assert raised.reason == "raised ZeroDivisionError"
    assert "division by zero" in raised.raw


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("[1.0] * 7", "wrong length"), ("0.5", "wrong type"), ("['high'] * n", "wrong type"),
        ("[None] * n", "no value"), ("sys.exit()", "crashed"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_numbers_is_the_reason_of_each_vote(returned: str, reason: str) -> None:
    body = "import sys\ndef f(completions, **rest):\n    n = len(completions)\n"
    body += f"    return {returned}\n"
    assert [given.reason for given in ask(body, "a", "b")] == [reason, reason]


@pytest.mark.slow
def test_one_that_hangs_on_a_row_is_ended_and_goes_on_with_the_others() -> None:
    body = (
        "import time\ndef f(completions, **rest):\n"
        "    [time.sleep(60) for c in completions if c == 'slow']\n"
        "    return [1.0 for c in completions]\n"
    )
    given = ask(body, "a", "slow", "b", timeout_s=2.0)
    assert [one.reason for one in given] == [None, "timed out", None]


def test_one_that_hangs_on_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "HANGS", 2)
    body = "import time\ndef f(completions, **rest):\n    time.sleep(60)\n"
    with pytest.raises(PreflightError, match="2 calls in a row timed out"):
        ask(body, "a", "b", "c", timeout_s=0.2)


# Points


def points(value: float | None, scale: tuple[float, float]) -> tuple[float | None, str | None]:
    class Fixed:
        async def score(self, *what: object) -> Given:
            return Given(value, None, str(value))

    settings = JurorConfig(function="a:b", scale=scale)
    prompt, response = Prompt(1, 0, "a", "a", None), Response(1, 0, 0, "b", "stop", 1)
    [vote] = asyncio.run(judge_by_function(Fixed(), prompt, response, settings))
    return vote.score, vote.reason


def test_the_ends_of_the_scale_are_0_and_5_points() -> None:
    assert points(-1, (-1, 3)) == (0, None)
    assert points(1, (-1, 3)) == (2.5, None)
    assert points(3, (-1, 3)) == (5, None)


def test_outside_of_the_scale_there_is_no_score() -> None:
    assert points(1.01, (0, 1)) == (None, "off the scale")
    assert points(float("nan"), (0, 1)) == (None, "not a number")
    assert share_of(Given(None, "timed out", ""), (0, 1)) == (None, "timed out")


# A run


def make(*words: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*ALONE, *words]), name)


def loop(run: Run) -> None:
    launch(run, lambda: None, ScriptedWorkers(run))


def judgments(run: Run) -> list[Judgment]:
    with run.store() as store:
        return store.records(Judgment, 1)


def test_a_function_alone_judges_a_whole_run() -> None:
    write(SHORT)
    loop(run := make("judge.function=my_rewards:short", "evaluation.questions=null"))
    with run.store() as store:
        texts = {(r.attempt, r.sample): r.text for r in store.records(Response, 1)}
        pairs = store.records(PreferencePair, 1)
    votes = judgments(run)
    assert votes and pairs
    for vote in votes:
        assert vote.score == pytest.approx(5 / (1 + len(texts[vote.attempt, vote.sample])))
    for pair in pairs:
        chosen, rejected = (texts[pair.attempt, s] for s in (pair.chosen, pair.rejected))
        assert len(chosen) < len(rejected)
    assert "raised" not in scores_text(scores_of(run))


def test_a_function_in_a_jury_gets_the_columns_of_the_data_set() -> None:
    Path("asked.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Do {i} things.", "limit": i}) + "\n" for i in range(4))
    )
    write("def f(completions, limit):\n    return [l / 4 for l in limit]\n")
    jury = "judge.jury=[{function: 'my_rewards:f', weight: 2.0}]"
    loop(run := make("prompts.dataset=asked.jsonl", "evaluation.questions=null", jury))
    votes = [vote for vote in judgments(run) if vote.juror == 1]
    with run.store() as store:
        limits = {p.attempt: json.loads(p.columns or "")["limit"] for p in store.records(Prompt, 1)}
    assert votes and [v.score for v in votes] == [5 * limits[v.attempt] / 4 for v in votes]


def test_a_changed_source_is_refused_on_resume() -> None:
    write(SHORT)
    run = make("judge.function=my_rewards:short", "evaluation.questions=null")
    write(SHORT + "# mended\n")
    with pytest.raises(IntegrityError, match=r"my_rewards.py is not what this run was made with"):
        loop(run)
    write(SHORT)
    loop(run)
    assert judgments(run)


def test_in_contests_the_higher_value_wins_and_the_best_model_has_the_highest_mean() -> None:
    write("def f(completions, **rest):\n    return [min(1, len(c) / 99) for c in completions]\n")
    words = [
        "evaluation.contests=[{function: 'my_rewards:f'}]", "best.by=verifiable",
        "evaluation.questions={path: seed/questions.jsonl, limit: 12}",
    ]  # fmt: skip
    loop(run := make(*words, "judge.function=my_rewards:f"))
    with run.store() as store:
        given = [plain(store.report(t, "verified", dict)) for t in (0, 1)]
        [contest] = plain(store.report(1, "contests", dict))["contests"]
        answers = [plain(store.report(t, "answers", dict))["answers"] for t in (0, 1)]
    m1, m2 = ([min(1, len(a["text"]) / 99) for a in each] for each in answers)
    assert given[0]["functions"][0]["values"] == pytest.approx(m1)
    expected = [0.5 if a == b else float(a > b) for a, b in zip(m2, m1, strict=True)]
    assert contest["results"] == expected
    text = scores_text(scores_of(run))
    assert "is the best by the functions" in text
    assert f"M1 {100 * sum(m1) / len(m1):.1f}%" in " ".join(text.split())


# Bad input


@pytest.mark.parametrize(
    ("source", "name", "problem"),
    [
        (SHORT, "my_reward:short", "there is no my_reward.py, nor an installed module my_reward"),
        (SHORT, "my_rewards:shrt", "has no shrt"),
        ("short = 3\n", "my_rewards:short", "is a int, no function"),
        ("import nothing_here\n", "my_rewards:short", "raised ModuleNotFoundError"),
        ("def short(completions, answer):\n    pass\n", "my_rewards:short", "argument 'answer'"),
        ("def short(:\n", "my_rewards:short", "is no Python that can be read"),
        (SHORT, "my_rewards.short", "names no function"),
    ],
)
def test_a_function_that_cannot_be_called_is_one_line(
    source: str, name: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(source)
    with pytest.raises(ConfigError, match=problem) as error:
        words = [*ALONE, f"judge.function={name}", "evaluation.questions=null"]
        check_run(build_config({}, words), None)
    assert "\n" not in error.value.message
    assert "judge.function" in error.value.message


def test_a_judge_that_is_a_function_and_what_only_models_do_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"set sft.eft=null evaluation.ranked=null"):
        build_config({}, ["judge.function=a:b"])
    with pytest.raises(ConfigError, match="form=expected is of a model"):
        build_config({}, ["judge.function=a:b", "judge.form=expected"])
    with pytest.raises(ConfigError, match=r"judge.jury.0 is a model"):
        build_config({}, [*ALONE, "judge.function=a:b", "judge.jury=[{model: M1}]"])


def test_validate_names_the_file_of_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    write(SHORT)
    Path("config.yaml").write_text("judge: {function: 'my_rewards:short'}\n")
    assert invoke(["validate", "config.yaml", *ALONE]) == 0
    assert "my_rewards:short" in capsys.readouterr().out


# The documentation


def test_the_example_of_the_docs_runs_as_it_stands_there() -> None:
    text = (ROOT / "docs" / "rewards.md").read_text()
    rows, code, config = (
        text.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("json", "python", "yaml")
    )
    Path("asked.jsonl").write_text(rows)
    write(code)
    Path("config.yaml").write_text(config)
    assert invoke(["validate", "config.yaml"]) == 0
    run = create_run(load_config(Path("config.yaml")), "run", Path("config.yaml"))
    loop(run)
    with run.store() as store:
        texts = {(r.attempt, r.sample): r.text for r in store.records(Response, 1)}
        limits = {p.attempt: json.loads(p.columns or "")["limit"] for p in store.records(Prompt, 1)}
    votes = judgments(run)
    assert sorted(set(limits.values())) == [5, 10, 20, 40] and votes
    for vote in votes:
        words = len(texts[vote.attempt, vote.sample].split())
        assert vote.score == pytest.approx(5 * min(1, limits[vote.attempt] / words))
    assert "is the best by the functions" in scores_text(scores_of(run))


def test_beside_a_function_as_the_judge_people_may_sit_and_a_model_may_not() -> None:
    words = ["judge.function=selfreward.rewards.repetition:distinct", "sft=null",
             "evaluation.ranked=null", "evaluation.canaries=false"]  # fmt: skip
    config = build_config({}, [*words, "judge.jury=[{imported: people}]"])
    assert [juror.name for juror in config.judge.jury] == ["people"]
    with pytest.raises(ConfigError, match=r"judge.jury.0 is a model"):
        build_config({}, [*words, "judge.jury=[{model: M1}]"])
