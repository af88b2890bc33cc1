"""The forms of judging beside ``written`` and ``expected``, and what holds in all forms."""

import asyncio
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward import records
from selfreward.config import JudgeConfig, JurorConfig
from selfreward.config.load import build_config
from selfreward.config.run import check_judges
from selfreward.engines.base import Generation, Request, RequestError
from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError
from selfreward.inputs.collect import create_run
from selfreward.inputs.judge_templates import load_judge_templates, run_template
from selfreward.measures.sample import votes_of
from selfreward.records import Criterion, FinishReason, Judgment, Prompt, Response
from selfreward.stages import judge as judging
from selfreward.stages.comparisons import form_of
from selfreward.stages.criteria import GENERAL, write_criteria
from selfreward.stages.evaluate import judge_texts
from selfreward.stages.judge import judge_response, no_verdict
from selfreward.stages.verdict import expected_score, parse_score, read_justification
from selfreward.training.seed_rows import sft_rows
from selfreward.verbs.validate import validate
from tests.support.models import make_model
from tests.support.scripted import CONTROL_TOKENS, ScriptedChat, ScriptedEngine

PROMPT = Prompt(1, 3, "Name a fruit.", "", None)
RESPONSE = Response(1, 3, 2, "A plum.", "stop", 4)
CRITERIA = [
    Criterion(1, 3, 0, 0, "Names a fruit", 3.0),
    Criterion(1, 3, 0, 1, "Names no other thing", 1.0),
]
DEFAULTS = {name: form.template for name, form in records.FORMS.items() if form.template}
FORMS = tuple(DEFAULTS)


def settings_of(form: str, **changes: Any) -> JudgeConfig:
    return JudgeConfig(**({"form": form, "template": DEFAULTS[form]} | changes))


def judge(
    engine: ScriptedEngine,
    form: str = "written_expected",
    chat: ScriptedChat | None = None,
    criteria: list[Criterion] = CRITERIA,
    **changes: Any,
) -> list[Judgment]:
    settings = settings_of(form, **changes)
    stage = judge_response(
        engine, chat or ScriptedChat(), load_judge_templates(settings)["judge"],  # type: ignore[arg-type]
        PROMPT, RESPONSE, settings, run_seed=0, criteria=criteria if form == "criteria" else (),
    )  # fmt: skip
    return asyncio.run(stage)


def saying(*texts: str, finish: FinishReason = "stop") -> ScriptedEngine:
    waiting = iter(texts)
    return ScriptedEngine(lambda prompt, number: (next(waiting), finish))


def asked(engine: ScriptedEngine, scored: bool) -> list[str]:
    """What the judge saw, in requests for scores or in those for text."""
    requests = [request for request in engine.requests if bool(request.score_tokens) == scored]
    return ["".join(map(chr, request.token_ids)) for request in requests]


# written_expected


def test_each_justification_is_followed_by_one_request_for_its_score() -> None:
    engine = saying("Good.\nScore: 4", "Hm.", "Fine.\n\n**Score: 3/5**\n")
    votes = judge(engine, votes=3)
    [written] = asked(engine, scored=False)
    assert engine.requests[0].n == 3
    before = written.partition("<assistant>")[0]
    assert asked(engine, scored=True) == [
        f"{before}<assistant>{text}\nScore:" for text in ("Good.", "Hm.", "Fine.")
    ]
    assert [v.vote for v in votes] == [0, 1, 2]
    assert [v.raw for v in votes] == ["Good.\nScore: 4", "Hm.", "Fine.\n\n**Score: 3/5**\n"]
    assert [v.num_tokens for v in votes] == [len(v.raw) for v in votes]
    for vote in votes:
        assert vote.form == "written_expected" and vote.probabilities is not None
        assert (vote.score, vote.reason) == expected_score(vote.probabilities)
    assert len({vote.score for vote in votes}) == 3


