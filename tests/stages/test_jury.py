"""Laws of a jury: which judges score a prompt, and what their votes make of its pairs."""

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from math import comb
from statistics import fmean

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfreward.config import PairsConfig
from selfreward.records import Judgment, Prompt, Response
from selfreward.stages.jury import jury_scores, mean_scores, means_by_response, sitting_jurors
from selfreward.stages.pairs import build_pairs, tied_responses
from selfreward.stages.rules import RULES, Answer, Candidate, Votes

WEIGHTS = (1.0, 0.5, 2.0, 0.25)
POINTS = st.integers(0, 5) | st.floats(0, 5).map(lambda points: round(points, 6))
"""Equal or told apart: what lies within 1e-9 is a tie, see test_ties.py."""


def vote(attempt: int, sample: int, juror: int, score: float | None, number: int = 0) -> Judgment:
    reason = "no score line" if score is None else None
    return Judgment(
        1, attempt, sample, number, "written", "", score, reason, None, 0, juror
    )  # fmt: skip


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Prompt], list[Response], list[Judgment]]:
    """Up to three prompts of up to five responses, and up to three judges that miss some."""
    prompts, responses, judgments = [], [], []
    num_jurors = draw(st.integers(1, 3))
    for attempt in range(draw(st.integers(1, 3))):
        prompts.append(Prompt(1, attempt, "p", "p", None))
        for sample in range(draw(st.integers(0, 5))):
            finish = draw(st.sampled_from(["stop"] * 4 + ["length"]))
            text = "abcdefgh"[sample] * draw(st.integers(1, 9))
            responses.append(Response(1, attempt, sample, text, finish, 3))
            for juror in range(num_jurors):
                for number in range(draw(st.integers(1, 2))):
                    score = draw(st.none() | POINTS if draw(st.booleans()) else POINTS)
                    judgments.append(vote(attempt, sample, juror, score, number))
    return prompts, responses, judgments


SETTINGS = st.builds(
    PairsConfig,
    rule=st.sampled_from(sorted(RULES)),
    min_margin=st.sampled_from([0.0, 0.0, 0.5]),
    min_agreement=st.sampled_from([0.0, 0.0, 0.75]),
    min_jurors=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
)
TABLES = st.dictionaries(
    st.integers(0, 6), st.dictionaries(st.integers(0, 3), st.floats(0, 5)), min_size=1
)


# Who sits


@given(TABLES)
def test_no_other_judges_have_more_comparisons_by_weight(
    means: dict[int, dict[int, float]],
) -> None:
    sitting = sitting_jurors(means, WEIGHTS, list(means))
    jurors = sorted({juror for of_response in means.values() for juror in of_response})

    def worth(judges: Sequence[int]) -> tuple[float, int]:
        size = sum(all(juror in m for juror in judges) for m in means.values())
        return sum(WEIGHTS[juror] for juror in judges) * comb(size, 2), size

    sets = [c for n in range(1, len(jurors) + 1) for c in combinations(jurors, n)]
    if not sets:
        assert sitting == ()
        return
    assert worth(sitting) == max(map(worth, sets))
    size = worth(sitting)[1]
    able = [m for m in means.values() if all(juror in m for juror in sitting)]
    assert len(able) == size
    left = set(jurors) - set(sitting)
    assert not any(all(juror in m for m in able) for juror in left if able)


def test_of_four_responses_a_judge_goes_before_a_response_does() -> None:
    """Three judges on three responses are 9 comparisons, two judges on four are 12."""
    means = {sample: {0: 3.0, 1: 3.0, 2: 3.0} for sample in range(4)}
    del means[3][2]
    assert sitting_jurors(means, (1.0, 1.0, 1.0), list(means)) == (0, 1)
    assert sitting_jurors(means, (1.0, 1.0, 3.0), list(means)) == (0, 1, 2)


def test_a_response_that_cannot_be_paired_sends_no_judge_away() -> None:
    responses = [Response(1, 0, i, "abc"[i], "length" if i == 2 else "stop", 1) for i in range(3)]
    judgments = [
        vote(0, i, j, float(i + j)) for i in range(3) for j in range(2) if (i, j) != (2, 1)
    ]
    scores = mean_scores(responses, judgments, (1.0, 1.0))
    assert scores == {(0, 0): 0.5, (0, 1): 1.5}


