"""Laws of preference pairs by every rule, over random prompts, responses and votes."""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from statistics import fmean
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selfreward.config import PairsConfig
from selfreward.config.load import build_config
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.stages.jury import mean_scores
from selfreward.stages.pairs import build_pairs, few_pairs_remedy
from selfreward.stages.rules import RULES, Answer, Candidate, Votes, length_regularized

POINTS = st.integers(0, 5) | st.floats(0, 5).map(lambda points: round(points, 6))
"""Equal or told apart: what lies within 1e-9 is a tie, see test_ties.py."""
VOTES = st.lists(POINTS, min_size=1, max_size=3) | st.lists(st.none() | POINTS, max_size=3)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Prompt], list[Response], list[Judgment]]:
    """Up to five prompts, each with up to five responses of up to three votes."""
    prompts, responses, judgments = [], [], []
    for attempt in range(draw(st.integers(0, 5))):
        dropped = draw(st.sampled_from([None, None, None, "similar"]))
        prompts.append(Prompt(1, attempt, f"prompt {attempt}", "raw", dropped))
        if dropped is not None:
            continue
        for sample in range(draw(st.sampled_from([0, 1, 2, 3, 5, 5, 5]))):
            text = draw(st.sampled_from(["abcdefgh"[sample] * n for n in (1, 2, 4, 9)] + ["x", ""]))
            finish = draw(st.sampled_from(["stop"] * 5 + ["length"]))
            response = Response(1, attempt, sample, text, finish, 3)
            if not text:
                response = Response(1, attempt, sample, text, finish, 0, dropped="empty")
            responses.append(response)
            if response.dropped is not None:
                continue
            for vote, score in enumerate(draw(VOTES)):
                reason = "no score line" if score is None else None
                judgments.append(Judgment(1, attempt, sample, vote, "written", "", score, reason))
    return prompts, responses, judgments


def one_judge(*scores: float) -> tuple[Votes, ...]:
    return (Votes({0: scores}, fmean(scores)),)


FILTERS = st.fixed_dictionaries(
    {
        "min_margin": st.sampled_from([0.0, 0.0, 0.5, 1.0, 5.0]),
        "min_agreement": st.sampled_from([0.0, 0.0, 0.5, 0.75, 1.0]),
        "min_jurors": st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    }
)
SETTINGS = st.builds(
    lambda filters, **own: PairsConfig(**filters, **own),
    FILTERS,
    rule=st.sampled_from(sorted(RULES)),
    max_per_prompt=st.sampled_from([None, 1, 2]),
    rho=st.sampled_from([0.0, 0.32, 0.5, 1.0]),
)


@given(rounds(), SETTINGS)
def test_chosen_beats_rejected_strictly_and_by_the_margin(
    made: tuple, settings: PairsConfig
) -> None:
    pairs, _ = build_pairs(*made, settings)
    scores = mean_scores(made[1], made[2])
    for pair in pairs:
        assert pair.chosen_score > pair.rejected_score
        assert pair.margin >= settings.min_margin - 1e-9
        assert pair.chosen_score == scores[pair.attempt, pair.chosen]
        assert pair.rejected_score == scores[pair.attempt, pair.rejected]


@given(rounds(), SETTINGS)
def test_paired_responses_are_whole_kept_judged_and_differ_in_text(
    made: tuple, settings: PairsConfig
) -> None:
    pairs, _ = build_pairs(*made, settings)
    by_key = {(r.attempt, r.sample): r for r in made[1]}
    for pair in pairs:
        chosen, rejected = (by_key[pair.attempt, s] for s in (pair.chosen, pair.rejected))
        assert chosen.text != rejected.text
        for response in (chosen, rejected):
            assert response.dropped is None and not response.truncated


@given(rounds(), st.sampled_from([0.0, 0.5, 1.0, 5.0]))
def test_best_worst_leaves_none_that_scores_above_chosen_or_below_rejected(
    made: tuple, margin: float
) -> None:
    pairs, drops = build_pairs(*made, PairsConfig(min_margin=margin))
    out = {drop.item for drop in drops}
    scores = mean_scores(made[1], made[2])
    for pair in pairs:
        for response in made[1]:
            if response.attempt == pair.attempt and f"{pair.attempt}/{response.sample}" not in out:
                score = scores[pair.attempt, response.sample]
                assert pair.rejected_score <= score <= pair.chosen_score


