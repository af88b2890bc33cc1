"""Rows of data in every shape and format, and answers of endpoints, with some of it wrong."""

import contextlib
import csv
import decimal
import gzip
import io
import json
from pathlib import Path
from typing import Any

from tests.support.fuzz import Draw, damaged_bytes, odd_json


def odd_rows(draw: Draw, shapes: list[list[Any]], each: float = 0.6) -> list[Any]:
    """A few rows, of one shape mostly."""
    rows = list(draw.choice(shapes))
    if draw.random() < 0.1:
        rows = rows + list(draw.choice(shapes))
    return [odd_json(draw, row) if draw.random() < each else row for row in rows]


def write_rows(draw: Draw, path: Path, rows: list[Any]) -> Path:
    """Write rows in one of the formats, or in one under the name of another.

    Args:
        path: Without a suffix.
    """
    suffix = draw.choice([".jsonl", ".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet"])
    written = draw.choice([suffix] * 9 + [".jsonl", ".json", ".csv", ".parquet"])
    if written == ".parquet":
        data = parquet_bytes(draw, rows)
    elif written in (".csv", ".tsv"):
        data = csv_bytes(draw, rows, "," if written == ".csv" else "\t")
    else:
        ascii_ = draw.random() < 0.5
        dumped = [json.dumps(row, ensure_ascii=ascii_) for row in rows]
        indent = draw.choice([None, None, 1])
        text = json.dumps(rows, ensure_ascii=ascii_, indent=indent)
        text = text if written == ".json" else "\n".join([*dumped, ""])
        data = text.encode(errors="surrogatepass")
    if draw.random() < 0.25:
        data = damaged_bytes(data, draw)
    if draw.random() < 0.1:
        suffix += draw.choice([".gz", ".gz", ".bak", ".xz"])
        data = gzip.compress(data, 1) if draw.random() < 0.8 else data
        data = damaged_bytes(data, draw) if draw.random() < 0.3 else data
    if draw.random() < 0.02:
        suffix = draw.choice(["", ".JSONL", ".", ".txt", ".xlsx"])
    file = path.with_name(path.name + suffix)
    file.write_bytes(data)
    return file


