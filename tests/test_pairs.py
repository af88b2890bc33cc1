"""Laws of preference pairs, over random prompts, responses and votes."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import PairsConfig
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.stages.pairs import build_pairs, mean_scores

SCORE = st.one_of(st.none(), st.integers(0, 5), st.floats(0, 5))


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Prompt], list[Response], list[Judgment]]:
    """Up to five prompts, each with up to five responses of up to three votes."""
    prompts, responses, judgments = [], [], []
    for attempt in range(draw(st.integers(0, 5))):
        dropped = draw(st.sampled_from([None, None, None, "similar"]))
        prompts.append(Prompt(1, attempt, f"prompt {attempt}", "raw", dropped))
        if dropped is not None:
            continue
        for sample in range(draw(st.integers(0, 5))):
            text = draw(st.sampled_from(["a", "b", "c", "d", ""]))
            finish = draw(st.sampled_from(["stop", "stop", "stop", "length"]))
            response = Response(1, attempt, sample, text, finish, 3)
            if not text:
                response = Response(1, attempt, sample, text, finish, 0, dropped="empty")
            responses.append(response)
            if response.dropped is not None:
                continue
            for vote, score in enumerate(draw(st.lists(SCORE, max_size=3))):
                reason = "no score line" if score is None else None
                judgments.append(Judgment(1, attempt, sample, vote, "written", "", score, reason))
    return prompts, responses, judgments


MARGINS = st.sampled_from([0.0, 0.5, 1.0, 5.0])


@given(rounds(), MARGINS)
def test_chosen_beats_rejected_strictly_and_by_the_margin(made: tuple, margin: float) -> None:
    pairs, _ = build_pairs(*made, PairsConfig(min_margin=margin))
    scores = mean_scores(made[2])
    for pair in pairs:
        assert pair.chosen_score > pair.rejected_score
        assert pair.margin >= margin - 1e-9
        assert pair.chosen_score == scores[pair.attempt, pair.chosen]
        assert pair.rejected_score == scores[pair.attempt, pair.rejected]


@given(rounds(), MARGINS)
def test_paired_responses_are_whole_kept_judged_and_differ_in_text(
    made: tuple, margin: float
) -> None:
    pairs, _ = build_pairs(*made, PairsConfig(min_margin=margin))
    by_key = {(r.attempt, r.sample): r for r in made[1]}
    for pair in pairs:
        chosen, rejected = (by_key[pair.attempt, s] for s in (pair.chosen, pair.rejected))
        assert chosen.text != rejected.text
        for response in (chosen, rejected):
            assert response.dropped is None and not response.truncated


@given(rounds(), MARGINS)
def test_no_response_that_can_be_paired_scores_above_chosen_or_below_rejected(
    made: tuple, margin: float
) -> None:
    pairs, drops = build_pairs(*made, PairsConfig(min_margin=margin))
    out = {drop.item for drop in drops}
    scores = mean_scores(made[2])
    for pair in pairs:
        for response in made[1]:
            if response.attempt == pair.attempt and f"{pair.attempt}/{response.sample}" not in out:
                score = scores[pair.attempt, response.sample]
                assert pair.rejected_score <= score <= pair.chosen_score


@given(rounds(), MARGINS)
def test_every_accepted_prompt_gives_one_pair_or_one_drop(made: tuple, margin: float) -> None:
    prompts, _, _ = made
    pairs, drops = build_pairs(*made, PairsConfig(min_margin=margin))
    accepted = [str(p.attempt) for p in prompts if p.dropped is None]
    made_of = Counter([str(pair.attempt) for pair in pairs])
    made_of.update(drop.item for drop in drops if "/" not in drop.item)
    assert made_of == Counter(accepted)


@given(rounds(), MARGINS)
def test_every_response_that_took_no_part_has_one_drop_with_a_reason(
    made: tuple, margin: float
) -> None:
    _, responses, judgments = made
    _, drops = build_pairs(*made, PairsConfig(min_margin=margin))
    items = [drop.item for drop in drops]
    assert len(set(items)) == len(items)
    assert all(drop.reason for drop in drops)
    scores = mean_scores(judgments)
    for response in responses:
        barred = (
            response.dropped is not None
            or response.truncated
            or (response.attempt, response.sample) not in scores
        )
        dropped = f"{response.attempt}/{response.sample}" in items
        assert dropped or not barred
        if dropped and not barred:  # only an identical twin is left out beyond these
            twins = [
                r for r in responses
                if (r.attempt, r.text) == (response.attempt, response.text)
                and r.sample < response.sample
            ]  # fmt: skip
            assert twins


@given(rounds(), MARGINS, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(made: tuple, margin: float, rng: random.Random) -> None:
    expected = build_pairs(*made, PairsConfig(min_margin=margin))
    shuffled = [rng.sample(part, len(part)) for part in made]
    assert build_pairs(*shuffled, PairsConfig(min_margin=margin)) == expected


@given(rounds())
def test_a_larger_margin_only_takes_pairs_away(made: tuple) -> None:
    before: list[PreferencePair] | None = None
    for margin in (0.0, 0.5, 1.0, 5.0):
        pairs, _ = build_pairs(*made, PairsConfig(min_margin=margin))
        assert before is None or set(pairs) <= set(before)
        before = pairs


def responses_with(*scores: float | None, texts: str = "abcdefgh") -> tuple:
    prompt = Prompt(1, 0, "p", "p", None)
    responses = [Response(1, 0, i, texts[i], "stop", 1) for i in range(len(scores))]
    judgments = [
        Judgment(1, 0, i, 0, "written", "", s, None if s is not None else "empty")
        for i, s in enumerate(scores)
    ]
    return [prompt], responses, judgments


def test_all_tied_is_a_drop_and_no_pair() -> None:
    pairs, [drop] = build_pairs(*responses_with(3, 3, 3, 3), PairsConfig())
    assert pairs == []
    assert (drop.item, drop.reason) == ("0", "tie")


def test_a_lone_survivor_is_a_drop_and_no_pair() -> None:
    pairs, drops = build_pairs(*responses_with(4, None), PairsConfig())
    assert pairs == []
    assert {(d.item, d.reason) for d in drops} == {("0/1", "no verdict"), ("0", "too few")}


def test_of_equal_scores_the_earlier_sample_is_taken() -> None:
    [pair], _ = build_pairs(*responses_with(5, 1, 5, 1), PairsConfig())
    assert (pair.chosen, pair.rejected) == (0, 1)


def test_identical_texts_are_never_paired_though_their_scores_differ() -> None:
    pairs, drops = build_pairs(*responses_with(5, 1, texts="aa"), PairsConfig())
    assert pairs == []
    assert ("0/1", "identical") in {(d.item, d.reason) for d in drops}


def test_votes_without_a_verdict_do_not_count_in_the_mean() -> None:
    votes = [
        Judgment(1, 0, 0, 0, "written", "", 4.0),
        Judgment(1, 0, 0, 1, "written", "", None, "empty"),
        Judgment(1, 0, 0, 2, "written", "", 5.0),
    ]
    assert mean_scores(votes) == {(0, 0): 4.5}


@pytest.mark.parametrize("low", [[3, 3, 4], [1, 2, 2], [0, 0, 1]])
def test_means_of_thirds_that_are_one_point_apart_pass_a_margin_of_one(low: list[int]) -> None:
    """13/3 - 10/3 is 0.9999999999999996 in floats."""
    prompt = Prompt(1, 0, "p", "p", None)
    responses = [Response(1, 0, i, "ab"[i], "stop", 1) for i in range(2)]
    judgments = [
        Judgment(1, 0, sample, vote, "written", "", score + sample)
        for sample in range(2)
        for vote, score in enumerate(low)
    ]
    pairs, _ = build_pairs([prompt], responses, judgments, PairsConfig(min_margin=1.0))
    assert len(pairs) == 1
