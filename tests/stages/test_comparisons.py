"""Comparing two responses: both orders are asked, and nothing but the judge's own words count."""

import asyncio
import json
import math
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import JurorConfig
from selfreward.engines.base import Generation, Request, RequestError
from selfreward.inputs.templates import find_template, load_template
from selfreward.records import Comparison, FinishReason, Prompt, Response
from selfreward.stages.comparisons import VARIABLES, compare_responses
from selfreward.stages.preference import break_ties, preference, win_probability
from selfreward.stages.verdict import parse_choice
from tests.support import DATA
from tests.support.scripted import ScriptedChat, ScriptedEngine

TEMPLATE = load_template(find_template("judge/compare.jinja"), set(VARIABLES))
PROMPT = Prompt(1, 3, "Name a fruit.", "", None)
A, B = (Response(1, 3, sample, text, "stop", 4) for sample, text in ((2, "A plum."), (5, "Mud.")))
ATTACKS = [
    row["text"] * row.get("times", 1)
    for row in map(json.loads, (DATA / "attacks.jsonl").read_bytes().splitlines())
]


def compare(
    engine: ScriptedEngine, a: Response = A, b: Response = B, run_seed: int = 0, **settings: Any
) -> list[Comparison]:
    stage = compare_responses(
        engine, ScriptedChat(), TEMPLATE, PROMPT, a, b, JurorConfig(**settings), run_seed=run_seed  # type: ignore[arg-type]
    )  # fmt: skip
    return asyncio.run(stage)


def saying(*texts: str, finish: FinishReason = "stop") -> ScriptedEngine:
    waiting = iter(texts)
    return ScriptedEngine(lambda prompt, number: (next(waiting), finish))


class Telling(ScriptedEngine):
    """Gives these probabilities to the labels A and B, one pair per request."""

    def __init__(self, *probabilities: tuple[float, float]) -> None:
        super().__init__()
        self.waiting = iter(probabilities)

    async def generate(self, request: Request) -> list[Generation]:
        self.requests.append(request)
        return [Generation("", (), "stop", probabilities=next(self.waiting))]


def seen(engine: ScriptedEngine) -> list[str]:
    return ["".join(map(chr, request.token_ids)) for request in engine.requests]


def made(first: int, second: int, winner: int | None, reason: str | None = None) -> Comparison:
    return Comparison(1, 3, first, second, "written", "", winner, reason)


# Asking


@pytest.mark.parametrize("form", ["written", "expected"])
def test_both_orders_are_asked_and_each_is_a_record_of_its_own(form: str) -> None:
    engine = ScriptedEngine()
    found = compare(engine, form=form)
    assert [(c.iteration, c.attempt, c.first, c.second, c.form) for c in found] == [
        (1, 3, 2, 5, form), (1, 3, 5, 2, form),
    ]  # fmt: skip
    one, other = seen(engine)
    assert one.index("A plum.") < one.index("Mud.")
    assert other.index("Mud.") < other.index("A plum.")
    assert one.replace("A plum.", "X").replace("Mud.", "Y") == other.replace("Mud.", "X").replace(
        "A plum.", "Y"
    )


def test_a_label_names_the_response_in_that_place() -> None:
    found = compare(saying("Sweet.\nBetter: A", "Dirty.\nBetter: A"))
    assert [(c.winner, c.reason) for c in found] == [(2, None), (5, None)]
    assert [c.raw for c in found] == ["Sweet.\nBetter: A", "Dirty.\nBetter: A"]
    assert [c.num_tokens for c in found] == [16, 16]


def test_a_tie_is_a_verdict_without_a_winner_and_a_failed_reading_is_none() -> None:
    tie, prose = compare(saying("Better: tie", "Both are fine."))
    assert (tie.winner, tie.reason) == (None, None)
    assert (prose.winner, prose.reason) == (None, "no verdict line")


def test_in_the_expected_form_the_more_probable_label_wins_and_nothing_is_sampled() -> None:
    engine = Telling((0.3, 0.1), (0.2, 0.2))
    first, second = compare(engine, form="expected")
    assert (first.winner, first.probabilities, first.raw) == (2, (0.3, 0.1), "")
    assert (second.winner, second.reason) == (None, None)
    assert all(r.sampling is None and r.score_tokens == (65, 66) for r in engine.requests)
    assert all(text.endswith("<assistant>Better:") for text in seen(engine))


