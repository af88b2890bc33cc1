"""What does self-rewarding buy over the classical ways? One round of each, from one M1.

    python benchmarks/classical.py DIR DATA [words of selfreward compare, such as --json]

DATA holds `ift.train.jsonl`, rows with a `prompt`, and `rankings.train.jsonl` and
`rankings.valid.jsonl`, rankings of people as docs/judge.md has them. Two reward models are trained
first, on answers to other prompts each: ``proxy`` is what the classical arms learn from, and
``gold`` measures all arms (as in Gao et al. 2022, arXiv 2210.10760), on the prompts of held-out
rankings. M1 is the instructed model as it comes. In arm ``self`` its own scores make the pairs of
DPO; ``human-pairs`` is DPO on what people ranked; in ``reward-dpo`` and ``best-of-4`` the proxy
ranks M1's own answers, for DPO and for SFT on the best; ``rlhf`` is RLOO against it, with as many
samples. What is made lies in DIR; the same command goes on.
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

PROXY_RANKINGS, GOLD_RANKINGS = 120, 240
"""The one that measures has seen more than the one that is learned from."""
PROMPTS, QUESTIONS, TOKENS = 32, 48, 128
LONGEST = 400
"""Characters of a prompt; longer ones leave a small model little to say."""
SHORT = 600
"""Characters of an answer in people's pairs, so that these are of the length of the model's."""
CONFIG = {
    "model": "bundled:smollm2-135m",
    "system_prompt": "Answer in two sentences at most.",  # else most answers are cut off
    "iterations": 1,
    "sft": None,
    "prompts": {"dataset": "prompts.jsonl", "count": PROMPTS},
    "responses": {"n": 4, "top_k": 64, "max_new_tokens": TOKENS},
    "judge": {"form": "expected", "template": "judge/expected.jinja"},
    "evaluation": {"ranked": None, "canaries": False, "questions": "questions.jsonl"},
    "dpo": STEPS,
}
CONTESTS = [
    {"model": "reward:gold", "form": "reward"},
    {"function": "selfreward.rewards.repetition:distinct"},
]
REWARD = {
    "test": "held_out.jsonl",
    "max_length": 384,
    "learning_rate": 2e-5,
    "num_train_epochs": 1,
}
PROXY = {"model": "reward:proxy", "form": "reward", "scale": [-20, 20]}
RLOO = {
    "learning_rate": 2e-5,
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
}
EXPERIMENT = {
    "base": "config.yaml",
    "common": {"evaluation.contests": CONTESTS},
    "rewards": {
        "proxy": {"data": "proxy.jsonl", "seed": 0, **REWARD},
        "gold": {"data": "gold.jsonl", "seed": 1, **REWARD},
    },
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
    words = [sys.executable, "-m", "selfreward", "compare", str(path), *sys.argv[3:]]
    sys.exit(subprocess.run(words, env={**os.environ, "SELFREWARD_RUNS": str(root)}).returncode)


def write_inputs(root: Path, data: Path) -> None:
    """Prompts, rankings of two halves, and the config; no prompt is in two of them."""
    root.mkdir(parents=True, exist_ok=True)
    ranked = rows(data / "rankings.train.jsonl")
    held_out = rows(data / "rankings.valid.jsonl")
    proxy, gold = ranked[::2][:PROXY_RANKINGS], ranked[1::2][:GOLD_RANKINGS]
    used = {row["prompt"] for row in (*held_out, *proxy, *gold)}
    asked = [r for r in rows(data / "ift.train.jsonl") if r["prompt"] not in used]
    write(root / "prompts.jsonl", [{"prompt": row["prompt"]} for row in asked[: 4 * PROMPTS]])
    write(root / "questions.jsonl", [{"prompt": r["prompt"]} for r in held_out[:QUESTIONS]])
    write(root / "proxy.jsonl", proxy)
    write(root / "ranked.jsonl", [row for row in ranked[::2] if is_short(row)])
    write(root / "gold.jsonl", gold)
    write(root / "held_out.jsonl", held_out)
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")


def is_short(row: dict[str, Any]) -> bool:
    """Whether a ranking's answers are about as long as the model's may be."""
    return all(len(each["text"]) <= SHORT for each in row["responses"])


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file whose prompts are short."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if len(row["prompt"]) <= LONGEST]


def write(path: Path, content: Sequence[dict[str, Any]]) -> None:
    """Write rows, one JSON line each."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")


if __name__ == "__main__":
    main()
