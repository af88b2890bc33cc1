"""Agreement of a judge with people: every figure against a slow reference, and its laws."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, groupby, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward.measures.agreement import agreement
from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.sample import JudgedResponse
from tests.support import plain

few = settings(max_examples=40)
RESAMPLES = 50
"""Enough for the laws; the reference needs none."""


def figures(responses: list[JudgedResponse], **options: Any) -> dict[str, Any]:
    return plain(agreement(responses, **{"resamples": RESAMPLES, **options}))


def response(
    prompt: int, preference: float, score: float | None, length: int = 10, **more: Any
) -> JudgedResponse:
    return JudgedResponse(f"p{prompt}", prompt, preference, (score,), length, **more)


@st.composite
def judged(
    draw: st.DrawFn, missing: bool = True, rankings: int = 5, prompts: int = 4
) -> list[JudgedResponse]:
    """Rankings of up to four responses with two votes each."""
    vote = st.integers(0, 5).map(float)
    vote = st.one_of(st.none(), vote) if missing else vote
    made = []
    for ranking in range(draw(st.integers(0, rankings))):
        prompt = f"p{draw(st.integers(0, prompts - 1))}"
        for _ in range(draw(st.integers(1, 4))):
            made.append(
                JudgedResponse(
                    prompt=prompt,
                    ranking=ranking,
                    preference=float(draw(st.integers(0, 3))),
                    votes=(draw(vote), draw(vote)),
                    length=draw(st.integers(1, 8)),
                    human_score=draw(st.one_of(st.none(), st.floats(0, 5))),
                )
            )
    return made


def estimates(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if {"value", "low", "high"} <= value.keys():
            yield value
        for inner in value.values():
            yield from estimates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from estimates(inner)


# The slow reference: definitions spelled out, one pair at a time


def rankings(responses: list[JudgedResponse]) -> list[list[JudgedResponse]]:
    ordered = sorted(responses, key=lambda r: r.ranking)
    return [list(group) for _, group in groupby(ordered, key=lambda r: r.ranking)]


def pairs(responses: list[JudgedResponse]) -> list[tuple[JudgedResponse, JudgedResponse]]:
    """(better, worse)"""
    return [
        (a, b)
        for group in rankings(responses)
        for a in group
        for b in group
        if a.preference > b.preference
    ]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def slow_accuracy(responses: list[JudgedResponse], tie: float, ratio: float | None = None):
    points = []
    for better, worse in pairs(responses):
        lengths = sorted((better.length, worse.length))
        if ratio is not None and lengths[1] > ratio * lengths[0]:
            continue
        if better.score is None or worse.score is None:
            points.append(0.0)
        else:
            points.append(1.0 if better.score > worse.score else
                          tie if better.score == worse.score else 0.0)  # fmt: skip
    return mean(points)


def slow_ranks(values: list[float]) -> list[float]:
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def slow_pearson(x: list[float], y: list[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    cross = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return cross / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def slow_tau_b(x: list[float], y: list[float]) -> float:
    signs = [
        (np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)
    ]
    untied_x, untied_y = sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)
    return float(sum(a * b for a, b in signs)) / math.sqrt(untied_x * untied_y)


def slow_by_ranking(
    responses: list[JudgedResponse], figure: Callable[[list[float], list[float]], float]
) -> float | None:
    found = []
    for group in rankings(responses):
        people = [r.preference for r in group]
        if len(set(people)) < 2:
            continue
        scores = [r.score for r in group]
        told = None not in scores and len(set(scores)) > 1
        found.append(figure(people, scores) if told else 0.0)  # type: ignore[arg-type]
    return mean(found)


def slow_exact(people: list[float], scores: list[float]) -> float:
    both = list(zip(people, scores, strict=True))
    return float(all(s > t for p, s in both for q, t in both if p > q))


def slow_five_best(responses: list[JudgedResponse]) -> float | None:
    best = []
    for group in rankings(responses):
        top = max(r.preference for r in group)
        if min(r.preference for r in group) < top:
            best += [float(r.preference == top) for r in group if r.score == 5]
    return mean(best)


def slow_alpha(responses: list[JudgedResponse]) -> float | None:
    """From the table of coincidences of values, as Krippendorff does it by hand."""
    units = [[v for v in r.votes if v is not None] for r in responses]
    units = [unit for unit in units if len(unit) > 1]
    coincidences: dict[tuple[float, float], float] = {}
    for unit in units:
        for i, a in enumerate(unit):
            for j, b in enumerate(unit):
                if i != j:
                    coincidences[a, b] = coincidences.get((a, b), 0) + 1 / (len(unit) - 1)
    n = sum(map(len, units))
    margin = {a: sum(c for (b, _), c in coincidences.items() if a == b) for a, _ in coincidences}
    observed = sum(c * (a - b) ** 2 for (a, b), c in coincidences.items())
    expected = sum(margin[a] * margin[b] * (a - b) ** 2 for a in margin for b in margin)
    return 1 - (n - 1) * observed / expected if expected else None


@settings(max_examples=150)
@given(judged())
def test_every_figure_is_what_a_slow_reference_says(responses: list[JudgedResponse]) -> None:
    found = figures(responses, length_ratio=1.5)
    judge = found["judge"]
    parsed = [r for r in responses if r.score is not None]
    by_length = [replace(r, votes=(r.length / 10,)) for r in responses]
    expected = {
        "all": slow_accuracy(responses, 0.5),
        "strict": slow_accuracy(responses, 0.0),
        "parsed": slow_accuracy(parsed, 0.5),
        "matched": slow_accuracy(responses, 0.5, 1.5),
        "matched strict": slow_accuracy(responses, 0.0, 1.5),
        "longest": slow_accuracy(by_length, 0.5),
        "longest matched": slow_accuracy(by_length, 0.5, 1.5),
        "spearman": slow_by_ranking(
            responses, lambda x, y: slow_pearson(slow_ranks(x), slow_ranks(y))
        ),
        "kendall": slow_by_ranking(responses, slow_tau_b),
        "exact": slow_by_ranking(responses, slow_exact),
        "longest exact": slow_by_ranking(by_length, slow_exact),
        "parsed kendall": slow_by_ranking(parsed, slow_tau_b),
        "five_best": slow_five_best(responses),
        "alpha": slow_alpha(responses),
        "parse rate": mean([float(v is not None) for r in responses for v in r.votes]),
        "answered": mean([float(r.score is not None) for r in responses]),
    }
    values = {
        "all": judge["all"]["accuracy"],
        "strict": judge["all"]["accuracy_strict"],
        "parsed": judge["parsed"]["accuracy"],
        "matched": judge["matched"]["accuracy"],
        "matched strict": judge["matched"]["accuracy_strict"],
        "longest": found["longest"]["all"]["accuracy"],
        "longest matched": found["longest"]["matched"]["accuracy"],
        "spearman": judge["all"]["spearman"],
        "kendall": judge["all"]["kendall"],
        "exact": judge["all"]["exact"],
        "longest exact": found["longest"]["all"]["exact"],
        "parsed kendall": judge["parsed"]["kendall"],
        "five_best": judge["all"]["five_best"],
        "alpha": found["votes"]["alpha"] if found["votes"] else {"value": None},
        "parse rate": found["parse_rate"],
        "answered": found["answered"],
    }
    assert {name: value["value"] for name, value in values.items()} == {
        name: None if value is None else pytest.approx(value, abs=1e-9)
        for name, value in expected.items()
    }
    assert found["counts"]["pairs"] == judge["all"]["accuracy"]["n"] == len(pairs(responses))


def test_the_interval_is_that_of_resampled_prompts_one_at_a_time() -> None:
    draw = random.Random(0)
    responses = [
        response(prompt, i, float(draw.randint(0, 5)), draw.randint(1, 50))
        for prompt in range(30)
        for i in range(draw.randint(2, 4))
    ]
    found = figures(responses, resamples=4000)["judge"]["all"]["accuracy"]
    groups = rankings(responses)
    slow = []
    for _ in range(1000):
        drawn = draw.choices(groups, k=len(groups))
        sample = [replace(r, ranking=i) for i, group in enumerate(drawn) for r in group]
        slow.append(slow_accuracy(sample, 0.5))
    low, high = np.quantile(slow, (0.025, 0.975))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.015)


# Laws


@few
@given(judged(missing=False))
def test_reversing_all_scores_turns_accuracy_a_into_one_minus_a(
    responses: list[JudgedResponse],
) -> None:
    reversed_ = [replace(r, votes=tuple(5 - (v or 0) for v in r.votes)) for r in responses]
    judge, other = figures(responses)["judge"], figures(reversed_)["judge"]
    for part in ("all", "matched", "parsed"):
        a, b = judge[part]["accuracy"]["value"], other[part]["accuracy"]["value"]
        assert (a is None and b is None) or b == pytest.approx(1 - a)
    a, b = judge["all"]["kendall"]["value"], other["all"]["kendall"]["value"]
    assert (a is None and b is None) or b == pytest.approx(-a)


@few
@given(judged())
def test_a_perfect_judge_has_everything_right(responses: list[JudgedResponse]) -> None:
    perfect = [replace(r, votes=(r.preference + 2,)) for r in responses]
    found = figures(perfect)
    judge = found["judge"]["all"]
    for name in ("accuracy", "accuracy_strict", "exact", "spearman", "kendall", "five_best"):
        assert judge[name]["value"] in (None, pytest.approx(1))
    assert judge["ties"]["value"] in (None, 0)
    assert found["parse_rate"]["value"] in (None, 1)


@few
@given(judged())
def test_a_judge_that_always_says_the_same_has_only_ties(responses: list[JudgedResponse]) -> None:
    judge = figures([replace(r, votes=(4.0, 4.0)) for r in responses])["judge"]["all"]
    for name, value in (("ties", 1), ("accuracy", 0.5), ("accuracy_strict", 0), ("exact", 0),
                        ("spearman", 0), ("kendall", 0)):  # fmt: skip
        assert judge[name]["value"] in (None, value)


@few
@given(judged())
def test_a_judge_without_verdicts_has_nothing_right_and_no_ties(
    responses: list[JudgedResponse],
) -> None:
    found = figures([replace(r, votes=(None, None)) for r in responses])
    for name in ("accuracy", "accuracy_strict", "ties", "exact", "spearman", "kendall"):
        assert found["judge"]["all"][name]["value"] in (None, 0)
    assert found["judge"]["parsed"]["accuracy"]["value"] is None
    assert found["calibration"] == []
    assert found["votes"] is None


@few
@given(judged(), st.randoms(use_true_random=False))
def test_the_order_of_responses_does_not_matter(
    responses: list[JudgedResponse], draw: random.Random
) -> None:
    assert figures(draw.sample(responses, len(responses))) == figures(responses)


@few
@given(judged(rankings=24, prompts=18))
def test_intervals_hold_the_estimate_and_shares_lie_between_0_and_1(
    responses: list[JudgedResponse],
) -> None:
    found = figures(responses)
    for estimate in estimates(found):
        assert (estimate["low"] is None) == (estimate["high"] is None)
        if estimate["low"] is not None:
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    for part in found["judge"].values():
        for name, estimate in part.items():
            if estimate["value"] is not None and name not in ("spearman", "kendall"):
                assert 0 <= estimate["value"] <= 1


@few
@given(judged())
def test_the_gain_is_the_difference_of_the_accuracies(responses: list[JudgedResponse]) -> None:
    found = figures(responses)
    for part in ("all", "matched"):
        judge, longest = (found[who][part]["accuracy"]["value"] for who in ("judge", "longest"))
        gain = found["gain"][part]["value"]
        assert (judge is None and gain is None) or gain == pytest.approx(judge - longest)


def test_a_judge_that_goes_by_length_gains_exactly_nothing() -> None:
    """The resamples are paired, so the interval is empty, not merely around zero."""
    draw = random.Random(1)
    lengths = [draw.randint(1, 50) for _ in range(60)]
    responses = [response(i // 3, i % 3, length / 10, length) for i, length in enumerate(lengths)]
    found = figures(responses)
    assert found["gain"]["all"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 60}
    assert found["judge"]["all"]["prefers_longer"]["value"] == 1


def test_the_same_seed_gives_the_same_intervals_and_more_prompts_narrower_ones() -> None:
    draw = random.Random(2)

    def sample(prompts: int) -> list[JudgedResponse]:
        return [response(i // 2, i % 2, draw.random() * 5) for i in range(2 * prompts)]

    few, many = sample(20), sample(500)
    assert figures(few, seed=3) == figures(few, seed=3) != figures(few, seed=4)
    widths = [
        estimate["high"] - estimate["low"]
        for estimate in (figures(s)["judge"]["all"]["accuracy"] for s in (few, many))
    ]
    assert widths[1] < widths[0] / 3


def test_rankings_of_one_prompt_are_drawn_together() -> None:
    """Three raters of the same two responses are no three prompts."""
    apart = [response(i // 2, i % 2, float(i % 4)) for i in range(40)]
    together = [replace(r, prompt="p") for r in apart]
    assert figures(apart)["judge"]["all"]["accuracy"]["low"] is not None
    found = figures(together)
    assert found["judge"]["all"]["accuracy"]["low"] is None
    assert found["counts"]["rankings"] == 20
    assert found["counts"]["prompts"] == 1


# Odd data


def test_a_vote_off_the_scale_is_no_verdict() -> None:
    found = figures([response(0, 1, 7.0), response(0, 0, -1.0), response(1, 0, math.nan)])
    assert found["parse_rate"]["value"] == 0
    assert found["judge"]["all"]["accuracy"]["value"] == 0


def test_rankings_of_one_response_or_without_an_order_have_no_pairs() -> None:
    found = figures([response(0, 1, 3.0), response(1, 2, 3.0), response(1, 2, 4.0)])
    assert found["counts"] == {
        "prompts": 2, "rankings": 2, "ordered": 0, "responses": 3, "pairs": 0, "matched": 0,
    }  # fmt: skip
    assert found["judge"]["all"]["accuracy"]["value"] is None
    assert found["parse_rate"]["value"] == 1


def test_nothing_at_all_has_no_figures() -> None:
    found = figures([])
    assert found["counts"]["responses"] == 0
    assert {estimate["value"] for estimate in estimates(found)} == {None}


def test_a_pair_is_of_the_same_length_up_to_the_ratio_itself() -> None:
    responses = [response(0, 1, 1.0, 125), response(0, 0, 0.0, 100), response(1, 1, 1.0, 126),
                 response(1, 0, 0.0, 100)]  # fmt: skip
    assert figures(responses)["counts"]["matched"] == 1
    assert figures(responses, length_ratio=1.26)["counts"]["matched"] == 2


# Calibration, confusion, votes


def test_the_calibration_has_a_bin_per_score_up_to_six() -> None:
    responses = [
        response(i, p, s, human_score=s)
        for i in range(4)
        for p, s in ((0, 1.0), (1, 3.0), (2, 5.0))
    ]
    found = figures(responses)["calibration"]
    assert [(row["low"], row["high"], row["n"]) for row in found] == [
        (1.0, 1.0, 4), (3.0, 3.0, 4), (5.0, 5.0, 4),
    ]  # fmt: skip
    assert [row["standing"]["value"] for row in found] == [0.0, 0.5, 1.0]
    assert [row["human_score"]["value"] for row in found] == [1.0, 3.0, 5.0]


@few
@given(judged())
def test_every_verdict_is_in_one_bin_of_the_calibration(responses: list[JudgedResponse]) -> None:
    found = figures(responses)["calibration"]
    assert len(found) <= 6
    assert sum(row["n"] for row in found) == sum(r.score is not None for r in responses)
    assert all(row["low"] <= row["score"] <= row["high"] for row in found)
    assert all(a["high"] < b["low"] for a, b in pairwise(found))


def test_many_scores_are_put_into_bins_of_about_equal_size() -> None:
    responses = [response(i, 0, i / 24) for i in range(120)]
    assert [row["n"] for row in figures(responses)["calibration"]] == [20] * 6


def test_the_confusion_counts_every_response_that_people_scored() -> None:
    responses = [
        response(0, 0, 4.0, human_score=4.5), response(0, 1, None, human_score=0.2),
        response(1, 0, 2.5, human_score=2.0), response(1, 1, 3.0),
    ]  # fmt: skip
    counts = figures(responses)["confusion"]
    assert counts[5][4] == counts[0][6] == counts[2][3] == 1
    assert sum(map(sum, counts)) == 3
    assert figures([response(0, 0, 1.0)])["confusion"] is None


def test_ties_fall_as_votes_are_added() -> None:
    draw = random.Random(0)
    responses = [
        JudgedResponse(f"p{i // 2}", i // 2, i % 2, tuple(float(draw.randint(2, 4))
                       for _ in range(3)), 10) for i in range(400)
    ]  # fmt: skip
    found = figures(responses)["by_votes"]
    assert [row["votes"] for row in found] == [1, 2, 3]
    ties = [row["ties"]["value"] for row in found]
    assert ties[0] > ties[1] > ties[2]
    assert found[-1]["accuracy"] == figures(responses)["judge"]["all"]["accuracy"]


def test_votes_that_are_all_equal_are_the_same_and_have_no_alpha() -> None:
    responses = [JudgedResponse("p", 0, i, (3.3, 3.3, 3.3), 10) for i in range(7)]
    votes = figures(responses)["votes"]
    assert votes["same"]["value"] == 1
    assert votes["difference"]["value"] == 0
    assert votes["alpha"]["value"] is None


def test_votes_that_agree_within_responses_have_alpha_1() -> None:
    responses = [JudgedResponse(f"p{i}", i, 0, (i % 5, i % 5), 10) for i in range(20)]
    assert figures(responses)["votes"]["alpha"]["value"] == pytest.approx(1)


def test_a_resample_in_which_nothing_counts_is_left_out() -> None:
    bootstrap = Bootstrap(11, resamples=200, seed=0)
    found = bootstrap.share((np.array([1.0] * 10 + [0.0]), np.array([1.0] * 10 + [0.0])))
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


def test_fewer_than_ten_prompts_have_no_interval() -> None:
    responses = [response(i // 2, i % 2, float(i % 3)) for i in range(20)]
    assert figures(responses)["judge"]["all"]["accuracy"]["low"] is not None
    assert figures(responses[:-2])["judge"]["all"]["accuracy"]["low"] is None