@given(rounds(), SETTINGS)
def test_every_accepted_prompt_gives_pairs_or_one_drop(made: tuple, settings: PairsConfig) -> None:
    pairs, drops = build_pairs(*made, settings)
    accepted = Counter(str(p.attempt) for p in made[0] if p.dropped is None)
    made_of = Counter({str(pair.attempt) for pair in pairs})
    made_of.update(drop.item for drop in drops if "/" not in drop.item)
    assert made_of == accepted


@given(rounds(), SETTINGS)
def test_a_prompt_gives_one_pair_and_by_all_pairs_up_to_the_cap(
    made: tuple, settings: PairsConfig
) -> None:
    pairs, _ = build_pairs(*made, settings)
    assert len(set(pairs)) == len(pairs)
    for attempt, count in Counter(pair.attempt for pair in pairs).items():
        assert count <= settings.most(sum(r.attempt == attempt for r in made[1]))


@given(rounds(), FILTERS)
def test_all_rules_pair_the_same_prompts_and_drop_the_same_things(
    made: tuple, filters: dict[str, float]
) -> None:
    results = [build_pairs(*made, PairsConfig(rule=rule, **filters)) for rule in RULES]
    [prompts] = {frozenset(pair.attempt for pair in pairs) for pairs, _ in results}
    assert all(drops == results[0][1] for _, drops in results)
    assert len(prompts) == len(results[0][0])


@given(rounds(), SETTINGS)
def test_every_response_that_took_no_part_has_one_drop_with_a_reason(
    made: tuple, settings: PairsConfig
) -> None:
    _, responses, judgments = made
    _, drops = build_pairs(*made, settings)
    items = [drop.item for drop in drops]
    assert len(set(items)) == len(items)
    assert all(drop.reason for drop in drops)
    scores = mean_scores(responses, judgments)
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