@given(st.integers(0, 5), st.integers(0, 5))
def test_the_score_that_the_judge_wrote_itself_changes_nothing(one: int, other: int) -> None:
    first, second = (
        judge(saying(f"It helps.\nScore: {score}"), votes=1)[0].score for score in (one, other)
    )
    assert first == second


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("It helps.\nScore: 4", "length", "cut off"),
        ("", "stop", "empty"),
        (" \n\t\n", "stop", "empty"),
        ("Score: 4", "stop", "empty"),
        ("Score: 4\nFinal score: 4/5\n", "stop", "empty"),
        ("<think>It helps.", "stop", "empty"),
        ("<think>It helps.</think>\nScore: 4", "stop", "empty"),
        (f"It helps.{CONTROL_TOKENS[1]}\nScore: 4", "stop", "control token"),
        (f"<think>{CONTROL_TOKENS[1]}</think>It helps.", "stop", "control token"),
    ],
)
def test_without_a_whole_justification_there_is_no_score_and_none_is_asked(
    tmp_path: Path, text: str, finish: FinishReason, reason: str
) -> None:
    class Thinking(ScriptedChat):
        split_thinking = Chat(make_model(tmp_path)).split_thinking

    engine = saying(text, finish=finish)
    [vote] = judge(engine, chat=Thinking(), votes=1)
    assert (vote.score, vote.reason, vote.probabilities) == (None, reason, None)
    assert (vote.raw, len(engine.requests)) == (text, 1)


def test_the_score_is_expected_after_the_thinking_and_none_is_read_in_it() -> None:
    engine = saying("<think>So.\nScore: 5</think>It helps.\nScore: 1")
    judge(engine, votes=1)
    [seen] = asked(engine, scored=True)
    assert seen.endswith("<assistant><think>So.\nScore: 5</think>It helps.\nScore:")


def test_a_started_turn_stands_before_the_justification(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% block user %}{{ prompt }}{{ response }}{% endblock %}"
        "{% block started %}Verdict:{% endblock %}"
    )
    engine = saying(" it helps.\nScore: 1")
    judge(engine, votes=1, template=str(template))
    assert [seen.partition("<assistant>")[2] for scored in (False, True)
            for seen in asked(engine, scored)] == [
        "Verdict:", "Verdict: it helps.\nScore:",
    ]  # fmt: skip


def test_a_tokenizer_that_joins_text_and_score_gives_a_reason_and_never_a_wrong_score() -> None:
    class Joining(ScriptedChat):
        def score_prompt(
            self, user: str, before: str = "", started: str = ""
        ) -> tuple[tuple[int, ...], tuple[int, ...]]:
            if before.endswith("Hm."):
                raise ConfigError("no single token")
            return super().score_prompt(user, before, started)

    votes = judge(saying("Good.", "Hm."), chat=Joining(), votes=2)
    assert [vote.reason for vote in votes] == [None, "no score token"]
    assert votes[1].score is None


def test_a_score_request_that_fails_costs_its_own_vote_alone() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            if "Hm." in "".join(map(chr, request.token_ids)) and request.score_tokens:
                raise RequestError("too long", "9000 tokens")
            return await super().generate(request)

    texts = iter(["Good.", "Hm.", "Fine."])
    votes = judge(Failing(lambda prompt, number: (next(texts), "stop")), votes=3)
    assert [vote.reason for vote in votes] == [None, "too long", None]


@pytest.mark.parametrize(("form", "most"), [("written_expected", 3), ("criteria", 2)])
def test_the_score_requests_of_a_response_are_in_flight_together(form: str, most: int) -> None:
    engine = ScriptedEngine(delay_s=0.01)
    engine.reply = lambda prompt, number: (f"It helps {number}.", "stop")
    judge(engine, form, votes=3)
    assert (engine.most_in_flight, engine.in_flight) == (most, 0)


