"""Rewriting prompts: which are taken, by which operation, and what is no new prompt."""

import pytest

from selfreward.config.generation import EvolveConfig
from selfreward.inputs.judge_templates import EVOLVE_VARIABLES
from selfreward.inputs.templates import find_template, load_template
from selfreward.stages.evolve import Parent, Rewrite, Rewriter, drawn_order

TEMPLATE = load_template(find_template("instruct/evolve.jinja"), EVOLVE_VARIABLES)
FRUIT = Parent("Name a red fruit.", 1, 7)


def rewriter(parents: list[Parent], *operations: str) -> Rewriter:
    settings = EvolveConfig(operations=operations or EvolveConfig().operations)
    return Rewriter(TEMPLATE, parents, settings, seed=0)


def parents(*weights: float) -> list[Parent]:
    return [Parent(f"prompt {at}", 1, at, weight) for at, weight in enumerate(weights)]


def test_all_parents_come_once_before_any_comes_twice_and_meet_all_operations() -> None:
    author = rewriter(parents(1, 1, 1, 1), "deepen", "rarer", "reasoning")
    rewrites = [author.rewrite(number) for number in range(12)]
    for at in range(0, 12, 4):
        assert sorted(r.parent.number for r in rewrites[at : at + 4]) == [0, 1, 2, 3]
    assert len({(r.parent.number, r.operation) for r in rewrites}) == 12


def test_a_parent_is_drawn_in_proportion_to_its_spread() -> None:
    """Of spreads 3 and 1 the first comes first three times of four; 400 seeds, 5 sigma: 0.11."""
    first = [drawn_order(parents(1, 3), seed)[0].number for seed in range(400)]
    assert sum(first) / 400 == pytest.approx(0.75, abs=0.11)


def test_prompts_whose_answers_all_score_the_same_come_last() -> None:
    for seed in range(50):
        order = [parent.number for parent in drawn_order(parents(0, 0.01, 0, 4), seed)]
        assert set(order[:2]) == {1, 3}
    assert len({tuple(p.number for p in drawn_order(parents(0, 0, 0), s)) for s in range(50)}) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Name a red fruit that grows in the far north.", (None, "")),
        ("NAME a red fruit?", ("same as the parent", "")),
        ("I'm sorry, but I cannot rewrite this.", ("refused", "I'm sorry")),
        ("I can\u2019t help with that request.", ("refused", "I can\u2019t help")),
        ("As an AI language model I have no taste.", ("refused", "As an AI")),
        ("I can't sleep at night: what would help?", (None, "")),
        ("Sorry or not sorry: when does one say so?", (None, "")),
        (
            "Name a fruit by asking about its subject in more depth.",
            ("copies the template", "by asking about its subject"),
        ),
        ("The rewritten request is: name a fruit.", ("copies the template", "rewritten request")),
    ],
)
def test_what_is_no_request_of_its_own_is_dropped_with_its_reason(
    text: str, expected: tuple[str | None, str]
) -> None:
    assert rewriter([FRUIT]).why_failed(text, Rewrite(FRUIT, "deepen")) == expected


def test_words_that_the_parent_has_too_are_no_copy_of_the_template() -> None:
    parent = Parent("What does asking about its subject in more depth mean?", 1, 0)
    text = "Why is asking about its subject in more depth rude?"
    rewrite = Rewrite(parent, "deepen")
    assert rewriter([parent]).why_failed(text, rewrite) == (None, "")


def test_every_shipped_operation_asks_for_something_else() -> None:
    asked = {TEMPLATE.render(prompt="?", operation=name) for name in EvolveConfig().operations}
    assert len(asked) == 6
