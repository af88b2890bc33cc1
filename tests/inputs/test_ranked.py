"""Reading what people ranked: shapes, reasons, and errors with where and what."""

import json
import os
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.rankings import HumanData, copy_ranked, read_ranked

DATA = os.environ.get("SELFREWARD_TEST_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="SELFREWARD_TEST_DATA names no directory with oasst2_en/"
)
TWO = [{"text": "good", "rank": 1}, {"text": "bad", "rank": 2}]


def read(path: Path, *rows: Any, limit: int | None = None, **options: Any) -> HumanData:
    file = path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_ranked(SeedSource(path=str(file), **options), limit=limit)


def order(data: HumanData) -> list[list[str]]:
    """Texts of each ranking, the best first."""
    return [
        [r.text for r in sorted(ranking.responses, key=lambda r: -r.preference)]
        for ranking in data.rankings
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "p", "responses": [{"text": "b", "rank": 2}, {"text": "a", "rank": 1}]}],
        [{"prompt": "p", "responses": [{"text": "b", "score": 1}, {"text": "a", "score": 4.5}]}],
        [{"prompt": "p", "responses": [{"text": "b", "quality": 0}, {"text": "a", "quality": 1}]}],
        [{"prompt": "p", "response": "b", "rank": 7}, {"prompt": "p", "response": "a", "rank": 0}],
        [{"prompt": "p", "response": t, "score": s} for t, s in (("b", 0), ("a", 5))],
        [{"prompt": "p", "response_a": "b", "response_b": "a", "label": "B"}],
        [{"prompt": "p", "chosen": "a", "rejected": "b"}],
    ],
)  # fmt: skip
def test_every_shape_is_understood(tmp_path: Path, rows: list[dict]) -> None:
    data = read(tmp_path, *rows)
    assert order(data) == [["a", "b"]]
    assert data.left_out == {}


def test_ranks_rule_where_there_are_ranks_and_scores_are_kept(tmp_path: Path) -> None:
    responses = [
        {"text": "a", "rank": 1, "score": 2}, {"text": "b", "rank": 2, "score": 4},
        {"text": "c", "score": 5},
    ]  # fmt: skip
    data = read(tmp_path, {"prompt": "p", "responses": responses})
    assert order(data) == [["a", "b"]]
    assert [r.score for r in data.rankings[0].responses] == [2.0, 4.0]
    assert data.left_out == {"no rank or score": 1}


def test_only_the_order_of_ranks_counts_and_gaps_are_told(tmp_path: Path) -> None:
    gap = [{"text": "a", "rank": 3}, {"text": "b", "rank": 9}, {"text": "c", "rank": 3}]
    data = read(tmp_path, {"prompt": "p", "responses": gap}, {"prompt": "q", "responses": TWO})
    a, b, c = data.rankings[0].responses
    assert a.preference == c.preference > b.preference
    assert data.num_gaps == 1


def test_what_orders_nothing_is_left_out_with_its_reason(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        {"prompt": "p", "responses": TWO},
        {"prompt": "one", "responses": TWO[:1]},
        {"prompt": "tied", "responses": [{"text": "a", "rank": 1}, {"text": "b", "rank": 1}]},
        {"prompt": "none", "responses": [{"text": "a"}, {"text": "b", "rank": None}]},
        {"prompt": "odd", "responses": [*TWO, {"text": " ", "rank": 3}, TWO[0]]},
        {"prompt": "split", "response_a": "a", "response_b": "b", "label": "split"},
        {"prompt": "tie", "response_a": "a", "response_b": "b", "label": "tie"},
    )
    assert order(data) == [["good", "bad"], ["good", "bad"]]
    assert data.left_out == {
        "one response": 1, "all tied": 2, "no rank or score": 2, "empty": 1, "duplicate": 1,
        "label split": 1,
    }  # fmt: skip


def test_scored_responses_that_order_nothing_serve_the_calibration(tmp_path: Path) -> None:
    one = {"prompt": "q", "response": "a", "score": 3}
    data = read(tmp_path, {"prompt": "p", "responses": TWO}, one)
    assert [ranking.is_ordered for ranking in data.rankings] == [True, False]


def test_a_score_off_the_scale_is_no_score_but_a_rank_still_counts(tmp_path: Path) -> None:
    responses = [{"text": "a", "rank": 1, "score": 9}, {"text": "b", "rank": 2, "score": 3}]
    data = read(tmp_path, {"prompt": "p", "responses": responses})
    assert [r.score for r in data.rankings[0].responses] == [None, 3.0]
    assert data.left_out == {"score off the scale": 1}


