"""What people are asked, what `selfreward labels` says of it, and that others read its export."""

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from selfreward.cli.main import invoke
from selfreward.config import SeedSource
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError, NotFoundError
from selfreward.inputs.collect import create_run
from selfreward.inputs.rankings import rankings_of, read_ranked
from selfreward.inputs.seeds import read_eft
from selfreward.records import Drop, Judgment, PreferencePair
from selfreward.storage.directory import Run
from selfreward.storage.label import KINDS, content, in_force
from selfreward.storage.labels import Labels
from selfreward.verbs.labels import export, figures_of_labels, labels_text
from selfreward.verbs.questions import Questions, Queue
from tests.support.labels import items, label, label_all
from tests.support.loop_driver import ScriptedWorkers
from tests.support.models import make_model
from tests.support.rankings import selfreward
from tests.support.runs import HOSTILE, SMALL, UNSAFE, runs  # noqa: F401  (fixture)
from tests.support.server import Server


@pytest.fixture
def run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    shutil.copytree(runs / "whole", tmp_path / "whole")
    return Run(tmp_path / "whole")


# What is asked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["random", "disputed", "pairs"])
def test_each_item_is_asked_once_and_holds_whole_answers_of_different_text(
    run: Run, kind: Any, order: Any
) -> None:
    found = items(run, kind, order=order)
    assert found and len(found) == len(set(found))
    with run.store() as store:
        for item in found:
            texts = content(store, item).answers
            assert item.kind == kind and all(texts) and len(set(texts)) == len(texts)
            assert len(texts) == 1 if kind == "rating" else len(texts) >= 2


def test_the_order_follows_from_the_seed_and_is_another_for_another_person(run: Run) -> None:
    def asked(labeler: str) -> list[Any]:
        queue, found = Queue(run), list[Any]()
        with run.store() as store:
            while item := queue.find(store, Questions("ab", overlap=0.0), labeler, [], found).item:
                found.append(item)
        return found

    assert asked("ann") == asked("ann")
    assert asked("ann") != asked("bob")
    assert set(asked("ann")) == set(asked("bob"))


def test_the_most_disputed_prompts_come_first(run: Run) -> None:
    found = items(run, "ab", order="disputed")
    with run.store() as store:
        spreads = []
        for item in found:
            votes: dict[int, list[float]] = {}
            for vote in store.records(Judgment, item.iteration, item.attempt):
                if vote.score is not None:
                    votes.setdefault(vote.sample, []).append(vote.score)
            spreads.append(max(max(given) - min(given) for given in votes.values()))
    assert spreads == sorted(spreads, reverse=True) and spreads[-1] > 0


def test_pairs_asks_about_the_chosen_and_the_rejected_answer_of_each_pair(run: Run) -> None:
    with run.store() as store:
        pairs = [pair for t in (1, 2) for pair in store.records(PreferencePair, t)]
    asked = {
        (item.iteration, item.attempt, item.samples) for item in items(run, "ab", order="pairs")
    }
    assert asked <= {(p.iteration, p.attempt, tuple(sorted((p.chosen, p.rejected)))) for p in pairs}
    assert len(asked) == len(pairs)


def test_where_no_votes_differ_a_person_is_told(run: Run) -> None:
    with closing(sqlite3.connect(run.records)) as db:
        db.execute("UPDATE judgments SET score = 3, reason = NULL")
        db.commit()
    with pytest.raises(ConfigError, match="no two votes on an answer differ"):
        items(run, "ab", order="disputed")


def test_one_iteration_can_be_asked_about_alone(run: Run) -> None:
    assert {item.iteration for item in items(run, "ab")} == {1, 2}
    assert {item.iteration for item in items(run, "ab", iteration=2)} == {2}


@pytest.mark.parametrize(
    "asked", [{"answers": 1}, {"answers": 10}, {"overlap": -0.1}, {"overlap": 2}]
)
def test_what_nobody_can_be_asked_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Questions("ranking", **asked)


@pytest.mark.parametrize(("overlap", "shared"), [(0.0, "none"), (0.5, "some"), (1.0, "all")])
def test_a_share_of_the_prompts_is_asked_of_everybody_and_the_rest_of_one(
    run: Run, overlap: float, shared: str
) -> None:
    queue, asked = Queue(run), Questions("ab", overlap=overlap)
    with run.store() as store:
        for turn in range(60):
            labeler = ("ann", "bob", "cem")[turn % 3]
            with Labels(run, writes=True) as labels:
                given = labels.of_kind("ab")
            item = queue.find(store, asked, labeler, given).item
            if item is not None:
                label(run, item, labeler, ranks=(1, 2))
    with Labels(run) as labels:
        times = Counter(one.item for one in labels.of_kind("ab"))
    assert set(times) == set(items(run, "ab"))
    assert set(times.values()) == {"none": {1}, "some": {1, 3}, "all": {3}}[shared]


