"""A run on conversations: whoever is asked about one, by whatever stage, is shown all its turns."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.config import SeedSource
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.base import Request
from selfreward.errors import ConfigError, StoppedError
from selfreward.inputs.collect import create_run
from selfreward.inputs.columns import read_prompt_rows, values_of
from selfreward.inputs.conversations import LEFT_OUT, messages_of, transcript
from selfreward.records import Prompt, Response
from selfreward.stages.pool import Pool
from selfreward.stages.prompts import draw_prompts
from selfreward.storage.directory import Run
from selfreward.training.rows import dpo_rows
from selfreward.training.seed_rows import sft_rows
from selfreward.verbs.maintenance import verify
from selfreward.verbs.show import prompt_of, prompt_text
from selfreward.verbs.tables import table
from selfreward.workers.checks import check_own_functions, check_run
from selfreward.workers.functions import function_process
from tests.support.loop_driver import ScriptedWorkers
from tests.support.scripted import ScriptedChat, ScriptedEngine

SMALL = [
    "iterations=2", "prompts.count=3", "responses.n=4", "judge.votes=2", "judge.min_parse_rate=0",
    "sft.max_length=8192", "dpo.max_length=8192", "evaluation.canaries=false",
    "prompts.seeds=seed/ift.jsonl",
]  # fmt: skip
OF_FORM = {
    "written": ["judge.form=written", "judge.template=judge/additive.jinja"],
    "expected": ["judge.form=expected", "judge.template=judge/expected.jinja"],
    "criteria": ["judge.form=criteria", "judge.template=judge/criterion.jinja"],
}


def turns(name: str, *, system: bool = False) -> list[dict[str, str]]:
    """A conversation of four turns or five, each of which names it."""
    said = [
        ("user", f"{name} asks first"), ("assistant", f"{name} is answered"),
        ("user", f"{name} goes on"), ("assistant", f"{name} hears more"), ("user", f"{name} ends"),
    ]  # fmt: skip
    first = [("system", f"{name} has rules")] if system else []
    return [{"role": role, "content": text} for role, text in [*first, *said]]


def answered(name: str, text: str) -> dict[str, str]:
    return {"role": "assistant", "content": f"{text} for {name}"}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of conversations, whose names are no part of one another."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))

    def write(kind: str, *rows: dict[str, Any]) -> None:
        (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    names = ["Ann", "Bob", "Cid", "Dot", "Eve", "Fay"]
    drawn = [{"messages": turns(name, system=name in "Ann Eve")} for name in names]
    write("dataset", *drawn, {"prompt": "Sing of one thing."})
    write("ift", {"messages": [*turns("Gus", system=True), answered("Gus", "This")]})
    scored = [{"text": f"Text {score} for Hal", "score": score, "justification": "So."}
              for score in (1, 4)]  # fmt: skip
    write("eft", {"prompt": turns("Hal"), "responses": scored})
    both = {name: [*turns("Ivy"), answered("Ivy", text)]
            for name, text in (("chosen", "Good"), ("rejected", "Bad"))}  # fmt: skip
    write("ranked", both)
    write("questions", {"messages": turns("Joe", system=True)}, {"prompt": "Sing of another."})
    return tmp_path


def make(data: Path, *words: str) -> Run:
    files = [f"prompts.dataset={data}/dataset.jsonl", f"sft.ift={data}/ift.jsonl",
             f"sft.eft={data}/eft.jsonl", f"evaluation.ranked={data}/ranked.jsonl",
             f"evaluation.questions={data}/questions.jsonl"]  # fmt: skip
    return create_run(build_config({}, [*SMALL, *files, *words]), "run")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that any model is asked, as text."""
    found: list[str] = []
    generate = ScriptedEngine.generate

    async def noted(self: ScriptedEngine, request: Request) -> Any:
        found.append("".join(map(chr, request.token_ids)))
        return await generate(self, request)

    monkeypatch.setattr(ScriptedEngine, "generate", noted)
    return found


def text_of(ids: tuple[int, ...]) -> str:
    return "".join(map(chr, ids))


@pytest.mark.parametrize("form", OF_FORM)
def test_whoever_is_asked_about_a_conversation_is_shown_all_its_turns(
    data: Path, asked: list[str], form: str
) -> None:
    compared = "evaluation.compare=true"
    run = make(data, *OF_FORM[form], "judge.break_ties=true", compared)
    launch(run, lambda: None, ScriptedWorkers(run))
    with run.store() as store:
        trained, drops = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
        assert not drops
        pairs, _ = dpo_rows(run, store, 1, ScriptedChat())  # type: ignore[arg-type]
    seen = [*asked, *(text_of(row.prompt_ids) for row in [*trained, *pairs])]
    for name in ("Ann", "Bob", "Gus", "Hal", "Ivy", "Joe"):
        about = [text for text in seen if f"{name} ends" in text]
        contents = [turn["content"] for turn in turns(name, system=name in "Ann Gus Joe")]
        assert about and all(content in text for text in about for content in contents), name
        parts = [text for text in seen if f"{name} asks" in text and text not in about]
        assert not parts, name


