"""Runs with a jury and with anchors: streams, failures, resumes, and what readers make of them."""

import asyncio
import json
from pathlib import Path

import pytest

from selfreward.cli.main import invoke
from selfreward.config import EngineConfig
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.base import Generation, Request
from selfreward.engines.sessions import Session, Sessions
from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.measures.figures import iteration_figures
from selfreward.measures.votes import scored_responses
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.stages.jury import mean_scores
from selfreward.stages.pairs import build_pairs
from selfreward.storage.directory import Run
from selfreward.verbs.maintenance import collect, verify
from selfreward.verbs.pairs import compare_rules
from selfreward.verbs.plan import plan_of
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.show import prompt_of, prompt_text, select
from selfreward.verbs.status import status_of
from selfreward.workers.rollout import generate_iteration
from tests.support.loop_driver import ScriptedWorkers
from tests.support.rollout import cut_off_after, make_run
from tests.support.runs import SMALL
from tests.support.scripted import ScriptedChat, ScriptedEngine

JURY = (
    "judge.jury=[{model: org/other, weight: 2.0, votes: 2}, {model: hosted, votes: 1, weight: 0.5,"
    " engine: {kind: server, endpoints: ['http://localhost:1/v1']}}, {model: M1, form: expected}]"
)
FEW = [
    "sft=null", "prompts.count=4", "prompts.window=2", "responses.n=3", "judge.votes=2",
    "judge.min_parse_rate=0", JURY,
]  # fmt: skip
JUDGES = ["judgments", "judgments/1", "judgments/2", "judgments/3"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))


def make(name: str, *overrides: str) -> Run:
    return make_run(name, *FEW, *overrides)


class Opened:
    """Opens scripted engines, remembers them, and fails as told.

    Args:
        closed: A model that cannot be opened.
        dying: A model whose engine dies, and after how many requests.
    """

    def __init__(self, closed: str = "", dying: tuple[str, int] = ("", 0)) -> None:
        self.closed, self.dying = closed, dying
        self.engines: list[tuple[str, ScriptedEngine]] = []

    def __call__(self, settings: EngineConfig, model: Path | str) -> Session:
        assert settings.kind == "server" or all(e.closed for m, e in self.engines if m != "hosted")
        if str(model) == self.closed:
            raise PreflightError(f"{model} is not here")
        engine: ScriptedEngine = ScriptedEngine(delay_s=0.002)
        if str(model) == self.dying[0]:
            engine = Dying(self.dying[1])
        self.engines.append((str(model), engine))
        return Session(engine, ScriptedChat())  # type: ignore[arg-type]

    @property
    def models(self) -> list[str]:
        return [model for model, _ in self.engines]

    @property
    def asked(self) -> int:
        return sum(len(engine.requests) for _, engine in self.engines)


class Dying(ScriptedEngine):
    def __init__(self, left: int) -> None:
        super().__init__(delay_s=0.002)
        self.left = left

    async def generate(self, request: Request) -> list[Generation]:
        self.left -= 1
        if self.left < 0:
            raise PreflightError("no endpoint answers")
        return await super().generate(request)


def generate(run: Run, opened: Opened | None = None, iteration: int = 1) -> Opened:
    opened = opened or Opened()
    sessions = Sessions(opened)

    async def work() -> None:
        with run.owned() as store:
            try:
                await generate_iteration(run, store, iteration, sessions)
            finally:
                await sessions.close()

    asyncio.run(work())
    return opened


def records(run: Run) -> tuple[list[Prompt], list[Response], list[Judgment]]:
    with run.store() as store:
        return (store.records(Prompt, 1), store.records(Response, 1), store.records(Judgment, 1))


def stages(run: Run) -> dict[str, tuple[int, int, str]]:
    with run.store() as store:
        return {stage.stage: (stage.rows, stage.drops, stage.digest) for stage in store.stages()}


def events(run: Run, kind: str = "warning") -> list[str]:
    with run.store() as store:
        return [text for _, k, text in store.events() if k == kind]


# Streams