def test_what_was_passed_over_is_not_asked_of_the_same_person_again(run: Run) -> None:
    queue, asked = Queue(run), Questions("ab", overlap=0.0)
    (first, *_) = items(run, "ab", overlap=0.0)
    label(run, first)
    with run.store() as store, Labels(run) as labels:
        given = labels.of_kind("ab")
        assert queue.find(store, asked, "ann", given).item != first
        assert queue.find(store, asked, "ann", given).labeled == 0
        others = list[Any]()
        while (item := queue.find(store, asked, "bob", given, others).item) is not None:
            others.append(item)
    assert first in others


def test_answers_stand_in_an_order_of_chance_that_stays(run: Run) -> None:
    queue = Queue(run)
    (item, *_) = items(run, "ab")
    assert queue.shown(item, "ann") == Queue(run).shown(item, "ann")
    firsts = Counter(queue.shown(item, str(name))[0] for name in range(400))
    assert all(150 < count < 250 for count in firsts.values()) and len(firsts) == 2


# What it comes to


def test_figures_do_not_depend_on_the_order_in_which_answers_were_shown(run: Run) -> None:
    for item in items(run, "ranking"):
        ranks = tuple(1 + (s + item.attempt) % 3 for s in item.samples)
        label(run, item, "ann", ranks=ranks, shown=item.samples)
        label(run, item, "bob", ranks=ranks[::-1], shown=item.samples)
    before = figures_of_labels(run)
    shutil.move(run.path / "labels.db", run.path.parent / "gone.db")
    for item in reversed(items(run, "ranking")):
        ranks = tuple(1 + (s + item.attempt) % 3 for s in item.samples)
        label(run, item, "bob", ranks=ranks[::-1], shown=item.samples[::-1])
        label(run, item, "ann", ranks=ranks, shown=item.samples[::-1])
    assert figures_of_labels(run) == before


def test_a_label_that_was_superseded_or_undone_counts_once(run: Run) -> None:
    label_all(run)
    before = figures_of_labels(run)
    for item in items(run, "ab"):
        label(run, item, ranks=(2, 1))
        with Labels(run, writes=True) as labels:
            labels.undo("ann", "ab")
    (item, *_) = items(run, "rating")
    label(run, item, rating=1)
    with Labels(run) as labels:
        history = labels.history()
        (old,) = [one for one in history if one.item == item][:1]
    label(run, item, rating=old.rating, flags=old.flags, note=old.note)
    after = figures_of_labels(run)
    assert after.superseded == len(items(run, "ab")) + 2
    assert {**msgspec.to_builtins(after), "superseded": 0} == msgspec.to_builtins(before)


def test_the_judge_is_held_against_people_by_the_figures_of_the_verb_judge(run: Run) -> None:
    """A person who ranks as the judge scores agrees with it in everything, another in nothing."""
    scored = 0
    for item in items(run, "ranking"):
        with run.store() as store:
            votes: dict[int, list[float]] = {}
            for vote in store.records(Judgment, item.iteration, item.attempt):
                votes.setdefault(vote.sample, [])
                if vote.score is not None:
                    votes[vote.sample].append(vote.score)
        if not all(votes[s] for s in item.samples):
            continue
        means = [sum(votes[s]) / len(votes[s]) for s in item.samples]
        if len(set(means)) < len(means):
            continue
        scored += 1
        label(run, item, "friend", ranks=tuple(1 + sum(m > x for m in means) for x in means))
        label(run, item, "foe", ranks=tuple(1 + sum(m < x for m in means) for x in means))
    assert scored > 1
    friend, foe = (figures_of_labels(run, name).judge for name in ("friend", "foe"))
    assert friend is not None and foe is not None
    for figure in ("accuracy", "exact", "kendall", "spearman"):
        assert getattr(friend.judge.all, figure).value == pytest.approx(1)
    assert foe.judge.all.accuracy.value == foe.judge.all.exact.value == 0
    assert foe.judge.all.kendall.value == pytest.approx(-1)
    both = figures_of_labels(run)
    assert both.judge is not None and both.judge.judge.all.accuracy.value == 0.5
    assert both.people is not None and both.people.together.same.value == 0
    assert both.people.together.kendall.value == pytest.approx(-1)