def csv_bytes(draw: Draw, rows: list[Any], delimiter: str) -> bytes:
    """The rows as a table; what is nested becomes JSON within a cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=draw.choice(["\n", "\r\n"]))
    objects = [row for row in rows if isinstance(row, dict)]
    header = list(dict.fromkeys(name for row in objects for name in row))
    if draw.random() < 0.1:
        header.append(draw.choice([*header, ""]))
    writer.writerow(header)
    for row in objects:
        cells = [row.get(name, "") for name in header]
        writer.writerow(c if isinstance(c, str) else json.dumps(c) for c in cells)
    return text.getvalue().encode(errors="surrogatepass")


def parquet_bytes(draw: Draw, rows: list[Any]) -> bytes:
    """The rows as parquet, with a column that only parquet has now and then."""
    import pyarrow
    import pyarrow.parquet

    objects = [row for row in rows if isinstance(row, dict)]
    odd = [
        pyarrow.array([2**62], pyarrow.timestamp("s")), pyarrow.array([-(2**31)], pyarrow.date32()),
        pyarrow.array([2**63], pyarrow.uint64()), pyarrow.array([b"\xff"], pyarrow.binary()),
        pyarrow.array([1], pyarrow.duration("ns")), pyarrow.array([None], pyarrow.null()),
        pyarrow.array([[("a", 1), ("a", 2)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        pyarrow.array(["a"]).dictionary_encode(), pyarrow.array([decimal.Decimal("1.5")]),
        pyarrow.array([86_399_999_999_999], pyarrow.time64("ns")),
        pyarrow.array([10**18], pyarrow.timestamp("ns", "Nowhere/Else")),
        pyarrow.array([1.5], pyarrow.float32()), pyarrow.array([True]),
    ]  # fmt: skip
    try:
        table = pyarrow.Table.from_pylist(objects)
    except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError):
        table = pyarrow.table({"prompt": ["a"], "response": ["b"]})
    if draw.random() < 0.4:
        one = draw.choice(odd)
        column = pyarrow.chunked_array([one] * len(table) or [one.slice(0, 0)])
        name = draw.choice(["x", "x", "prompt", "score", "response", "responses"])
        place = table.schema.get_field_index(name)
        table = (
            table.append_column(name, column)
            if place < 0
            else table.set_column(place, name, column)
        )
    sink = io.BytesIO()
    with contextlib.suppress(pyarrow.ArrowException):
        pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


RANKED: list[list[Any]] = [
    [{"prompt": "Name a fish.", "responses": [{"text": "A cod.", "rank": 0}, {"text": "A cow.",
    "rank": 1}]},
     {"prompt": "Name a bird.", "responses": [{"text": "A tit.", "score": 4}, {"text": "No.",
     "score": 1.5}]}],
    [{"prompt": "Name a fish.", "response": "A cod.", "score": 5},
     {"prompt": "Name a fish.", "response": "A cow.", "score": "1"}],
    [{"prompt": "Name a fish.", "response_a": "A cod.", "response_b": "A cow.", "label": "A"}],
    [{"prompt": "Name a fish.", "chosen": "A cod.", "rejected": "A cow."}],
    [{"chosen": [{"role": "user", "content": "Name a fish."}, {"role": "assistant",
    "content": "A cod."}],
      "rejected": [{"role": "user", "content": "Name a fish."}, {"role": "assistant",
      "content": "No."}]}],
    [{"instruction": "Name a fish.", "completions": [
        {"response": "A cod.", "annotations": {"help": {"Rating": "5"}, "truth": {"Rating": "4"}}},
        {"response": "A cow.", "fine-grained_score": 2.0, "overall_score": 3}]}],
]  # fmt: skip
"""What people think of responses, in each shape that is read."""

INSTRUCTIONS: list[list[Any]] = [
    [{"prompt": "Name a fish.", "response": "A cod."}, {"prompt": "Name a bird.",
    "response": "A tit."}],
    [{"prompt": "Name a fish.", "completion": "A cod."}],
    [{"instruction": "Translate.", "input": "cod", "output": "Dorsch", "system": "Be short."}],
    [{"messages": [{"role": "system", "content": "Be short."}, {"role": "user",
    "content": "Name a fish."},
                   {"role": "assistant", "content": "A cod."}]}],
    [{"conversations": [{"from": "human", "value": "Name a fish."}, {"from": "gpt",
    "value": "A cod."}],
      "system": "Be short.", "id": 7}],
    [{"prompt": [{"role": "user", "content": "Name a fish."}], "response": "A cod."}],
]  # fmt: skip
"""Instruction data, in each shape that is read."""

SCORED: list[list[Any]] = [
    [{"prompt": "Name a fish.", "response": "A cod.", "score": 5, "justification": "It is one."},
     {"prompt": "Name a fish.", "response": "A cow.", "score": 0.5,
     "justification": "It is none."}],
    [{"prompt": "Name a fish.", "responses": [{"text": "A cod.", "score": 5,
    "justification": "Yes."},
                                              {"text": "A cow.", "score": "1"}]}],
    [{"messages": [{"role": "user", "content": "Name a fish."}, {"role": "assistant",
    "content": "A cod."}],
      "score": 4, "justification": "Yes."}],
]  # fmt: skip
"""Evaluation data, in each shape that is read."""

# Answers of endpoints

CHAT = {
    "id": "x", "object": "chat.completion", "model": "m", "usage": {"total_tokens": 5},
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                 "message": {"role": "assistant", "content": "Good.\nScore: 4", "refusal": None}}],
}  # fmt: skip
COMPLETION = {
    "id": "x", "object": "text_completion", "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "text": "ab", "token_ids": [40, 41],
                 "logprobs": {"token_logprobs": [-0.5, -0.1], "tokens": ["token_id:40",
                 "token_id:41"],
                              "top_logprobs": [{"token_id:10": -0.5, "token_id:11": -1.0}]}}],
}  # fmt: skip
MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "root": "/m", "parent": None}]}
REFUSAL = {
    "error": {"message": "seed is not supported", "type": "x", "param": "seed", "code": None}
}
DETAIL = {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]}


def odd_body(draw: Draw, body: Any) -> bytes:
    """The body of an answer: valid JSON of an odd shape mostly, else bytes that are none."""
    for _ in range(draw.choice([0, 1, 1, 1, 3])):
        body = odd_json(draw, body)
    data = json.dumps(body, ensure_ascii=draw.random() < 0.7).encode(errors="surrogatepass")
    if draw.random() < 0.15:
        data = damaged_bytes(data, draw)
    if draw.random() < 0.05:
        data = draw.choice([
            b"", b"null", b"[" * 99_999, b"<html>", b"data: {}\n\n", b"1" * 5000, b"\xff\xfe",
            b"NaN",
            b'{"choices": [' + b'{"index": 0},' * 999, b'{"a":' * 5000,
            b'{"error": {"message": {}}}',
        ])  # fmt: skip
    return data