@given(rounds(), SETTINGS, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(
    made: tuple, settings: PairsConfig, rng: random.Random
) -> None:
    expected = build_pairs(*made, settings)
    shuffled = [rng.sample(part, len(part)) for part in made]
    assert build_pairs(*shuffled, settings) == expected


@given(rounds(), st.sampled_from(["best_worst", "all_pairs"]))
def test_a_larger_margin_only_takes_pairs_away(made: tuple, rule: str) -> None:
    before: list[PreferencePair] | None = None
    for margin in (0.0, 0.5, 1.0, 5.0):
        pairs, _ = build_pairs(*made, PairsConfig(rule=rule, min_margin=margin))
        assert before is None or set(pairs) <= set(before)
        before = pairs


# Single rules


def test_the_rules_of_the_config_are_those_that_exist() -> None:
    assert list(get_args(PairsConfig.model_fields["rule"].annotation)) == list(RULES)


@given(rounds())
def test_all_pairs_are_all_two_of_a_prompt_with_different_scores(made: tuple) -> None:
    pairs, drops = build_pairs(*made, PairsConfig(rule="all_pairs"))
    out = {drop.item for drop in drops}
    accepted = {p.attempt for p in made[0] if p.dropped is None}
    able = [r for r in made[1] if f"{r.attempt}/{r.sample}" not in out and r.attempt in accepted]
    scores = mean_scores(made[1], made[2])
    expected = {
        (a.attempt, frozenset((a.sample, b.sample)))
        for a, b in combinations(able, 2)
        if a.attempt == b.attempt
        and abs(scores[a.attempt, a.sample] - scores[b.attempt, b.sample]) > 1e-9
    }
    assert {(p.attempt, frozenset((p.chosen, p.rejected))) for p in pairs} == expected


@given(rounds(), FILTERS, st.integers(1, 3))
def test_a_cap_keeps_the_widest(made: tuple, filters: dict[str, float], cap: int) -> None:
    every, _ = build_pairs(*made, PairsConfig(rule="all_pairs", **filters))
    kept, _ = build_pairs(*made, PairsConfig(rule="all_pairs", max_per_prompt=cap, **filters))
    widest, _ = build_pairs(*made, PairsConfig(**filters))
    assert set(widest) <= set(kept) <= set(every)
    for pair in set(every) - set(kept):
        wider = [p for p in kept if p.attempt == pair.attempt and p.margin >= pair.margin]
        assert len(wider) == cap


@given(rounds(), FILTERS)
def test_without_rho_length_decides_only_between_equal_scores(
    made: tuple, filters: dict[str, float]
) -> None:
    plain, _ = build_pairs(*made, PairsConfig(**filters))
    controlled, _ = build_pairs(*made, PairsConfig(rule="length_control", rho=0.0, **filters))
    for a, b in zip(plain, controlled, strict=True):
        assert b.chosen_score == pytest.approx(a.chosen_score, abs=1e-8)
        assert b.rejected_score == pytest.approx(a.rejected_score, abs=1e-8)
    scores = mean_scores(made[1], made[2])
    rounded = {(attempt, round(score, 6)) for (attempt, _), score in scores.items()}
    if len(rounded) == len(scores):
        assert controlled == plain


def lengths(made: tuple, pairs: list[PreferencePair]) -> list[int]:
    """Characters by which chosen is longer, by pair."""
    length = {(r.attempt, r.sample): len(r.text) for r in made[1]}
    return [length[p.attempt, p.chosen] - length[p.attempt, p.rejected] for p in pairs]


@given(rounds(), FILTERS)
def test_a_larger_rho_never_makes_chosen_longer_by_comparison(
    made: tuple, filters: dict[str, float]
) -> None:
    before: list[int] | None = None
    for rho in (0.0, 0.2, 0.4, 1.0):
        pairs, _ = build_pairs(*made, PairsConfig(rule="length_control", rho=rho, **filters))
        excesses = lengths(made, pairs)
        assert before is None or all(a <= b for a, b in zip(excesses, before, strict=True))
        before = excesses


@given(rounds(), st.sampled_from([0.0, 0.2, 0.4]))
def test_rho_takes_the_shortest_good_and_the_longest_bad_answer(made: tuple, rho: float) -> None:
    """As the paper has it; for rho below 0.5 the two bands do not meet."""
    pairs, drops = build_pairs(*made, PairsConfig(rule="length_control", rho=rho))
    out = {drop.item for drop in drops}
    scores = mean_scores(made[1], made[2])
    for pair in pairs:
        able = [r for r in made[1] if r.attempt == pair.attempt
                and f"{r.attempt}/{r.sample}" not in out]  # fmt: skip
        length = {r.sample: len(r.text) for r in able}
        score = {r.sample: scores[r.attempt, r.sample] for r in able}
        top, low = max(score.values()), min(score.values())
        assume(top - low > 1e-6)
        good = [s for s in score if score[s] >= (1 - rho) * top + rho * low - 1e-9]
        bad = [s for s in score if score[s] <= (1 - rho) * low + rho * top + 1e-9]
        assert pair.chosen in good
        assert pair.rejected in bad
        assert length[pair.chosen] == min(length[s] for s in good)
        assert length[pair.rejected] == max(length[s] for s in bad)


@given(rounds(), FILTERS)
def test_the_length_penalty_brings_the_mean_lengths_no_further_apart(
    made: tuple, filters: dict[str, float]
) -> None:
    plain, _ = build_pairs(*made, PairsConfig(**filters))
    regularized, _ = build_pairs(*made, PairsConfig(rule="length_regularized", **filters))
    assert abs(sum(lengths(made, regularized))) <= abs(sum(lengths(made, plain)))
    if sum(lengths(made, plain)) <= 0:
        assert regularized == plain


ANSWERS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 99)), min_size=2, max_size=7)


@given(st.integers(1, 3).flatmap(lambda n: st.lists(ANSWERS, min_size=n, max_size=n)))
def test_one_length_penalty_explains_all_choices_and_none_balances_better(
    prompts: list[list[tuple[int, int]]],
) -> None:
    groups = []
    for attempt, drawn in enumerate(prompts):
        answers = [
            Answer(i, score, one_judge(score), length) for i, (score, length) in enumerate(drawn)
        ]
        group = [Candidate(attempt, a, b) for a in answers for b in answers if a.score > b.score]
        groups += [group] if group else []
    found = length_regularized(groups, PairsConfig())

    def penalized(candidate: Candidate, alpha: Fraction) -> Fraction:
        return Fraction(candidate.margin) - alpha * candidate.excess

    turns = {
        Fraction(int(a.margin - b.margin), a.excess - b.excess)
        for group in groups
        for a in group
        for b in group
        if a.excess > b.excess and a.margin >= b.margin
    }
    ends = [Fraction(0), *sorted(turns), max(turns, default=Fraction(0)) + 1]
    alphas = [*ends, *((a + b) / 2 for a, b in pairwise(ends))]
    assert any(
        all(penalized(c, alpha) == max(penalized(o, alpha) for o in group)
            for c, group in zip(found, groups, strict=True))
        for alpha in alphas
    )  # fmt: skip
    for alpha in alphas:
        best = [max(group, key=lambda c: (penalized(c, alpha), c.margin)) for group in groups]
        assert abs(sum(c.excess for c in found)) <= abs(sum(c.excess for c in best))


