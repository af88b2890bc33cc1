"""What EFT data does for the judge: M1 after SFT on more and more human scores, against people.

    python benchmarks/eft.py DIR [--rows 480] [--most-characters 900] [--balance] [--limit 100]
        [--keep DIR] [--out FILE] [--set KEY=VALUE ...]

DIR holds human-ranked and human-scored answers: ``scored.train.jsonl`` with ``prompt``,
``response`` and ``score_0_5``, and ``rankings.valid.jsonl`` (see docs/judge.md). For each number in
``--rows`` (0: all) so many scored answers are drawn, as even over the scores as they allow, and M1
is made of them alone by the seed step of a run, in the ``expected`` form; ``--set`` goes to its
config. Then M0, and each M1, judge the rankings. ``--balance`` draws the answers of each length
third evenly over the scores, so that length tells nothing. With ``--keep`` a script that was cut
off goes on where it ended.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfreward.measures.reports import Estimate
from selfreward.verbs.layout import estimated

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
    "evaluation": {"ranked": None, "questions": None, "canaries": False},
}
M0 = "bundled:smollm2-135m"
_SHARES = ("accuracy", "prefers_longer")


def main() -> None:
    """Train and judge for each number of rows, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="key=value for the run")
    parser.add_argument("--rows", type=int, nargs="+", default=[480])
    parser.add_argument("--most-characters", type=int, default=900)
    parser.add_argument("--balance", action="store_true")
    parser.add_argument("--limit", type=int, default=100, help="rankings to judge")
    parser.add_argument("--keep", type=Path, help="keep the runs in this directory")
    parser.add_argument("--out", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    rows = short(read(arguments.data / "scored.train.jsonl"), arguments.most_characters)
    data = arguments.data / "rankings.valid.jsonl"
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        os.environ["SELFREWARD_RUNS"] = str(root)
        models: dict[int, str] = {0: M0}
        for count in arguments.rows:
            drawn = draw(rows, count or len(rows), arguments.balance)
            name = f"eft-{len(drawn)}{'-balanced' if arguments.balance else ''}"
            start = time.monotonic()
            models[len(drawn)] = train(root, name, drawn, *arguments.set)
            print(f"trained on {len(drawn)} rows in {time.monotonic() - start:.0f} s", flush=True)
        for count, model in models.items():
            report = judge(root, model, data, "--limit", str(arguments.limit))
            figures.append({"rows": count, **shares(report)})
            print(line(report), f"  {count} rows", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def short(rows: Sequence[Row], most_characters: int) -> list[Row]:
    """The answers that are quick to train on."""
    return [row for row in rows if len(row["prompt"]) + len(row["response"]) <= most_characters]


def draw(rows: Sequence[Row], count: int, balance: bool) -> list[Row]:
    """As many of each score as there are, by turns; with ``balance`` of each third of lengths."""
    lengths = sorted(len(row["response"]) for row in rows)
    borders = [lengths[len(lengths) // 3], lengths[2 * len(lengths) // 3]]
    cells: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in random.Random(0).sample(rows, len(rows)):
        third = sum(len(row["response"]) > border for border in borders) if balance else 0
        cells[third, round(row["score_0_5"])].append(row)
    drawn: list[Row] = []
    while len(drawn) < count and any(cells.values()):
        for _, cell in sorted(cells.items()):
            if cell and len(drawn) < count:
                row = cell.pop()
                score = row["score_0_5"]
                drawn.append({"prompt": row["prompt"], "response": row["response"], "score": score})
    return random.Random(1).sample(drawn, len(drawn))


def train(root: Path, name: str, rows: Sequence[Row], *words: str) -> str:
    """Make M1 by SFT on scored answers, or find it made; return its directory."""
    name = f"{name}-{_tag(rows, CONFIG, words)}"
    if (root / name).exists():
        _selfreward("resume", name)
        return str(root / name / "models" / "M1")
    config = root / "eft.yaml"
    config.write_text(json.dumps(CONFIG))  # JSON is YAML
    path = write(root / f"{name}.jsonl", rows)
    _selfreward("run", str(config), "--name", name, f"sft.eft={path}", *words)
    return str(root / name / "models" / "M1")


def judge(root: Path, model: str, data: Path, *words: str) -> Row:
    """Judge rankings in the ``expected`` form, or read what was kept of that."""
    kept = root / f"judged-{_tag(model, data.read_text(), words)}.json"
    if not kept.exists():
        words = ("--form", "expected", "--json", *words)
        kept.write_text(_selfreward("judge", model, "--data", str(data), *words))
    report: Row = json.loads(kept.read_text())
    return report


def shares(report: Row) -> Row:
    """What is kept of a report."""
    return {
        "counts": report["counts"],
        "judge": {part: report["judge"][part] for part in ("all", "matched")},
        "longest": {part: report["longest"][part] for part in ("all", "matched")},
        "seconds": report.get("seconds"),
    }


def line(report: Row) -> str:
    """Accuracy and the share of longer answers preferred, on all pairs and on matched ones."""
    parts = []
    for part in ("all", "matched"):
        said = [f"{name} {_percent(report['judge'][part][name])}" for name in _SHARES]
        longest = _percent(report["longest"][part]["accuracy"])
        parts.append(f"{part}: {', '.join(said)}, longer wins {longest}")
    seconds = report.get("seconds")
    took = f"; judged in {seconds['judge']:.0f} s" if seconds else ""
    return f"{'; '.join(parts)}{took}"


def read(path: Path) -> list[Row]:
    """Rows of a JSONL file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as JSONL; return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _tag(*made_from: Any) -> str:
    """Names what is kept by all that it was made from."""
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:8]


def _percent(estimate: Row) -> str:
    return estimated(Estimate(**estimate), ".1f", 100, "%")


def _selfreward(*words: str) -> str:
    command = [sys.executable, "-m", "selfreward", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
