"""What ``sft.eft_weight`` does: the seed step of quickstart, by the weight of its EFT rows.

    python benchmarks/eft_weight.py DIR [--weights 1 5 20] [--limit 60] [--keep DIR]
        [--set KEY=VALUE ...]

DIR holds ``rankings.valid.jsonl`` (docs/judge.md) and ``ift.valid.jsonl``. For each weight M1 is
made by the seed step alone. Printed: the share of the loss that the EFT rows had, median over the
steps that have rows of both kinds; how often M1 orders two answers as people do, a tie half a hit;
and its loss on answers that it has not seen, in nats a token. ``--set`` goes to the runs' config.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median

import eft

from selfreward.engines.chat import Chat
from selfreward.inputs import models
from selfreward.storage.directory import Run

QUICK = [
    "iterations=0",
    "evaluation.ranked=null",
    "evaluation.questions=null",
    "evaluation.canaries=false",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 5.0, 20.0])
    parser.add_argument("--limit", type=int, default=60, help="rankings, and answers")
    parser.add_argument("--keep", type=Path, help="keep the runs in this directory")
    parser.add_argument("--set", nargs="*", default=[], help="key=value for the runs")
    arguments = parser.parse_args()
    held_out = eft.short(eft.read(arguments.data / "ift.valid.jsonl"), 900)[: arguments.limit]
    print("| `sft.eft_weight` | EFT share of the loss | pairs as people order them | loss on IFT |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        os.environ["SELFREWARD_RUNS"] = str(root)
        for weight in (None, *arguments.weights):
            model, share = eft.M0, "-"
            if weight is not None:
                run = train(root, weight, arguments.set)
                model, share = str(run.model_directory(1)), f"{eft_share(run):.1%}"
            data = arguments.data / "rankings.valid.jsonl"
            report = eft.judge(root, model, data, "--limit", str(arguments.limit))
            ordered = eft._percent(report["judge"]["all"]["accuracy"])
            loss = mean_loss(models.resolve(model).path, held_out)
            name = "M0, untrained" if weight is None else f"{weight:g}"
            print(f"| {name} | {share} | {ordered} | {loss:.3f} |", flush=True)


def train(root: Path, weight: float, words: list[str]) -> Run:
    """Make M1, or find it made."""
    name = f"weight-{weight:g}-{eft._tag(words)}"
    if not (root / name).exists():
        chosen = [*QUICK, f"sft.eft_weight={weight:g}", *words]
        eft._selfreward("run", "quickstart", "--name", name, *chosen)
    else:
        eft._selfreward("resume", name)
    return Run(root / name)


def eft_share(run: Run) -> float:
    """Of the loss of a step that has rows of both kinds, median over these."""
    with run.store() as store:
        shares = [step["eft_loss_share"] for step in store.train_log(0)]
    return median(share for share in shares if 0 < share < 1)


def mean_loss(model: Path, rows: list[eft.Row]) -> float:
    """Nats a token of the answers, the end of the turn among them."""
    import torch
    from transformers import AutoModelForCausalLM

    chat = Chat(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    nats, tokens = 0.0, 0
    for row in rows:
        prompt, completion = chat.continuation(row["prompt"], "", row["response"])
        ids = torch.tensor([[*prompt, *completion]])
        labels = torch.tensor([[-100] * len(prompt) + [*completion]])
        with torch.no_grad():
            nats += float(policy(input_ids=ids, labels=labels).loss) * len(completion)
        tokens += len(completion)
    return nats / tokens


if __name__ == "__main__":
    main()
