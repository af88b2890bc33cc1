"""Health of the data: near-duplicates by a share of word pairs, kinds by how prompts begin."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.controller import close_iteration
from selfreward.measures.diversity import KINDS, DataFigures, Diversity, data_figures, kind_of
from selfreward.measures.duplicates import near_duplicates
from selfreward.measures.figures import IterationFigures, figures_of, iteration_figures
from selfreward.records import Prompt, Response
from selfreward.storage import database
from selfreward.storage.store import Store

SEVEN = "one two three four five six seven"
"""Six word pairs."""


@pytest.mark.parametrize(
    ("text", "is_near"),
    [
        ("ONE, two -- three four five six seven!", True),
        ("one two three four five six eight", True),  # 5 pairs of 7 in both
        ("one two three four five seven six", True),  # 4 of 8
        ("one two three four seven six five", False),  # 3 of 9
        ("four five six seven one two three", True),  # 5 of 7, though only 4 words are in order
        ("seven six five four three two one", False),
        ("one", False),
        ("", False),
    ],
)
def test_half_of_the_word_pairs_in_common_is_a_near_duplicate(text: str, is_near: bool) -> None:
    found = near_duplicates([text], [SEVEN])
    assert found == ([(text, SEVEN)] if is_near else [])


def test_of_two_alike_the_later_one_repeats_and_the_first_of_all_is_named() -> None:
    again = f"{SEVEN} eight"
    assert near_duplicates([again, SEVEN]) == [(SEVEN, again)]
    assert near_duplicates([SEVEN], [again, SEVEN]) == [(SEVEN, again)]
    assert near_duplicates(["?!", "?!", ""]) == []


@pytest.mark.slow
@given(st.lists(st.sampled_from(["a b c", "a b", "d e f", "x", "\ud800"]), max_size=9))
def test_of_equal_texts_all_but_the_first_repeat(texts: list[str]) -> None:
    repeated = near_duplicates(texts)
    equal = sum(text in texts[:at] for at, text in enumerate(texts) if text != "\ud800")
    assert len(repeated) >= equal


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("Write a poem.", "write"),
        ("  Could you please, write a poem?", "write"),
        ("I'd like you to WRITE", "write"),
        ("What is rust?", "what"),
        ("Please", "please"),
        ("为什么天空是蓝色的", "为"),
        ("?!", "other"),
    ],
)
def test_the_kind_of_a_prompt_is_the_word_it_begins_with_once_it_is_polite(
    prompt: str, kind: str
) -> None:
    assert kind_of(prompt) == kind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.create(tmp_path / "records.db")
    return tmp_path / "records.db"


def test_figures_of_the_data_hold_an_iteration_against_all_before_it(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([
            Prompt(1, 0, SEVEN, "", None),
            Prompt(1, 1, "one two three four five six eight", "", "similar"),
            Prompt(2, 0, "Write a poem.", "", None),
            Prompt(2, 1, f"{SEVEN} eight", "", None),
            Prompt(2, 2, "write a song now", "", None),
            Response(2, 0, 0, "la la", "stop", 2),
            Response(2, 0, 1, "la la la la", "stop", 4, author="M1"),
            Response(2, 0, 2, "x", "stop", 1, dropped="control token"),
        ])  # fmt: skip
        assert data_figures(store, 3) is None
        found = data_figures(store, 2)
    assert found == DataFigures(
        prompts=Diversity(3, 5.0, 13 / 15, 11 / 12, 2),
        responses=Diversity(1, 2.0, 0.5, 1.0, 1),
        near_duplicates=1,
        compared=3,
        example=(f"{SEVEN} eight", SEVEN),
        kinds={"write": 2, "one": 1},
    )


def test_kinds_past_the_most_frequent_are_one_and_every_prompt_is_of_one_kind(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([Prompt(1, a, f"word{a} then", "", None) for a in range(KINDS + 4)])
        found = data_figures(store, 1)
    assert found is not None
    assert len(found.kinds) == KINDS + 1
    assert found.kinds["other"] == 4
    assert sum(found.kinds.values()) == KINDS + 4


def test_they_are_computed_once_when_an_iteration_is_closed_and_not_before(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([Prompt(1, 0, SEVEN, "", None)])
        assert iteration_figures(store, 1).data is None
        close_iteration(store, 1)
        found = figures_of(store, 1)
        assert found.data == data_figures(store, 1)
        assert store.figures(1, IterationFigures) == found == iteration_figures(store, 1)


def test_figures_that_an_earlier_release_kept_without_them_are_read_as_they_are(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([Prompt(1, 0, SEVEN, "", None)])
        kept = msgspec.to_builtins(iteration_figures(store, 1))
        del kept["data"]
        store.save_figures(1, kept | {"seconds": {"prompts": 7.0}})
        found = figures_of(store, 1)
    assert found.data is None
    assert found.seconds == {"prompts": 7.0}