@given(st.text())
def test_what_stands_before_a_verdict_is_the_text_or_less_and_ends_in_no_score_line(
    text: str,
) -> None:
    found, reason = read_justification(text, "stop")
    assert (reason is None) == bool(found)
    assert text.startswith(found) or reason == "empty"
    with_verdict, _ = read_justification(f"{text}\nScore: 2", "stop")
    assert with_verdict == found
    if found:
        assert parse_score(found, "stop")[1] == "no score line"


def test_a_huge_justification_is_read_at_once() -> None:
    text = "It helps.\n" + "Score: 5\n" * 50_000
    assert read_justification(text, "stop") == ("It helps.", None)


@pytest.mark.parametrize("before", ["It helps.", "It helps: ", "1", "ab", "a\n\nb"])
def test_after_any_text_prompt_and_score_token_spell_the_verdict_line(
    tmp_path: Path, before: str
) -> None:
    chat = Chat(make_model(tmp_path, merges=[("a", "b"), ("1", "0"), (":", " ")]))
    prompt, scores = chat.score_prompt("judge this", before)
    for score, token in enumerate(scores):
        ids = chat.prompt_ids("judge this", f"{before}\nScore: {score}")
        assert (*prompt, token) == ids


# criteria


def test_each_criterion_is_one_vote_with_its_weight_and_an_expected_score() -> None:
    engine = ScriptedEngine()
    votes = judge(engine, "criteria")
    assert [(v.vote, v.weight, v.form, v.raw) for v in votes] == [
        (0, 3.0, "criteria", ""), (1, 1.0, "criteria", ""),
    ]  # fmt: skip
    for vote in votes:
        assert vote.probabilities is not None
        assert (vote.score, vote.reason) == expected_score(vote.probabilities)
    first, second = asked(engine, scored=True)
    assert "<criterion>\nNames a fruit\n</criterion>" in first
    assert second == first.replace("Names a fruit", "Names no other thing")


def test_without_criteria_there_is_one_vote_that_says_so_and_nothing_is_asked() -> None:
    engine = ScriptedEngine()
    [vote] = judge(engine, "criteria", criteria=[])
    assert (vote.vote, vote.score, vote.reason) == (0, None, "no criteria")
    assert engine.requests == []


def test_a_criterion_whose_request_fails_costs_its_own_vote_alone() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            if "no other thing" in "".join(map(chr, request.token_ids)):
                raise RequestError("refused", "by its filter")
            return await super().generate(request)

    votes = judge(Failing(), "criteria")
    assert [(vote.score is None, vote.reason) for vote in votes] == [
        (False, None), (True, "refused"),
    ]  # fmt: skip


def test_scores_by_criteria_are_one_vote_their_weighted_mean() -> None:
    def scored(*pairs: tuple[float | None, float]) -> list[Judgment]:
        return [
            Judgment(1, 0, 0, i, "criteria", "", s, None if s is not None else "x", weight=w)
            for i, (s, w) in enumerate(pairs)
        ]

    assert votes_of(scored((4.0, 3.0), (0.0, 1.0))) == [3.0]
    assert votes_of(scored((4.0, 3.0), (None, 1.0))) == [4.0]
    assert votes_of(scored((None, 1.0))) == [None]
    assert votes_of([Judgment(1, 0, 0, i, "written", "", 2.0) for i in range(3)]) == [2.0] * 3


# All forms


@pytest.mark.parametrize("form", FORMS)
def test_a_judge_of_the_jury_says_who_it_is_and_draws_its_own_samples(form: str) -> None:
    settings = settings_of(form)
    template = load_judge_templates(settings)["judge"]
    seeds = []
    for juror in (0, 1):
        engine = ScriptedEngine()
        stage = judge_response(
            engine, ScriptedChat(), template, PROMPT, RESPONSE, settings,  # type: ignore[arg-type]
            run_seed=0, juror=juror, criteria=CRITERIA,
        )  # fmt: skip
        assert {vote.juror for vote in asyncio.run(stage)} == {juror}
        seeds += [request.seed for request in engine.requests if request.sampling]
    assert len(set(seeds)) == len(seeds) == (2 if form.startswith("written") else 0)