def test_a_length_penalty_takes_the_shorter_of_nearly_as_good_answers() -> None:
    """Scores 5, 4 and 1 of lengths 40, 10 and 10: at 1/30 points per character 4 beats 5."""
    made = responses_with(5, 4, 1, texts=("a" * 40, "b" * 10, "c" * 10))
    [pair], _ = build_pairs(*made, PairsConfig(rule="length_regularized"))
    assert (pair.chosen, pair.rejected) == (1, 2)


# Agreement of the votes


@given(rounds(), SETTINGS)
def test_full_agreement_puts_every_vote_on_chosen_above_every_one_on_rejected(
    made: tuple, settings: PairsConfig
) -> None:
    pairs, _ = build_pairs(*made, settings.model_copy(update={"min_agreement": 1.0}))
    for pair in pairs:
        low = min(votes_on(made, pair.attempt, pair.chosen))
        assert low > max(votes_on(made, pair.attempt, pair.rejected))


def votes_on(made: tuple, attempt: int, sample: int) -> list[float]:
    votes = [j for j in made[2] if (j.attempt, j.sample) == (attempt, sample)]
    return [vote.score for vote in votes if vote.score is not None]


@given(*[st.lists(st.integers(0, 5), min_size=1, max_size=5)] * 2)
def test_agreement_and_that_on_the_opposite_order_make_one(a: list[int], b: list[int]) -> None:
    first, second = (Answer(i, 3.0, one_judge(*votes), 1) for i, votes in enumerate((a, b)))
    there, back = Candidate(0, first, second).agreement, Candidate(0, second, first).agreement
    assert there + back == pytest.approx(1)
    assert 0 <= there <= 1


def test_votes_that_disagree_are_a_drop_with_how_far_they_agree() -> None:
    """Votes 5, 5, 0 against 2, 2, 2: six of nine comparisons."""
    prompt = Prompt(1, 0, "p", "p", None)
    responses = [Response(1, 0, i, "ab"[i], "stop", 1) for i in range(2)]
    judgments = [
        Judgment(1, 0, sample, vote, "written", "", score)
        for sample, scores in enumerate([(5, 5, 0), (2, 2, 2)])
        for vote, score in enumerate(scores)
    ]
    pairs, [drop] = build_pairs([prompt], responses, judgments, PairsConfig(min_agreement=0.7))
    assert pairs == []
    assert (drop.reason, drop.detail) == ("agreement", "0.667 < 0.7 of the votes")
    pairs, _ = build_pairs([prompt], responses, judgments, PairsConfig(min_agreement=0.66))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(0, 1)]


def test_votes_that_all_agree_pass_any_filter() -> None:
    pairs, _ = build_pairs(*responses_with(4, 2), PairsConfig(min_agreement=1.0))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(0, 1)]


# Examples


def responses_with(*scores: float | None, texts: Sequence[str] = "abcdefgh") -> tuple:
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


def test_a_score_just_above_the_worst_is_not_the_worst() -> None:
    """5 - 1e-20 and 5 - 0 are one number in floats."""
    [pair], _ = build_pairs(*responses_with(5, 1e-20, 0), PairsConfig())
    assert (pair.chosen, pair.rejected) == (0, 2)


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
    assert mean_scores([Response(1, 0, 0, "a", "stop", 1)], votes) == {(0, 0): 4.5}


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


@pytest.mark.parametrize(
    ("judge", "lost", "said"),
    [
        (["function=my:brief"], {"no verdict": 12, "too few": 3}, "my:brief gives no value ("),
        (["function=my:brief"], {"tie": 3, "identical": 1}, "my:brief gives all answers to a"),
        (["form=reward", "model=org/rm"], {"no verdict": 9, "too few": 3}, "org/rm gives no"),
        (["form=reward", "model=org/rm"], {"tie": 3}, "org/rm gives all answers to a prompt the"),
        (["form=implicit", "model=org/m"], {"tie": 3}, "org/m gives all answers to a prompt the"),
    ],
)
def test_where_no_words_judge_no_remedy_speaks_of_teaching_the_judge(
    judge: list[str], lost: dict[str, int], said: str
) -> None:
    words = [f"judge.{word}" for word in judge]
    words += ["judge.scale=[-9, 9]"] * ("function=my:brief" not in judge)
    words += ["judge.reference=org/other"] * ("form=implicit" in judge)
    more = ["sft=null", "evaluation.ranked=null", "evaluation.canaries=false"]
    found = few_pairs_remedy(build_config({}, [*words, *more]), "run", Counter(lost))
    assert said in found and "EFT" not in found
