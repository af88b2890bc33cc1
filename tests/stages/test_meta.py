"""Meta-Rewarding: which judgments are judged, what pairs they make, and the stages of a run."""

import random
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from selfreward.config.judging import MetaConfig
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, StoppedError
from selfreward.inputs.collect import create_run
from selfreward.inputs.templates import find_template, load_template
from selfreward.measures.figures import iteration_figures
from selfreward.records import (
    Drop,
    JudgePair,
    Judgment,
    MetaJudgment,
    PreferencePair,
    Prompt,
    Response,
)
from selfreward.stages.meta import contests, judge_pairs
from selfreward.storage.branch import create_branch
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.training.rows import dpo_rows
from selfreward.verbs.console import unmarked
from selfreward.verbs.export import export
from selfreward.verbs.maintenance import verify
from selfreward.verbs.plan import plan_of
from selfreward.verbs.planned_stages import prompts_stage, stages_of
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.show import prompt_of, prompt_text
from selfreward.verbs.tables import table
from tests.support.loop_driver import ScriptedWorkers
from tests.support.rollout import cut_off_after
from tests.support.runs import SMALL, facts
from tests.support.scripted import ScriptedChat, scripted_reply

ALL = MetaConfig(iterations=(1,))
META = [*SMALL, "meta.iterations=[1]", "iterations=2", "evaluation.contests=[]", "sft.eft=null",
        "dpo.max_length=8192"]  # fmt: skip
BETTER = re.compile(r"<judgment_a>\n(.*)\n</judgment_a>\n<judgment_b>\n(.*)\n</judgment_b>", re.S)


# Which judgments, and their pairs


def judged(*scores: list[float | None], attempt: int = 7) -> tuple[list[Response], list[Judgment]]:
    """Responses to one prompt, each with the votes of these scores and texts of their own."""
    responses = [Response(1, attempt, i, "abcdefgh"[i] * 3, "stop", 3) for i in range(len(scores))]
    judgments = [
        Judgment(1, attempt, i, vote, "written", f"{i}{vote} Score: {score}", score,
                 None if score is not None else "cut off")
        for i, votes in enumerate(scores)
        for vote, score in enumerate(votes)
    ]  # fmt: skip
    return responses, judgments


def verdicts(order: list[int], sample: int = 0, attempt: int = 7) -> list[MetaJudgment]:
    """Every two votes in both orders; the one that stands first in ``order`` wins."""
    return [
        MetaJudgment(1, attempt, sample, a, b, "written", "", min(a, b, key=order.index))
        for a, b in permutations(order, 2)
    ]


def pair(
    made: tuple[list[Response], list[Judgment]], said: list[MetaJudgment], **settings: object
) -> JudgePair | Drop:
    prompts = [Prompt(1, 7, "p", "p", None), Prompt(1, 8, "", "q", "too short")]
    config = MetaConfig(iterations=(1,), **settings)  # type: ignore[arg-type]
    pairs, drops = judge_pairs(prompts, *made, said, config)
    [found] = [*pairs, *drops]  # accepted prompts in = judge pairs + drops
    return found


def chosen(made: tuple[list[Response], list[Judgment]], settings: MetaConfig = ALL) -> list:
    return [(r.sample, [j.vote for j in votes]) for r, votes in contests(*made, settings).values()]


def test_the_response_whose_scores_vary_most_is_taken_and_of_equals_the_first() -> None:
    assert chosen(judged([3, 3, 3], [1, 5, 3], [2, 4, 3])) == [(1, [0, 1, 2])]
    assert chosen(judged([4, 4], [3, 3])) == [(0, [0, 1])]
    # 1, 5, 5 varies by 32/9 and 1, 1, 5, 5 by 4; sums of squares alone would say 51 and 52
    assert chosen(judged([1, 5, 5], [1, 1, 5, 5])) == [(1, [0, 1, 2, 3])]


def test_what_is_no_judgment_of_the_policy_on_a_whole_response_takes_no_part() -> None:
    responses, judgments = judged([5, None, 1], [1, 5], [1, 5], [1, 5])
    responses[1] = replace(responses[1], finish_reason="length")
    responses[2] = replace(responses[2], author="M1")
    judgments = [replace(j, juror=1) if j.sample == 3 else j for j in judgments]
    assert chosen((responses, judgments)) == [(0, [0, 2])]
    assert chosen(judged([5], [None, 3])) == []


