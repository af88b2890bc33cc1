"""Which judgments become EFT rows: the laws of the choice, as a pure function."""

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from selfreward.config import SeedSource
from selfreward.inputs.rankings import copy_ranked, read_ranked
from selfreward.measures.selection import Hits, by_chance, pairwise, selection_figures
from selfreward.records import Drop, Judgment, Response, kept
from selfreward.stages.selection import Opinion, cap, first_choice, opinions_on, select
from selfreward.stages.verdict import points


def items(judgments: Iterable[Judgment]) -> list[str]:
    return sorted(judgment.item for judgment in judgments)


def votes(*scores: float | None, attempt: int = 0, sample: int = 0) -> list[Judgment]:
    return [
        Judgment(0, attempt, sample, vote, "written", f"Words.\nScore: {score}", score,
                 None if score is not None else "no score line")
        for vote, score in enumerate(scores)
    ]  # fmt: skip


def chosen(
    judgments: Sequence[Judgment],
    opinions: dict[tuple[int, int], Opinion],
    max_share: float = 1.0,
    *,
    combine: bool = True,
) -> tuple[list[str], dict[str, str]]:
    rows, drops = select(judgments, opinions, max_share=max_share, run_seed=0, combine=combine)
    assert sorted([*items(rows), *(drop.item for drop in drops)]) == items(judgments)
    assert rows == kept(judgments, drops) and all(row.score is not None for row in rows)
    assert len({(row.attempt, row.sample) for row in rows}) == len(rows)
    return [row.item for row in rows], {drop.item: drop.reason for drop in drops}


def agrees(scores: Sequence[float], preferences: Sequence[float]) -> bool:
    pairs = itertools.permutations(zip(scores, preferences, strict=True), 2)
    return all(a > b for (a, p), (b, q) in pairs if p > q)


def by_trying_all(
    scores: Sequence[Sequence[float]], preferences: Sequence[float]
) -> tuple[int, ...] | None:
    for places in itertools.product(*(range(len(row)) for row in scores)):
        if agrees([row[i] for row, i in zip(scores, places, strict=True)], preferences):
            return places
    return None


def test_the_choice_is_the_first_that_fits_in_every_small_case() -> None:
    rows = [list(row) for row in itertools.product(range(3), repeat=2)]
    found = 0
    for preferences in itertools.product(range(3), repeat=3):
        for scores in itertools.product(rows, repeat=3):
            expected = by_trying_all(scores, preferences)
            assert first_choice(scores, preferences) == expected, (scores, preferences)
            found += expected is not None
    assert found > 5_000


def test_the_choice_is_the_first_that_fits_in_larger_cases_drawn_at_random() -> None:
    rng = random.Random(0)
    found = 0
    for _ in range(400):
        preferences = [rng.choice([-7.0, 0.0, 2.5, 40.0]) for _ in range(rng.randint(1, 5))]
        scores = [[rng.choice([0, 1, 2, 2.5, 3, 4, 5]) for _ in range(rng.randint(1, 4))]
                  for _ in preferences]  # fmt: skip
        expected = by_trying_all(scores, preferences)
        assert first_choice(scores, preferences) == expected
        found += expected is not None
    assert 100 < found < 390


def test_a_set_is_one_vote_of_each_response_and_the_first_that_agrees_is_taken() -> None:
    rng = random.Random(0)
    passed = 0
    for _ in range(400):
        preferences = [rng.choice([-7.0, 0.0, 2.5]) for _ in range(rng.randint(2, 4))]
        scores = [[rng.choice([0, 1, 2.5, 4, None]) for _ in range(4)] for _ in preferences]
        judgments = [v for i, row in enumerate(scores) for v in votes(*row, sample=i)]
        opinions = {(0, i): Opinion(one) for i, one in enumerate(preferences)}
        rows, reasons = chosen(judgments, opinions, combine=False)
        said = [i for i, row in enumerate(scores) if any(s is not None for s in row)]
        told = [preferences[i] for i in said]
        if len(set(told)) < 2:
            continue
        sets = [[scores[i][k] for i in said] for k in range(4)]
        whole = [(k, [s for s in one if s is not None]) for k, one in enumerate(sets)
                 if None not in one]  # fmt: skip
        first = next((k for k, one in whole if agrees(one, told)), None)
        assert rows == ([] if first is None else [f"0/{i}/{first}" for i in said])
        passed += first is not None
        if not whole and len({s for row in scores for s in row} - {None}) > 1:
            assert "no whole set" in reasons.values()
    assert 50 < passed < 350


