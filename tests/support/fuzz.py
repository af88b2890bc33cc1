"""What people and machines get wrong, drawn by seeded generators: nothing here is a test.

The law that all of it serves: no input whatever gives exit code 1. ``obey`` checks it for a command
line; each ``test_*.py`` of ``tests/fuzz`` draws inputs of one kind.
"""

import contextlib
import csv
import decimal
import gzip
import io
import json
import random
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli import main as cli
from selfreward.config.reference import keys

Draw = random.Random

CODES = {0, 2, 3, 4, 5, 6, 7, 130, 141, 143}
"""Documented in docs/how-it-works.md; 1 is a bug."""

YAML_VALUES = [
    "null", "~", "true", "no", "0", "1", "-1", "2", "7", "3.5", "-0.0", "1e400", ".nan", "-.inf",
    "1e-6", "0x10", "0o7", "1_000", "1:30", "99999999999999999999999", "-1e-320", "''", "a", "'1'",
    "'null'", "[]", "{}", "[a]", "[1, 2]", "[null]", "[[]]", "{a: 1}", "{1: 2}", "{a: {b: [c]}}",
    "'\\0'", '"\\0"', '"\\ud800"', '"\\u2028"', '"a\\nb"', '"\\x1b[31m"', "2020-01-01",
    "2020-13-01", "2020-01-01T00:00:00Z", "!!binary YQ==", "!!binary /w==", "!!set {a}",
    "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/object:os.system {}", "!!str 1", "!!int a",
    "!!float x", "!!bool 3", "!!null x", "!!timestamp x", "!x y", "&a [*a]", "*a", "<<: 1",
    "{<<: {a: 1}}", "{a: 1, a: 2}", "@x", "`x`", "%x", "? a", "- a", "|", ">", "|\n  x", "'",
    '"', "[", "{", "}", ": :", "M1", "M7", "policy", "hosted", "seed/ift.jsonl", "seed/eft.jsonl",
    "seed/heldout.jsonl", "judge/expected.jinja", "judge/additive.jinja", "written", "expected",
    "criteria", "written_expected", "auto", "server", "transformers", "ctranslate2", "vllm",
    "{kind: server, endpoints: [http://127.0.0.1:1/v1]}", "{kind: server}", "~nobody/x", "~", "/",
    ".", "..", "/dev/null", "/dev/zero", "/proc/self/mem", "bundled:x", "bundled:", "x.gguf",
    "x" * 300, "é", "日本", "😀", "sigmoid", "[sigmoid, ipo]", "cosine", "adamw_torch", "0,1", "all",
    "'$HOME'", "'{{ x }}'", "['*']", "{min_lr: 1e-7}", "best_worst", "anchored", "[ties, drift]",
]  # fmt: skip
"""YAML that is right for some key, for none, or no YAML at all."""

OPTIONS = [
    *(f"{group}.{name}" for group in ("sft", "dpo") for name in (
        "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
        "gradient_accumulation_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "optim",
        "optim_args", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm", "bf16",
        "fp16", "tf32", "save_steps", "save_total_limit", "gradient_checkpointing", "use_cpu",
        "gradient_checkpointing_kwargs", "dataloader_num_workers", "neftune_noise_alpha",
        "torch_compile", "fsdp", "deepspeed", "ddp_backend", "accelerator_config", "loss_type",
        "adam_beta1", "adam_epsilon", "optim_target_modules", "parallelism_config", "seed",
        "dataloader_prefetch_factor", "ddp_timeout", "loss_weights", "label_smoothing",
        "torch_empty_cache_steps", "activation_offloading", "hub_token",
    )),
    *(f"dpo.{name}" for name in (
        "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting", "rpo_alpha",
        "precompute_ref_log_probs", "discopop_tau", "disable_dropout", "sync_ref_model",
    )),
    *(f"lora.{name}" for name in (
        "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora",
        "init_lora_weights", "layers_to_transform", "rank_pattern", "alpha_pattern", "target_parameters",
        "modules_to_save", "loftq_config", "eva_config", "layer_replication", "exclude_modules",
    )),
    *(f"{group}.{name}" for group in ("engine", "judge.engine") for name in (
        "device", "compute_type", "inter_threads", "max_batch_size", "max_batch_tokens", "dtype",
        "attn_implementation", "endpoints", "model", "api_key_env", "timeout_s", "max_retries",
        "omit", "tensor_parallel_size", "kind",
    )),
    "judge.jury", "judge.jury.0.model", "judge.jury.0", "sft.ift.columns.prompt",
    "chat_template_kwargs.enable_thinking", "chat_template_kwargs.a.b",
]  # fmt: skip
"""Keys of libraries, which no class of ours declares, and of what ``keys`` holds back."""

