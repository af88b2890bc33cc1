"""What EFT data does for the judge: M1 after SFT on more and more human scores, against people.

    python benchmarks/eft.py DIR [--rows 480] [--most-characters 900] [--balance] [--limit 100]
        [--out FILE] [WORD ...]

DIR holds human-ranked and human-scored answers: ``scored.train.jsonl`` with ``prompt``,
``response`` and ``score_0_5``, and ``rankings.valid.jsonl`` (see docs/judge.md). For each number in
``--rows`` (0: all) so many scored answers are drawn, as even over the scores as they allow, and M1
is made of them alone by the seed step of a run, in the ``expected`` form; further WORDs go to its
config. Then M1, and M0 once, judge the rankings. ``--balance`` draws the answers of each length
third evenly over the scores, so that length tells nothing.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
CONFIG = {
    "iterations": 0,
    "sft": {
        "ift": None,
        "learning_rate": 3e-5,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1,
        "save_steps": 0.5,
    },
    "judge": {"form": "expected", "template": "judge/expected.jinja"},
}


def main() -> None:
    """Train and judge for each number of rows, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("words", nargs="*", help="key=value for the config of the run")
    parser.add_argument("--rows", type=int, nargs="+", default=[480])
    parser.add_argument("--most-characters", type=int, default=900)
    parser.add_argument("--balance", action="store_true")
    parser.add_argument("--limit", type=int, default=100, help="rankings to judge")
    parser.add_argument("--out", type=Path, help="write the figures here")
    parser.add_argument("--keep", type=Path, help="keep the runs in this directory")
    arguments = parser.parse_args()
    rows = [
        row
        for row in _read(arguments.data / "scored.train.jsonl")
        if len(row["prompt"]) + len(row["response"]) <= arguments.most_characters
    ]
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        os.environ["SELFREWARD_RUNS"] = str(root)
        config = root / "eft.yaml"
        config.write_text(json.dumps(CONFIG))  # JSON is YAML
        for count in [None, *arguments.rows]:
            model, seconds = "bundled:smollm2-135m", 0.0
            drawn = _draw(rows, count or len(rows), arguments.balance) if count is not None else []
            if drawn:
                name = f"eft-{len(drawn)}{'-balanced' if arguments.balance else ''}"
                path = root / f"{name}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in drawn))
                start = time.monotonic()
                words = [f"sft.eft={path}", *arguments.words]
                _selfreward("run", str(config), "--name", name, *words)
                seconds = time.monotonic() - start
                model = str(root / name / "models" / "M1")
            report = _judge(model, arguments.data / "rankings.valid.jsonl", arguments.limit)
            figures.append({"rows": len(drawn), "train_s": seconds, **report})
            print(_line(figures[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def _draw(rows: Sequence[Row], count: int, balance: bool) -> list[Row]:
    """As many of each score as there are, by turns; with ``balance`` of each third of lengths."""
    lengths = sorted(len(row["response"]) for row in rows)
    thirds = [lengths[len(lengths) // 3], lengths[2 * len(lengths) // 3]]

    def cell(row: Row) -> tuple[int, int]:
        third = sum(len(row["response"]) > border for border in thirds) if balance else 0
        return third, round(row["score_0_5"])

    cells: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in random.Random(0).sample(rows, len(rows)):
        cells[cell(row)].append(row)
    drawn: list[Row] = []
    while len(drawn) < count and any(cells.values()):
        for key in sorted(cells):
            if cells[key] and len(drawn) < count:
                row = cells[key].pop()
                drawn.append({**{k: row[k] for k in ("prompt", "response")},
                              "score": row["score_0_5"]})  # fmt: skip
    return random.Random(1).sample(drawn, len(drawn))


def _judge(model: str, data: Path, limit: int) -> Row:
    words = ["--form", "expected", "--limit", str(limit), "--json"]
    report: Row = json.loads(_selfreward("judge", model, "--data", str(data), *words))
    names: dict[str, Callable[[Row], Any]] = {
        "accuracy": lambda r: r["judge"]["all"]["accuracy"],
        "matched": lambda r: r["judge"]["matched"]["accuracy"],
        "prefers_longer": lambda r: r["judge"]["all"]["prefers_longer"],
        "longest": lambda r: r["longest"]["all"]["accuracy"],
        "longest_matched": lambda r: r["longest"]["matched"]["accuracy"],
        "judge_s": lambda r: r["seconds"]["judge"],
        "counts": lambda r: r["counts"],
    }
    return {name: of(report) for name, of in names.items()}


def _line(row: Row) -> str:
    shares = ("accuracy", "matched", "prefers_longer", "longest", "longest_matched")
    said = "  ".join(f"{name} {_percent(row[name])}" for name in shares)
    return (
        f"{row['rows']:5} rows  {said}  train {row['train_s']:.0f} s, judge {row['judge_s']:.0f} s"
    )


def _percent(estimate: Row) -> str:
    low, value, high = (100 * estimate[name] for name in ("low", "value", "high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def _selfreward(*words: str) -> str:
    command = [sys.executable, "-m", "selfreward", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}")
    return done.stdout


def _read(path: Path) -> list[Row]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