def test_votes_of_two_sets_agree_together_only_where_they_may_be_combined() -> None:
    judgments = votes(1, 4) + votes(2, 5, sample=1)
    opinions = {(0, 0): Opinion(2), (0, 1): Opinion(1)}
    assert chosen(judgments, opinions, combine=True)[0] == ["0/0/1", "0/1/0"]
    rows, reasons = chosen(judgments, opinions, combine=False)
    assert rows == [] and set(reasons.values()) == {"order disagrees"}


@pytest.mark.parametrize("combine", [False, True])
@pytest.mark.parametrize(
    ("people", "num_votes"),
    [
        ([Opinion(2), Opinion(1)], [2, 2]),
        ([Opinion(2), Opinion(1)], [3, 2]),
        ([Opinion(2), Opinion(1), Opinion(0)], [2, 2, 1]),
        ([Opinion(2), Opinion(1), Opinion(1)], [2, 1, 2]),
        ([Opinion(3, 3.0), Opinion(3)], [2, 1]),
        ([Opinion(1, 1.0)], [3]),
    ],
)
def test_chance_is_what_a_judge_that_rolls_dice_would_pass(
    people: list[Opinion], num_votes: list[int], combine: bool
) -> None:
    """Each outcome of all dice is a prompt of its own; the dice have four faces, two alike."""
    faces = [1.0, 1.0, 2.5, 4.0]
    judgments: list[Judgment] = []
    opinions = {}
    outcomes = list(itertools.product(faces, repeat=sum(num_votes)))
    for attempt, outcome in enumerate(outcomes):
        left = iter(outcome)
        for sample, (one, count) in enumerate(zip(people, num_votes, strict=True)):
            scores = [next(left) for _ in range(count)]
            judgments += votes(*scores, attempt=attempt, sample=sample)
            opinions[attempt, sample] = one
    rows, _ = select(judgments, opinions, max_share=1.0, run_seed=0, combine=combine)
    share = len({row.attempt for row in rows}) / len(outcomes)
    assert by_chance(judgments, opinions, combine=combine) == pytest.approx(share)


def test_missing_verdicts_stay_missing_when_dice_are_rolled() -> None:
    opinions = {(at, sample): Opinion(-sample) for at in range(2) for sample in range(2)}
    judgments = votes(1, 2) + votes(2, 1, sample=1)
    half = [*judgments, *votes(None, attempt=1), *votes(None, attempt=1, sample=1)]
    alone = by_chance(judgments, opinions, combine=False)
    assert alone == pytest.approx(1 - 0.75**2)  # a draw of two from 1 and 2 descends once in four
    assert by_chance(half, opinions, combine=False) == pytest.approx(alone / 2)
    assert by_chance([], {}, combine=True) is None