def test_every_judge_votes_on_every_fit_response_in_a_stage_of_its_own() -> None:
    run = make("run")
    generate(run)
    _, responses, judgments = records(run)
    fit = [(r.attempt, r.sample) for r in responses if r.dropped is None]
    for juror, votes in enumerate((2, 2, 1, 1)):
        own = [j for j in judgments if j.juror == juror]
        assert [(j.attempt, j.sample, j.vote) for j in own] == [
            (*key, number) for key in fit for number in range(votes)
        ]
        assert {j.form for j in own} == {"expected" if juror == 3 else "written"}
        assert stages(run)[JUDGES[juror]][:2] == (len(own), 0)
    written = [{j.raw for j in judgments if j.juror == juror and j.raw} for juror in range(2)]
    assert not written[0] & written[1]  # other seeds
    assert all(check["ok"] for check in verify(run) if check["name"] != "M0")


def test_models_that_cannot_be_in_memory_together_take_turns_and_endpoints_flow_along() -> None:
    """M1 is the policy in iteration 1, so its engine serves its judge too."""
    opened = generate(make("run"))
    assert opened.models == ["m", "hosted", "org/other"]


def test_a_judge_of_the_jury_that_is_the_policy_costs_no_further_change_of_models() -> None:
    opened = generate(make("run", "judge={model: org/judge, jury: [{model: policy}]}"))
    assert opened.models == ["m", "org/judge"]


def test_a_jury_makes_the_same_records_streamed_staged_and_in_any_concurrency() -> None:
    made = []
    words = (["engine.staged=true"], ["engine.concurrency=1"], ["engine.concurrency=5"], [])
    for number, more in enumerate(words):
        run = make(f"run-{number}", *more)
        generate(run)
        made.append((records(run), stages(run)))
    assert all(other == made[0] for other in made[1:])


@pytest.mark.slow
def test_work_of_a_jury_cut_off_after_any_commit_goes_on_to_the_same_records() -> None:
    whole = make("whole", "engine.concurrency=3")
    asked = generate(whole).asked
    expected = records(whole)
    stop, cut = 0, [0]
    while cut:
        stop += 1
        run = make(f"run-{stop}", "engine.concurrency=3")
        with cut_off_after(stop) as cut:
            generate(run)
        committed = {(j.juror, j.attempt, j.sample) for j in records(run)[2]}
        again = generate(run)
        assert again.asked < asked
        assert records(run) == expected
        judged = {(j.juror, j.attempt, j.sample) for j in expected[2]}
        own = [r for m, e in again.engines if m == "org/other" for r in e.requests]
        assert len(own) == len({key for key in judged - committed if key[0] == 1})
    assert stop > 20


# Failures


@pytest.mark.parametrize("juror", [1, 2])
def test_a_judge_that_cannot_be_opened_is_recorded_and_the_others_go_on(juror: int) -> None:
    model = ("", "org/other", "hosted")[juror]
    whole, run = make("whole"), make("run")
    generate(whole)
    generate(run, Opened(closed=model))
    expected, found = records(whole), records(run)
    assert found[:2] == expected[:2]
    assert [j for j in found[2] if j.juror != juror] == [j for j in expected[2] if j.juror != juror]
    failed = [j for j in found[2] if j.juror == juror]
    assert {(j.attempt, j.sample, j.vote) for j in failed} == {
        (j.attempt, j.sample, j.vote) for j in expected[2] if j.juror == juror
    }
    assert {(j.score, j.reason) for j in failed} == {(None, "juror failed")}
    assert events(run) == [
        f"iteration 1, judge.jury.{juror - 1} ({model}): PreflightError: {model} is not here"
    ]
    assert set(stages(run)) == set(stages(whole))
    without = [j for j in expected[2] if j.juror != juror]
    settings, weights = run.config.pairs, run.config.judge.weights
    assert build_pairs(*found, settings, weights) == build_pairs(
        *found[:2], without, settings, weights
    )


@pytest.mark.parametrize("left", [0, 5])
def test_a_judge_that_dies_midway_keeps_what_it_said_and_is_asked_no_more(left: int) -> None:
    whole, run = make("whole"), make("run", "engine.concurrency=1")
    generate(whole)
    opened = generate(run, Opened(dying=("hosted", left)))
    [engine] = [engine for model, engine in opened.engines if model == "hosted"]
    assert isinstance(engine, Dying) and engine.left == -1
    expected = {(j.attempt, j.sample): j for j in records(whole)[2] if j.juror == 2}
    found = [j for j in records(run)[2] if j.juror == 2]
    kept = [j for j in found if j.reason != "juror failed"]
    assert len(kept) == left
    assert len(found) == len(expected)
    assert all(expected[j.attempt, j.sample] == j for j in kept)
    assert len(events(run)) == 1
    assert "PreflightError: no endpoint answers" in events(run)[0]
    assert generate(run).asked == 0
    assert len([j for j in records(run)[2] if j.juror == 2]) == len(expected)
    assert opened.asked > 0


