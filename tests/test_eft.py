"""Iteration 0 with ``sft.selection``: from M0 over models/SFT and its judgments to M1."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, StoppedError
from selfreward.inputs.collect import create_run, selection_inputs
from selfreward.measures.figures import IterationFigures
from selfreward.measures.selection import SelectionFigures
from selfreward.records import Drop, FinishReason, Judgment, Prompt, Response, kept
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.training.seed_rows import sft_rows
from selfreward.verbs.maintenance import collect, verify
from selfreward.verbs.plan import plan_of, plan_text
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.show import prompt_of, prompt_text, select
from selfreward.verbs.status import status_of
from tests.support.loop_driver import ScriptedWorkers
from tests.support.scripted import Reply, ScriptedChat, scripted_reply, scripted_words

SMALL = [
    "iterations=0", "evaluation.ranked=null", "evaluation.questions=null",
    "evaluation.canaries=false",
    "prompts.seeds=seed/ift.jsonl",
    "sft.ift={path: seed/ift.jsonl, limit: 5}", "sft.eft={path: seed/eft.jsonl, limit: 1}",
    "sft.max_length=9999", "sft.selection.votes=3", "engine.concurrency=3",
]  # fmt: skip
STAGES = ["sft", "prompts", "responses", "judgments", "selection", "train"]
ROWS = [
    {"prompt": "Name a fruit.", "responses": [
        {"text": "An apple.", "rank": 0}, {"text": "Fruit is food.", "rank": 4},
        {"text": "No.", "rank": 9}]},
    {"prompt": "What is 2 + 2?", "responses": [
        {"text": "4, as counting shows.", "rank": 0}, {"text": "5", "rank": 1}]},
    {"prompt": "Say <|im_end|>.", "chosen": "Well.", "rejected": "No."},
    {"prompt": "Greet me.", "chosen": "Hello!", "rejected": "<|im_start|>system"},
    {"prompt": "Why?", "response": "Because.", "score": 3.0},
    {"prompt": "Rhyme.", "response": "Time, lime.", "rank": 1},
    *({"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "Hm."} for i in range(6)),
]  # fmt: skip
"""A rank that skips places, a prompt and a response with a control token, points alone, and a
response that nothing can be compared with."""


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    return tmp_path


def ranked(path: Path, *rows: dict[str, object]) -> str:
    file = path / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows or ROWS))
    return f"sft.selection.ranked={file}"


def make(*overrides: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*SMALL, *overrides]), name)


def loop(run: Run, reply: Reply | None = None) -> None:
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run, reply=reply))


def stages(run: Run) -> list[tuple[int, str]]:
    with run.store() as store:
        return [(stage.iteration, stage.stage) for stage in store.stages()]


def facts(run: Run) -> dict[str, object]:
    """Everything that must not depend on interruptions."""
    with run.store() as store:
        return {
            "records": [store.records(kind, 0) for kind in (Prompt, Response, Judgment, Drop)],
            "stages": [(s.stage, s.rows, s.drops, s.digest) for s in store.stages()],
            "logs": [store.train_log(0, stage) for stage in ("sft", "train")],
            "report": store.report(0, "selection", SelectionFigures),
            "models": [durable.verify_directory(run.model_directory(m)) for m in ("SFT", 1)],
        }


def test_iteration_0_goes_over_models_sft_to_m1_and_the_loop_goes_on(tmp_path: Path) -> None:
    run = make(
        ranked(tmp_path), "iterations=1", "prompts.count=4", "prompts.window=2",
        "prompts.rouge_l_max=1.0",
    )  # fmt: skip
    loop(run)
    assert stages(run)[: len(STAGES)] == [(0, stage) for stage in STAGES]
    assert (1, "train") in stages(run)
    assert all(durable.is_whole(run.model_directory(model)) for model in ("SFT", 1, 2))
    before = stages(run)
    loop(run)
    assert stages(run) == before


def test_human_data_becomes_records_and_every_vote_a_row_or_a_drop(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    loop(run)
    with run.store() as store:
        prompts, responses = store.records(Prompt, 0), store.records(Response, 0)
        judgments, drops = store.records(Judgment, 0), store.records(Drop, 0)
        figures, stage = store.figures(0, IterationFigures), store.finished(0, "selection")
    assert [prompt.dropped for prompt in prompts].count("control token") == 1
    assert len(prompts) == len(ROWS) - 1  # of the lone ranked response nothing is known
    assert {response.author for response in responses} == {"human"}
    assert [r.dropped for r in responses].count("control token") == 1
    fit = [r for r in responses if r.dropped is None]
    assert len(judgments) == 3 * len(fit)
    assert all(judgment.form == "written" for judgment in judgments)
    rows = kept(judgments, drops)
    mine = [drop for drop in drops if drop.stage == "selection"]
    assert len(rows) + len(mine) == len(judgments)
    assert figures is not None and stage is not None
    found = figures.selection
    assert found is not None
    assert (stage.rows, stage.drops) == (len(rows), len(mine)) == (
        found.rows, sum(found.dropped.values()),
    )  # fmt: skip
    assert 0 < found.rows <= found.agreeing
    assert sum(found.histogram.sampled) == found.parsed < found.votes
    assert sum(found.histogram.kept) == found.rows
    assert found.left_out == {"one response": 1}
    assert found.agreement.judge.pairs == 3 + 1 + 6
    assert found.agreement.longest.accuracy == 0.9


def test_m1_learns_the_judges_own_words_and_models_sft_does_not(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    loop(run)
    with run.store() as store:
        rows = kept(store.records(Judgment, 0), store.records(Drop, 0))
        before, _ = sft_rows(run, store, "sft", ScriptedChat())  # type: ignore[arg-type]
        after, drops = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
        stages = {stage.stage: stage for stage in store.stages()}
        assert [len(store.train_log(0, stage)) for stage in ("sft", "train")] == [2, 2]
    assert after[: len(before)] == before and not drops
    learned = ["".join(map(chr, row.completion_ids[:-1])) for row in after[len(before) :]]
    assert learned == [row.raw for row in rows] and learned
    assert (stages["sft"].rows, stages["train"].rows) == (len(before), len(after))
    asked = "".join(map(chr, after[-1].prompt_ids))
    assert "Score: <" in asked and "Question 5?" in asked
    assert (run.model_directory("SFT") / "weights").read_text() != (
        run.model_directory(1) / "weights"
    ).read_text()


def chatty(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Judgments that spell a control token; a verdict all the same."""
    text, reason = scripted_reply(prompt, number)
    return ("<|im_end|> " + text if "Score:" in text else text), reason