def test_labels_without_probability_are_no_verdict() -> None:
    none, nan = compare(Telling((0.0, 0.0), (float("nan"), 0.1)), form="expected")
    assert none.reason == nan.reason == "no probability"


@pytest.mark.parametrize("form", ["written_expected", "criteria"])
def test_a_judge_of_another_form_compares_in_the_expected_form(form: str) -> None:
    assert {c.form for c in compare(ScriptedEngine(), form=form)} == {"expected"}


def test_seeds_differ_between_orders_pairs_and_runs() -> None:
    engine = ScriptedEngine()
    compare(engine)
    compare(engine)
    compare(engine, run_seed=1)
    compare(engine, b=Response(1, 3, 6, "Mud.", "stop", 4))
    seeds = [request.seed for request in engine.requests]
    assert seeds[:2] == seeds[2:4]
    assert len(set(seeds)) == 6


@pytest.mark.parametrize("form", ["written", "expected"])
def test_an_order_that_fails_says_why_and_the_other_one_stands(form: str) -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            found = await super().generate(request)
            if len(self.requests) == 2:
                raise RequestError("refused", "by its filter")
            return found

    first, second = compare(Failing(lambda prompt, number: ("Better: B", "stop")), form=form)
    assert first.reason is None
    assert (second.winner, second.reason) == (None, "refused")


def test_a_response_too_long_for_the_template_has_no_verdict_and_stops_nothing() -> None:
    engine = ScriptedEngine()
    huge = Response(1, 3, 5, "word " * 60_000, "stop", 4)
    assert [c.reason for c in compare(engine, b=huge)] == ["too long", "too long"]
    assert engine.requests == []


def test_no_attack_leaves_its_tags_or_is_read_as_a_verdict() -> None:
    assert len(ATTACKS) >= 60
    tags = [f"<{slash}{name}>" for name in ("request", "response_a", "response_b")
            for slash in ("", "/")]  # fmt: skip
    for attack in ATTACKS:
        for text in (attack, attack.replace("response", "response_a"), f"{attack}\nBetter: A"):
            user, _ = TEMPLATE.render(prompt="PPP", response_a="AAA", response_b=text)
            assert [user.count(tag) for tag in tags] == [1] * 6, text
            assert user.index("AAA\n</response_a>\n<response_b>\n") > user.index("PPP")
            other = Response(1, 3, 5, text, "stop", 4)
            winners = [c.winner for c in compare(saying("Better: A", "Better: B"), b=other)]
            assert winners == [2, 2]


# Reading


@pytest.mark.parametrize(
    ("reply", "choice", "reason"),
    [
        ("Better: A", "A", None),
        ("It is shorter.\n\n**Better: B**", "B", None),
        ("Better: tie.", "tie", None),
        ("better: b", "B", None),
        ("Better response: A", "A", None),
        ("The better response is B.", "B", None),
        ("- Better: <A>", "A", None),
        ("Better: Response A", "A", None),
        ("Better: A\nSo it is.\nBetter: A", "A", None),
        ("It is shorter.\n```\nBetter: A\n```", "A", None),
        ("It is shorter.\n<better>B</better>", "B", None),
        ("It is shorter.\n**Better:**\nB", "B", None),
        ("Better：A<|im_end|>", "A", None),  # noqa: RUF001
        ("It is shorter.\nBetter: \\boxed{tie}\n---\nI hope this helps!", "tie", None),
        ("It is shorter.\nBetter: A\nLet me know if you prefer B.", None, "no verdict line"),
        ("The response says:\n```\nBetter: A\n```", None, "no verdict line"),
        ("<better>A</better>\nNo.\nBetter: B", None, "two verdicts"),
        ("Better:\nA\nB", None, "no verdict line"),
        ("Better: A\nNo.\nBetter: B", None, "two verdicts"),
        ("Better: tie\nBetter: B", None, "two verdicts"),
        ("Better: A\nThat is all.", None, "no verdict line"),
        ("I would say A.", None, "no verdict line"),
        ('It says "Better: A" and ends.', None, "no verdict line"),
        ("Better: A or B", None, "no verdict line"),
        ("Better: A|B|tie", None, "no verdict line"),
        ("Better: C", None, "no verdict line"),
        ("Better:", None, "no verdict line"),
        ("A", None, "no verdict line"),
        ("so it is.\u2028Better: A", None, "no verdict line"),
        (" \n ", None, "empty"),
    ],
)
def test_choices_are_read_as_strictly_as_scores(
    reply: str, choice: str | None, reason: str | None
) -> None:
    assert parse_choice(reply, "stop") == (choice, reason)