def test_a_judge_that_died_is_opened_anew_by_an_engine_process_that_lives_on() -> None:
    runs, opened = [make("one"), make("two")], Opened(dying=("hosted", 5))
    sessions = Sessions(opened)

    async def work() -> None:
        for run in runs:
            with run.owned() as store:
                await generate_iteration(run, store, 1, sessions)
            opened.dying = ("", 0)
        await sessions.close()

    asyncio.run(work())
    assert opened.models.count("hosted") == 2
    assert all(engine.closed for _, engine in opened.engines)
    failed = [sum(j.reason == "juror failed" for j in records(run)[2]) for run in runs]
    assert failed[0] > 0 == failed[1]


def test_the_first_judge_that_fails_stops_the_run() -> None:
    judge = "judge={model: org/judge, min_parse_rate: 0.0, jury: [{model: policy}]}"
    run = make("run", judge)
    with pytest.raises(PreflightError, match="org/judge is not here"):
        generate(run, Opened(closed="org/judge"))
    generate(run)
    assert set(JUDGES[:2]) < set(stages(run))


def test_too_few_verdicts_stop_the_run_for_the_first_judge_alone() -> None:
    class Prose(ScriptedEngine):
        def __init__(self) -> None:
            super().__init__(lambda prompt, number: (f"prose {number}", "stop"))

    class ProseOther(Opened):
        def __call__(self, settings: EngineConfig, model: Path | str) -> Session:
            session = super().__call__(settings, model)
            if model == "org/other":
                self.engines[-1] = (str(model), Prose())
                return Session(self.engines[-1][1], ScriptedChat())  # type: ignore[arg-type]
            return session

    run = make("run", "judge.min_parse_rate=0.5", "prompts.count=3")
    generate(run, ProseOther())
    [text] = events(run)
    assert text.startswith("iteration 1, judge.jury.0 (org/other): 0 of ")
    assert "no score line" in text


# Anchors


def anchored(name: str, *overrides: str) -> Run:
    words = ["iterations=2", "responses.anchors=2", "pairs.rule=anchored", *overrides]
    run = create_run(build_config({}, [*SMALL, *words]), name)
    launch(run, lambda: None, ScriptedWorkers(run))
    return run


def test_anchors_come_from_iteration_2_on_and_alone_are_rejected() -> None:
    run = anchored("run")
    with run.store() as store:
        first, second = (store.records(Response, t) for t in (1, 2))
        pairs = [store.records(PreferencePair, t) for t in (1, 2)]
        names = [(s.iteration, s.stage) for s in store.stages()]
        rows = {s.stage: s.rows + s.drops for s in store.stages() if s.iteration == 2}
        judged = {(j.attempt, j.sample) for j in store.records(Judgment, 2)}
    assert not any(r.is_anchor for r in first)
    assert (1, "anchors") not in names and (2, "anchors") in names
    anchors = [r for r in second if r.is_anchor]
    assert {r.sample for r in anchors} == {3, 4}
    assert {r.sample for r in second if not r.is_anchor} == {0, 1, 2}
    assert rows["anchors"] == len(anchors) == 2 * 6
    assert rows["responses"] == 3 * 6
    fit = [r for r in second if r.dropped is None and not r.truncated]
    assert judged == {(r.attempt, r.sample) for r in fit}
    assert all(pair.chosen < 3 <= pair.rejected for pair in pairs[1])
    assert pairs[0] and pairs[1]
    assert all(check["ok"] for check in verify(run))


def test_m1_answers_for_the_anchors_and_the_policy_all_else() -> None:
    class Noting(ScriptedEngine):
        """Notes which checkpoint answers what."""

        def __init__(self) -> None:
            super().__init__()
            self.of: list[tuple[str, int]] = []

        async def generate(self, request: Request) -> list[Generation]:
            self.of.append((self.model.name if self.model else "M2", request.n))
            return await super().generate(request)

    run = make("run", "judge={form: expected}", "responses.anchors=2", "iterations=2")
    run.policy = lambda iteration: run.path / f"M{iteration}"  # type: ignore[method-assign]
    engine = Noting()
    sessions = Sessions(lambda settings, model: Session(engine, ScriptedChat()))  # type: ignore[arg-type]
    with run.owned() as store:
        asyncio.run(generate_iteration(run, store, 2, sessions))
    asked = [model for model, n in engine.of if n == 2]
    assert asked == ["M1"] * 4
    assert {model for model, n in engine.of if n != 2} == {"M2"}
    with run.store() as store:
        responses = store.records(Response, 2)
    own = {r.text for r in responses if not r.is_anchor}
    assert not own & {r.text for r in responses if r.is_anchor and r.text}  # other seeds