@pytest.mark.parametrize(("form", "count"), list(zip(FORMS, (3, 1, 3, 1), strict=True)))
def test_where_nothing_is_asked_there_are_as_many_votes_as_a_response_at_least_has(
    form: str, count: int
) -> None:
    votes = no_verdict(RESPONSE, settings_of(form), "control token", 2)
    assert [vote.vote for vote in votes] == list(range(count))
    assert {(vote.score, vote.reason, vote.juror) for vote in votes} == {(None, "control token", 2)}


@pytest.mark.parametrize("form", FORMS)
def test_texts_are_judged_in_every_form_and_criteria_are_asked_for_once_per_prompt(
    form: str,
) -> None:
    def say(prompt: str, number: int) -> tuple[str, FinishReason]:
        is_for_criteria = prompt.endswith("[3] The answer")
        return " is short\n[1] It is true" if is_for_criteria else "Hm.\nScore: 2", "stop"

    texts = [(f"Question {i}?", f"Answer {i}, {k}.") for i in range(3) for k in range(4)]
    made = []
    for concurrency in (1, 9):
        engine, kept = ScriptedEngine(say, delay_s=0.005), {}
        settings = settings_of(form)
        templates = load_judge_templates(settings)
        asyncio.run(
            judge_texts(
                engine, ScriptedChat(), templates["judge"], texts, settings, kept.__setitem__,  # type: ignore[arg-type]
                concurrency=concurrency, criteria_template=templates.get("criteria"),
            )
        )  # fmt: skip
        made.append(kept)
        assert sum(seen.endswith("[3] The answer") for seen in asked(engine, scored=False)) == (
            3 if form == "criteria" else 0
        )
    assert made[0] == made[1]
    assert len(made[0]) == len(texts)
    assert all(vote.score is not None for votes in made[0].values() for vote in votes)
    assert {len(votes) for votes in made[0].values()} == {
        {"written": 3, "expected": 1, "written_expected": 3, "criteria": 2}[form]
    }


@pytest.mark.parametrize("form", [form for form in FORMS if form != "written"])
def test_a_hosted_judge_is_refused_whatever_needs_its_tokenizer(form: str) -> None:
    config = build_config(
        {}, ["judge.model=hosted", f"judge.form={form}", "judge.engine.kind=server",
             "judge.engine.endpoints=[http://localhost:1/v1]"],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=f"judge.form={form}"):
        check_judges(config)


# Templates and forms


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return create_run(build_config({}, ["sft=null", *words]), "run")


@pytest.mark.parametrize(
    ("form", "template", "uses"),
    [
        ("criteria", "judge/additive.jinja", "does not use 'criterion'"),
        ("written", "judge/criterion.jinja", "asks about a 'criterion'"),
        ("expected", "judge/criterion.jinja", "asks about a 'criterion'"),
    ],
)
def test_a_template_that_does_not_fit_the_form_is_refused_with_key_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, template: str, uses: str
) -> None:
    words = [f"judge.form={form}", f"judge.template={template}"]
    with pytest.raises(ConfigError, match=uses) as error:
        make(tmp_path, monkeypatch, *words)
    assert error.value.message.startswith(f"judge.template={template} does not fit")
    assert f"judge.template={DEFAULTS[form]}" in error.value.hint
    with pytest.raises(ConfigError, match=uses):
        validate(build_config({}, words), None)


def test_each_form_has_a_name_a_row_and_something_that_it_does() -> None:
    asks_no_model_in_words = ("reward", "implicit", "function", "imported")
    names = (*judging._VOTES, *asks_no_model_in_words)
    assert get_args(records.FormName) == tuple(records.FORMS) == names