JSON_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 5, 3.5, 6, 1e308, -0.0, 10**30, 10**400, float("nan"),
    float("inf"), "", " ", "a", "5", "4.5", "nan", "\x00", "\ud800", "\ufeff", "\u2028", "a\nb",
    "x" * 5000, [], {}, [[]], [None], ["a"], [{}], {"": ""}, {"a": None}, {"text": "a"},
    [{"role": "user", "content": "a"}], [{"from": "gpt", "value": "b"}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}]}], [{"role": []}], {"role": "user"},
    [{"text": "a", "score": 1}], "tie", "A", "<|im_end|>", "Score: 5", "日本語", "😀",
]  # fmt: skip
"""What a value of a JSON row may be."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command line gave."""

    words: list[str]
    code: int
    out: str
    err: str


@dataclass(slots=True)
class Law:
    """Runs command lines in this process and holds them to the law."""

    patch: pytest.MonkeyPatch
    traces: list[str]
    count: int = 0

    def heard(self, words: Iterable[str]) -> Said:
        """Run a command line; streams are strict UTF-8, as those of a terminal may be."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
        words = list(words)
        self.count += 1
        self.traces.clear()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.invoke(words)
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
        return Said(words, code, *texts)

    def obey(self, words: Iterable[str], about: object = "") -> Said:
        """Run a command line, which must end with a documented exit code and plain words."""
        words = list(words)
        said = self.heard(words)
        shown = (about, said.words, said.code, said.err[-1500:], *self.traces)
        assert said.code in CODES, shown
        assert "internal error" not in said.err, shown
        assert "Traceback" not in said.err, shown
        errors = re.findall(r"^error: .*$", said.err, re.MULTILINE)
        if said.code in {2, 3, 4, 5, 6, 7} and words and said.words[:1] not in (["verify"], ["doctor"]):
            assert len(errors) == 1, shown
            lines = said.err[said.err.index("error: ") :].splitlines()
            assert all(line.startswith(("hint: ", "nothing was", "saved;")) for line in lines[1:]), shown
            assert len(errors[0]) < 3000, shown
        if "--json" in said.words and said.code == 0 and "--watch" not in said.words:
            json.loads(said.out)
        return said


@pytest.fixture
def law(monkeypatch: pytest.MonkeyPatch) -> Law:
    """With the traceback of each error kept, to be shown where the law is broken."""
    found = Law(monkeypatch, [])
    monkeypatch.setattr(cli, "_trace", lambda: found.traces.append(traceback.format_exc()))
    return found


# Bytes


def damaged_bytes(data: bytes, draw: Draw) -> bytes:
    """A text file as editors, tools and disks leave it."""
    text = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(len(text) + 1)
        how = draw.randrange(9)
        if how == 0:
            del text[at:]
        elif how == 1 and text:
            text[at % len(text)] ^= 1 << draw.randrange(8)
        elif how == 2:
            text[at:at] = draw.choice([b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\t", b"\n", b"\x85",
                                       b"\xed\xa0\x80", b"\x1b[2J", b'"', b"'", b"[", b"{", b": ",
                                       b"\\", b"- ", b"#", b"&a ", b"*a", b"!!", b"%", b"{%", b"}}"])
        elif how == 3:
            end = min(len(text), at + draw.randrange(40))
            del text[at:end]
        elif how == 4:
            end = min(len(text), at + draw.randrange(200))
            text[at:at] = text[at:end]
        elif how == 5:
            lines = bytes(text).split(b"\n")
            draw.shuffle(lines)
            text = bytearray(b"\n".join(lines))
        elif how == 6:
            lines = bytes(text).split(b"\n")
            line = draw.randrange(len(lines))
            lines[line] = draw.choice([b" ", b"  ", b"\t", b""]) + lines[line].lstrip()
            text = bytearray(b"\n".join(lines))
        elif how == 7:
            encoding = draw.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp037"])
            with contextlib.suppress(UnicodeError):
                text = bytearray(bytes(text).decode().encode(encoding, "replace"))
        else:
            text = bytearray(bytes(text).replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n"])))
    return bytes(text)


# Configs


def config_keys() -> list[str]:
    """All dotted keys, those of libraries among them."""
    return [key.name for key in keys()] + OPTIONS


def key_types() -> dict[str, str]:
    """What each key of ours takes, in words."""
    return {key.name: key.type for key in keys() if key.type != "group"}


def odd_yaml(draw: Draw, depth: int = 0) -> str:
    """YAML in flow style, mostly."""
    how = draw.random()
    if depth > 3 or how < 0.75:
        return draw.choice(YAML_VALUES)
    inner = [odd_yaml(draw, depth + 1) for _ in range(draw.randrange(4))]
    if how < 0.87:
        return f"[{', '.join(inner)}]"
    names = [draw.choice(["a", "path", "model", "kind", "limit", "columns", "1", "''", "engine"])
             for _ in inner]  # fmt: skip
    return "{" + ", ".join(f"{n}: {v}" for n, v in zip(names, inner, strict=True)) + "}"


_RIGHT = {
    "model": ["bundled:smollm2-135m", "org/model", "."],
    "revision": ["null", "main", "abc"],
    "chat_template": ["null", "chat/chatml.jinja"],
    "chat_template_kwargs": ["{}", "{enable_thinking: false}", "{date: 2024-01-01}"],
    "judge.model": ["policy", "M1", "hosted", "bundled:smollm2-135m"],
    "judge.form": ["written", "expected", "criteria", "written_expected"],
    "judge.template": ["judge/additive.jinja", "judge/expected.jinja", "judge/criterion.jinja"],
    "judge.criteria_template": ["judge/criteria.jinja"],
    "judge.jury": ["[]", "[{model: M1, form: expected, template: judge/expected.jinja}]",
                   "[{model: hosted, form: written, template: judge/additive.jinja, "
                   "engine: {kind: server, endpoints: [http://127.0.0.1:1/v1], model: x}}]"],
    "prompts.author": ["policy", "bundled:smollm2-135m"],
    "prompts.template": ["instruct/few_shot.jinja"],
    "prompts.keywords": ["[]", "[a, b]"],
    "pairs.rule": ["best_worst", "all_pairs", "length_control", "anchored"],
    "health.stop_on": ["[]", "[ties, drift]"],
    "launch.command": ["null", "true --x", "'true \"a b\"'"],
    "launch.engine_devices": ["null", "'0'", "0,1"],
    "launch.train_devices": ["null", "'1'"],
    "engine.kind": ["auto", "transformers", "ctranslate2", "server"],
    "lora": ["null", "{r: 8}", "{r: 4, target_modules: [q_proj]}", "{}"],
    "lr_scheduler_type": ["linear", "cosine", "constant", "cosine_with_min_lr"],
    "lr_scheduler_kwargs": ["{min_lr: 1e-7}", "{}"],
    "optim": ["adamw_torch", "sgd", "adafactor", "adamw_torch_fused"],
    "loss_type": ["sigmoid", "[sigmoid]", "[sigmoid, ipo]", "hinge", "nll", "sft"],
    "endpoints": ["[http://127.0.0.1:1/v1]", "[http://[::1]:1/v1]"],
    "omit": ["[]", "[seed]"],
    "device": ["cpu", "auto"], "compute_type": ["float32", "int8"], "dtype": ["float32", "auto"],
    "template": ["judge/additive.jinja"], "split": ["train"],
    "target_modules": ["[q_proj]", "all-linear", "null"],
}  # fmt: skip
"""Values that may well be right, by key, or by its last part."""


def right_yaml(draw: Draw, key: str, types: dict[str, str]) -> str:
    """A value that may well be right for a key."""
    name, kind = key.rpartition(".")[2], types.get(key, "number")
    if choices := _RIGHT.get(key) or _RIGHT.get(name):
        return draw.choice(choices)
    if "null" in kind and draw.random() < 0.3:
        return "null"
    if kind.startswith("source"):
        names = {"evaluation.ranked": "heldout", "sft.eft": "eft", "sft.selection.ranked": "eft"}
        file = f"seed/{names.get(key, 'ift')}.jsonl"
        return draw.choice([file, f"{{path: {file}, limit: 3}}"])
    if kind.startswith("int"):
        return draw.choice(["1", "2", "3", "8", "64", "4096"])
    if kind.startswith("number"):
        return draw.choice(["0.1", "0.5", "0.9", "1", "1e-5", "2", "8"])
    if kind.startswith("true"):
        return draw.choice(["true", "false"])
    return draw.choice(["a", "Be strict.", "null"])


def likely_word(draw: Draw, types: dict[str, str]) -> str:
    """``dotted.key=value`` that may well be right."""
    key = draw.choice([*types, *OPTIONS])
    return f"{key}={right_yaml(draw, key, types)}"


def odd_word(draw: Draw, known: list[str]) -> str:
    """``dotted.key=value``, or what is none."""
    key = draw.choice(known)
    how = draw.random()
    if how < 0.08:
        key = draw.choice(["", ".", "..", "a", "dpo.", ".dpo", "dpo..beta", "dpo.beta.x", "é", "\ud800",
                           "model.x", "sft.ift.path.x", "judge.jury.-1", "judge.jury.99999999999", "=",
                           "judge.jury.0.jury", "engine.kind.x", "judge.jury.²", " dpo.beta", "\0"])
    if how > 0.98:
        return draw.choice([key, f"{key}==", "=", "", "=1", f"{key}:1", f"{key} = 1", f"--{key}=1"])
    return f"{key}={odd_yaml(draw)}"


def odd_config(draw: Draw, known: list[str], recipes: list[bytes]) -> bytes:
    """The text of a config file: a real one damaged, or keys of ours with odd values."""
    how = draw.random()
    if how < 0.35:
        return damaged_bytes(draw.choice(recipes), draw)
    if how < 0.42:
        return draw.choice([
            b"", b"\n", b"# nothing", b"null", b"[]", b"- a", b"a", b"5", b"{}", b"---\n---\n",
            b"--- a\n--- b", b"\xef\xbb\xbfseed: 1", b"seed: 1\x00", b"\xff\xfes\x00", b"[" * 500,
            b"{a: " * 500, b"- " * 3000, b"? " * 1000, b"a: " * 900, b"&a [*a, *a]", b"seed: &a 1\nmodel: *a",
            b"a: &a [1]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (i, i) for i in range(9)),
            b"<<: {seed: 1}", b"<<: [a]", b"%YAML 9.9\n---\nseed: 1", b"%TAG ! x\n---\nseed: !a 1",
            b"seed: 1\nseed: 2", b"'", b'"\\', b"!!map", b"!!seq a", b"!!python/none x", b"? {a: 1}\n: 2",
            b"1: 2", b"null: 1", b"true: 1", b"? \n", b"seed: 1_0", b"system_prompt: |\n" + b" x\n" * 999,
        ])  # fmt: skip
    tree: dict[str, Any] = {}
    for _ in range(draw.randrange(1, 6)):
        *groups, name = draw.choice(known).split(".")
        place = tree
        for group in groups:
            inner = place.get(group)
            if not isinstance(inner, dict):
                inner = place[group] = {}
            place = inner
        place[name] = odd_yaml(draw)
    return f"{_flow(tree)}\n".encode(errors="surrogatepass")


def _flow(tree: dict[str, Any], indent: int = 0) -> str:
    lines = []
    for name, value in tree.items():
        head = f"{' ' * indent}{name}:"
        if isinstance(value, dict):
            lines += [head, _flow(value, indent + 2)]
        else:
            lines.append(f"{head} {value}")
    return "\n".join(lines)


# Data


def odd_json(draw: Draw, value: Any, depth: int = 0) -> Any:
    """A JSON value with some of it gone, doubled, renamed or of another type."""
    if draw.random() < 0.12 or depth > 6:
        return draw.choice(JSON_VALUES)
    if isinstance(value, dict):
        made = {}
        for name, inner in value.items():
            how = draw.random()
            if how < 0.06:
                continue
            if how < 0.1:
                name = draw.choice([*value, "", "prompt", "text", "score", "\ud800", "x"])
            made[name] = odd_json(draw, inner, depth + 1) if draw.random() < 0.5 else inner
        return made
    if isinstance(value, list):
        items = [odd_json(draw, inner, depth + 1) for inner in value]
        if items and draw.random() < 0.2:
            draw.choice([items.pop, items.reverse, lambda: items.append(items[0])])()
        return items
    return draw.choice([value, value, *JSON_VALUES[:3], str(value)])


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
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    sink = io.BytesIO()
    with contextlib.suppress(pyarrow.ArrowException):
        pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


RANKED: list[list[Any]] = [
    [{"prompt": "Name a fish.", "responses": [{"text": "A cod.", "rank": 0}, {"text": "A cow.", "rank": 1}]},
     {"prompt": "Name a bird.", "responses": [{"text": "A tit.", "score": 4}, {"text": "No.", "score": 1.5}]}],
    [{"prompt": "Name a fish.", "response": "A cod.", "score": 5},
     {"prompt": "Name a fish.", "response": "A cow.", "score": "1"}],
    [{"prompt": "Name a fish.", "response_a": "A cod.", "response_b": "A cow.", "label": "A"}],
    [{"prompt": "Name a fish.", "chosen": "A cod.", "rejected": "A cow."}],
    [{"chosen": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "A cod."}],
      "rejected": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "No."}]}],
    [{"instruction": "Name a fish.", "completions": [
        {"response": "A cod.", "annotations": {"help": {"Rating": "5"}, "truth": {"Rating": "4"}}},
        {"response": "A cow.", "fine-grained_score": 2.0, "overall_score": 3}]}],
]  # fmt: skip
"""What people think of responses, in each shape that is read."""

INSTRUCTIONS: list[list[Any]] = [
    [{"prompt": "Name a fish.", "response": "A cod."}, {"prompt": "Name a bird.", "response": "A tit."}],
    [{"prompt": "Name a fish.", "completion": "A cod."}],
    [{"instruction": "Translate.", "input": "cod", "output": "Dorsch", "system": "Be short."}],
    [{"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Name a fish."},
                   {"role": "assistant", "content": "A cod."}]}],
    [{"conversations": [{"from": "human", "value": "Name a fish."}, {"from": "gpt", "value": "A cod."}],
      "system": "Be short.", "id": 7}],
    [{"prompt": [{"role": "user", "content": "Name a fish."}], "response": "A cod."}],
]  # fmt: skip
"""Instruction data, in each shape that is read."""

SCORED: list[list[Any]] = [
    [{"prompt": "Name a fish.", "response": "A cod.", "score": 5, "justification": "It is one."},
     {"prompt": "Name a fish.", "response": "A cow.", "score": 0.5, "justification": "It is none."}],
    [{"prompt": "Name a fish.", "responses": [{"text": "A cod.", "score": 5, "justification": "Yes."},
                                              {"text": "A cow.", "score": "1"}]}],
    [{"messages": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "A cod."}],
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
                 "logprobs": {"token_logprobs": [-0.5, -0.1], "tokens": ["token_id:40", "token_id:41"],
                              "top_logprobs": [{"token_id:10": -0.5, "token_id:11": -1.0}]}}],
}  # fmt: skip
MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "root": "/m", "parent": None}]}
REFUSAL = {"error": {"message": "seed is not supported", "type": "x", "param": "seed", "code": None}}
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
            b"", b"null", b"[" * 99_999, b"<html>", b"data: {}\n\n", b"1" * 5000, b"\xff\xfe", b"NaN",
            b'{"choices": [' + b'{"index": 0},' * 999, b'{"a":' * 5000, b'{"error": {"message": {}}}',
        ])  # fmt: skip
    return data


# Templates

TAGS = [
    "{{ prompt }}", "{{ response }}", "{{ demonstrations }}", "{{ x }}", "{{ prompt | length }}",
    "{{ prompt | tojson }}", "{{ prompt[0] }}", "{{ prompt[:9] }}", "{{ prompt['a'] }}", "{{ 1 / 0 }}",
    "{{ prompt * 9 }}", "{{ 9 ** 9 ** 9 }}", "{{ prompt.upper() }}", "{{ ''.__class__ }}", "{{ 1 + prompt }}",
    "{{ prompt - 1 }}", "{{ demonstrations[0] }}", "{{ demonstrations[99] }}", "{{ demonstrations | first }}",
    "{{ loop.index }}", "{{ self }}", "{{ self.user() }}", "{{ super() }}", "{{ caller() }}", "{{ range(9) }}",
    "{{ -1 }}", "{{ not prompt }}", "{{ prompt is defined }}", "{{ prompt in prompt }}", "{{ 'a' 'b' }}",
    "{{ prompt if response else 3 }}", "{{ prompt if response }}", "{{ none }}", "{{ true }}", "{{ () }}",
    "{{ (1, 2) }}", "{{ {} }}", "{{ [] }}", "{{ prompt ~ response }}", "{{ '%s' | format(prompt) }}",
    "{{ prompt | first | last }}", "{{ 3 | upper }}", "{{ 3 | length }}", "{{ 3 | first }}", "{{ 3[0] }}",
    "{{ prompt < 3 }}", "{{ demonstrations < prompt }}", "{{ prompt == 3 == 3 }}", "{{ 1 + 1 - 1 }}", "{{",
    "}}", "{%", "%}", "{#", "#}", "{{ }}", "{% %}", "{% x %}", "{% raw %}", "{% endraw %}", "{% if prompt %}",
    "{% endif %}", "{% else %}", "{% elif 1 %}", "{% for d in demonstrations %}", "{% for p in prompt %}",
    "{% for d in demonstrations if d %}", "{% for a, b in demonstrations %}", "{% endfor %}", "{% break %}",
    "{% for d in demonstrations recursive %}", "{% block user %}", "{% block started %}", "{% block x %}",
    "{% block user scoped %}", "{% block user required %}", "{% endblock %}", "{% endblock x %}", "{% set x = 1 %}",
    "{% macro f() %}", "{% endmacro %}", "{% call f() %}", "{% include 'x' %}", "{% extends 'x' %}",
    "{% import 'x' as y %}", "{% filter upper %}", "{% endfilter %}", "{% autoescape true %}", "{% do x %}",
    "{% with x = 1 %}", "{% endwith %}", "{%- -%}", "{%+ if 1 %}", "{{- prompt -}}", "{{ d }}", "{{ prompt | }}",
    "{{ prompt | nope }}", "{{ 1 is nope }}", "{{ '\\ud800' }}", "{{ 1e999 }}", "{{ 0x }}", "{{ _ }}", "<prompt>",
    "</prompt>", "Score: ", "\x00", "\x1b[2J", "\u2028", "{{ ((((((((((prompt)))))))))) }}", "{# a #}",
]  # fmt: skip


def odd_template(draw: Draw, shipped: list[bytes]) -> bytes:
    """A shipped template with bytes or tags changed, or a heap of tags in its blocks."""
    how = draw.random()
    data = draw.choice(shipped)
    if how < 0.35:
        return damaged_bytes(data, draw)
    if how < 0.75:
        text = data.decode()
        for _ in range(draw.choice([1, 1, 2, 4])):
            at = draw.choice([m.start() for m in re.finditer(r"\n|\{[{%]|[}%]\}|$", text)])
            text = text[:at] + draw.choice(TAGS) + text[at:]
        return text.encode(errors="surrogatepass")
    heap = "".join(draw.choice(TAGS) for _ in range(draw.randrange(1, 8)))
    return f"{{% block user %}}{{{{ prompt }}}}{{{{ response }}}}{heap}{{% endblock %}}".encode(
        errors="surrogatepass"
    )
