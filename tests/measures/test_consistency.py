"""CREAM's consistency: hand-made rankings, and its bounds."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.measures.consistency import Consistency, consistency
from selfreward.measures.votes import JudgeRow


def asked(*prompts: tuple[Sequence[float | None], Sequence[float | None]]) -> Consistency:
    """Of prompts with the scores that the policy and the model before gave their responses."""
    rows = [
        JudgeRow(attempt, sample, juror, mean, mean, mean, 1, int(mean is not None), 0)
        for attempt, both in enumerate(prompts)
        for juror, scores in enumerate(both)
        for sample, mean in enumerate(scores)
    ]
    whole = {(row.attempt, row.sample) for row in rows}
    return consistency(rows, whole, (0, 1))


@pytest.mark.parametrize(
    ("policy", "before", "share"),
    [
        ([1, 2, 3, 4], [0, 1, 4, 5], 1.0),
        ([1, 2, 3, 4], [5, 4, 3, 2], 0.0),
        # Of six pairs one is turned round: tau = (5 - 1) / 6.
        ([1, 2, 3, 4], [1, 2, 4, 3], (4 / 6 + 1) / 2),
        # Ties of one judge: 4 concordant, 2 tied of 6: tau-b = 4 / sqrt(6 * 4).
        ([1, 2, 3, 4], [1, 1, 2, 2], (4 / 24**0.5 + 1) / 2),
    ],
)
def test_of_one_prompt_it_is_half_of_tau_b_and_one(
    policy: list[float], before: list[float], share: float
) -> None:
    found = asked((policy, before))
    assert (found.value, found.prompts) == (pytest.approx(share), 1)


def test_it_is_the_mean_over_the_prompts_on_which_both_tell_responses_apart() -> None:
    found = asked(([1, 2], [1, 2]), ([1, 2], [2, 1]), ([1, 2], [3, 3]), ([1, None], [1, 2]))
    assert found == Consistency(0.5, 2)
    assert asked(([1, 1], [1, 2])) == asked() == Consistency(None, 0)


@given(st.lists(st.lists(st.tuples(*[st.floats(0, 5)] * 2), max_size=5), max_size=4))
def test_it_lies_between_0_and_1_and_the_judges_can_change_places(
    prompts: list[list[tuple[float, float]]],
) -> None:
    both = [([a for a, _ in one], [b for _, b in one]) for one in prompts]
    found, turned = asked(*both), asked(*((b, a) for a, b in both))
    assert found.prompts == turned.prompts
    if found.value is not None:
        assert 0 <= found.value <= 1 and turned.value == pytest.approx(found.value)