# What follows for pairs


@given(rounds(), SETTINGS)
def test_both_responses_of_a_pair_are_scored_by_the_same_judges(
    made: tuple, settings: PairsConfig
) -> None:
    pairs, _ = build_pairs(*made, settings, WEIGHTS)
    means = means_by_response(made[2])
    whole = {(r.attempt, r.sample) for r in made[1] if not r.truncated}
    _, sitting = jury_scores(means, WEIGHTS, whole)
    for pair in pairs:
        jurors = sitting[pair.attempt]
        for sample, score in (pair.chosen, pair.chosen_score), (pair.rejected, pair.rejected_score):
            each = [means[pair.attempt, sample][juror] for juror in jurors]
            expected = fmean(each, [WEIGHTS[juror] for juror in jurors])
            assert score == pytest.approx(expected, abs=1e-12)


@given(rounds(), SETTINGS)
def test_a_judge_that_failed_altogether_changes_nothing(made: tuple, settings: PairsConfig) -> None:
    prompts, responses, judgments = made
    failed = [vote(r.attempt, r.sample, 3, None) for r in responses]
    expected = build_pairs(*made, settings, WEIGHTS)
    assert build_pairs(prompts, responses, [*judgments, *failed], settings, WEIGHTS) == expected


@given(rounds(), SETTINGS)
def test_only_the_proportion_of_the_weights_counts(made: tuple, settings: PairsConfig) -> None:
    expected = build_pairs(*made, settings, WEIGHTS)
    assert build_pairs(*made, settings, [4 * weight for weight in WEIGHTS]) == expected


@given(rounds(), SETTINGS)
def test_one_judge_of_any_weight_is_no_jury(made: tuple, settings: PairsConfig) -> None:
    prompts, responses, judgments = made
    alone = [judgment for judgment in judgments if judgment.juror == 0]
    expected = build_pairs(prompts, responses, alone, settings)
    assert build_pairs(prompts, responses, alone, settings, (0.3,)) == expected