def test_each_row_of_a_prompt_is_a_ranking_but_flat_rows_are_one(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": TWO}
    assert len(read(tmp_path, row, row).rankings) == 2
    flat = [{"prompt": "p", "response": t, "rank": r} for t, r in (("a", 1), ("b", 2), ("c", 3))]
    assert order(read(tmp_path, *flat)) == [["a", "b", "c"]]


def test_the_limit_counts_prompts_and_the_rest_is_not_told_as_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "responses": TWO} for i in range(5)]
    data = read(tmp_path, *rows, {"prompt": "one", "responses": TWO[:1]}, limit=2)
    assert [ranking.prompt for ranking in data.rankings] == ["p0", "p1"]
    assert data.left_out == {}


def test_parquet_and_other_column_names_are_read(tmp_path: Path) -> None:
    rows = [{"q": "p", "a": "x", "place": 2}, {"q": "p", "a": "y", "place": 1}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    columns = {"prompt": "q", "response": "a", "rank": "place"}
    source = SeedSource(path=str(tmp_path / "d.parquet"), columns=columns)
    assert order(read_ranked(source)) == [["y", "x"]]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p"}, ":1: no row of human-ranked data, its columns are ['prompt']"),
        ({"responses": []}, ":1: needs a text in column 'prompt', row has ['responses']"),
        ({"prompt": " ", "responses": []}, ":1: needs a text in column 'prompt', which is empty"),
        ({"prompt": "p", "responses": "x"}, ":1: 'responses' must be a list of objects"),
        ({"prompt": "p", "responses": ["x"]}, ":1: 'responses' must be a list of objects"),
        ({"prompt": "p", "responses": [{"rank": 1}]}, ":1: needs a text in column 'text'"),
        (
            {"prompt": "p", "response": "x", "rank": "1st"},
            ":1: 'rank' must be a number, found '1st'",
        ),
        ({"prompt": "p", "response": "x", "rank": True}, ":1: 'rank' must be a number, found True"),
        ({"prompt": "p", "response": "x", "score": float("nan")}, ":1: 'score' must be a number"),
        ({"prompt": "p", "chosen": ["x"], "rejected": "y"}, ":1: needs a text in column 'chosen'"),
        ({"prompt": "p", "response": "\ud800", "rank": 1}, "half of a surrogate pair"),
        ({"prompt": "p", "response": "x", "score": 9}, "left out: score off the scale 1, no rank"),
        ({"prompt": "p", "response": "x", "rank": 1}, "holds no two responses of which people"),
    ],
)
def test_bad_data_is_one_line_with_where_and_what(tmp_path: Path, row: dict, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, row)
    assert says in error.value.message
    assert "\n" not in error.value.message


@needs_data
@pytest.mark.parametrize(
    ("file", "rankings", "least_pairs"),
    [
        ("oasst2_en/rankings.valid.jsonl", 99, 360),
        ("oasst2_en/scored.valid.jsonl", 49, 240),
        ("pandalm/pairs.jsonl", 836, 836),
    ],
)
def test_real_data_is_read_whole(file: str, rankings: int, least_pairs: int) -> None:
    assert DATA is not None
    data = read_ranked(SeedSource(path=str(Path(DATA) / file)))
    assert len(data.rankings) == rankings
    pairs = sum(
        a.preference > b.preference
        for ranking in data.rankings
        for a in ranking.responses
        for b in ranking.responses
    )
    assert pairs >= least_pairs


ODD: dict[str, object] = {
    "decimal": Decimal("2.5"), "date": date(2026, 1, 2), "time": datetime(2026, 1, 2, 3),
    "length": timedelta(seconds=3), "bytes": b"\xff\x00",
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("column", ["label", "text", "quality", "rank", "score", "response"])
def test_a_copy_says_what_its_source_says_whatever_types_its_columns_have(
    column: str, odd: str, tmp_path: Path
) -> None:
    """Of parquet, which has more types than JSON."""
    pair = {"prompt": "Name a fish.", "chosen": "A cod.", "rejected": "A cow.", column: ODD[odd]}
    answers = [{"text": "A cod.", "score": Decimal("4.5")}, {"text": "A cow.", "score": Decimal(1)}]
    ranked = {"prompt": "Name a fish.", "responses": answers, column: ODD[odd]}
    for number, row in enumerate((pair, ranked)):
        file, copy = tmp_path / f"{number}.parquet", tmp_path / f"{number}.jsonl"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), file)
        try:
            expected = read_ranked(SeedSource(path=str(file)))
        except ConfigError:
            continue  # told by the row, before anything is copied
        copy.write_text(copy_ranked(SeedSource(path=str(file))))
        assert read_ranked(SeedSource(path=str(copy))) == expected
        assert expected.rankings[0].responses[0].preference > 0
