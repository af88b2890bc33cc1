"""Whether a judge trained on human scores knows more than length: every ranking judged held out.

    python benchmarks/kfold.py DIR [--folds 2] [--rows 0 250 500] [--balance] [--matched]
        [--also FILE ...] [--keep DIR] [--out FILE]

DIR as in ``eft.py``, with ``rankings.*.jsonl`` and ``scored.*.jsonl``. The prompts are dealt to
folds; for each fold M1 is made by SFT on scored answers of the other folds, and judges the fold's
rankings. The judgments of all folds are pooled: one report over every ranking, with intervals over
prompts, for each number in ``--rows`` (0: M0, untrained). Each FILE of ``--also`` holds rankings of
another origin, which the models of the first fold judge. ``--matched`` judges only the rankings in
which people prefer one of two answers of about the same length: all pairs of that kind, for less
than half of the time. With ``--keep`` a script that was cut off goes on where it ended.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import eft
import msgspec

from selfreward.config import SeedSource
from selfreward.inputs.rankings import read_ranked
from selfreward.measures.agreement import LENGTH_RATIO, agreement
from selfreward.measures.sample import JudgedResponse
from selfreward.measures.statistics import spearman
from selfreward.stages.evaluate import pairs_of


def main() -> None:
    """Train and judge fold by fold, and print the pooled figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 250, 500])
    parser.add_argument("--most-characters", type=int, default=900)
    parser.add_argument("--balance", action="store_true")
    parser.add_argument("--matched", action="store_true")
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    parser.add_argument("--keep", type=Path, help="keep runs and judgments in this directory")
    parser.add_argument("--out", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        os.environ["SELFREWARD_RUNS"] = str(root)
        figures = [_measure(root, count, arguments) for count in arguments.rows]
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def _measure(root: Path, count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on so many rows and judge, fold by fold."""
    scored = eft.short(_read(arguments.data, "scored"), arguments.most_characters)
    rankings = _read(arguments.data, "rankings")
    figures: dict[str, Any] = {"rows": [], "length_correlation": []}  # of each fold's training
    figures |= {"balance": arguments.balance, "also": {}}
    pooled: list[JudgedResponse] = []
    for fold in range(arguments.folds):
        rows = [row for row in scored if _fold(row, arguments.folds) != fold]
        drawn = eft.draw(rows, count, arguments.balance)
        figures["rows"].append(len(drawn))  # fewer than asked for where there are no more
        figures["length_correlation"].append(_length_correlation(drawn))
        name = f"fold-{fold}-{len(drawn)}{'-balanced' if arguments.balance else ''}"
        model = eft.train(root, name, drawn) if drawn else eft.M0
        held_out = [row for row in rankings if _fold(row, arguments.folds) == fold]
        path = eft.write(root / f"held-out-{fold}.jsonl", held_out)
        report = _judge(root, model, path, arguments.matched)
        pooled += [JudgedResponse(**response) for response in report["responses"]]
        for other in arguments.also if fold == 0 else []:
            report = _judge(root, model, other, arguments.matched)
            figures["also"][other.name] = eft.shares(report)
    report = msgspec.to_builtins(agreement(pooled))
    said = [f"{r:.2f}" if r is not None else "none" for r in figures["length_correlation"]]
    print(
        f"{eft.line(report)}  {figures['rows']} rows, "
        f"Spearman of length and score {', '.join(said)}, all folds",
        flush=True,
    )
    return figures | {"pooled": eft.shares(report)}


def _length_correlation(rows: list[eft.Row]) -> float | None:
    return spearman([len(row["response"]) for row in rows], [row["score"] for row in rows])


def _judge(root: Path, model: str, path: Path, matched: bool) -> eft.Row:
    report = eft.judge(root, model, _matched(path, root) if matched else path)
    print(eft.line(report), f"  {model}, {path.name}", flush=True)
    return report


def _matched(path: Path, root: Path) -> Path:
    """Write the rankings with a pair of about the same length to another file."""
    rows = []
    for ranking in read_ranked(SeedSource(path=str(path))).rankings:
        lengths = [sorted((len(one), len(other))) for _, one, other in pairs_of([ranking])]
        if any(longer <= LENGTH_RATIO * shorter for shorter, longer in lengths):
            answers = [{"text": a.text, "rank": -a.preference} for a in ranking.responses]
            rows.append({"prompt": ranking.prompt, "responses": answers})
    return eft.write(root / f"matched-{path.name}", rows)


def _fold(row: eft.Row, folds: int) -> int:
    return int(hashlib.sha256(row["prompt"].encode()).hexdigest(), 16) % folds


def _read(directory: Path, kind: str) -> list[eft.Row]:
    paths = sorted(directory.glob(f"{kind}.*.jsonl"))
    if not paths:
        sys.exit(f"{directory}: holds no {kind}.*.jsonl; benchmarks/eft.py says what they hold")
    return [row for path in paths for row in eft.read(path)]


if __name__ == "__main__":
    main()