@given(rounds(), SETTINGS, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(
    made: tuple, settings: PairsConfig, rng: random.Random
) -> None:
    expected = build_pairs(*made, settings, WEIGHTS)
    shuffled = [rng.sample(part, len(part)) for part in made]
    assert build_pairs(*shuffled, settings, WEIGHTS) == expected


@given(rounds(), SETTINGS)
def test_every_response_is_able_or_a_drop_and_every_prompt_paired_or_a_drop(
    made: tuple, settings: PairsConfig
) -> None:
    prompts, responses, judgments = made
    pairs, drops = build_pairs(*made, settings, WEIGHTS)
    items = [drop.item for drop in drops]
    assert len(set(items)) == len(items)
    scored = mean_scores(responses, judgments, WEIGHTS)
    for response in responses:
        barred = response.truncated or (response.attempt, response.sample) not in scored
        assert (f"{response.attempt}/{response.sample}" in items) == barred
    paired = {str(pair.attempt) for pair in pairs}
    assert paired | {i for i in items if "/" not in i} == {str(p.attempt) for p in prompts}
    assert not paired & set(items)


def two_responses(*by_juror: tuple[float | None, float | None]) -> tuple:
    """Two responses, and what each judge says of them."""
    prompt = Prompt(1, 0, "p", "p", None)
    responses = [Response(1, 0, i, "ab"[i], "stop", 1) for i in range(2)]
    judgments = [
        vote(0, sample, juror, score)
        for juror, scores in enumerate(by_juror)
        for sample, score in enumerate(scores)
    ]
    return [prompt], responses, judgments


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=2, max_size=2),
    st.sampled_from([(1.0, 1.0), (0.7, 0.3), (2.0, 1.0)]),
)
@example([[0, 0, 0, 2, 2, 1], [1, 0, 0, 2, 1, 1]], (1.0, 1.0))
def test_responses_of_one_exact_mean_tie_whatever_votes_make_it(
    rows: list[list[int]], weights: tuple[float, float]
) -> None:
    judgments = [
        vote(0, sample, number // 3, score, number % 3)
        for sample, row in enumerate(rows)
        for number, score in enumerate(row)
    ]
    prompts = [Prompt(1, 0, "p", "p", None)]
    responses = [Response(1, 0, sample, "ab"[sample], "stop", 3) for sample in range(2)]
    pairs, drops = build_pairs(prompts, responses, judgments, PairsConfig(), weights)
    one, other = (
        sum(Fraction(str(w)) * sum(row[3 * j : 3 * j + 3]) for j, w in enumerate(weights))
        for row in rows
    )
    if one == other:
        assert not pairs and [drop.reason for drop in drops] == ["tie"]
        assert len(tied_responses(responses, judgments, PairsConfig(), weights)) == 1
    else:
        assert [pair.chosen for pair in pairs] == [0 if one > other else 1]


def test_the_score_is_the_weighted_mean_over_the_judges() -> None:
    [pair], _ = build_pairs(*two_responses((4, 1), (2, 3)), PairsConfig(), (3.0, 1.0))
    assert (pair.chosen_score, pair.rejected_score) == (3.5, 1.5)
    [pair], _ = build_pairs(*two_responses((4, 1), (1, 5)), PairsConfig(), (1.0, 3.0))
    assert (pair.chosen, pair.chosen_score, pair.rejected_score) == (1, 4.0, 1.75)


def test_votes_weigh_as_they_say_within_their_judge() -> None:
    votes = [
        Judgment(1, 0, 0, 0, "criteria", "", 5.0, weight=3.0),
        Judgment(1, 0, 0, 1, "criteria", "", 1.0, weight=1.0),
        Judgment(1, 0, 0, 2, "criteria", "", None, "failed", weight=9.0),
    ]
    assert means_by_response(votes) == {(0, 0): {0: 4.0}}


def test_a_response_without_a_verdict_of_a_judge_that_sits_says_whose() -> None:
    made = two_responses((4, 1), (3, None), (2, 5))
    made[1].append(Response(1, 0, 2, "c", "stop", 1))
    made[2].extend(vote(0, 2, juror, 3.5) for juror in range(3))
    [pair], drops = build_pairs(*made, PairsConfig(), (1.0, 9.0, 1.0))
    assert (pair.chosen, pair.rejected) == (2, 0)
    assert [(d.item, d.reason, d.detail) for d in drops] == [
        ("0/1", "no verdict", "of judge.jury.0")
    ]


# Agreement of judges


@given(rounds(), SETTINGS)
def test_with_all_judges_asked_to_agree_each_puts_chosen_above(
    made: tuple, settings: PairsConfig
) -> None:
    pairs, _ = build_pairs(*made, settings.model_copy(update={"min_jurors": 1.0}), WEIGHTS)
    means = means_by_response(made[2])
    whole = {(r.attempt, r.sample) for r in made[1] if not r.truncated}
    _, sitting = jury_scores(means, WEIGHTS, whole)
    for pair in pairs:
        for juror in sitting[pair.attempt]:
            chosen, rejected = (means[pair.attempt, s][juror] for s in (pair.chosen, pair.rejected))
            assert chosen > rejected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4))
def test_agreement_on_an_order_and_on_its_opposite_make_one(scores: list[tuple]) -> None:
    first, second = (
        Answer(i, 3.0, tuple(Votes({0: (s[i],)}, s[i], w) for s, w in zip(scores, WEIGHTS)), 1)  # noqa: B905
        for i in range(2)
    )
    there, back = Candidate(0, first, second), Candidate(0, second, first)
    assert there.jurors + back.jurors == pytest.approx(1)
    assert there.agreement + back.agreement == pytest.approx(1)


def test_judges_that_disagree_are_a_drop_with_how_far_they_agree() -> None:
    made = two_responses((5, 1), (2, 3), (2, 3))
    weights = (2.0, 1.0, 1.0)
    pairs, [drop] = build_pairs(*made, PairsConfig(min_jurors=0.6), weights)
    assert pairs == []
    assert (drop.reason, drop.detail) == ("judges", "0.5 < 0.6 of the judges")
    assert len(build_pairs(*made, PairsConfig(min_jurors=0.5), weights)[0]) == 1


def test_votes_are_set_against_votes_of_the_same_judge() -> None:
    """A generous judge and a strict one who both prefer the first agree fully."""
    [pair], _ = build_pairs(*two_responses((5, 4), (1, 0)), PairsConfig(min_agreement=1), (1, 1))
    assert (pair.chosen, pair.rejected) == (0, 1)