def test_people_who_agree_have_an_agreement_of_one(run: Run) -> None:
    label_all(run, "ann")
    assert figures_of_labels(run).people is None
    label_all(run, "bob")
    people = figures_of_labels(run).people
    assert people is not None and [two.labelers for two in people.each] == [("ann", "bob")]
    assert people.together.same.value == people.alpha.value == 1
    assert people.ratings is not None and people.ratings.same.value == 1
    label_all(run, "cem", tilt=1)
    people = figures_of_labels(run).people
    assert people is not None and len(people.each) == 3
    same = {two.labelers: two.same.value for two in people.each}
    assert same["ann", "bob"] == 1 and same["ann", "cem"] == same["bob", "cem"] != 1


def test_ratings_are_told_by_iteration_with_their_boxes(run: Run) -> None:
    for number, item in enumerate(items(run, "rating", iteration=2)):
        label(run, item, rating=6 if number else 2, flags=() if number else ("hallucination",))
    (rated,) = figures_of_labels(run).ratings
    n = len(items(run, "rating", iteration=2))
    assert (rated.iteration, rated.flags) == (2, {"hallucination": 1})
    assert rated.rating.value == pytest.approx((6 * (n - 1) + 2) / n) and rated.rating.n == n


def test_a_label_on_an_answer_that_was_altered_is_left_out_and_said_to_be(run: Run) -> None:
    first, *rest = items(run, "ranking")
    for item in (first, *rest):
        label(run, item, ranks=tuple(range(1, len(item.samples) + 1)))
    before = figures_of_labels(run)
    with closing(sqlite3.connect(run.records)) as db:
        where = f"iteration = {first.iteration} AND attempt = {first.attempt}"
        db.execute(f"UPDATE responses SET text = 'other' WHERE {where}")
        db.commit()
    after = figures_of_labels(run)
    assert after.left_out == {"the records no longer hold what was labeled": 1}
    assert after.judge is not None and before.judge is not None
    assert after.judge.counts.rankings == before.judge.counts.rankings - 1
    assert "no longer hold what was labeled 1" in " ".join(labels_text(after).split())


def test_answers_that_are_not_judged_yet_are_left_out_and_said_to_be(run: Run) -> None:
    (first, *_) = items(run, "ab")
    label(run, first, ranks=(1, 2))
    with closing(sqlite3.connect(run.records)) as db:
        db.execute("DELETE FROM judgments")
        db.commit()
    figures = figures_of_labels(run)
    assert figures.judge is None and figures.left_out == {"not judged yet": 1}
    assert "No two answers are ordered by people and scored" in labels_text(figures)


# The verb and its export