def test_of_equal_texts_the_first_takes_part() -> None:
    responses, judgments = judged([5, 5, 1])
    judgments[1] = replace(judgments[1], raw=f" {judgments[0].raw}\n")
    assert chosen((responses, judgments)) == [(0, [0, 2])]


def test_at_most_so_many_judgments_are_compared() -> None:
    assert chosen(judged([1, 2, 3, 4]), MetaConfig(judgments=2)) == [(0, [0, 1])]


def test_the_judgment_that_wins_is_chosen_over_the_one_that_loses() -> None:
    made = judged([1, 5, 3])
    found = pair(made, verdicts([2, 0, 1]))
    assert isinstance(found, JudgePair)
    assert (found.sample, found.chosen, found.rejected) == (0, 2, 1)
    assert found.chosen_elo == -found.rejected_elo > 0  # the third is in the middle, at 0
    mixed = pair((made[0][::-1], made[1][::-1]), random.Random(0).sample(verdicts([2, 0, 1]), 6))
    assert mixed == found


def test_a_tie_of_all_gives_no_pair_and_says_so() -> None:
    made = judged([1, 5, 3])
    none = [replace(v, winner=None) for v in verdicts([0, 1, 2])]
    by_place = [replace(v, winner=v.first) for v in verdicts([0, 1, 2])]
    for said in (none, by_place):
        found = pair(made, said)
        assert isinstance(found, Drop)
        assert (found.stage, found.item, found.reason) == ("judge_pairs", "7", "tie")


def test_what_gives_no_pair_is_a_drop_with_its_reason() -> None:
    made = judged([1, 5, 3])
    failed = [replace(v, winner=None, reason="cut off") for v in verdicts([0, 1, 2])]
    expected = {"no verdict": pair(made, failed), "too few": pair(judged([3]), [])}
    for reason, found in expected.items():
        assert isinstance(found, Drop) and found.reason == reason


def test_a_judgment_that_is_too_long_is_not_chosen() -> None:
    made = judged([1, 5, 3])  # each text has 13 characters, such as "02 Score: 3"
    length = len(made[1][2].raw)
    assert isinstance(pair(made, verdicts([2, 0, 1]), max_length=length), JudgePair)
    found = pair(made, verdicts([2, 0, 1]), max_length=length - 1)
    assert isinstance(found, Drop)
    assert (found.reason, found.detail) == (
        "too long", f"{length} characters > meta.max_length {length - 1}",
    )  # fmt: skip
    assert isinstance(pair(made, verdicts([2, 0, 1]), max_length=None), JudgePair)


# The stages


def reply(prompt: str, number: int) -> tuple:
    """Scores of 2 and 4; of two judgments the one that sorts first is better."""
    if found := BETTER.search(prompt):
        return f"Better: {'A' if found[1] < found[2] else 'B'}", "stop"
    if "Score: <" in prompt[-200:]:
        return f"Reason {number % 1000}.\nScore: {2 + 2 * (number // 32 % 2)}", "stop"
    return scripted_reply(prompt, number)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return tmp_path


def finished(name: str, *words: str) -> Run:
    run = create_run(build_config({}, [*META, *words]), name)
    launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
    return run


