"""What does self-rewarding buy over the classical ways? One round of each, from one M1.

    python benchmarks/classical.py DIR DATA [words of selfreward compare, such as --json]

DATA holds `ift.train.jsonl`, `rankings.train.jsonl` and `rankings.valid.jsonl`, as `selfreward data
oasst` writes them. Two reward models are trained first, each on answers that other people ranked:
``proxy`` is what the classical arms learn from, and ``gold`` measures all arms (as in Gao et al.
2022, arXiv 2210.10760), on the prompts of held-out rankings. M1 is the instructed model as it
comes. In arm ``self`` its own scores make the pairs of DPO; ``human-pairs`` is DPO on what people
ranked; in ``reward-dpo`` and ``best-of-4`` the proxy ranks M1's own answers, for DPO and for SFT on
the best; ``rlhf`` is RLOO against it, with as many samples. Data, reward models, the experiment
file and its runs lie in DIR; the same command goes on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from methods import BEST, STEPS

MODEL = "bundled:smollm2-135m"
RANKINGS = 120
"""Of each reward model."""
PROMPTS, QUESTIONS = 48, 60
LONGEST = 400
"""Characters of a prompt; longer ones leave a small model little to say."""
PROXY = {"model": "./proxy", "form": "reward", "scale": [-20, 20]}
CONFIG = {
    "model": MODEL,
    "iterations": 1,
    "sft": None,
    "prompts": {"dataset": "prompts.jsonl", "count": PROMPTS},
    "responses": {"n": 4, "top_k": 64, "max_new_tokens": 128},
    "judge": {"form": "expected", "template": "judge/expected.jinja"},
    "evaluation": {
        "ranked": None,
        "canaries": False,
        "questions": "questions.jsonl",
        "contests": [
            {"model": "./gold", "form": "reward"},
            {"function": "selfreward.rewards.repetition:distinct"},
        ],
    },
    "dpo": STEPS,
}
RLOO = {
    "learning_rate": 2e-5,
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
}
EXPERIMENT = {
    "base": "config.yaml",
    "arms": {
        "self": {},
        "human-pairs": {"train.preferences": {"path": "ranked.jsonl", "limit": PROMPTS}},
        "reward-dpo": {"judge": PROXY},
        "best-of-4": {"judge": PROXY, **BEST},
        "rlhf": {"judge": PROXY, "train.method": "rloo", "rloo": RLOO, "responses.n": 2},
    },
    "seeds": [1, 2, 3],
}


def main() -> None:
    """Make what is missing in DIR, then compare."""
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python {sys.argv[0]} DIR DATA [words of selfreward compare]")
    root, data = (Path(word).resolve() for word in sys.argv[1:3])
    path = root / "classical.yaml"
    if not path.exists():
        write_inputs(root, data)
        path.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False), encoding="utf-8")
    os.environ["SELFREWARD_RUNS"] = str(root)
    for seed, name in enumerate(("proxy", "gold")):
        if (root / name).exists():
            continue
        told = selfreward(
            "train-reward", MODEL, "--data", str(root / f"{name}.jsonl"), "--out",
            str(root / name), "--test", str(root / "held_out.jsonl"), "--max-length", "384",
            "--seed", str(seed), "--json", "learning_rate=2e-5", "num_train_epochs=1",
        )  # fmt: skip
        (root / f"{name}.json").write_text(told, encoding="utf-8")
    selfreward("compare", str(path), *sys.argv[3:], shown=True)


def selfreward(*words: str, shown: bool = False) -> str:
    """Run a verb; its output, unless it is shown."""
    out = None if shown else subprocess.PIPE
    done = subprocess.run([sys.executable, "-m", "selfreward", *words], stdout=out, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def write_inputs(root: Path, data: Path) -> None:
    """Prompts, rankings of two halves, and the config; no prompt is in two of them."""
    root.mkdir(parents=True, exist_ok=True)
    ranked = rows(data / "rankings.train.jsonl")
    held_out = rows(data / "rankings.valid.jsonl")
    halves = ranked[::2][:RANKINGS], ranked[1::2][:RANKINGS]
    used = {row["prompt"] for row in (*held_out, *halves[0], *halves[1])}
    asked = [r for r in rows(data / "ift.train.jsonl") if r["prompt"] not in used]
    write(root / "prompts.jsonl", [{"prompt": row["prompt"]} for row in asked[: 4 * PROMPTS]])
    write(root / "questions.jsonl", [{"prompt": r["prompt"]} for r in held_out[:QUESTIONS]])
    write(root / "proxy.jsonl", halves[0])
    write(root / "ranked.jsonl", halves[0])
    write(root / "gold.jsonl", halves[1])
    write(root / "held_out.jsonl", held_out)
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file whose prompts are short."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if len(row["prompt"]) <= LONGEST]


def write(path: Path, content: Sequence[dict[str, Any]]) -> None:
    """Write rows, one JSON line each."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")


if __name__ == "__main__":
    main()