def test_a_new_form_is_a_row_and_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/judge.md; the name alone is not declared, so it is set unchecked."""

    async def strict(judge: Any, seed: int, criteria: Any) -> list[Judgment]:
        votes = await judging._written(judge, seed, criteria)
        read = [vote for vote in votes if vote.score is not None]
        return [min(read or votes, key=lambda vote: vote.score or 0)]

    monkeypatch.setitem(records.FORMS, "strict", records.Form("judge/additive.jinja", writes=True))
    monkeypatch.setitem(judging._VOTES, "strict", strict)
    settings = JudgeConfig(votes=3).model_copy(update={"form": "strict"})
    template = load_judge_templates(settings)["judge"]
    engine = saying("Good.\nScore: 4", "No score.", "Poor.\nScore: 2")
    chat: Any = ScriptedChat()
    [vote] = asyncio.run(
        judge_response(engine, chat, template, PROMPT, RESPONSE, settings, run_seed=0)
    )
    assert (vote.form, vote.vote, vote.score) == ("strict", 2, 2.0)
    assert len(no_verdict(RESPONSE, settings, "juror failed")) == 3
    assert (settings.num_texts(5, 20), settings.num_reads) == (60, 1)
    assert form_of(settings) == "written"
    assert votes_of([vote]) == [2.0]


@pytest.mark.parametrize(
    ("form", "votes", "reads", "texts"),
    [
        ("written", 3, 1, 60), ("expected", 1, 1, 0), ("written_expected", 3, 4, 60),
        ("criteria", 4, 4, 5),
    ],
)  # fmt: skip
def test_what_a_form_costs(form: str, votes: int, reads: int, texts: int) -> None:
    settings = settings_of(form)
    assert (settings.num_votes, settings.num_reads) == (votes, reads)
    assert settings.num_texts(prompts=5, responses=20) == texts


def test_a_member_of_the_jury_is_named_by_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"judge\.jury\.0\.template"):
        make(tmp_path, monkeypatch, "judge.jury=[{model: M1, form: criteria}]")


def test_a_template_that_is_no_good_in_any_form_keeps_its_own_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text("{% block user %}{{ prompt }}{% endblock %}")
    with pytest.raises(ConfigError, match="does not use 'response'"):
        load_judge_templates(JurorConfig(template=str(path)))


@pytest.mark.parametrize("form", FORMS)
def test_a_run_keeps_the_templates_of_its_form_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    words = [f"judge.form={form}", f"judge.template={DEFAULTS[form]}", "evaluation.contests=[]"]
    run = make(tmp_path, monkeypatch, *words)
    kept = sorted(path.name for path in (run.path / "templates").iterdir())
    more = ["criteria.jinja"] if form == "criteria" else []
    assert kept == [*more, "judge.jinja", "prompts.jinja"]
    assert run_template(run, "judge").render(prompt="p", response="r", criterion="c")
    if more:
        assert run_template(run, "criteria").render(prompt="p")


@pytest.mark.parametrize("form", FORMS)
def test_seed_rows_train_what_the_judge_will_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    seed = tmp_path / "eft.jsonl"
    seed.write_text(
        '{"prompt": "Name a fruit.", "response": "A plum.", "score": 3.6, '
        '"justification": "It helps."}'
    )
    words = [f"judge.form={form}", f"judge.template={DEFAULTS[form]}", "sft.ift=null"]
    run = create_run(build_config({}, [*words, f"sft.eft={seed}", "sft.max_length=9999"]), "run")
    with run.store() as store:
        [row], drops = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
    prompt, completion = ("".join(map(chr, ids)) for ids in (row.prompt_ids, row.completion_ids))
    assert drops == []
    if form.startswith("written"):
        assert prompt.endswith("<assistant>")
        assert completion == "It helps.\nScore: 3.6\0"
    else:
        assert prompt.endswith("<assistant>Score:")
        assert completion == "4\0"
    assert (f"<criterion>\n{GENERAL}\n</criterion>" in prompt) == (form == "criteria")


@pytest.mark.parametrize(("score", "token"), [(0.5, "1"), (2.5, "3"), (3.5, "4"), (3.4, "3")])
def test_a_decimal_score_is_trained_as_verdicts_are_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, token: str
) -> None:
    """Halves up: 0.5 and 2.5 were trained as 0 and 2."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    seed = tmp_path / "eft.jsonl"
    seed.write_text(f'{{"prompt": "Name one.", "response": "A plum.", "score": {score}}}')
    words = ["judge.form=expected", f"judge.template={DEFAULTS['expected']}", "sft.ift=null"]
    run = create_run(build_config({}, [*words, f"sft.eft={seed}", "sft.max_length=9999"]), "run")
    with run.store() as store:
        [row], _ = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
    assert chr(row.completion_ids[0]) == token