def test_a_judgment_with_a_control_token_is_no_row_and_recorded(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    loop(run, chatty)
    with run.store() as store:
        rows = kept(store.records(Judgment, 0), store.records(Drop, 0))
        dropped = [d for d in store.records(Drop, 0) if d.stage == "train"]
    assert sorted(d.item for d in dropped) == sorted(f"selected:{row.item}" for row in rows)
    assert {drop.reason for drop in dropped} == {"control token"} and rows


@pytest.mark.slow
@pytest.mark.parametrize("source", ["ranked", "made"])
def test_a_kill_after_any_commit_of_iteration_0_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    words = [ranked(tmp_path, *ROWS[:3], ROWS[-1])] if source == "ranked" else ["sft.ift.limit=3"]
    whole = make(*words, name="whole")
    loop(whole)
    expected = facts(whole)
    assert len(expected["stages"]) == len(STAGES)  # type: ignore[arg-type]

    class Killed(BaseException):
        """Stands for a kill right after a commit."""

    names = ("add", "finish_stage", "log_training", "save_report", "save_figures")
    for stop in range(1, 200):
        run = make(*words, name=f"run-{stop}")
        left = stop
        with monkeypatch.context() as patch:
            for name in names:
                commit = getattr(Store, name)

                def commit_and_die(store: Store, *args, commit=commit, **kw):  # type: ignore[no-untyped-def]
                    nonlocal left
                    commit(store, *args, **kw)
                    left -= 1
                    if left == 0:
                        raise Killed

                patch.setattr(Store, name, commit_and_die)
            try:
                loop(run)
                break
            except Killed:
                pass
        loop(run)
        assert facts(run) == expected, f"killed after commit {stop}"
        with run.store() as store:
            assert store.figures(0, IterationFigures) is not None
    assert stop > 15


def test_finished_stages_ask_nothing_again(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    with pytest.raises(RuntimeError, match="first vote"):
        loop(run, _fail("first vote"))
    assert stages(run)[-1][1] == "responses"
    asked: list[str] = []

    def count(prompt: str, number: int) -> tuple[str, FinishReason]:
        asked.append(prompt)
        return scripted_reply(prompt, number)

    loop(run, count)
    assert len(asked) == len(facts(run)["records"][2])  # type: ignore[index]
    loop(run, _fail("nothing is asked"))


def _fail(why: str) -> Reply:
    def reply(prompt: str, number: int) -> tuple[str, FinishReason]:
        raise RuntimeError(why)

    return reply


def test_without_human_ranks_each_ift_response_stands_against_a_worse_one(
    tmp_path: Path,
) -> None:
    run = make("sft.ift.limit=40", "sft.selection.prompts=30")
    loop(run)
    with run.store() as store:
        prompts, responses = store.records(Prompt, 0), store.records(Response, 0)
        report = store.report(0, "selection", SelectionFigures)
    accepted = [prompt for prompt in prompts if prompt.dropped is None]
    assert len(prompts) == 30 > len(accepted)
    assert {p.dropped for p in prompts} == {None, "empty"}
    assert all(prompt.detail and prompt.detail != prompt.text for prompt in accepted)
    assert [(r.sample, r.author) for r in responses] == [(0, "human"), (1, "policy")] * len(
        accepted
    )
    assert "empty" in {response.dropped for response in responses}
    assert report is not None
    assert report.agreement.judge.pairs == sum(
        response.dropped is None for response in responses if response.author == "policy"
    )
    shown = prompt_of(run, 0, accepted[0].attempt)
    assert "the worse response answers instead" in prompt_text(shown)
    assert "by human" in prompt_text(shown)


def parrot(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Repeats the request where another one was asked for, half of the time with a new word."""
    if prompt.endswith("\n2."):
        request = prompt.rpartition("1. ")[2].removesuffix("\n2.")
        return request.upper() + (" twice" if number % 2 else ""), "stop"
    return scripted_reply(prompt, number)


def test_a_request_that_is_only_repeated_makes_no_worse_response() -> None:
    run = make("sft.ift.limit=20")
    loop(run, parrot)
    with run.store() as store:
        reasons = [prompt.dropped for prompt in store.records(Prompt, 0)]
    assert set(reasons) == {None, "same request"}


def prose(prompt: str, number: int) -> tuple[str, FinishReason]:
    return scripted_words(number), "stop"


def test_a_judge_that_answers_in_prose_stops_with_the_reasons_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    run = make(ranked(tmp_path), "sft.selection.votes=4")
    with pytest.raises(StoppedError, match=r"none of \d\d judgments .* no score line \d\d") as why:
        loop(run, prose)
    assert "sft.eft" in why.value.hint and "judge.form=expected" in why.value.hint
    assert not run.model_directory(1).exists()
    run.configure(["sft.selection.min_rows=0"])
    loop(run, prose)
    with run.store() as store:
        assert stages(run)[-1] == (0, "train")
        assert set(store.drop_reasons(0, "selection")) == {"no verdict"}


def always_four(prompt: str, number: int) -> tuple[str, FinishReason]:
    return "Fine.\nScore: 4", "stop"


def test_a_judge_that_always_says_the_same_stops_with_counts_by_reason(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    with pytest.raises(StoppedError) as why:
        loop(run, always_four)
    assert "0 of 57 judgments selected, but sft.selection.min_rows is 1" in str(why.value)
    assert "tie 51" in str(why.value) and "far from people's score 3" in str(why.value)
    assert "no order 3" in str(why.value)
    assert stages(run)[-1] == (0, "selection")


def test_a_wrong_config_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge.form is expected"):
        make(ranked(tmp_path), "judge.form=expected", "judge.template=judge/expected.jinja")
    with pytest.raises(ConfigError, match=r"needs the good answers of sft.ift"):
        make("sft.ift=null")
    with pytest.raises(ConfigError, match=r"nowhere.jinja"):
        make("sft.selection.template=nowhere.jinja")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "p", "response": "r", "rank": "first"}\n')
    with pytest.raises(ConfigError, match=r"bad.jsonl:1: 'rank' must be a number"):
        make(f"sft.selection.ranked={bad}")
    assert not (tmp_path / "runs" / "run").exists()


def test_what_was_judged_is_frozen(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    loop(run)
    copy = run.seed_file("ranked")
    copy.write_text(copy.read_text().replace('"rank": 9', '"rank": 3'))
    with pytest.raises(IntegrityError, match="was made from another"):
        loop(Run(run.path))
    with pytest.raises(IntegrityError, match=r"sft\.selection\.votes is frozen"):
        run.configure(["sft.selection.votes=5"])


def test_the_readers_show_iteration_0(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    loop(run)
    [found] = scores_of(run).iterations
    text = scores_text(scores_of(run))
    for words in ("EFT selection", "parse rate", "pairwise accuracy", "longer wins", "other vote",
                  "by chance", "in people's order"):  # fmt: skip
        assert words in text
    assert list(found.seconds) == STAGES
    assert [row.stage for row in status_of(run).stages][: len(STAGES)] == STAGES
    iteration, attempts = select(run, 0, "first")
    assert iteration == 0 and len(attempts) == len(ROWS) - 2
    shown = prompt_of(run, 0, 0)
    text = prompt_text(shown)
    assert "EFT rows: " in text and "no pair" not in text and "by human" in text
    votes = [vote for response in shown.responses for vote in response.votes]
    assert all(vote.selection for vote in votes)
    checks = verify(run)
    assert all(check["ok"] for check in checks)
    assert {"SFT", "M1", "iteration 0 selection"} <= {check["name"] for check in checks}


def test_verify_sees_a_drop_that_was_taken_away_later(tmp_path: Path) -> None:
    import sqlite3

    run = make(ranked(tmp_path))
    loop(run)
    with sqlite3.connect(run.records) as database:
        database.execute(
            "DELETE FROM drops WHERE rowid = (SELECT min(rowid) FROM drops"
            " WHERE stage = 'selection' AND reason = 'other vote')"
        )
    bad = [check["name"] for check in verify(run) if not check["ok"]]
    assert bad == ["iteration 0 selection"]


def removable(run: Run, keep: int | None) -> list[str]:
    paths = [Path(item["path"]) for item in collect(run, keep, dry_run=True)]
    return [path.name for path in paths if path.parent.name == "models"]


def test_gc_may_remove_models_sft_once_m1_is_there(tmp_path: Path) -> None:
    run = make(ranked(tmp_path))
    with pytest.raises(StoppedError):
        loop(run, always_four)
    assert removable(run, 1) == []
    run.configure(["sft.selection.min_rows=0"])
    loop(run)
    assert removable(run, None) == []
    assert removable(run, 1) == ["SFT"]
    collect(run, 1, dry_run=False)
    assert run.model_directory(1).exists() and not run.model_directory("SFT").exists()
    assert all(check["ok"] for check in verify(run))
    loop(run)


def test_the_plan_counts_the_selection(tmp_path: Path) -> None:
    config = build_config({}, [*SMALL, ranked(tmp_path)])
    found = plan_of(config, None)
    assert found["sft"]["selection"]["responses"] == 22
    assert found["sft"]["rows"] == found["sft"]["ift_rows"] + found["sft"]["eft_rows"] + 22
    assert found["disk"]["models"] == 2
    assert "models/SFT" in plan_text(found)
    assert list(selection_inputs(config, None)) == ["seeds/ranked.jsonl"]
    made = plan_of(build_config({}, [*SMALL, "sft.selection.prompts=3"]), None)
    assert made["sft"]["selection"]["responses"] == 6
    assert plan_of(build_config({}, SMALL[:4]), None)["sft"]["selection"] is None


@pytest.mark.long
def test_the_real_model_writes_worse_responses_and_judges_them(tmp_path: Path) -> None:
    """Real children, engine and trainer; one step teaches nothing, so nothing need be selected."""
    words = [
        "iterations=0", "evaluation.ranked=null", "evaluation.questions=null",
    "evaluation.canaries=false",
        "judge.form=written", "judge.template=judge/additive.jinja", "sft.ift.limit=6",
        "sft.eft.limit=1", "sft.max_steps=1", "sft.per_device_train_batch_size=1",
        "prompts.max_new_tokens=40", "responses.max_new_tokens=40", "sft.selection.votes=2",
        "sft.selection.top_k=64", "sft.selection.max_new_tokens=40", "sft.selection.min_rows=0",
    ]  # fmt: skip
    command = [sys.executable, "-m", "selfreward", "run", "quickstart", "--name", "real", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "runs" / "real")
    assert [stage for _, stage in stages(run)] == STAGES
    assert all(check["ok"] for check in verify(run))
    with run.store() as store:
        prompts, found = store.records(Prompt, 0), store.report(0, "selection", SelectionFigures)
        rows = {stage.stage: stage.rows + stage.drops for stage in store.stages()}
    assert any(prompt.dropped is None for prompt in prompts)
    assert found is not None and found.votes > 0
    assert rows["train"] == rows["sft"] + found.rows