def test_the_verb_says_who_labeled_and_how_far_all_agree(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    label_all(run, "ann")
    label_all(run, "bob", tilt=1)
    label(run, items(run, "ab")[0], "bob")
    assert invoke(["labels", "whole"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "Labels by ann, bob", "passed over 1", "pairs as people do", "longer wins",
        "Two labelers order", "ann and bob", "Krippendorff's alpha", "mean rating, 1 to 7",
        "Hedges where a plain answer was due",
    ):  # fmt: skip
        assert words in said
    assert invoke(["labels", "whole", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [who["name"] for who in found["labelers"]] == ["ann", "bob"]
    assert found == json.loads(msgspec.json.encode(figures_of_labels(run)))
    assert invoke(["labels", "whole", "--json", "--labeler", "bob", "--kind", "ab"]) == 0
    (who,) = json.loads(capsys.readouterr().out)["labelers"]
    assert (who["name"], who["ranking"], who["rating"], who["skipped"]) == ("bob", 0, 0, 1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 3, "has no labels by people yet"),
        (["--labeler", "eve"], 3, "has no labels by 'eve'"),
        (["--kind", "none"], 2, "--kind none: no kind of label"),
        (["--kind", "rating"], 3, "has no labels of kind rating yet"),
        (["--kind", "ab", "--export", "none/x.jsonl"], 7, "No such file or directory"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    run: Run, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    if words:
        label(run, items(run, "ab")[0], ranks=(1, 2))
    assert invoke(["labels", "whole", *words]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err.splitlines()[0]


def test_an_export_is_read_as_people_said_it(run: Run, tmp_path: Path) -> None:
    label_all(run)
    path = tmp_path / "mine.jsonl"
    counts = export(run, path)
    data = read_ranked(SeedSource(path=str(path)))
    with Labels(run) as labels, run.store() as store:
        kept = in_force(labels.history())
        for kind in ("ab", "ranking"):
            assert counts[kind] == sum(one.item.kind == kind for one in kept)
        wanted = Counter(
            tuple(sorted(zip(content(store, one.item).answers, one.ranks or (), strict=True)))
            for one in kept
            if one.ranks is not None and len(set(one.ranks)) > 1
        )
    found = Counter(
        tuple(sorted((answer.text, -answer.preference) for answer in ranking.responses))
        for ranking in data.rankings
        if all(answer.score is None for answer in ranking.responses)
    )
    assert _ordered(found) == _ordered(wanted)
    rated = [r for r in data.rankings if any(a.score is not None for a in r.responses)]
    assert len(rated) == counts["rating"] and set(data.left_out) <= {"all tied"}


def _ordered(rankings: Counter[Any]) -> Counter[Any]:
    """Ranks without their gaps, as only their order counts."""
    plain: Counter[Any] = Counter()
    for ranking, count in rankings.items():
        places = sorted({rank for _, rank in ranking})
        plain[tuple((text, places.index(rank)) for text, rank in ranking)] += count
    return plain


def test_exported_ratings_are_eft_rows_with_notes_as_justifications(
    run: Run, tmp_path: Path
) -> None:
    label_all(run)
    path = tmp_path / "rated.jsonl"
    assert export(run, path, kind="rating").keys() == {"rating"}
    rows = read_eft(SeedSource(path=str(path)))
    with Labels(run) as labels, run.store() as store:
        wanted = {
            (content(store, one.item).answers[0], round((one.rating - 1) * 5 / 6, 3), one.note)
            for one in labels.of_kind("rating")
            if one.rating is not None
        }
    assert {(row.response, row.score, row.justification or "") for row in rows} == wanted
    assert {row.score for row in rows} >= {0.0, 5.0}
    config = build_config({}, [
        *SMALL, f"sft.eft.path={path}", "sft.eft.limit=null", "judge.form=expected",
        "judge.template=judge/expected.jinja",
    ])  # fmt: skip
    made = create_run(config, "taught")
    assert read_eft(SeedSource(path=str(made.seed_file("eft")))) == rows


def test_an_afternoon_of_labels_becomes_the_eft_rows_of_the_next_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label_all(run, "ann")
    label_all(run, "bob", tilt=1)
    path = tmp_path / "ranked.jsonl"
    assert invoke(["labels", "whole", "--export", str(path)]) == 0
    assert f"sft.selection.ranked={path}" in capsys.readouterr().err
    words = [*SMALL, f"sft.selection.ranked={path}", "sft.selection.min_rows=0"]
    taught = create_run(build_config({}, words), "taught")
    assert rankings_of(taught).rankings == read_ranked(SeedSource(path=str(path))).rankings
    launch(taught, lambda: None, ScriptedWorkers(taught))
    with taught.store() as store:
        judged = store.records(Judgment, 0)
        drops = [drop for drop in store.records(Drop, 0) if drop.stage == "selection"]
        selection = store.finished(0, "selection")
    assert judged and selection is not None and selection.rows == len(judged) - len(drops) > 0


@pytest.mark.slow
def test_an_export_is_read_by_the_verb_judge(run: Run, tmp_path: Path) -> None:
    label_all(run)
    path = tmp_path / "mine.jsonl"
    export(run, path, kind="ranking")
    server = Server(Chat(make_model(tmp_path / "M1")), "judge")
    server.say = lambda weights: "Fine.\nScore: 4"
    code, out, err = selfreward(server, "--data", str(path), "--json")
    assert code == 0, err
    counts = json.loads(out)["counts"]
    figures = figures_of_labels(run, kind="ranking").judge
    assert figures is not None and counts["pairs"] == figures.counts.pairs > 0


def test_nothing_is_exported_of_skips_alone(run: Run, tmp_path: Path) -> None:
    label(run, items(run, "ab")[0])
    with pytest.raises(NotFoundError, match="no labels to export"):
        export(run, tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_hostile_text_is_inert_on_the_terminal_and_whole_in_the_export(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    shutil.copytree(runs / "hostile", tmp_path / "hostile")
    run = Run(tmp_path / "hostile")
    (item, *_) = items(run, "rating")
    label(run, item, rating=3, note=HOSTILE)
    label(run, items(run, "ab")[0], ranks=(1, 2))
    assert invoke(["labels", "hostile", "--export", str(tmp_path / "x.jsonl")]) == 0
    out, err = capsys.readouterr()
    assert not set(out + err) & UNSAFE
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().split("\n") if line]
    assert {row["prompt"] for row in rows} == {HOSTILE}
