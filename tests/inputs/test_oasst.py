"""Seed data from Open Assistant: what is taken, what is left out, and that the counts add up."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs import seeds
from selfreward.inputs.oasst import build

DATA = os.environ.get("SELFREWARD_TEST_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="SELFREWARD_TEST_DATA names no directory with oasst2_en/"
)


def message(name: str, parent: str | None, text: str, **changes: Any) -> dict[str, Any]:
    """A message row as the hub has it."""
    quality = changes.pop("quality", None)
    labels = {"name": ["spam", "quality"], "value": [0.0, quality], "count": [3, 3]}
    return {
        "message_id": name, "parent_id": parent, "text": text,
        "role": "prompter" if parent is None else "assistant", "lang": "en", "rank": None,
        "labels": None if quality is None else labels, "review_result": True,
        "deleted": False, "synthetic": False, "tree_state": "ready_for_export", **changes,
    }  # fmt: skip


def tree(number: int, replies: int = 3, **changes: Any) -> list[dict[str, Any]]:
    """A prompt and its replies, the first the best."""
    root = f"p{number}"
    return [
        message(root, None, f"Question {number}?") | changes,
        *(
            message(f"{root}r{i}", root, f"Answer {number}.{i}", rank=i, quality=0.9 - 0.2 * i)
            for i in range(replies)
        ),
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def outputs(directory: Path) -> tuple[list[dict], list[dict]]:
    def read(name: str) -> list[dict]:
        return [json.loads(line) for line in (directory / name).read_text().splitlines()]

    return read("ift.jsonl"), read("eft.jsonl")


def assert_adds_up(counts: dict[str, Any]) -> None:
    rows, prompts, replies = counts["rows"], counts["prompts"], counts["replies"]
    assert rows["read"] == rows["kept"] + sum(rows["dropped"].values())
    dropped = sum(prompts["dropped"].values())
    assert prompts["read"] == prompts["ift"] + prompts["eft"] + dropped
    assert replies["read"] == replies["eft"] + sum(replies["dropped"].values())


def test_message_rows_become_best_replies_and_scored_replies_of_other_prompts(
    tmp_path: Path,
) -> None:
    rows = [row for number in range(10) for row in tree(number)]
    counts = build(write(tmp_path / "messages.jsonl", rows), tmp_path / "out")
    ift, eft = outputs(tmp_path / "out")
    assert counts["prompts"] == {"read": 10, "ift": 5, "eft": 5, "dropped": {}}
    assert counts["rows"] == {"read": 40, "kept": 40, "dropped": {}}
    for row in ift:
        number = row["prompt"].removeprefix("Question ").removesuffix("?")
        assert row["response"] == f"Answer {number}.0"
    for row in eft:
        assert [(a["score"], a["rank"]) for a in row["responses"]] == [(4.5, 0), (3.5, 1), (2.5, 2)]
    assert not {row["prompt"] for row in ift} & {row["prompt"] for row in eft}
    assert_adds_up(counts)


def test_what_is_written_is_read_as_seed_data(tmp_path: Path) -> None:
    rows = [row for number in range(10) for row in tree(number)]
    build(write(tmp_path / "messages.jsonl", rows), tmp_path / "out")
    ift = seeds.read_ift(SeedSource(path=str(tmp_path / "out" / "ift.jsonl")))
    eft = seeds.read_eft(SeedSource(path=str(tmp_path / "out" / "eft.jsonl")))
    assert (len(ift), len(eft)) == (5, 15)
    assert {example.justification for example in eft} == {None}


LEFT_OUT = {
    "deleted": {"deleted": True},
    "failed review": {"review_result": False},
    "tree not finished": {"tree_state": "growing"},
    "synthetic": {"synthetic": True},
    "other language": {"lang": "es"},
    "empty": {"text": " \n"},
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_a_useless_reply_is_dropped_with_its_reason(tmp_path: Path, reason: str) -> None:
    bad = {**message("bad", "p0", "Bad.", rank=0, quality=1.0), **LEFT_OUT[reason]}
    rows = [*tree(0), *tree(1), bad]
    counts = build(write(tmp_path / "m.jsonl", rows), tmp_path / "out")
    assert counts["rows"]["dropped"] == {reason: 1}
    assert "Bad." not in (tmp_path / "out" / "ift.jsonl").read_text()
    assert "Bad." not in (tmp_path / "out" / "eft.jsonl").read_text()
    assert_adds_up(counts)


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_a_useless_prompt_is_dropped_with_its_replies(tmp_path: Path, reason: str) -> None:
    rows = [*tree(0), *tree(1), *tree(2, **LEFT_OUT[reason])]
    counts = build(write(tmp_path / "m.jsonl", rows), tmp_path / "out")
    assert counts["rows"]["dropped"] == {reason: 1, "its prompt was dropped": 3}
    assert counts["prompts"]["read"] == 2
    assert_adds_up(counts)


def test_only_the_first_turn_is_taken(tmp_path: Path) -> None:
    later = [
        message("q2", "p0r0", "And then?", role="prompter"),
        message("r2", "q2", "Later.", rank=0, quality=1.0),
        message("odd", None, "An assistant that begins", role="assistant"),
    ]
    counts = build(write(tmp_path / "m.jsonl", [*tree(0), *tree(1), *later]), tmp_path / "out")
    assert counts["rows"]["dropped"] == {"later turn": 3}
    assert "Later." not in (tmp_path / "out" / "eft.jsonl").read_text()
    assert_adds_up(counts)


def test_the_same_prompt_in_two_trees_is_taken_once(tmp_path: Path) -> None:
    twin = [row | {"text": row["text"].upper()} for row in tree(0)]
    for row in twin:
        row["message_id"] = "z" + row["message_id"]
        row["parent_id"] = row["parent_id"] and "z" + row["parent_id"]
    counts = build(write(tmp_path / "m.jsonl", [*twin, *tree(0), *tree(1)]), tmp_path / "out")
    assert counts["rows"]["dropped"] == {"duplicate prompt": 1, "its prompt was dropped": 3}
    assert counts["prompts"]["read"] == 2
    assert_adds_up(counts)


def test_the_draw_follows_from_the_seed_and_not_from_the_order_of_rows(tmp_path: Path) -> None:
    rows = [row for number in range(20) for row in tree(number)]
    made = []
    for name, seed, shuffled in (("a", 0, False), ("b", 0, True), ("c", 1, False)):
        order = random.Random(name).sample(rows, len(rows)) if shuffled else rows
        build(write(tmp_path / f"{name}.jsonl", order), tmp_path / name, seed=seed)
        made.append(outputs(tmp_path / name))
    assert made[0] == made[1] != made[2]


def test_a_parquet_export_gives_the_same_as_jsonl(tmp_path: Path) -> None:
    rows = [row for number in range(6) for row in tree(number)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "m.parquet")
    first = build(write(tmp_path / "m.jsonl", rows), tmp_path / "a")
    assert build(str(tmp_path / "m.parquet"), tmp_path / "b") == first
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")


def test_numbers_are_limits(tmp_path: Path) -> None:
    rows = [row for number in range(20) for row in tree(number)]
    counts = build(write(tmp_path / "m.jsonl", rows), tmp_path / "out", num_ift=3, num_eft=4)
    assert counts["prompts"] == {"read": 20, "ift": 3, "eft": 4, "dropped": {"surplus": 13}}
    assert_adds_up(counts)


def test_eft_takes_at_most_half_of_the_prompts(tmp_path: Path) -> None:
    rows = [row for number in range(9) for row in tree(number)]
    counts = build(write(tmp_path / "m.jsonl", rows), tmp_path / "out")
    assert (counts["prompts"]["eft"], counts["prompts"]["ift"]) == (4, 5)


def test_a_reply_with_a_rank_alone_has_no_score_and_is_left_out(tmp_path: Path) -> None:
    rows = [*tree(0), *tree(1), *tree(2), message("more", "p0", "Ranked only.", rank=3)]
    rows += [message("more1", "p1", "Ranked only.", rank=3), message("m2", "p2", "Same.", rank=3)]
    counts = build(write(tmp_path / "m.jsonl", rows), tmp_path / "out")
    assert counts["replies"] == {"read": 4, "eft": 3, "dropped": {"no human score": 1}}
    _, [row] = outputs(tmp_path / "out")
    assert all(answer["rank"] < 3 for answer in row["responses"])


def test_a_prompt_whose_best_reply_is_missing_or_poor_is_no_instruction_data(
    tmp_path: Path,
) -> None:
    unranked = [message("a", None, "A?"), message("ar", "a", "One.", quality=0.9)]
    poor = [message("b", None, "B?"), message("br", "b", "Two.", rank=0, quality=0.3)]
    rows = [*tree(0), *unranked, *poor]
    counts = build(write(tmp_path / "m.jsonl", rows), tmp_path / "out")
    assert counts["prompts"]["dropped"] == {"no best reply": 1, "best reply is poor": 1}
    assert_adds_up(counts)


def test_grouped_layouts_in_a_directory_are_merged_by_prompt(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    replies = [{"text": "a", "rank": 0, "quality": 0.8}, {"text": "b", "rank": 1, "quality": 0.2}]
    write(data / "rankings.train.jsonl", [{"prompt": "P?", "responses": replies}])
    scored = [
        {"prompt": "P?", "response": t, "quality": q, "score_0_5": 5 * q}
        for t, q in (("a", 0.8), ("c", 0.5))
    ]
    write(data / "scored.train.jsonl", scored)
    write(data / "ift.train.jsonl", [{"prompt": "P?", "response": "a"},
                                     {"prompt": "Q?", "response": "d"}])  # fmt: skip
    counts = build(str(data), tmp_path / "out")
    ift, eft = outputs(tmp_path / "out")
    assert counts["rows"] == {"read": 5, "kept": 5, "dropped": {}}
    assert ift == [{"prompt": "Q?", "response": "d"}]
    assert [(a["text"], a["score"]) for a in eft[0]["responses"]] == [
        ("a", 4.0), ("c", 2.5), ("b", 1.0),
    ]  # fmt: skip
    assert_adds_up(counts)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"a": 1}, "m.jsonl:1: not a row of Open Assistant, its columns are ['a']"),
        ({"prompt": "p"}, ":1: not a row"),
        ({"prompt": "p", "responses": ["x"]}, ":1: a reply is an object"),
        ({"prompt": "p", "responses": [{"rank": 0}]}, ":1: a reply needs a text"),
        ({"prompt": "p", "responses": [{"text": "a", "rank": -1}]}, ":1: a rank"),
        ({"prompt": "p", "responses": [{"text": "a", "rank": "0"}]}, ":1: a rank"),
        ({"prompt": "p", "responses": [{"text": "a", "rank": float("nan")}]}, ":1: a rank"),
        ({"prompt": "p", "responses": [{"text": "a", "quality": 5}]}, ":1: a quality"),
        ({"prompt": "p", "response": "r", "score_0_5": 3}, "holds no prompt with a best"),
    ],
)
def test_a_wrong_row_is_refused_with_where_and_what(tmp_path: Path, row: dict, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(write(tmp_path / "m.jsonl", [row]), tmp_path / "out")
    assert says in error.value.message
    assert not (tmp_path / "out").exists()


def test_labels_in_another_shape_are_refused(tmp_path: Path) -> None:
    rows = [*tree(0), message("x", "p0", "X.", labels={"quality": {"value": 0.5}})]
    with pytest.raises(ConfigError, match=":5: labels must hold the lists name and value"):
        build(write(tmp_path / "m.jsonl", rows), tmp_path / "out")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        build(str(tmp_path / "none.jsonl"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"holds none of rankings\.train\.jsonl"):
        build(str(tmp_path), tmp_path / "out")


def test_files_that_are_there_are_not_replaced(tmp_path: Path) -> None:
    source = write(tmp_path / "m.jsonl", [*tree(0), *tree(1)])
    build(source, tmp_path / "out")
    before = outputs(tmp_path / "out")
    with pytest.raises(ConfigError, match="exists"):
        build(source, tmp_path / "out", seed=1)
    assert outputs(tmp_path / "out") == before


@needs_data
@pytest.mark.parametrize("split", ["train", "valid"])
def test_real_open_assistant_data_gives_disjoint_sets_whose_counts_add_up(
    tmp_path: Path, split: str
) -> None:
    assert DATA is not None
    counts = build(str(Path(DATA) / "oasst2_en"), tmp_path / "out", split=split)
    assert_adds_up(counts)
    ift = seeds.read_ift(SeedSource(path=str(tmp_path / "out" / "ift.jsonl")))
    eft = seeds.read_eft(SeedSource(path=str(tmp_path / "out" / "eft.jsonl")))
    assert len(ift) == counts["prompts"]["ift"] >= 50
    assert len(eft) == counts["replies"]["eft"] >= 150
    assert not {example.prompt for example in ift} & {example.prompt for example in eft}
    assert {round(example.score) for example in eft} == {0, 1, 2, 3, 4, 5}


@needs_data
def test_each_real_file_alone_is_understood(tmp_path: Path) -> None:
    assert DATA is not None
    for kind in ("rankings", "scored", "ift"):
        path = Path(DATA) / "oasst2_en" / f"{kind}.valid.jsonl"
        counts = build(str(path), tmp_path / kind)
        assert_adds_up(counts)
        assert (counts["prompts"]["ift"] > 0) == (kind != "scored")
        assert (counts["prompts"]["eft"] > 0) == (kind != "ift")