def test_dpo_trains_the_very_ids_that_the_policy_was_asked_with(
    data: Path, asked: list[str]
) -> None:
    run = make(data)
    launch(run, lambda: None, ScriptedWorkers(run))
    with run.store() as store:
        prompts = {p.attempt: p for p in store.records(Prompt, 1)}
        pairs, _ = dpo_rows(run, store, 1, ScriptedChat())  # type: ignore[arg-type]
        said = {r.text for r in store.records(Response, 1)}
    assert {text_of(row.prompt_ids) for row in pairs} <= set(asked)
    assert {text_of(row.chosen_ids[:-1]) for row in pairs} <= said
    assert messages_of(prompts[0].text, prompts[0].columns) == turns("Ann", system=True)
    assert prompts[0].text == transcript(turns("Ann", system=True))
    begun = "<system>Ann has rules<user>Ann asks first<assistant>Ann is answered<user>Ann goes on"
    assert any(text.startswith(begun) for text in asked)


def test_readers_and_exports_have_the_whole_conversation(data: Path) -> None:
    run = make(data, "system_prompt=Be good.")
    launch(run, lambda: None, ScriptedWorkers(run))
    assert all(check["ok"] for check in verify(run))
    assert "System: Ann has rules" in prompt_text(prompt_of(run, 1, 0))
    prompts = [row["prompt"] for row in table(run, "pairs").to_pylist()]
    assert turns("Ann", system=True) in prompts  # its own system turn, and no other
    good = {"role": "system", "content": "Be good."}
    assert [good, *turns("Bob")] in prompts


def test_a_judge_with_history_in_its_template_is_given_it_wherever_it_judges(
    data: Path, asked: list[str]
) -> None:
    (data / "own.jinja").write_text(
        "{% block user %}MINE {{ history }} THEN {{ prompt }} ANSWER {{ response }}\n"
        "Score: <points>{% endblock %}"
    )
    run = make(data, "judge.form=written", f"judge.template={data}/own.jinja", "iterations=1")
    launch(run, lambda: None, ScriptedWorkers(run))
    with run.store() as store:
        trained, _ = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
    judged = [text for text in [*asked, *(text_of(row.prompt_ids) for row in trained)]
              if "MINE" in text]  # fmt: skip
    for name in ("Ann", "Bob", "Hal", "Ivy"):
        *earlier, last = turns(name, system=name == "Ann")
        begun = f"MINE {transcript(earlier)} THEN {last['content']} ANSWER"
        about = [text for text in judged if f"{name} ends" in text]
        assert about and all(begun in text for text in about), name


def test_a_row_of_which_the_chat_format_leaves_a_turn_out_is_a_counted_drop(data: Path) -> None:
    class Forgetful(ScriptedChat):
        def left_out(self, user: Any) -> str | None:
            return next((t["content"] for t in user if "rules" in t["content"]), None)

    run = make(data)
    with run.store() as store:
        trained, drops = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
        with pytest.raises(StoppedError, match=r"no row of sft\.ift") as error:
            sft_rows(run, store, "train", Forgetful())  # type: ignore[arg-type]
    assert (len(trained), drops) == (3, [])
    assert error.value.hint == f"ift:0: {LEFT_OUT} (Gus has rules)"
    rows = read_prompt_rows(SeedSource(path=f"{data}/dataset.jsonl"))
    pool, settings = Pool([]), run.config.prompts
    drawn = draw_prompts(rows, Forgetful(), pool, settings, iteration=1)
    dropped = [(p.attempt, p.dropped, p.detail) for p in drawn if p.dropped is not None]
    assert dropped == [(0, LEFT_OUT, "Ann has rules")] and len(drawn) == 4  # three others are kept


def test_rewards_get_the_turns_as_a_column_and_the_text_as_the_prompt(data: Path) -> None:
    (data / "mine.py").write_text(
        "def turns(prompts, completions, messages):\n"
        "    assert all(isinstance(text, str) for text in [*prompts, *completions])\n"
        "    return [len(m) if m else 1 for m in messages]\n"
    )
    run = make(
        data, f"judge={{function: '{data}/mine.py:turns', scale: [0, 10]}}", "iterations=1",
        "sft.eft=null", "evaluation.ranked=null", "evaluation.contests=[]",
    )  # fmt: skip
    check_own_functions(run)
    process = function_process(run, run.config.judge, "judge", ["messages"])

    async def ask() -> list[float | None]:
        async with process:
            return [
                (await process.score(row.prompt, "An answer.", values_of(row.columns))).value
                for row in read_prompt_rows(SeedSource(path=str(run.seed_file("dataset"))))
            ]

    assert asyncio.run(ask()) == [6, 5, 5, 5, 6, 5, 1]


def test_validate_refuses_a_conversation_that_is_no_prompt_with_its_line(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / "ends.jsonl"
    rows = [turns("Kim"), [*turns("Lou"), answered("Lou", "So")]]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    code = invoke(["validate", "runs/quickstart.yaml", f"prompts.dataset={path}"])
    said = capsys.readouterr().err
    assert code == 2 and "ends.jsonl:2: the conversation ends with a turn of the assistant" in said


def test_conversations_that_are_held_out_and_trained_on_are_refused(data: Path) -> None:
    config = build_config({}, [
        *SMALL, f"sft.ift={data}/ift.jsonl", f"prompts.dataset={data}/dataset.jsonl",
        f"evaluation.questions={data}/dataset.jsonl",
    ])  # fmt: skip
    with pytest.raises(ConfigError, match=r"7 of its 7 prompts are also in prompts\.dataset"):
        check_run(config, None)
