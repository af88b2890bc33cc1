"""What a row holds beside its prompt stays with it, from the file to the records."""

import hashlib
import json
from pathlib import Path

import pytest

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.columns import dump_prompt_rows, read_prompt_rows, values_of
from selfreward.inputs.questions import dump_questions, read_questions
from selfreward.records import Prompt
from selfreward.storage.tables import digest


def write(path: Path, *rows: object) -> SeedSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SeedSource(path=str(path))


def test_further_columns_are_kept_and_read_back_from_the_copy(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl",
        {"prompt": "Add 1 and 1.", "answer": 2, "constraints": [{"type": "words"}]},
        {"prompt": "Sing.", "response": "La."},
    )
    first, second = read_prompt_rows(source)
    assert values_of(first.columns) == {"answer": 2, "constraints": [{"type": "words"}]}
    assert second.columns is None  # `response` is a text that is read as such
    (tmp_path / "copy.jsonl").write_text(dump_prompt_rows([first, second]))
    assert read_prompt_rows(SeedSource(path=str(tmp_path / "copy.jsonl"))) == [first, second]


def test_a_column_that_was_renamed_is_kept_under_our_name_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"question": "1 + 1?", "solution": "2"})
    source = source.model_copy(update={"columns": {"prompt": "question", "answer": "solution"}})
    [row] = read_prompt_rows(source)
    assert (row.prompt, values_of(row.columns)) == ("1 + 1?", {"answer": "2"})


def test_questions_keep_theirs_too(tmp_path: Path) -> None:
    source = write(tmp_path / "q.jsonl", {"prompt": "1 + 1?", "kind": "sums", "answer": "2"})
    [question] = questions = read_questions(source)
    assert (question.kind, values_of(question.columns)) == ("sums", {"answer": "2"})
    (tmp_path / "copy.jsonl").write_text(dump_questions(questions))
    assert read_questions(SeedSource(path=str(tmp_path / "copy.jsonl"))) == questions


def test_a_value_that_is_no_json_is_refused_with_its_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "Sing.", "weight": NaN}\n')
    with pytest.raises(ConfigError, match=r"a.jsonl:1: column 'weight' cannot be kept"):
        read_prompt_rows(SeedSource(path=str(tmp_path / "a.jsonl")))


def test_a_prompt_without_columns_has_the_digest_that_it_had_before_there_were_any() -> None:
    before = hashlib.sha256(b'[1, 0, "a", "a", null, "", 0]\n').hexdigest()
    assert digest([Prompt(1, 0, "a", "a", None)]) == before
    assert digest([Prompt(1, 0, "a", "a", None, columns="{}")]) != before
