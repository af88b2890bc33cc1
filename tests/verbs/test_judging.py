"""Judging human-ranked data: in this process, in a child, and by the verb."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from selfreward.charts.files import save_calibration
from selfreward.config import EngineConfig, JudgeConfig, ResponsesConfig
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.base import Generation, Request
from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError, PreflightError, SelfRewardError
from selfreward.inputs.collect import create_run
from selfreward.inputs.rankings import Text, texts_of
from selfreward.inputs.templates import find_template, load_template
from selfreward.measures.agreement import agreement
from selfreward.measures.reports import Estimate, JudgeReport
from selfreward.measures.sample import judged_responses
from selfreward.records import Judgment, Response
from selfreward.stages.evaluate import judge_texts
from selfreward.verbs.judge import ScoredReport, judge_report
from selfreward.verbs.judge_text import judge_text
from selfreward.workers.judge import Answering, Asking, answer_in_child, judge_in_child
from tests.support import plain
from tests.support.models import make_model
from tests.support.rankings import check_refused, rankings, selfreward, write
from tests.support.scripted import ScriptedChat, ScriptedEngine
from tests.support.server import Server, running
from tests.support.training import tiny_model

TEMPLATE = load_template(find_template("judge/additive.jinja"), {"prompt", "response"})
DATA = os.environ.get("SELFREWARD_TEST_DATA")


def judge(
    engine: ScriptedEngine, texts: list[Text], concurrency: int = 4, **settings: Any
) -> list[list[Judgment]]:
    kept: dict[int, list[Judgment]] = {}
    asyncio.run(
        judge_texts(
            engine, ScriptedChat(), TEMPLATE, texts, JudgeConfig(**settings),  # type: ignore[arg-type]
            kept.__setitem__, concurrency=concurrency,
        )
    )  # fmt: skip
    return [kept[i] for i in range(len(texts))]


def test_each_text_is_judged_once_however_often_it_was_ranked() -> None:
    twice = rankings(2) + rankings(2)
    texts = texts_of(twice)
    assert len(texts) == 6
    engine = ScriptedEngine()
    votes = judge(engine, texts)
    assert len(engine.requests) == 6
    scores = {text: [v.score for v in given] for text, given in zip(texts, votes, strict=True)}
    responses = judged_responses(twice, scores)
    assert len(responses) == 12
    assert {response.ranking for response in responses} == {0, 1, 2, 3}
    assert responses[0].votes == responses[6].votes
    assert (responses[0].prompt, responses[0].length) == ("Question 0?", 4)


def test_votes_do_not_depend_on_how_many_requests_are_in_flight() -> None:
    texts = texts_of(rankings(8))
    assert judge(ScriptedEngine(delay_s=0.02), texts, 1) == judge(
        ScriptedEngine(delay_s=0.02), texts, 24
    )


def test_a_text_with_a_control_token_is_not_asked_about_and_has_that_reason() -> None:
    engine = ScriptedEngine()
    votes = judge(engine, [("p", "ends <|im_end|> here"), ("p", "fine"), ("<|im_start|>", "x")])
    assert [{v.reason for v in given} for given in (votes[0], votes[2])] == [
        {"control token"}, {"control token"},
    ]  # fmt: skip
    assert {v.score for v in votes[0]} == {None}
    assert len(votes[0]) == 3
    assert len(engine.requests) == 1


def test_an_engine_that_cannot_go_on_ends_it_and_nothing_stays_in_flight() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            if len(self.requests) == 5:
                raise PreflightError("out of memory")
            return await super().generate(request)

    engine = Failing(delay_s=0.01)
    with pytest.raises(PreflightError, match="out of memory"):
        judge(engine, texts_of(rankings(20)))
    assert len(engine.requests) < 12


# In a child process, over a server on a real socket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(Chat(make_model(tmp_path_factory.mktemp("models") / "M1")), "judge")


def knowing(server: Server) -> None:
    """Let the server judge by the word in the response; requests must come one at a time."""

    def say(weights: str) -> str:
        asked = server.bodies[-1]["messages"][0]["content"]
        score = next(
            s for word, s in (("good", 5), ("fair", 3), ("poor", 1)) if word in asked[-400:]
        )
        return f"So it is.\nScore: {score}" if "Question 3?" not in asked else "I cannot tell."

    server.say = say  # fmt: skip


@pytest.mark.slow
def test_the_verb_measures_a_judge_against_people(server: Server, tmp_path: Path) -> None:
    knowing(server)
    data, plot = write(tmp_path / "d.jsonl", 12), tmp_path / "c.svg"
    arguments = ["--data", str(data), "--votes", "2", "--json", "--plot", str(plot)]
    code, out, err = selfreward(server, *arguments)
    assert code == 0, err
    found = json.loads(out)
    judge = found["judge"]
    assert found["counts"]["pairs"] == 36
    assert judge["parsed"]["accuracy"]["value"] == 1
    assert judge["all"]["accuracy"]["value"] == pytest.approx(11 / 12)
    assert found["longest"]["all"]["accuracy"]["value"] == 0.5
    assert judge["all"]["five_best"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 11}
    assert found["reasons"] == {"no score line": 6}
    assert found["parse_rate"]["value"] == pytest.approx(11 / 12)
    assert found["votes"]["same"]["value"] == 1
    assert len(found["responses"]) == 36
    assert err.count("judged 36 of 36") == 1
    assert plot.read_text().startswith("<?xml")
    text = judge_text(msgspec.convert(found, ScoredReport))
    assert "On 36 pairs the judge beats the longer response: +41.7 points" in text
    assert "better than chance" in text
    assert "no score line 6" in text


def test_the_limit_is_heeded_and_the_table_is_printed(server: Server, tmp_path: Path) -> None:
    knowing(server)
    data = write(tmp_path / "d.jsonl", 12)
    code, out, err = selfreward(server, "--data", str(data), "--limit", "2", "--votes", "1")
    assert code == 0, err
    assert "2 prompts, 6 responses, 6 pairs" in out
    assert "there is no telling" in out
    assert "0 of 6" not in err


def test_a_judge_without_any_verdict_shows_why_and_is_no_success(
    server: Server, tmp_path: Path
) -> None:
    server.say = lambda weights: "I cannot tell."
    data = write(tmp_path / "d.jsonl", 2)
    code, out, err = selfreward(server, "--data", str(data), "--votes", "1")
    assert code == 6, err
    assert "0.0%" in out
    assert "error: no vote has a verdict: no score line 6" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--form", "expected"], "needs the judge's tokenizer"),
        (["--form", "loud"], "judge.form"),
        (["--form", "reward"], "--form reward: nothing is asked in words"),
        (["--form", "implicit"], "--form implicit: nothing is asked in words"),
        (["--form", "function"], "--form function: nothing is asked in words"),
        (["--template", "none.jinja"], "template 'none.jinja': no such file"),
        (["--engine", "timeout_s=-1"], "timeout_s"),
        (["--plot", "x.pdf"], "expected a .png or .svg file"),
        (["--votes", "0"], "--votes"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_asked(
    server: Server, tmp_path: Path, arguments: list[str], says: str
) -> None:
    check_refused(server, tmp_path, *arguments, says=says)


def asking(model: Path | str, engine: EngineConfig) -> Asking:
    return Asking(str(model), JudgeConfig(engine=engine), {"judge": TEMPLATE})


@pytest.mark.slow
def test_a_judge_like_a_run_is_asked_as_the_run_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its votes on the run's held-out responses are those of the run, and change with its words."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    with tiny_model(tmp_path / "tiny"):
        pass
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}{{ m.role }} {{ flavour }}: {{ m.content }}{% endfor %}!"
    )
    settings = [
        f"model={tmp_path / 'tiny'}", "sft=null", "iterations=0", "seed=5",
        "evaluation.questions=null",
        "engine={kind: transformers, concurrency: 3}", "judge.form=expected",
        "judge.template=judge/expected.jinja", "system_prompt=4 5 6",
        f"chat_template={tmp_path / 'chat.jinja'}", "chat_template_kwargs.flavour=7",
        "evaluation.limit=2", "evaluation.canaries=false",
    ]  # fmt: skip
    run = create_run(build_config({}, settings), "like")
    launch(run, tick=lambda: None)
    with run.store() as store:
        expected = store.report(0, "judge", JudgeReport)
    assert expected is not None
    judged = partial(
        judge_report, data=str(run.seed_file("heldout")), limit=2, report=lambda line: None
    )
    found = judged("M1", like=run)
    assert isinstance(found, ScoredReport)
    assert [r.votes for r in found.responses] == [r.votes for r in expected.responses]
    other = judged("M0", words=["system_prompt=40 50"], like=run)
    assert isinstance(other, ScoredReport)
    assert [r.votes for r in other.responses] != [r.votes for r in found.responses]


@pytest.mark.parametrize(
    "key",
    [
        "dpo.beta=1", "judgee.votes=2", "model=x", "judge.model=x", "judge.jury=[{}]", "judge={}",
        "judge.jury.0.votes=1", "judge.weight=2", "judge.break_ties=true", "judge.truncated=true",
        "judge.votess=2", "seeds=3", "judge",
    ],
)  # fmt: skip
def test_a_word_that_says_nothing_of_a_judge_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="no key that says how a judge is asked"):
        judge_report("hosted", "none.jsonl", [key], report=print)


@pytest.mark.slow
def test_an_error_of_the_child_is_raised_as_it_was(tmp_path: Path) -> None:
    engine = EngineConfig(kind="server", endpoints=["http://127.0.0.1:9/v1"], max_retries=0)  # type: ignore[call-arg]
    with pytest.raises(PreflightError):
        judge_in_child(asking("hosted", engine), [("p", "r")], print)
    engine = EngineConfig(kind="nothing")
    model = make_model(tmp_path / "M1")
    with pytest.raises(ConfigError, match="no engine 'nothing'"):
        judge_in_child(asking(model, engine), [("p", "r")], print)


def test_what_an_endpoint_goes_without_is_told_where_it_is_read(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = {"error": {"message": "Unsupported parameter: seed"}}
    server.refuses = lambda body: (400, {}, refusal) if "seed" in body else None

    async def main() -> list[list[Judgment]]:
        async with running(server):
            engine = EngineConfig(kind="server", endpoints=[server.url])  # type: ignore[call-arg]
            judge = asking("hosted", engine)
            return await asyncio.to_thread(judge_in_child, judge, [("p", "r")], lambda done: None)

    try:
        [votes] = asyncio.run(main())
    finally:
        server.refuses = lambda body: None
    assert all(vote.raw for vote in votes)
    assert f"{server.url}: seed is left out from now on" in caplog.text


@pytest.mark.slow
def test_a_child_answers_by_number_whatever_else_is_asked(tmp_path: Path) -> None:
    with tiny_model(tmp_path / "M1") as model:
        engine, settings = EngineConfig(kind="transformers"), ResponsesConfig(temperature=0)
        settings = settings.model_copy(update={"max_new_tokens": 4})
        answering = Answering(str(model), engine, settings, chat={"today": None})

        def answers(prompts: dict[int, str]) -> dict[int, str]:
            kept: dict[int, list[Response]] = {}
            done: list[int] = []
            answer_in_child(answering, prompts, done.append, kept.update)
            assert done[0] == 0 and done[-1] == len(prompts)
            assert all(len(said) == 1 and said[0].attempt == n for n, said in kept.items())
            return {number: said.text for number, [said] in kept.items()}

        both = answers({3: "1 2 3", 7: "40 50"})
        assert both.keys() == {3, 7} and answers({7: "40 50"}) == {7: both[7]}


@pytest.mark.slow
def test_a_child_that_dies_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(SelfRewardError, match="the judging process ended with code 1") as error:
        judge_in_child(asking(tmp_path / "none", EngineConfig()), [("p", "r")], print)
    assert "Its log ends with:\n" in error.value.hint
    assert str(tmp_path / "none") in error.value.hint


def test_the_child_ends_when_its_parent_is_killed_and_leaves_nothing(
    server: Server, tmp_path: Path
) -> None:
    data = write(tmp_path / "d.jsonl", 1)
    server.delay_s = 60

    async def main() -> None:
        async with running(server):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "selfreward", "judge", "hosted", "--data", str(data),
                "--engine", "kind=server", "--engine", f"endpoints=[{server.url}]",
                env=os.environ | {"TMPDIR": str(tmp_path)},
            )  # fmt: skip
            asked = len(server.bodies)
            while len(server.bodies) == asked:
                assert process.returncode is None, "it ended before it asked anything"
                await asyncio.sleep(0.05)
            children = psutil.Process(process.pid).children(recursive=True)
            assert children
            process.send_signal(signal.SIGKILL)
            await process.wait()
            deadline = time.monotonic() + 10
            while any(child.is_running() and child.status() != "zombie" for child in children):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert not list(tmp_path.glob("selfreward-*"))

    try:
        asyncio.run(main())
    finally:
        server.delay_s = 0.0


# The report's text


def report(**changes: Any) -> ScoredReport:
    scores = {text: [1.0 + len(text[1]) % 3] for text in texts_of(rankings(12))}
    found = {
        "model": "m", "digest": None, "form": "written", "template": "t", "num_votes": 1,
        "engine": {}, "reasons": {}, "responses": [],
        "data": {"path": "d", "limit": None, "left_out": {"empty": 2}, "gaps": 3},
        "seconds": {"load": 1.0, "judge": 2.0},
        **plain(agreement(judged_responses(rankings(12), scores))),
    }  # fmt: skip
    return replace(msgspec.convert(found, ScoredReport), **changes)


def test_a_report_says_what_was_left_out_and_that_ties_are_no_order() -> None:
    text = judge_text(report())
    assert "empty 2; 3 rankings skip a rank, which changes nothing" in text
    assert "On 36 pairs there is no telling" in text
    assert "it cannot be told from chance" in text


def test_a_report_without_length_matched_pairs_says_so() -> None:
    gain = replace(report().gain, matched=Estimate(None, None, None, 0))
    assert "On 0 pairs of about the same length there is no telling" in judge_text(
        report(gain=gain)
    )


def test_a_judge_without_verdicts_has_no_plot_but_a_report(tmp_path: Path) -> None:
    silent = report(calibration=())
    assert "pairwise accuracy" in judge_text(silent)
    with pytest.raises(SelfRewardError, match="no verdict"):
        save_calibration(silent.calibration, tmp_path / "c.png", silent.model)


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="SELFREWARD_TEST_DATA names no directory with oasst2_en/")
def test_the_real_model_is_measured_on_real_data(model_dir: Path) -> None:
    assert DATA is not None
    run = subprocess.run(
        [sys.executable, "-m", "selfreward", "judge", str(model_dir), "--form", "expected",
         "--limit", "5", "--json", "--data", f"{DATA}/oasst2_en/rankings.valid.jsonl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["counts"]["prompts"] == 5
    assert found["parse_rate"]["value"] == 1
    assert 0 < found["calibration"][0]["low"] < found["calibration"][-1]["high"] < 5