def test_many_responses_and_votes_take_no_time() -> None:
    scores = [[float(i % 6), *map(float, range(6))] * 5 for i in range(24)]
    assert first_choice(scores, [float(i // 4) for i in range(24)]) is not None
    assert first_choice(scores, [float(i) for i in range(24)]) is None


def test_only_the_order_of_preferences_counts_and_ties_of_people_are_free() -> None:
    judgments = votes(4, 2) + votes(3, 5, sample=1) + votes(0, 1, sample=2)
    for values in ((3.0, 3.0, 1.0), (-1.0, -1.0, -90.0)):
        opinions = {(0, sample): Opinion(value) for sample, value in enumerate(values)}
        assert chosen(judgments, opinions)[0] == ["0/0/0", "0/1/0", "0/2/0"]


def test_a_response_without_a_verdict_is_left_out_and_the_others_agree_among_themselves() -> None:
    judgments = votes(4, 3) + votes(None, None, sample=1) + votes(4, 1, sample=2)
    opinions = {(0, 0): Opinion(3), (0, 1): Opinion(2), (0, 2): Opinion(1)}
    rows, reasons = chosen(judgments, opinions)
    assert rows == ["0/0/0", "0/2/1"]
    assert reasons == {
        "0/0/1": "other vote", "0/1/0": "no verdict", "0/1/1": "no verdict", "0/2/0": "other vote",
    }  # fmt: skip


def test_a_judge_that_never_tells_responses_apart_ties_and_one_that_errs_disagrees() -> None:
    opinions = {(0, 0): Opinion(2), (0, 1): Opinion(1)}
    rows, reasons = chosen(votes(4, 4) + votes(4, sample=1), opinions)
    assert rows == [] and set(reasons.values()) == {"tie"}
    rows, reasons = chosen(votes(3, 1) + votes(3, 4, sample=1), opinions)
    assert rows == [] and set(reasons.values()) == {"order disagrees"}


@pytest.mark.parametrize(
    ("given", "people", "expected"),
    [
        ((5, 3, 4), 3.6, "0/0/2"),
        ((5, 3), 3.5, "0/0/1"),
        ((4, 3), 3.5, "0/0/0"),  # both half a point away: the first
        ((5, None, 2), 4.4, None),
        ((0,), 0.0, "0/0/0"),
    ],
)
def test_points_from_people_take_the_nearest_vote_within_half_a_point(
    given: tuple[float | None, ...], people: float, expected: str | None
) -> None:
    rows, reasons = chosen(votes(*given), {(0, 0): Opinion(people, people)})
    assert rows == ([expected] if expected else [])
    if expected is None:
        assert set(reasons.values()) == {"far from people's score", "no verdict"}


def test_responses_that_people_rank_the_same_are_taken_each_by_its_points() -> None:
    opinions = {(0, 0): Opinion(1, 2.0), (0, 1): Opinion(1, 2.0), (0, 2): Opinion(1)}
    rows, reasons = chosen(votes(4, 2) + votes(5, sample=1) + votes(2, sample=2), opinions)
    assert rows == ["0/0/1"]
    assert reasons == {
        "0/0/0": "other vote", "0/1/0": "far from people's score", "0/2/0": "no order",
    }  # fmt: skip


def test_an_order_counts_before_points() -> None:
    opinions = {(0, 0): Opinion(2, 1.0), (0, 1): Opinion(1, 1.0)}
    assert chosen(votes(5) + votes(4, sample=1), opinions)[0] == ["0/0/0", "0/1/0"]


def singles(*scores: float) -> tuple[list[Judgment], dict[tuple[int, int], Opinion]]:
    judgments = [vote for at, score in enumerate(scores) for vote in votes(score, attempt=at)]
    return judgments, {(at, 0): Opinion(score, score) for at, score in enumerate(scores)}


@pytest.mark.parametrize("max_share", [0.1, 0.3, 0.4, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(
    "counts", [(9,), (5, 5), (1, 30), (3, 3, 9), (1, 100, 100), (2, 3, 4, 20), (40, 1, 1, 1)]
)
def test_the_commonest_score_is_cut_to_its_share_but_never_below_the_next(
    counts: tuple[int, ...], max_share: float
) -> None:
    scores = [float(score) for score, count in enumerate(counts) for _ in range(count)]
    judgments, opinions = singles(*scores)
    rows, reasons = chosen(judgments, opinions, max_share)
    left = Counter(scores[int(row.partition("/")[0])] for row in rows)
    before = Counter(scores)
    changed = {score for score in before if before[score] != left[score]}
    assert set(reasons.values()) <= {"commonest score"}
    top, *others = sorted(before.values(), reverse=True)
    if changed:
        [score] = changed
        assert before[score] == top
        most = max(left[score], 0)
        fits = most <= max_share * len(rows) + 1e-9
        assert fits or most == others[0]
        one_more = (most + 1) > max_share * (len(rows) + 1) + 1e-9
        assert one_more and most + 1 > max([0, *others])
    else:
        assert top <= max_share * len(scores) + 1e-9 or top == max([0, *others])


def test_which_rows_of_the_commonest_score_go_depends_on_the_seed_alone() -> None:
    judgments, _ = singles(*[4.0] * 30, *[2.0] * 5, *[1.0] * 5)
    gone = cap(judgments, max_share=0.4, run_seed=0)
    assert len(gone) == 24
    backwards = cap(judgments[::-1], max_share=0.4, run_seed=0)
    assert items(backwards) == items(gone)
    assert items(cap(judgments, max_share=0.4, run_seed=1)) != items(gone)


def test_scores_count_by_whole_points() -> None:
    assert [points(score) for score in (0, 0.4, 0.5, 2.5, 4.49, 5)] == [0, 0, 1, 3, 4, 5]
    judgments, opinions = singles(3.6, 4.4, 4.0, 1.0)
    assert len(chosen(judgments, opinions, 0.5)[0]) == 2


def test_nothing_selects_nothing() -> None:
    assert select([], {}, max_share=0.4, run_seed=0) == ([], [])
    found = selection_figures([], [], {}, [], {})
    assert found.parse_rate is None and found.rows == 0


def test_kept_goes_by_the_drops_of_its_own_stage() -> None:
    judgments = votes(1, 2)
    drops = [Drop(0, "train", "0/0/0", "too long"), Drop(0, "selection", "0/0/1", "other vote")]
    assert kept(judgments, drops) == judgments[:1]


def test_ranks_with_gaps_and_scores_off_the_scale_are_read_for_what_they_say(
    tmp_path: Path,
) -> None:
    rows = [
        {"q": "gaps", "responses": [{"a": "x", "rank": 7}, {"a": "y", "rank": 2}]},
        {"q": "off", "responses": [{"a": "x", "rank": 0, "score": 11}, {"a": "y", "rank": 1}]},
        {"q": "tied", "responses": [{"a": "x", "score": 2.0}, {"a": "y", "score": 2.0}]},
        {"q": "one", "responses": [{"a": "x", "score": 4}]},
        {"q": "alone", "responses": [{"a": "x", "rank": 1}]},
    ]
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs = SeedSource(path=str(path), columns={"prompt": "q", "text": "a"})
    (tmp_path / "ours.jsonl").write_text(copy_ranked(theirs))
    ours = read_ranked(SeedSource(path=str(tmp_path / "ours.jsonl")))
    assert ours == read_ranked(theirs)
    assert ours.left_out == {"score off the scale": 1, "one response": 1}
    responses = [
        Response(0, attempt, sample, response.text, "stop", 0, author="human")
        for attempt, ranking in enumerate(ours.rankings)
        for sample, response in enumerate(ranking.responses)
    ]
    opinions = opinions_on(ours.rankings, responses)
    judgments = [
        vote
        for response in responses
        for vote in votes(4, 2, attempt=response.attempt, sample=response.sample)
    ]
    rows, reasons = chosen(judgments, opinions)
    assert rows == ["0/0/1", "0/1/0", "1/0/0", "1/1/1", "2/0/1", "2/1/1", "3/0/0"]
    assert set(reasons.values()) == {"other vote"}


def test_points_alone_will_do_where_no_order_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    path.write_text(json.dumps({"prompt": "p", "response": "r", "score": 3}) + "\n")
    source = SeedSource(path=str(path))
    assert len(read_ranked(source, needs_order=False).rankings) == 1
    with pytest.raises(ValueError, match="no two responses"):
        read_ranked(source)


def test_a_missing_verdict_is_a_miss_and_a_tie_half_a_hit() -> None:
    opinions = {(0, 0): Opinion(2), (0, 1): Opinion(1), (0, 2): Opinion(0), (1, 0): Opinion(9)}
    scores = {(0, 0): 3.0, (0, 1): 3.0, (1, 0): 1.0}
    assert pairwise(opinions, scores) == Hits(3, 0, 1, 0.5 / 3)
    assert pairwise({}, {}).accuracy is None
