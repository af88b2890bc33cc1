"""Exported files hold the run's records whole, harm no reader, and appear whole or not at all."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.cli.main import invoke
from selfreward.config import SeedSource
from selfreward.errors import ConfigError, IntegrityError, NotFoundError
from selfreward.inputs.rows import read_rows
from selfreward.records import Prompt, Response
from selfreward.storage import durable
from selfreward.storage.directory import Run, open_run
from selfreward.verbs import export as module
from selfreward.verbs.export import FORMATS, export
from selfreward.verbs.tables import SCHEMAS, WHAT, batches, table
from tests.support.runs import HOSTILE, UNSAFE, at_runs, runs  # noqa: F401

pytestmark = pytest.mark.usefixtures("at_runs")

RECORDS = WHAT[: WHAT.index("labels")]
"""The tables that these runs have rows of; nobody labeled their answers."""
FORMULAS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "'=1", "''", "'",
    "\uff1d1", "\uff0b1", "\uff0d1", "\uff201",
    '=HYPERLINK("http://evil","x")', "-2+3+cmd|' /C'!A0",
]  # fmt: skip
HARMLESS = [
    "", " =1", "a=1", "1-1", "#=1", '"=1', ",=1", "NA", "null", "nan", "1.50", "a\r\nb\n", "\x00x",
]  # fmt: skip
BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@pytest.fixture
def whole(runs: Path) -> Run:  # noqa: F811
    return Run(runs / "whole")


def read(path: Path, what: Any) -> list[dict[str, Any]]:
    """Rows of an exported file as docs/export.md says that it is read."""
    match path.suffix:
        case ".parquet":
            return pa.parquet.read_table(path).to_pylist()
        case ".jsonl":
            return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        case ".csv":
            return read_csv(path, SCHEMAS[what])
        case _:
            import datasets

            return list(datasets.load_from_disk(str(path)))


def read_csv(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    flat = {f.name: pa.string() if pa.types.is_list(f.type) else f.type for f in schema}
    found = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types=flat, strings_can_be_null=True, quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    ).to_pylist()  # fmt: skip
    for row in found:
        for field in schema:
            cell = row[field.name]
            if pa.types.is_list(field.type) and cell is not None:
                row[field.name] = json.loads(cell)
            elif isinstance(cell, str):
                row[field.name] = cell.removeprefix("'")
    return found


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_every_format_reads_back_to_the_records(name: str, kind: str, tmp_path: Path) -> None:
    run = open_run(name)
    found = export(run, tmp_path / "out", kind=kind)
    assert [Path(file.path).stem for file in found.files] == [*RECORDS]
    for what, file in zip(RECORDS, found.files, strict=True):
        expected = table(run, what).to_pylist()
        assert read(Path(file.path), what) == expected
        assert file.rows == len(expected) > 0
        assert file.bytes > 0
    assert durable.is_whole(tmp_path / "out")


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_size_of_a_batch_makes_no_difference(
    whole: Run, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {what: table(whole, what) for what in RECORDS}
    monkeypatch.setattr("selfreward.verbs.tables.AT_ONCE", at_once)
    for what in RECORDS:
        assert len([*batches(whole, what)]) > 2
        assert table(whole, what) == before[what]


def test_no_line_of_json_acts_on_a_terminal(tmp_path: Path) -> None:
    for file in export(open_run("hostile"), tmp_path / "out", kind="jsonl").files:
        text = Path(file.path).read_text(encoding="utf-8")
        assert "owned" in text
        assert not UNSAFE - {"\n"} & set(text)


def cells(texts: list[str | None], path: Path) -> Path:
    schema = pa.schema([("text", pa.string()), ("list", pa.list_(pa.string()))])
    batch = pa.RecordBatch.from_pylist([{"text": t, "list": [t]} for t in texts], schema)
    path.unlink(missing_ok=True)
    assert module._csv(path, schema, iter([batch])) == len(texts)
    return path


def test_no_cell_begins_as_a_formula_does(tmp_path: Path) -> None:
    path = cells([*FORMULAS, *HARMLESS], tmp_path / "a.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = [*csv.reader(file)][1:]
    assert len(rows) == len(FORMULAS) + len(HARMLESS)
    for row in rows:
        for cell in row:
            assert not cell.startswith(BEGINNINGS)
    assert [row[0] for row in rows] == [f"'{text}" for text in FORMULAS] + HARMLESS


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_survives_csv(texts: list[str | None]) -> None:
    import tempfile

    schema = pa.schema([("text", pa.string()), ("list", pa.list_(pa.string()))])
    with tempfile.TemporaryDirectory() as directory:
        path = cells(texts, Path(directory) / "a.csv")
        assert [row["text"] for row in read_csv(path, schema)] == texts
        assert [row["list"] for row in read_csv(path, schema)] == [[text] for text in texts]
        if "\0" in "".join(text or "" for text in texts):  # which no data file may hold
            return
        source = SeedSource(path=str(path))
        plain = [(row["text"] or "") for _, row in read_rows(source, exported=True)]
        assert plain == [text or "" for text in texts]
        durable.seal_directory(path.parent, facts={durable.EXPORTED: {}})
        assert [(row["text"] or "") for _, row in read_rows(source)] == plain


def test_only_an_export_has_apostrophes_that_are_not_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n'-' is a minus sign\n")
    source = SeedSource(path=str(tmp_path / "a.csv"))
    assert [row["text"] for _, row in read_rows(source)] == ["'-' is a minus sign"]


def test_a_table_of_one_iteration_has_its_rows_alone(whole: Run, tmp_path: Path) -> None:
    found = export(whole, tmp_path / "out", what=["responses"], iteration=2)
    assert [Path(file.path).name for file in found.files] == ["responses.parquet"]
    with whole.store() as store:
        assert found.files[0].rows == len(store.records(Response, 2))
    assert found.iterations == (2,)


def test_tables_without_rows_are_left_out_and_said(
    whole: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.path, copy)
    import sqlite3

    db = sqlite3.connect(copy / "records.db")
    for name in ("pairs", "judgments"):
        db.execute(f"DELETE FROM {name} WHERE iteration = 2")
    db.commit()
    db.close()
    target = str(tmp_path / "out")
    assert invoke(["export", str(copy), "--iteration", "2", "--output", target]) == 0
    assert capsys.readouterr().err == "left out, as there are none: judgments, pairs, labels\n"
    assert sorted(os.listdir(target)) == ["MANIFEST.json", "prompts.parquet", "responses.parquet"]


def test_an_earlier_export_is_replaced_only_by_force_and_only_whole(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()  # an empty one is as good as none
    export(whole, target, what=["pairs"])
    with pytest.raises(ConfigError, match="holds an earlier export"):
        export(whole, target)
    before = durable.verify_directory(target)

    def broken(*_: Any) -> int:
        raise IntegrityError("torn")

    with monkeypatch.context() as patch:
        patch.setitem(module._WRITERS, "jsonl", broken)
        with pytest.raises(IntegrityError):
            export(whole, target, kind="jsonl", force=True)
    assert durable.verify_directory(target) == before
    export(whole, target, kind="jsonl", force=True)
    files = [f"{what}.jsonl" for what in sorted(RECORDS)]
    assert sorted(os.listdir(target)) == ["MANIFEST.json", *files]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["pairs.csv", "notes.txt"])
def test_an_export_in_which_people_worked_is_never_replaced(
    whole: Run, tmp_path: Path, name: str
) -> None:
    export(whole, tmp_path / "out", what=["pairs"], kind="csv")
    with open(tmp_path / "out" / name, "a") as file:
        file.write("mine")
    with pytest.raises(ConfigError, match=f"was changed since it was exported .*{name}"):
        export(whole, tmp_path / "out", what=["pairs"], kind="csv", force=True)
    assert (tmp_path / "out" / name).read_text().endswith("mine")


def test_files_that_no_export_made_are_never_replaced(whole: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files, and not of an export"):
        export(whole, tmp_path, force=True)
    with pytest.raises(ConfigError, match="not a directory"):
        export(whole, tmp_path / "mine.txt", force=True)
    with pytest.raises(ConfigError, match="lies within the run"):
        export(whole, whole.path / "models" / "out", force=True)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_what_cannot_be_exported_is_said_in_a_line(whole: Run, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"--what pair: expected some of prompts,responses"):
        export(whole, target, what=["pair"])
    with pytest.raises(ConfigError, match="--format xlsx: expected one of parquet"):
        export(whole, target, kind="xlsx")
    with pytest.raises(NotFoundError, match="no records of iteration 9"):
        export(whole, target, iteration=9)
    assert not target.exists()


def test_a_run_without_records_has_nothing_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfreward.config.load import build_config
    from selfreward.inputs.collect import create_run

    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    empty = create_run(build_config({}), "empty")
    with pytest.raises(NotFoundError, match="no prompts or responses or judgments or pairs"):
        export(empty, tmp_path / "out")
    assert os.listdir(tmp_path) == ["runs"]


def test_a_run_at_work_is_exported_as_it_was_at_one_moment(whole: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "copy")
    shutil.copytree(whole.path, copy.path)
    with copy.store() as store:
        last = max(record.attempt for record in store.records(Prompt, 2))
        before = len(store.records(Prompt, 1)) + len(store.records(Prompt, 2))
    reading = batches(copy, "prompts")
    rows = next(reading).num_rows
    with copy.owned() as store:
        store.add([Prompt(2, last + 1, "new", "new", None)])
    assert rows + sum(batch.num_rows for batch in reading) == before
    assert table(copy, "prompts").num_rows == before + 1


def test_the_directory_is_named_after_the_run_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["export", "hostile", "--what", "pairs,prompts", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["directory"] == "hostile-export"
    assert [file["path"] for file in found["files"]] == [
        "hostile-export/prompts.parquet", "hostile-export/pairs.parquet",
    ]  # fmt: skip
    assert HOSTILE in pa.parquet.read_table("hostile-export/prompts.parquet")["text"].to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_trl_trains_on_exported_pairs(
    whole: Run, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tests.support.training import tiny_model

    export(whole, tmp_path / "out", kind=kind)
    rows = datasets.load_dataset(
        {"jsonl": "json"}.get(kind, kind), data_files=str(tmp_path / "out" / f"pairs.{kind}"),
        split="train", cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert list(rows) == table(whole, "pairs").to_pylist()
    with tiny_model(tmp_path / "model") as model:
        trainer = DPOTrainer(
            AutoModelForCausalLM.from_pretrained(model),
            args=DPOConfig(
                str(tmp_path / "trained"), max_steps=2, per_device_train_batch_size=2,
                report_to="none", use_cpu=True, bf16=False, logging_steps=1, save_strategy="no",
                dataloader_pin_memory=False,
            ),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(model),
        )  # fmt: skip
        trainer.train()
    logged = [log for log in trainer.state.log_history if "rewards/margins" in log]
    assert len(logged) == 2
