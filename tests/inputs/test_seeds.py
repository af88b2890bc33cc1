"""Seed data in every layout, and each thing that can be wrong with a row named with its line."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs import seeds
from selfreward.inputs.seeds import EftExample, IftExample
from tests.support import ROOT

IFT = [{"prompt": "Name a fruit.", "response": "A plum."}, {"prompt": "Sing.", "response": "La."}]
NESTED = [
    {
        "prompt": "Name a fruit.",
        "responses": [
            {"text": "A plum.", "score": 5, "justification": "Right."},
            {"text": "A stone.", "score": 0.5, "justification": None},
        ],
    }
]
FLAT = [
    {"prompt": "Name a fruit.", "response": "A plum.", "score": 5, "justification": "Right."},
    {"prompt": "Name a fruit.", "response": "A stone.", "score": 0.5, "justification": ""},
]
EXPECTED = [
    EftExample("Name a fruit.", "A plum.", 5.0, "Right."),
    EftExample("Name a fruit.", "A stone.", 0.5, None),
]


def write(path: Path, rows: list[dict] | bytes | str) -> SeedSource:
    if isinstance(rows, list):
        rows = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    return SeedSource(path=str(path))


def refusal(source: SeedSource, reader: object = seeds.read_ift) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        reader(source)  # type: ignore[operator]
    assert "\n" not in error.value.message
    return error.value


@pytest.mark.parametrize("rows", [NESTED, FLAT], ids=["nested", "flat"])
def test_eft_is_read_nested_and_flat_alike(tmp_path: Path, rows: list[dict]) -> None:
    assert seeds.read_eft(write(tmp_path / "eft.jsonl", rows)) == EXPECTED


@pytest.mark.parametrize("rows", [NESTED, FLAT], ids=["nested", "flat"])
def test_eft_is_read_from_parquet(tmp_path: Path, rows: list[dict]) -> None:
    path = tmp_path / "eft.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert seeds.read_eft(SeedSource(path=str(path))) == EXPECTED


def test_ift_and_prompts_are_read_in_order(tmp_path: Path) -> None:
    source = write(tmp_path / "ift.jsonl", [*IFT, IFT[0]])
    assert seeds.read_ift(source)[:2] == [IftExample(**row) for row in IFT]
    assert len(seeds.read_ift(source)) == 3
    assert seeds.read_prompts(source) == ["Name a fruit.", "Sing."]


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "ift.jsonl", IFT)
    assert len(seeds.read_ift(source.model_copy(update={"limit": 1}))) == 1
    assert len(seeds.read_ift(source.model_copy(update={"limit": 9}))) == 2


def test_columns_are_mapped_in_both_layouts(tmp_path: Path) -> None:
    flat = [{"question": "Q?", "answer": "A.", "points": 3, "why": "So."}]
    nested = [{"question": "Q?", "replies": [{"body": "A.", "points": 3, "why": "So."}]}]
    names = {"prompt": "question", "score": "points", "justification": "why"}
    for rows, more in (
        (flat, {"response": "answer"}), (nested, {"responses": "replies", "text": "body"}),
    ):  # fmt: skip
        source = write(tmp_path / "eft.jsonl", rows)
        source = source.model_copy(update={"columns": {**names, **more}})
        assert seeds.read_eft(source) == [EftExample("Q?", "A.", 3.0, "So.")]


TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip).map(str.strip)


@given(st.lists(st.builds(EftExample, TEXT, TEXT, st.floats(0, 5), st.none() | TEXT), min_size=1))
def test_dumped_rows_are_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[EftExample]
) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.jsonl"
    assert seeds.read_eft(write(path, seeds.dump_rows(rows))) == rows


def test_white_space_around_texts_goes_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    text = '\n{"prompt": " Sing.\\n", "response": "\\tLa. "}\r\n\n  \n'
    assert seeds.read_ift(write(tmp_path / "a.jsonl", text)) == [IftExample("Sing.", "La.")]


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + json.dumps(IFT[0]).encode()
    assert seeds.read_ift(write(tmp_path / "a.jsonl", text)) == [IftExample(**IFT[0])]


def test_a_file_cut_at_any_byte_of_its_last_row_is_refused_with_its_line(tmp_path: Path) -> None:
    rows = [*IFT, {"prompt": "Où?", "response": "Là."}]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for end in range(begin + 1, len(whole) - 1):
        error = refusal(write(tmp_path / "cut.jsonl", whole[:end]))
        assert "cut.jsonl:3: not JSON" in error.message
        assert "torn" in error.message
    assert len(seeds.read_ift(write(tmp_path / "cut.jsonl", whole[:-1]))) == 3
    assert len(seeds.read_ift(write(tmp_path / "cut.jsonl", whole[:begin]))) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no rows"),
        ("\n \n", "holds no rows"),
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a"\n', ":2: not JSON"),
        ('{"prompt": "a", "response": "b"}\n[1, 2]\n', ":2: a row is an object"),
        ('"text"\n', ":1: a row is an object"),
        ('{"prompt": "a"}\n', ":1: needs a text in column 'response', row has ['prompt']"),
        (
            '{"prompt": "a", "response": ""}\n',
            ":1: needs a text in column 'response', which is empty",
        ),
        ('{"prompt": "a", "response": " \\n"}\n', ":1: needs a text in column 'response'"),
        ('{"prompt": "a", "response": null}\n', "'response', found null"),
        ('{"prompt": ["a"], "response": "b"}\n', "'prompt', found [\"a\"]"),
        ('{"prompt": "\\ud800", "response": "b"}\n', "half of a surrogate pair"),
        ("[" * 100_000, ":1: not JSON"),
        (b'{"prompt": "\xff", "response": "b"}\n', ":1: not JSON"),
        (b"\x00\x01\x02\n", ":1: not JSON"),
        (b"PAR1\x15\x04\n", ":1: not JSON"),
    ],
)
def test_a_wrong_file_is_one_line_with_where_and_what(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    gc.collect()  # else what earlier tests left may be finalized where the nesting is deepest
    assert says in refusal(write(tmp_path / "a.jsonl", text)).message


def test_a_missing_column_can_be_mapped_and_the_hint_says_how(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "b"}]))
    assert "columns: {response: " in error.hint


@pytest.mark.parametrize(
    "score", [-1, 5.01, "four", "4/5", "4,5", "1e0", "6", "", None, True, [4], "nan"]
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_score_that_is_no_number_from_0_to_5_is_refused(
    tmp_path: Path, score: object, nested: bool
) -> None:
    answer = {"score": float("nan") if score == "nan" else score}
    row: dict = {"prompt": "a"}
    row |= {"responses": [{"text": "b", **answer}]} if nested else {"response": "b", **answer}
    error = refusal(write(tmp_path / "a.jsonl", [row]), seeds.read_eft)
    assert ":1: 'score' must be a number from 0 to 5" in error.message


@pytest.mark.parametrize("responses", ["b", [1], ["b"], {"text": "b"}, 3])
def test_responses_that_are_no_list_of_objects_are_refused(
    tmp_path: Path, responses: object
) -> None:
    row = {"prompt": "a", "responses": responses}
    error = refusal(write(tmp_path / "a.jsonl", [row]), seeds.read_eft)
    assert ":1: 'responses' must be a list of objects" in error.message


def test_a_nested_answer_does_not_take_a_score_from_its_row(tmp_path: Path) -> None:
    row = {"prompt": "a", "score": 3, "responses": [{"text": "b"}]}
    assert "'score'" in refusal(write(tmp_path / "a.jsonl", [row]), seeds.read_eft).message


def test_a_justification_that_is_no_text_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "a", "response": "b", "score": 3, "justification": 7}
    error = refusal(write(tmp_path / "a.jsonl", [row]), seeds.read_eft)
    assert "'justification', found 7" in error.message


def test_a_missing_file_is_refused_and_a_torn_parquet_too(tmp_path: Path) -> None:
    assert "no such file" in refusal(SeedSource(path=str(tmp_path / "no.jsonl"))).message
    assert "not a readable parquet" in refusal(write(tmp_path / "a.parquet", "PAR1")).message


def test_a_file_beside_the_config_comes_before_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    write(tmp_path / "seed" / "ift.jsonl", IFT)
    source = SeedSource(path="seed/ift.jsonl")
    assert len(seeds.read_ift(source, beside=tmp_path)) == 2
    assert len(seeds.read_ift(source)) > 100


HUB = """
import json, sys
from selfreward.inputs import seeds
from selfreward.config import SeedSource
from selfreward.errors import ConfigError, PreflightError
for source in (SeedSource(path="org/mine", split="validation"), SeedSource(path="org/none")):
    try:
        print(seeds.read_prompts(source))
    except ConfigError as error:
        print("ConfigError", error.message)
    except PreflightError as error:
        print("PreflightError", error.message)
"""


def test_a_hub_data_set_is_read_by_split_and_one_out_of_reach_is_refused(tmp_path: Path) -> None:
    """``datasets`` takes a directory for a hub id, which needs no network."""
    directory = tmp_path / "org" / "mine"
    directory.mkdir(parents=True)
    write(directory / "train.jsonl", IFT)
    write(directory / "validation.jsonl", IFT[:1])
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", HUB], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "['Name a fruit.']"
    assert second.startswith(("ConfigError", "PreflightError")) and "org/none" in second