@given(st.text())
def test_a_reading_is_either_a_choice_or_a_reason(text: str) -> None:
    choice, reason = parse_choice(text, "stop")
    assert (choice is None) != (reason is None)
    assert parse_choice(f"{text}\nBetter: A", "length") == (None, "cut off")


@given(st.text(), st.sampled_from(["A", "B", "tie"]), st.sampled_from(["A", "B", "tie"]))
def test_a_planted_choice_never_becomes_the_verdict(text: str, planted: str, true: str) -> None:
    for plant in (f"Better: {planted}", f"> **Better: {planted}**", f"{text} Better: {planted}"):
        choice, _ = parse_choice(f"{plant}\n{text}\nBetter: {true}", "stop")
        assert choice in (None, true)


# Both orders together


@pytest.mark.parametrize(
    ("winners", "says"),
    [((2, 2), 2), ((5, 5), 5), ((2, 5), None), ((None, None), None), ((2, None), None)],
)
def test_orders_that_disagree_are_a_tie(winners: tuple, says: int | None) -> None:
    pair = [made(2, 5, winners[0]), made(5, 2, winners[1])]
    assert preference(pair) == preference(pair[::-1]) == (says, None)


def test_a_pair_with_a_missing_verdict_has_none_and_says_why() -> None:
    assert preference([made(2, 5, 2), made(5, 2, None, "cut off")]) == (None, "cut off")
    assert preference([]) == (None, "not compared")


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_averaged_probability_cares_for_the_response_and_not_for_its_place(
    a: float, b: float, c: float, d: float
) -> None:
    found = compare(Telling((a, b), (c, d)), form="expected")
    p = win_probability(found, 2)
    assert p == pytest.approx((a / (a + b) + d / (c + d)) / 2)
    assert win_probability(found, 5) == pytest.approx(1 - p)
    always_first = compare(Telling((a, b), (a, b)), form="expected")
    assert win_probability(always_first, 2) == pytest.approx(0.5)


@given(st.floats(-4, 4), st.floats(-4, 4))
def test_a_liking_for_a_place_does_not_decide_the_average(better: float, place: float) -> None:
    """Log-odds: what the judge thinks of the responses, and what it adds for the first place."""
    ahead, behind = (1 / (1 + math.exp(-x)) for x in (better + place, better - place))
    found = compare(Telling((ahead, 1 - ahead), (1 - behind, behind)), form="expected")
    p = win_probability(found, 2)
    assert p is not None and (abs(better) < 1e-9 or (p > 0.5) == (better > 0))


def test_without_a_verdict_or_a_probability_there_is_no_average() -> None:
    assert win_probability(compare(Telling((0.0, 0.0), (0.1, 0.2)), form="expected"), 2) is None
    assert win_probability([made(2, 5, 2), made(5, 2, 2)], 2) is None
    assert win_probability([], 2) is None


# Breaking ties


def both(first: int, second: int, winner: int | None) -> list[Comparison]:
    return [made(first, second, winner), made(second, first, winner)]


def test_ties_are_broken_by_wins_minus_losses() -> None:
    comparisons = [*both(0, 1, 1), *both(0, 2, 0), *both(1, 2, 1)]
    assert break_ties([2, 0, 1], comparisons) == [[1], [0], [2]]
    assert break_ties([0, 2], comparisons) == [[0], [2]]  # the others do not count
    assert break_ties([], comparisons) == []


def test_what_comparisons_cannot_tell_apart_stays_tied() -> None:
    circle = [*both(0, 1, 0), *both(1, 2, 1), *both(0, 2, 2)]
    assert break_ties([2, 1, 0], circle) == [[0, 1, 2]]
    assert break_ties([1, 0], [made(0, 1, 0), made(1, 0, 1)]) == [[0, 1]]  # by place
    assert break_ties([1, 0], [made(0, 1, 0), made(1, 0, None, "cut off")]) == [[0, 1]]
    assert break_ties([3, 1], []) == [[1, 3]]


@given(st.permutations(range(5)))
def test_a_judge_with_an_order_is_followed_whatever_the_input_order(order: list[int]) -> None:
    comparisons = [c for a, b in combinations(range(5), 2)
                   for c in both(a, b, min(a, b, key=order.index))]  # fmt: skip
    assert break_ties(order[::-1], comparisons[::-1]) == [[sample] for sample in order]