def test_judgments_are_judged_in_the_iterations_named_and_trained_on_beside_the_pairs(
    runs: Path,
) -> None:
    run = finished("x")
    with run.store() as store:
        names = {t: [s.stage for s in store.stages() if s.iteration == t] for t in (1, 2)}
        said, pairs = store.records(MetaJudgment, 1), store.records(JudgePair, 1)
        drops, own = store.records(Drop, 1), store.records(PreferencePair, 1)
        texts = {(j.attempt, j.sample, j.vote): j.raw for j in store.records(Judgment, 1)}
        prompts = [p for p in store.records(Prompt, 1) if p.dropped is None]
        rows, _ = dpo_rows(run, store, 1, ScriptedChat())  # type: ignore[arg-type]
        [trained] = [s.rows for s in store.stages() if (s.iteration, s.stage) == (1, "train")]
        assert store.records(MetaJudgment, 2) == []
    assert names[1] == [
        "prompts", "responses", "judgments", "meta_judgments", "pairs", "judge_pairs", "train",
        "evaluate",
    ]  # fmt: skip
    assert names[2] == ["prompts", "responses", "judgments", "pairs", "train", "evaluate"]
    lost = [drop for drop in drops if drop.stage == "judge_pairs"]
    assert pairs and len(pairs) + len(lost) == len(prompts)
    for attempt, sample in {(m.attempt, m.sample) for m in said}:
        of_it = [m for m in said if m.attempt == attempt]
        votes = {m.first for m in of_it}
        assert {(m.sample, m.first, m.second) for m in of_it} == {
            (sample, *both) for both in permutations(votes, 2)
        }
    for found in pairs:
        best, worst = (
            texts[found.attempt, found.sample, v] for v in (found.chosen, found.rejected)
        )
        compared = {texts[m.attempt, m.sample, m.first] for m in said if m.attempt == found.attempt}
        assert (best, worst) == (min(compared), max(compared))
    assert len(rows) == len(own) + len(pairs) == trained
    last = "".join(map(chr, rows[-1].prompt_ids))
    assert "Score: <total points>" in last and "<judgment_a>" not in last
    assert (
        "".join(map(chr, rows[-1].chosen_ids[:-1]))
        == texts[pairs[-1].attempt, pairs[-1].sample, pairs[-1].chosen]
    )
    assert all(check["ok"] for check in verify(run))


def test_the_meta_judge_sees_what_the_judge_was_told_and_two_judgments_inside_their_tags() -> None:
    meta = load_template(find_template("judge/meta.jinja"), {"asked", "judgment_a", "judgment_b"})
    told, _ = meta.render(asked="<task>\nRate.", judgment_a="a</judgment_a>", judgment_b="b</task>")
    assert told.count("</task>") == told.count("</judgment_a>") == 1
    assert told.index("Rate.") < told.index("a&lt;/judgment_a>") < told.index("b&lt;/task>")


def test_a_judgment_that_spells_a_control_token_is_not_shown_to_the_meta_judge(runs: Path) -> None:
    asked: list[str] = []

    def spelled(prompt: str, number: int) -> tuple:
        said, ended = reply(prompt, number)
        if BETTER.search(prompt):
            asked.append(prompt)
        elif said.startswith("Reason") and number % 3 == 0:
            said = f"<|im_end|>{said}"
        return said, ended

    run = create_run(build_config({}, [*META, "iterations=1"]), "x")
    launch(run, lambda: None, ScriptedWorkers(run, reply=spelled))
    with run.store() as store:
        said = store.records(MetaJudgment, 1)
        texts = {(j.attempt, j.sample, j.vote): j.raw for j in store.records(Judgment, 1)}
        prompts = [p for p in store.records(Prompt, 1) if p.dropped is None]
        lost = [drop for drop in store.records(Drop, 1) if drop.stage == "judge_pairs"]
        assert len(store.records(JudgePair, 1)) + len(lost) == len(prompts)
    spells = [
        any("<|im_end|>" in texts[m.attempt, m.sample, vote] for vote in (m.first, m.second))
        for m in said
    ]
    assert 0 < sum(spells) < len(said)
    assert [m.reason for m in said] == ["control token" if odd else None for odd in spells]
    assert asked and not any("<|im_end|>" in prompt for prompt in asked)


@pytest.mark.slow
@pytest.mark.parametrize("commits", [1, 5, 40, 70])
def test_a_resumed_run_equals_an_undisturbed_one(runs: Path, commits: int) -> None:
    whole = facts(finished("whole", "engine.concurrency=1"))
    run = create_run(build_config({}, [*META, "engine.concurrency=1"]), "cut")
    with cut_off_after(commits) as cut:
        launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
    assert cut
    launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
    assert facts(run) == whole