def test_without_anchors_the_rule_is_refused_where_it_would_need_them() -> None:
    with pytest.raises(ConfigError, match=r"pairs.rule=anchored needs responses.anchors.*=0") as e:
        build_config({}, ["pairs.rule=anchored", "iterations=2"])
    assert "\n" not in e.value.message
    build_config({}, ["pairs.rule=anchored", "iterations=1"])
    build_config({}, ["pairs.rule=anchored", "responses.anchors=1"])


def test_gc_keeps_m1_as_long_as_it_answers_or_judges() -> None:
    run = anchored("run", "iterations=3")
    paths = [Path(item["path"]) for item in collect(run, 1, dry_run=True)]
    assert [path.name for path in paths if path.parent.name == "models"] == ["M2", "M3"]


# What readers make of it


@pytest.fixture(scope="module")
def jury(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two iterations with a jury, anchors and filters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(tmp_path_factory.mktemp("runs")))
        words = ["iterations=2", "responses.anchors=2", "responses.n=4", "prompts.count=8",
                 "pairs.min_margin=0.25", "pairs.min_jurors=0.5", JURY]  # fmt: skip
        run = create_run(build_config({}, [*SMALL, *words]), "jury")
        launch(run, lambda: None, ScriptedWorkers(run))
    return run


@pytest.mark.parametrize("iteration", [1, 2])
def test_comparing_rules_gives_the_pairs_of_the_run(jury: Run, iteration: int) -> None:
    own, *others = compare_rules(jury, iteration)["rules"]
    with jury.store() as store:
        stored = store.records(PreferencePair, iteration)
    assert own["pairs"] == own["identical"] == len(stored) > 0
    assert own["margin"] == pytest.approx(sum(p.margin for p in stored) / len(stored), abs=1e-12)
    assert "anchored" in [row["settings"]["rule"] for row in others]


def test_a_run_judged_by_a_part_of_its_jury_is_not_judged() -> None:
    run = make("part", "judge={model: org/judge, jury: [{model: org/other}]}")
    with pytest.raises(PreflightError):
        generate(run, Opened(closed="org/judge"))
    with pytest.raises(LookupError, match="not judged"):
        compare_rules(run, None)


@pytest.mark.parametrize("iteration", [1, 2])
def test_readers_score_as_pairs_are_scored(jury: Run, iteration: int) -> None:
    with jury.store() as store:
        responses = store.records(Response, iteration)
        judgments = store.records(Judgment, iteration)
        found = {(s.attempt, s.sample): s.score for s in scored_responses(store, iteration)}
        figures = iteration_figures(store, iteration)
    expected = mean_scores(responses, judgments, jury.config.judge.weights)
    assert found == pytest.approx(expected, abs=1e-12)
    policys = [expected[r.attempt, r.sample] for r in responses
               if not r.is_anchor and (r.attempt, r.sample) in expected]  # fmt: skip
    assert figures.scores.n == len(policys)
    assert figures.scores.mean == pytest.approx(sum(policys) / len(policys))
    attempt = responses[0].attempt
    for shown in prompt_of(jury, iteration, attempt).responses:
        assert shown.score == expected.get((attempt, shown.sample))
    _, attempts = select(jury, iteration, "best")
    best = [max(v for (a, _), v in expected.items() if a == attempt) for attempt in attempts]
    assert best == sorted(best, reverse=True)


