"""Parts by length hold each response once; variety of prompts is counted as it is defined."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.measures.diversity import diversity
from selfreward.measures.lengths import PARTS, length_bins
from selfreward.measures.votes import Scored
from selfreward.records import Prompt
from selfreward.storage import database
from selfreward.storage.store import Store


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        (range(100), [10] * 10),
        ([*range(10, 60), *[5] * 50], [50, 6, 6, 6, 6, 6, 5, 5, 5, 5]),
        ([*range(50), *[99] * 50], [10, 10, 10, 10, 10, 50]),
        ([5] * 99 + [6], [99, 1]),
    ],
)
def test_a_large_part_leaves_the_others_of_equal_number(
    lengths: list[int], parts: list[int]
) -> None:
    scored = [Scored(attempt, 0, 1.0, 0.0, 1) for attempt, _ in enumerate(lengths)]
    found = length_bins({row[:2]: lengths[row.attempt] for row in scored}, scored)
    assert [part.n for part in found] == parts


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 5)), max_size=90))
def test_parts_by_length_hold_each_response_once_and_do_not_overlap(
    rows: list[tuple[int, float]],
) -> None:
    scored = [Scored(i // 3, i % 3, score, 0.0, 1) for i, (_, score) in enumerate(rows)]
    lengths = {row[:2]: length for row, (length, _) in zip(scored, rows, strict=True)}
    bins = length_bins(lengths, [*scored, Scored(999, 0, 5.0, 0.0, 1)])  # that one was cut off
    assert sum(part.n for part in bins) == len(rows)
    assert len(bins) <= PARTS
    assert all(a.high < b.low for a, b in pairwise(bins))
    assert all(part.low <= part.length <= part.high for part in bins)
    total = sum(part.n * part.mean for part in bins)
    assert total == pytest.approx(sum(score for _, score in rows))


def test_many_lengths_make_ten_parts_of_equal_number() -> None:
    scored = [Scored(i, 0, i % 5, 0.0, 1) for i in range(100)]
    bins = length_bins({row[:2]: row.attempt for row in scored}, scored)
    assert [part.n for part in bins] == [10] * PARTS


def test_variety_is_the_share_of_distinct_words_of_accepted_prompts(tmp_path: Path) -> None:
    database.create(tmp_path / "records.db")
    with Store.claim(tmp_path / "records.db") as store:
        assert diversity(store, 1) is None
        store.add([
            Prompt(1, 0, "Write a poem.", "", None),
            Prompt(1, 1, "write a song!", "", None),
            Prompt(1, 2, "What is this, which was dropped?", "", "similar"),
        ])  # fmt: skip
        found = diversity(store, 1)
    assert found is not None
    assert (found.n, found.words, found.openings) == (2, 3.0, 1)
    assert found.distinct_1 == pytest.approx(4 / 6)
    assert found.distinct_2 == pytest.approx(3 / 4)