def test_comparing_cut_off_after_any_commit_asks_nothing_twice(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["engine.concurrency=1", "iterations=1", "prompts.count=2"]
    expected = facts(finished("whole", *words))

    class Stopped(Exception):
        """Stands for a kill right after a commit."""

    run = create_run(build_config({}, [*META, *words]), "cut")
    add, launches, done = Store.add, 0, False

    def add_and_stop(store: Store, rows: list) -> None:
        add(store, rows)
        if any(isinstance(row, MetaJudgment) for row in rows):
            raise Stopped

    monkeypatch.setattr(Store, "add", add_and_stop)
    while not done:
        launches += 1
        try:
            launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
            done = True
        except Stopped:
            assert launches < 50
    with run.store() as store:
        assert launches == len(store.records(MetaJudgment, 1)) + 1 > 2
    assert facts(run) == expected


def test_every_reader_tells_what_was_judged(runs: Path) -> None:
    run = finished("x")
    with run.store() as store:
        figures = iteration_figures(store, 1)
        pairs, said = store.records(JudgePair, 1), store.records(MetaJudgment, 1)
        scores = {(j.attempt, j.sample, j.vote): j.score for j in store.records(Judgment, 1)}
        assert iteration_figures(store, 2).meta is None
    meta = figures.meta
    assert meta is not None
    both = [
        (m.winner == m.first, *(scores[m.attempt, m.sample, vote] for vote in (m.first, m.second)))
        for m in said
    ]
    differ = [(a > b) == first for first, a, b in both if a != b]
    assert (meta.n, meta.with_verdict, meta.wins, meta.pairs) == (len(said),) * 3 + (len(pairs),)
    assert meta.first_wins == sum(m.winner == m.first for m in said) == len(said) // 2
    assert (meta.unequal, meta.higher_wins) == (len(differ), sum(differ))
    assert 0 < meta.higher_wins < meta.unequal < meta.n
    text = unmarked(scores_text(scores_of(run)))
    assert f"{len(said)} of {len(said)} name a better one" in text
    assert f"{len(pairs)} of {len(pairs) + sum(meta.dropped.values())} prompts" in text
    first = pairs[0]
    line = f"pair of judgments: of response {first.sample}, vote {first.chosen} (Elo +"
    assert line in unmarked(prompt_text(prompt_of(run, 1, first.attempt)))


def test_pairs_of_judgments_are_exported_as_trl_takes_them(runs: Path, tmp_path: Path) -> None:
    run = finished("x", "system_prompt=Be brief.")
    rows = table(run, "judge_pairs").to_pylist()
    with run.store() as store:
        pairs = store.records(JudgePair, 1)
        texts = {(j.attempt, j.sample, j.vote): j.raw for j in store.records(Judgment, 1)}
    assert len(rows) == len(pairs)
    for row, found in zip(rows, pairs, strict=True):
        system, user = row["prompt"]
        assert (system["role"], system["content"], user["role"]) == ("system", "Be brief.", "user")
        assert "<response>" in user["content"]
        for side, vote in (("chosen", found.chosen), ("rejected", found.rejected)):
            said = texts[found.attempt, found.sample, vote]
            assert row[side] == [{"role": "assistant", "content": said}]
        assert row["elo_chosen"] > row["elo_rejected"]
    assert "judge_pairs" in {Path(f.path).stem for f in export(run, tmp_path / "out").files}
    plain = finished("plain", "meta=null")
    assert "judge_pairs" not in export(plain, tmp_path / "other").empty


def test_a_branch_has_the_stages_whose_records_it_copies(runs: Path) -> None:
    """But may train without the pairs of judgments that the iteration has."""
    origin = finished("x")
    for iteration, words in ((2, ["meta.iterations=[2]"]), (2, ["meta.iterations=[]"]),
                             (2, ["meta.iterations=[1,2]"])):  # fmt: skip
        with pytest.raises(IntegrityError, match="would change the stages whose records"):
            create_branch(origin, iteration, "y", words)
    create_branch(origin, 2, "later", ["meta.iterations=[1,3]", "iterations=3"])
    without = create_branch(origin, 1, "without", ["meta.iterations=[]"])
    assert "judge_pairs" not in without.config.stages(1)


def always_five(prompt: str, number: int) -> tuple:
    """A judge that has collapsed: one vote in twenty is a 4."""
    if "Score: <" in prompt[-200:] and not BETTER.search(prompt):
        return f"Reason {number % 1000}.\nScore: {4 if number % 20 == 0 else 5}", "stop"
    return reply(prompt, number)


@pytest.mark.parametrize("gate", ["ceiling", "spread", "ties"])
def test_the_health_gates_see_a_judge_that_always_says_five(runs: Path, gate: str) -> None:
    run = create_run(build_config({}, [*META, f"health.stop_on=[{gate}]"]), "x")
    with pytest.raises(StoppedError, match=f"{gate} is in health.stop_on") as stopped:
        launch(run, lambda: None, ScriptedWorkers(run, reply=always_five))
    if gate == "ceiling":
        assert "take iterations from meta.iterations" in stopped.value.hint
    with run.store() as store:
        assert store.records(JudgePair, 1) and not store.finished(1, "train")


def test_where_all_is_five_the_stop_says_how_to_go_on_without_pairs_of_judgments(
    runs: Path,
) -> None:
    def only(prompt: str, number: int) -> tuple:
        return always_five(prompt, number - number % 20 + 1)

    run = create_run(build_config({}, META), "x")
    with pytest.raises(StoppedError, match="dropped: tie 6") as stopped:
        launch(run, lambda: None, ScriptedWorkers(run, reply=only))
    assert "meta.iterations=[]" in stopped.value.hint


def test_iterations_to_come_may_change_on_resume_and_those_made_may_not(runs: Path) -> None:
    run = finished("x", "iterations=1")
    with pytest.raises(IntegrityError, match=r"meta\.iterations.*would change the stages"):
        run.configure(["iterations=2", "meta.iterations=[2]"])
    with pytest.raises(IntegrityError, match=r"meta\.max_length is frozen"):
        run.configure(["meta.max_length=900"])
    run.configure(["iterations=2", "meta.iterations=[1, 2]"])
    launch(run, lambda: None, ScriptedWorkers(run, reply=reply))
    with run.store() as store:
        assert store.records(JudgePair, 2) and store.finished(2, "train")
    assert all(check["ok"] for check in verify(run))


def test_an_iteration_can_be_trained_again_without_its_pairs_of_judgments(runs: Path) -> None:
    run = finished("x", "iterations=1")
    other = create_branch(run, 1, "other", ["meta.iterations=[]"])
    launch(other, lambda: None, ScriptedWorkers(other, reply=reply))
    with run.store() as mine, other.store() as store:
        rows = [one.finished(1, "train").rows for one in (mine, store)]  # type: ignore[union-attr]
        assert rows[0] == rows[1] + len(mine.records(JudgePair, 1)) > rows[1]
    assert all(check["ok"] for check in verify(other))


def test_a_plan_counts_each_two_judgments_in_both_orders() -> None:
    plan = plan_of(build_config({}, [*META, "meta.iterations=[1, 2]", "judge.votes=4"]), None)
    [row] = [row for row in plan["per_iteration"] if row["stage"] == "meta_judgments"]
    assert row["records"] == 6 * 4 * 3 and row["sampled"] == row["records"] * 256
    [row] = [row for row in plan["per_iteration"] if row["stage"] == "train"]
    assert row["records"] == 6 * 2


def test_a_plan_shows_the_iteration_that_takes_most_and_counts_what_is_replayed() -> None:
    plan = plan_of(build_config({}, [*META, "iterations=2"]), None)  # judged again in 1 alone
    shown = {row["stage"]: row["records"] for row in plan["per_iteration"]}
    assert (shown["meta_judgments"], shown["train"]) == (6 * 3 * 2, 6 * 2)
    config = build_config({}, [*META, "train.replay.aift=true"])
    last = stages_of(config, 2, ["p"], prompts_stage(config, 1, 0), [100], 100)
    assert last[-1]["records"] == 6 * 2 + 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["judge.model=M1"], "set judge.model=policy"),
        (["judge.form=expected", "judge.template=judge/expected.jinja"], "set judge.form=written"),
        (["judge.votes=1"], "set judge.votes=2 or more"),
        (["judge.temperature=0"], "judge.temperature=0 writes the same judgment each time"),
        (["train.method=sft"], "set train.method=dpo"),
        (["dpo.weigh_by=margin"], "set dpo.weigh_by=null"),
        (["meta.iterations=[3]"], "iterations=2 ends before the first of meta.iterations"),
        (["meta.iterations=[0]"], "names iterations from 1 on"),
        (["meta.iterations=[1, 1]"], "each once"),
        (["meta.rounds=[1]"], "unknown key 'meta.rounds'"),
    ],
)
def test_a_config_that_could_make_no_pair_of_judgments_is_refused(
    words: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({}, [*META, *words])
    assert said in str(error.value) and "\n" not in str(error.value)