@pytest.mark.parametrize("form", ["written", "expected"])
def test_human_rows_with_a_control_token_are_dropped_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    start, end = CONTROL_TOKENS
    ift = [("Name one.", "A plum."), ("Which ends it?", f"It is {end}"), (f"a{start}user", "b")]
    eft = [("A plum.", "It helps."), (f"x{end}", "It helps."), ("y", f"So.{end}\n{start}user")]
    ift_rows = [{"prompt": p, "response": r} for p, r in ift]
    eft_rows = [{"prompt": "p", "response": r, "score": 2, "justification": j} for r, j in eft]
    for name, rows in (("ift", ift_rows), ("eft", eft_rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    words = [f"judge.form={form}", f"judge.template={DEFAULTS[form]}", "sft.max_length=9999"]
    words += [f"sft.{name}={tmp_path / name}.json" for name in ("ift", "eft")]
    words.append("prompts.seeds=seed/ift.jsonl")
    run = create_run(build_config({}, words), "run")
    with run.store() as store:
        rows, drops = sft_rows(run, store, "train", ScriptedChat())  # type: ignore[arg-type]
    assert len(rows) == 2
    assert [(drop.item, drop.reason, drop.detail) for drop in drops] == [
        ("ift:1", "control token", end), ("ift:2", "control token", start),
        ("eft:1", "control token", end), ("eft:2", "control token", start),
    ]  # fmt: skip


# The real model


@pytest.mark.slow
def test_the_real_model_judges_in_every_form(model_dir: Path) -> None:
    from selfreward.engines.ctranslate2 import open_engine

    chat = Chat(model_dir)
    prompt = Prompt(1, 0, "Name three fruits that grow in Spain, and when to eat them.", "", None)
    response = Response(1, 0, 0, "Oranges in winter, cherries in June, figs in August.", "stop", 9)

    async def work() -> dict[str, list[Judgment]]:
        engine = open_engine(model_dir, chat, {})
        made = {}
        for form in FORMS:
            settings = settings_of(form, votes=2, max_new_tokens=64, top_k=64)
            templates = load_judge_templates(settings)
            criteria: list[Criterion] = []
            if form == "criteria":
                criteria = await write_criteria(
                    engine, chat, templates["criteria"], prompt, settings, run_seed=0
                )
                assert criteria
                assert all(0 < criterion.weight <= 3 for criterion in criteria)
            made[form] = await judge_response(
                engine, chat, templates["judge"], prompt, response, settings,
                run_seed=0, criteria=criteria,
            )  # fmt: skip
        await engine.close()
        return made

    made = asyncio.run(work())
    assert [len(made[form]) for form in FORMS[:3]] == [2, 1, 2]
    assert 1 <= len(made["criteria"]) <= 4
    for form, votes in made.items():
        for vote in votes:
            assert (vote.score is None) == (vote.reason is not None), form
            if vote.probabilities is not None:
                assert vote.score is not None and 0 < vote.score < 5
                assert sum(vote.probabilities) > 0.01, form
    assert all(vote.score is not None for form in FORMS[1::2] for vote in made[form])