def test_criteria_are_set_against_the_same_criterion() -> None:
    """One is easy and one is hard; by both the first response is better."""
    prompts, responses, _ = two_responses()
    judgments = [
        Judgment(1, 0, sample, number, "criteria", "", score)
        for sample, scores in enumerate([(5.0, 2.0), (4.0, 1.0)])
        for number, score in enumerate(scores)
    ]
    pairs, _ = build_pairs(prompts, responses, judgments, PairsConfig(min_agreement=1))
    assert len(pairs) == 1
    as_votes = [Judgment(1, j.attempt, j.sample, j.vote, "written", "", j.score) for j in judgments]
    assert not build_pairs(prompts, responses, as_votes, PairsConfig(min_agreement=1))[0]


# Anchors


@st.composite
def anchored_rounds(draw: st.DrawFn) -> tuple[list[Prompt], list[Response], list[Judgment]]:
    prompts, responses, judgments = draw(rounds())
    for prompt in prompts:
        for sample in range(10, 10 + draw(st.integers(0, 3))):
            finish = draw(st.sampled_from(["stop"] * 4 + ["length"]))
            text = draw(st.sampled_from(["a", "b", "xy"])) * (sample - 9)
            responses.append(Response(1, prompt.attempt, sample, text, finish, 3, author="M1"))
            judgments.append(vote(prompt.attempt, sample, 0, draw(POINTS)))
    return prompts, responses, judgments


@given(anchored_rounds(), SETTINGS.filter(lambda s: s.rule != "anchored"))
def test_by_other_rules_anchors_change_nothing(made: tuple, settings: PairsConfig) -> None:
    prompts, responses, judgments = made
    pairs, drops = build_pairs(*made, settings, WEIGHTS)
    anchors = {(r.attempt, r.sample) for r in responses if r.is_anchor}
    expected = build_pairs(
        prompts,
        [r for r in responses if not r.is_anchor],
        [j for j in judgments if (j.attempt, j.sample) not in anchors],
        settings,
        WEIGHTS,
    )
    assert (pairs, [d for d in drops if d.reason != "anchor"]) == expected
    assert {d.item for d in drops if d.reason == "anchor"} == {f"{a}/{s}" for a, s in anchors}


@given(anchored_rounds(), SETTINGS)
def test_anchored_takes_the_policys_best_and_the_worst_of_m1(
    made: tuple, settings: PairsConfig
) -> None:
    settings = settings.model_copy(
        update={"rule": "anchored", "min_agreement": 0.0, "min_jurors": 0.0}
    )
    pairs, drops = build_pairs(*made, settings, WEIGHTS)
    items = {drop.item for drop in drops}
    scores = mean_scores(made[1], made[2], WEIGHTS)
    for prompt in made[0]:
        given = [r for r in made[1] if r.attempt == prompt.attempt]
        able = [r for r in given if f"{r.attempt}/{r.sample}" not in items]
        has_anchors = any(r.is_anchor for r in given)
        better = [r.sample for r in able if not r.is_anchor]
        worse = [r.sample for r in able if r.is_anchor == has_anchors]
        best = max((scores[prompt.attempt, s] for s in better), default=None)
        worst = min((scores[prompt.attempt, s] for s in worse), default=None)
        pair = next((p for p in pairs if p.attempt == prompt.attempt), None)
        if best is None or worst is None or best <= worst or best - worst < settings.min_margin:
            assert pair is None or pair.margin >= settings.min_margin - 1e-9
        else:
            assert pair is not None
            assert (pair.chosen_score, pair.rejected_score) == (best, worst)
            assert pair.chosen in better and pair.rejected in worse


def test_m1_above_all_answers_is_a_drop_of_its_own() -> None:
    prompts, responses, judgments = two_responses((2, 1))
    responses.append(Response(1, 0, 2, "c", "stop", 1, author="M1"))
    judgments.append(vote(0, 2, 0, 4.0))
    pairs, drops = build_pairs(prompts, responses, judgments, PairsConfig(rule="anchored"))
    assert pairs == []
    assert [(d.item, d.reason, d.detail) for d in drops] == [
        ("0", "below M1", "best 2, M1's worst 4")
    ]
