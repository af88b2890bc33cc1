"""Whether a judge trained on human scores knows more than length: every ranking judged held out.

    python benchmarks/kfold.py DIR [--folds 5] [--rows 480] [--balance] [--also FILE ...]
        [--out FILE]

DIR as in ``eft.py``, with ``rankings.*.jsonl`` and ``scored.*.jsonl``. The prompts are dealt to
folds; for each fold M1 is made by SFT on scored answers of the other folds, and judges the fold's
rankings. The judgments of all folds are pooled: one report over every ranking, with intervals over
prompts. Each FILE of ``--also`` holds rankings of another origin, which the model of the first fold
judges.
"""

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import eft

from selfreward.evaluation.agreement import agreement
from selfreward.evaluation.sample import JudgedResponse


def main() -> None:
    """Train and judge fold by fold, and print the pooled figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--most-characters", type=int, default=900)
    parser.add_argument("--balance", action="store_true")
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    scored = eft.short(_read(arguments.data, "scored"), arguments.most_characters)
    rankings = _read(arguments.data, "rankings")
    pooled: list[JudgedResponse] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        os.environ["SELFREWARD_RUNS"] = scratch
        for fold in range(arguments.folds):
            rows = [row for row in scored if _fold(row, arguments.folds) != fold]
            drawn = eft.draw(rows, arguments.rows, arguments.balance)
            model = eft.train(root, f"fold-{fold}", drawn)
            held_out = [row for row in rankings if _fold(row, arguments.folds) == fold]
            for origin in [None, *(arguments.also if fold == 0 else [])]:
                path = origin or eft.write(root / f"held-out-{fold}.jsonl", held_out)
                report = eft.judge(model, path)
                print(eft.line(len(drawn), report), f"  {path.name}", flush=True)
                if origin is None:
                    pooled += [JudgedResponse(**response) for response in report["responses"]]
                else:
                    figures[origin.name] = eft.shares(report)
    figures["pooled"] = eft.shares(report := agreement(pooled))
    print("pooled", eft.line(arguments.rows, report))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def _fold(row: eft.Row, folds: int) -> int:
    return int(hashlib.sha256(row["prompt"].encode()).hexdigest(), 16) % folds


def _read(directory: Path, kind: str) -> list[eft.Row]:
    return [row for path in sorted(directory.glob(f"{kind}.*.jsonl")) for row in eft.read(path)]


if __name__ == "__main__":
    main()
