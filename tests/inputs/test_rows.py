"""Files of rows in every format, and what is said of those that cannot be read."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from selfreward.config import SeedSource
from selfreward.errors import ConfigError, SelfRewardError
from selfreward.inputs import seeds
from selfreward.inputs.rankings import read_ranked
from selfreward.inputs.rows import read_rows

ROWS = [{"prompt": "Où?", "response": "Là,\n“ici”."}, {"prompt": "Sing.", "response": "La; la."}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt,response\r\nOù?,"Là,\n“ici”."\r\nSing.,La; la.\r\n'
FILES = {
    "a.jsonl": LINES,
    "a.ndjson": LINES,
    "a.json": json.dumps(ROWS, indent=1),
    "lines.json": LINES,
    "array.jsonl": json.dumps(ROWS, ensure_ascii=False),
    "a.csv": CSV,
    "lf.csv": CSV.replace("\r\n", "\n"),
    "a.tsv": 'prompt\tresponse\nOù?\t"Là,\n“ici”."\nSing.\tLa; la.\n',
    "no_last_line_end.csv": CSV.rstrip(),
}


def found(path: Path) -> list[dict]:
    return [row for _, row in read_rows(SeedSource(path=str(path)))]


def refusal(path: Path | str) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        list(read_rows(SeedSource(path=str(path))))
    assert "\n" not in error.value.message
    return error.value


@pytest.mark.parametrize("bom", ["", "\ufeff"], ids=["plain", "with mark"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", FILES)
def test_every_text_format_gives_the_same_rows(
    tmp_path: Path, name: str, packed: bool, bom: str
) -> None:
    data = (bom + FILES[name]).encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert found(path) == ROWS


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert found(path) == ROWS


def test_parquet_is_read_no_further_than_asked(tmp_path: Path) -> None:
    """A few kilobytes of it may hold gigabytes of text."""
    path = tmp_path / "a.parquet"
    column = pyarrow.array(["x" * 100_000]).dictionary_encode()
    rows = pyarrow.DictionaryArray.from_arrays([0] * 2_000, column.dictionary)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": rows, "response": rows}), path)
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        taken = read_rows(SeedSource(path=str(path), limit=3))
        assert [row["prompt"][:1] for _, row in taken] == ["x", "x", "x"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1_000_000 < peak < 50_000_000  # all of it is 400 MB


def test_rows_of_every_text_format_stand_on_their_lines(tmp_path: Path) -> None:
    for name, lines in (("a.csv", [2, 4]), ("a.json", [2, 6]), ("a.jsonl", [1, 2])):
        path = tmp_path / name
        path.write_bytes(FILES[name].encode())
        places = [at for at, _ in read_rows(SeedSource(path=str(path)))]
        assert places == [f"{path}:{line}" for line in lines], name


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_plain_text_has_a_prompt_on_each_line(tmp_path: Path, packed: bool) -> None:
    data = "\ufeffName a fruit.\r\n\n  \n [Où] est-ce? \nNo line end".encode()
    path = tmp_path / ("q.txt.gz" if packed else "q.txt")
    path.write_bytes(gzip.compress(data) if packed else data)
    rows = list(read_rows(SeedSource(path=str(path))))
    texts = ["Name a fruit.", "[Où] est-ce?", "No line end"]
    assert rows == [
        (f"{path}:{line}", {"prompt": text}) for line, text in zip((1, 4, 5), texts, strict=True)
    ]


def test_json_is_read_as_such_whatever_its_name(tmp_path: Path) -> None:
    for name, text in (("a.txt", LINES), ("b.txt", json.dumps(ROWS))):
        (tmp_path / name).write_text(text)
        assert found(tmp_path / name) == ROWS


def test_what_cannot_be_read_is_told_with_its_remedy(tmp_path: Path) -> None:
    for name, text, remedy in (
        ("a.jsonl", '{"prompt": "x"},\n', "Remove the comma"),
        ("a.dat", "Name a fruit.\n", ".txt with a prompt on each line"),
        ("a.csv", "question;reply\nx;y\n", "parted by ';'"),
        ("b.csv", "question\treply\nx\ty\n", ".tsv tabs"),
    ):
        (tmp_path / name).write_text(text)
        assert remedy in refusal(tmp_path / name).hint, name
    (tmp_path / "one.csv").write_text("prompt\nx; y\n")
    assert found(tmp_path / "one.csv") == [{"prompt": "x; y"}]


def test_an_empty_array_and_a_csv_of_a_header_alone_hold_no_rows(tmp_path: Path) -> None:
    for name, text in (("a.json", " [ ]\n"), ("a.csv", "prompt,response\n"), ("b.csv", "")):
        (tmp_path / name).write_text(text)
        assert "holds no rows" in refusal(tmp_path / name).message


BROKEN = [
        ("a.jsonl", LINES.encode("utf-16"), "is UTF-16, and seed data is UTF-8"),
        ("a.json", json.dumps(ROWS).encode("utf-16-le"), "is UTF-16"),
        ("a.csv", CSV.encode("utf-16-be"), "is UTF-16"),
        ("a.jsonl", LINES.replace("“", "").replace("”", "").encode("latin-1"),
         ":1: not JSON (not UTF-8: byte 0xf9; is it Latin-1?)"),
        ("a.json", b'[\n{"prompt": "x"},\n{"prompt": "\xe9t\xe9"}\n]', ":3: not JSON (not UTF-8"),
        ("a.csv", b"prompt,response\nO\xf9?,x\n", "not CSV (not UTF-8: byte 0xf9"),
        ("a.json", b'[{"prompt": "x"},\n{"prompt": "y"', ":2: not JSON"),
        ("a.json", b'[{"prompt": "x"},\n{"prompt": "y"}', "; the file looks torn"),
        ("a.json", b'[{"prompt": "x"}\n{"prompt": "y"}]', ":1: not JSON (no comma"),
        ("a.json", b'[{"prompt": "x"}]\n{"prompt": "y"}', "more behind the array"),
        ("a.json", b'[{"prompt": "x"},\n\n3]', ":3: a row is an object, found 3"),
        ("a.json", b'{\n "data": [\n  {"prompt": "x"}\n ]\n}\n', ":1: not JSON lines, it holds"),
        ("a.jsonl", LINES.encode()[:-9], ":2: not JSON (Unterminated string starting at: column"),
        ("a.csv", b"prompt,response\nx,y\nx\n", ":3: 1 fields, and the header has 2"),
        ("a.csv", b"prompt,response\nx,y,z\n", ":2: 3 fields, and the header has 2"),
        ("a.csv", b"prompt,prompt\nx,y\n", ":1: two columns have the same name"),
        ("a.csv", b'prompt,response\nx,"y\n', ":2: not CSV"),
        ("a.txt", b"O\xf9?\n", "not plain text (not UTF-8: byte 0xf9"),
        ("a.jsonl.gz", LINES.encode(), "not a readable gzip file"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-9], "not a readable gzip file"),
        ("a.parquet", b"PAR1", "not a readable parquet file"),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "says"), BROKEN, ids=[row[2] for row in BROKEN])
def test_what_cannot_be_read_is_one_line_with_where_and_what(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    error = refusal(path)
    assert says in error.message
    assert str(path) in error.message


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("seed/itf.jsonl", "seed/ift.jsonl"),
        ("seed/ift.json", "seed/ift.jsonl"),
        ("seed/itf", "seed/ift.jsonl"),
        ("./mien.csv", "./mine.csv"),
        ("data/mine.jsonl", "data/mine.csv"),
        ("mine.csv.gz", "mine.csv"),
        ("data/", None),
        ("nothing/like.jsonl", None),
        ("org/name.parquet", None),
        ("/no/such/file", None),
        (".", None),
        ("~/mine", None),
        ("a/b/c", None),
    ],
)
def test_a_mistyped_path_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, near: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("mine.csv", "data/mine.csv"):
        (tmp_path / name).write_text(CSV)
    error = refusal(path)
    assert error.message.startswith(f"data {path!r}: ")
    if Path(path).is_dir():
        assert error.message.endswith("is a directory")
        return
    assert error.message.endswith("no such file")
    if near is None:
        assert "org/name" in error.hint
    else:
        assert error.hint.startswith(f"Did you mean {near}")


def test_the_files_that_failed_elsewhere_are_read_or_refused_in_one_line() -> None:
    """In a checkout that has them."""
    directory = os.environ.get("SELFREWARD_TEST_CASES")
    if not directory:
        pytest.skip("SELFREWARD_TEST_CASES names no directory")
    for path in sorted((Path(directory) / "data").iterdir()):
        for reader in (seeds.read_prompts, seeds.read_ift, seeds.read_eft, read_ranked):
            try:
                reader(SeedSource(path=str(path)))
            except SelfRewardError as error:
                assert "\n" not in error.message and path.name in error.message
    for name in ("alpaca.json", "alpaca.jsonl", "alpaca.csv"):
        for columns in ({}, {"prompt": "instruction", "response": "output"}):
            source = SeedSource(path=str(Path(directory) / "data" / name), columns=columns)
            first = seeds.read_ift(source)[0]
            assert "Translate" in first.prompt and "cat sleeps" in first.prompt


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([1, -(2**31)], pyarrow.date32()),
        pyarrow.array([1, 2**60], pyarrow.timestamp("ms")),
    ],
)
def test_a_value_of_parquet_that_python_lacks_is_named_with_its_row(
    tmp_path: Path, column: pyarrow.Array
) -> None:
    table = pyarrow.table({"prompt": ["a", "b"], "made": column})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match="behind row 0 is a value that Python does not have"):
        list(read_rows(SeedSource(path=str(tmp_path / "d.parquet"))))


def test_no_two_rows_stand_in_one_place(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "x", "rejected": "y"}] * 2 + [{"prompt": "b"}]
    for indent in (None, 1):
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows, indent=indent))
        places = [at for at, _ in read_rows(SeedSource(path=str(path)))]
        assert len(set(places)) == 3 and all(place.startswith(f"{path}:") for place in places)
    path.write_text(json.dumps(rows))
    assert [at for at, _ in read_rows(SeedSource(path=str(path)))][1:] == [
        f"{path}:1 row 2", f"{path}:1 row 3",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["list.csv", "LIST.CSV"])
def test_a_list_that_stands_in_a_cell_is_one_where_a_list_is_due(tmp_path: Path, name: str) -> None:
    asked = [{"role": "user", "content": "Name a fruit."}]
    cells = {"prompt": asked, "responses": [{"text": "x"}], "history": [], "answer": [{"a": 1}]}
    texts = [json.dumps(value).replace('"', '""') for value in cells.values()]
    (tmp_path / name).write_text(f"{','.join(cells)}\n" + ",".join(f'"{t}"' for t in texts) + "\n")
    [row] = found(tmp_path / name)
    assert row == cells | {"answer": '[{"a": 1}]'}


@pytest.mark.parametrize("text", ['[{"role": "admin"}]', "[1, 2]", "[Formal] Write.", "[{", "[]"])
def test_a_text_that_only_looks_like_a_list_stays_a_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text('prompt\n"' + text.replace('"', '""') + '"\n')
    assert found(tmp_path / "a.csv") == [{"prompt": text}]


def test_where_lists_can_be_written_as_such_a_text_stays_one(tmp_path: Path) -> None:
    row = {"prompt": "Write a chat.", "response": '[{"role": "user", "content": "Hi"}]'}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert found(tmp_path / "a.jsonl") == found(tmp_path / "a.parquet") == [row]


@pytest.mark.parametrize("first", ["[Formal] Write a letter.", "{name} is who?", "[x]", "{"])
def test_a_prompt_of_plain_text_may_begin_with_a_bracket(tmp_path: Path, first: str) -> None:
    (tmp_path / "a.txt").write_text(f"{first}\nSing.\n")
    assert found(tmp_path / "a.txt") == [{"prompt": first}, {"prompt": "Sing."}]


def test_lines_may_end_as_those_of_a_macintosh_of_old(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES.replace("\n", "\r").encode())
    assert found(tmp_path / "a.jsonl") == ROWS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"prompt,response\na\0b,c" + b"x" * 99, ":2: holds a NUL byte"),
        ("a.txt", "Sing.\nDance.".encode("utf-16-le"), "is UTF-16"),
        ("a.TXT", "Sing.\nDance.".encode("utf-32"), "is UTF-32"),
        (
            "a.jsonl",
            b'{"prompt": "a", "prompt": "b"}',
            "(key 'prompt' is there twice)",
        ),
        ("a.json", b'[{"x": {"b": 1, "b": 2}}]', "(key 'b' is there twice)"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in refusal(tmp_path / name).message


def test_an_answer_may_be_longer_than_the_csv_module_lets_it_be(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response\na," + "b" * 200_000)
    assert len(found(tmp_path / "a.csv")[0]["response"]) == 200_000


def test_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    arrays = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    table = pyarrow.Table.from_arrays(arrays, names=["prompt", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert "two columns have the name 'prompt'" in refusal(tmp_path / "a.parquet").message


@pytest.mark.parametrize(
    ("columns", "reader", "says", "hint"),
    [
        (
            {"rank": "plce"},
            read_ranked,
            "rows has a column 'plce'",
            "Did you mean place?",
        ),
        ({"system": "q"}, seeds.read_ift, "none of 1 rows has a column 'q'", "It has "),
        ({"justifcation": "place"}, seeds.read_eft, "maps 'justifcation'", "mean justification?"),
        ({"rnk": "place"}, read_ranked, "maps 'rnk'", "mean rank?"),
    ],
)
def test_a_name_in_columns_that_means_nothing_is_refused(
    tmp_path: Path, columns: dict[str, str], reader: object, says: str, hint: str
) -> None:
    answers = [{"text": "x", "score": 5, "place": 2}, {"text": "y", "score": 1, "place": 1}]
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"prompt": "p", "response": "r", "responses": answers})
    )
    with pytest.raises(ConfigError) as error:
        reader(SeedSource(path=str(tmp_path / "a.jsonl"), columns=columns))  # type: ignore[operator]
    assert says in error.value.message and hint in error.value.hint
    fine = SeedSource(path=str(tmp_path / "a.jsonl"), columns={"rank": "place"})
    assert [r.preference for r in read_ranked(fine).rankings[0].responses] == [-2, -1]


@pytest.mark.parametrize(("name", "value"), [("split", "validation"), ("revision", "a1b2c3")])
def test_what_only_the_hub_has_is_refused_of_a_file(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "a.jsonl").write_text(LINES)
    source = {"path": str(tmp_path / "a.jsonl")}
    with pytest.raises(ConfigError, match=f"a {name} is given \\({value}\\), but this is a file"):
        list(read_rows(SeedSource(**source, **{name: value})))
    assert len(list(read_rows(SeedSource(**source, split="train", revision=None)))) == 2


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_json_that_is_called_csv_is_said_to_be_json(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"prompt": "x" * 100_000}) + "\n")
    error = refusal(tmp_path / name)
    assert "is JSON by what it holds" in error.message and error.hint == "Name it .jsonl."


def test_columns_of_any_length_and_number_make_a_line_that_can_be_read(tmp_path: Path) -> None:
    names = ["x" * 100_000, *map(str, range(1000))]
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys(names, 1)) + "\n")
    for read in (seeds.read_ift, seeds.read_eft, read_ranked):
        with pytest.raises(ConfigError, match="row has") as error:
            read(SeedSource(path=str(tmp_path / "a.jsonl")))
        assert len(error.value.message) < 1000