def test_the_figures_of_a_jury_can_be_recomputed_from_raw_records(jury: Run) -> None:
    with jury.store() as store:
        judgments = store.records(Judgment, 2)
        figures = iteration_figures(store, 2)
        counts = {s.stage: s.rows for s in store.stages() if s.iteration == 2}
    assert figures.jury is not None
    judges = figures.jury.judges
    assert [j.n for j in judges] == [counts[stage] for stage in JUDGES]
    assert figures.judgments.n == counts["judgments"]
    assert [j.judge for j in judges] == [
        "judge", "judge.jury.0", "judge.jury.1", "judge.jury.2",
    ]  # fmt: skip
    means: dict[int, dict[tuple[int, int], float]] = {}
    for juror in range(4):
        votes: dict[tuple[int, int], list[float]] = {}
        for j in judgments:
            if j.juror == juror and j.score is not None:
                votes.setdefault((j.attempt, j.sample), []).append(j.score)
        means[juror] = {key: sum(v) / len(v) for key, v in votes.items()}
        assert judges[juror].parsed == sum(map(len, votes.values()))
        assert judges[juror].mean == pytest.approx(sum(means[juror].values()) / len(means[juror]))
    assert len(figures.jury.agreement) == 6
    for two in figures.jury.agreement:
        a, b = (means[["judge", "judge.jury.0", "judge.jury.1", "judge.jury.2"].index(name)]
                for name in two.judges)  # fmt: skip
        both = sorted(a.keys() & b.keys())
        assert two.responses == len(both)
        assert two.difference == pytest.approx(sum(abs(a[k] - b[k]) for k in both) / len(both))
        same = []
        for i, x in enumerate(both):
            for y in both[i + 1 :]:
                if x[0] == y[0]:
                    product = (a[x] - a[y]) * (b[x] - b[y])
                    tied = (a[x] == a[y]) + (b[x] == b[y])
                    same.append(1.0 if product > 0 or tied == 2 else 0.5 if tied else 0.0)
        assert two.pairs == len(same)
        assert two.same == pytest.approx(sum(same) / len(same))


def test_scores_status_and_show_name_the_judges(
    jury: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    text = scores_text(scores_of(jury))
    for words in ("judge.jury.1", "judge, judge.jury.0", "same order", "answers of M1"):
        assert words in text
    assert [row.stage for row in status_of(jury).stages][:7] == [
        "prompts", "responses", "anchors", *JUDGES,
    ]  # fmt: skip
    attempt = select(jury, 2, "first")[1][0]
    shown = prompt_text(prompt_of(jury, 2, attempt))
    assert "judge.jury.1, vote 0" in shown
    assert "judge.jury.2, expected" in shown
    assert "by M1" in shown
    assert invoke(["scores", str(jury.path), "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_a_plan_counts_anchors_and_judges_as_the_run_makes_them(
    jury: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(jury.path.parent))
    config = jury.config
    planned = {row["stage"]: row["records"] for row in plan_of(config, None)["per_iteration"]}
    with jury.store() as store:
        made = {s.stage: s.rows + s.drops for s in store.stages() if s.iteration == 2}
        responses = store.records(Response, 2)
        unfit = sum(r.dropped is not None or r.truncated for r in responses)
    for stage in ("responses", "anchors"):
        assert planned[stage] == made[stage]
    for stage, judge in zip(JUDGES, config.judge.jurors, strict=True):
        assert planned[stage] == made[stage] + unfit * judge.num_votes
    assert plan_of(config, None)["time"]["by_stage"].keys() >= set(JUDGES)


# The config of a jury


def test_a_jurors_key_is_set_changed_and_misspelt_like_any_other() -> None:
    run = make("run")
    assert build_config({}, [JURY, "judge.jury.0.weight=3.0"]).judge.weights == (1, 3, 0.5, 1)
    with pytest.raises(ConfigError, match="no entry '3'"):
        build_config({}, [JURY, "judge.jury.3.weight=3.0"])
    with pytest.raises(ConfigError, match=r"judge.jury.0.wieght") as error:
        build_config({}, [JURY, "judge.jury.0.wieght=3.0"])
    assert error.value.hint == "Did you mean weight?"
    fingerprint = run.fingerprint
    run.configure(["judge.jury.1.engine.endpoints=['http://localhost:2/v1']"])
    assert Run(run.path).fingerprint == fingerprint
    assert run.config.judge.jury[1].engine.options["endpoints"] == ["http://localhost:2/v1"]  # type: ignore[union-attr]
    run.configure(["judge.jury.0.weight=9.0"])
    assert run.config.judge.weights == (1, 9, 0.5, 1)
    generate(run)
    with pytest.raises(IntegrityError, match=r"judge.jury.0.weight is frozen"):
        run.configure(["judge.jury.0.weight=3.0"])
