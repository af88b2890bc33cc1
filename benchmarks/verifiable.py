"""Whether the loop learns what can be checked: the share of constraints that M1 to M4 keep.

    python benchmarks/verifiable.py DIR [--seeds 1 2 3] [--arms self jury] [--set KEY=VALUE ...]
        [--out FILE]

M1 is the instructed model as it comes. Prompts state a constraint on the form of the answer and
carry it as a column. 32 subjects are for training, 8 others are held out; the 8 constraints are the
same. In arm ``self`` the model's own
scores make the pairs; in arm ``jury`` a function sits beside it, which gives the share of the
constraints that an answer keeps (``selfreward.rewards.constraints:strict``). In both, that function
measures every model on the held-out prompts. Runs lie in DIR, and go on where they were cut off.

Printed: the share by model for each run, and for each arm the change from M1 to the last model,
with a 95% interval by bootstrap over the held-out prompts, the seeds of a prompt kept together.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import yaml

from selfreward.measures.agreement import RESAMPLES
from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.reports import Estimate, Verified
from selfreward.storage.directory import Run
from selfreward.verbs.layout import percent

STRICT = "selfreward.rewards.constraints:strict"
CONSTRAINTS = {
    "Answer in one sentence.": {"max_sentences": 1},
    "Use at most 15 words.": {"max_words": 15},
    "Use at least 40 words.": {"min_words": 40},
    "Answer with a list of three bullet points.": {"format": "bullets", "items": 3},
    "Write all letters in lower case.": {"case": "lower"},
    "Begin with the words: In short": {"starts_with": "In short"},
    "End with the words: That is all.": {"ends_with": "That is all."},
    "Do not use the word 'the'.": {"no_keywords": ["the"]},
}
SUBJECTS = """
    what a bridge is for|how rain forms|why people keep dogs|how to boil an egg|what a library
    offers|why bread rises|how to pack a suitcase|what makes a good teacher|how a bicycle stays
    upright|why leaves change color|how to greet a new neighbor|what a compass shows|how to clean
    a window|why we sleep|what an orchestra does|how to plan a picnic|why salt melts ice|how glass
    is made|what a mayor does|how to train for a long run|why the sea is salty|how to write a
    thank-you note|what a budget is|how seeds travel|why knives need sharpening|how to calm a crying
    child|what a lighthouse is for|how to save electricity|why cities have parks|how cheese is made|
    what a translator does|how to learn a song by heart|why clocks need to agree|how to choose
    running shoes|what a museum keeps|how to mend a torn page|why birds sing|how to share a
    kitchen|what a harbor is|how to ask for help
"""
HELD_OUT = 8
"""The last subjects."""
MODELS = 4
CONFIG = {
    "model": "bundled:smollm2-135m",
    "iterations": MODELS - 1,
    "sft": None,
    # the constraints are worded alike on purpose, so nothing is dropped for eight words in a row
    "prompts": {"dataset": "train.jsonl", "count": 32, "overlap_words": None},
    "responses": {"n": 4, "top_k": 64, "max_new_tokens": 128},
    "judge": {"form": "expected", "template": "judge/expected.jinja"},
    "evaluation": {
        "ranked": None,
        "canaries": False,
        "questions": "held_out.jsonl",
        "contests": [{"function": STRICT}],
    },
    "best": {"by": "verifiable"},
    "dpo": {
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, 0.2],
        "learning_rate": 3e-5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "save_steps": 0.5,
    },
}
ARMS = {"self": [], "jury": [f"judge.jury=[{{function: '{STRICT}'}}]"]}


def main() -> None:
    """Run each arm with each seed, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--set", nargs="*", default=[], help="key=value for the runs")
    parser.add_argument("--out", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    root: Path = arguments.directory.resolve()
    write_inputs(root)
    os.environ["SELFREWARD_RUNS"] = str(root)
    shares: dict[str, list[np.ndarray]] = {arm: [] for arm in arguments.arms}
    for seed, arm in product(arguments.seeds, arguments.arms):
        shares[arm].append(made(root, arm, seed, arguments.set))
    figures = {arm: figures_of(shares[arm], arguments.seeds) for arm in arguments.arms}
    print(table(figures))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def write_inputs(root: Path) -> None:
    """The config, and the prompts with their constraints."""
    root.mkdir(parents=True, exist_ok=True)
    subjects = [" ".join(subject.split()) for subject in SUBJECTS.split("|")]
    parts = {"train": subjects[:-HELD_OUT], "held_out": subjects[-HELD_OUT:]}
    for name, part in parts.items():
        rows = [
            {"prompt": f"Explain {subject}. {words}", "kind": words, "constraints": kept}
            for subject, (words, kept) in product(part, CONSTRAINTS.items())
        ]
        lines = (json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (root / "verifiable.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")


def made(root: Path, arm: str, seed: int, words: Sequence[str]) -> np.ndarray:
    """Run one arm, or find it run.

    Returns:
        What each model's answers keep of their constraints, 0 to 1; shape (models, questions).
    """
    name = f"{arm}-{seed}"
    chosen = [f"seed={seed}", *ARMS[arm], *words]
    verb = ["resume", name]
    if not (root / name).exists():
        verb = ["run", str(root / "verifiable.yaml"), "--name", name, *chosen]
    subprocess.run([sys.executable, "-m", "selfreward", *verb], check=True, stdout=sys.stderr)
    run = Run(root / name)
    with run.store() as store:
        found = [store.report(t, "verified", Verified) for t in range(run.config.iterations + 1)]
    return np.array([verified.functions[0].values for verified in found if verified], float)


def figures_of(shares: Sequence[np.ndarray], seeds: Sequence[int]) -> dict[str, object]:
    """Means by model, for each seed and over all, and the change from the first to the last."""
    every = np.stack(shares)
    means = every.mean(axis=0)
    resampled = Bootstrap(means.shape[1], RESAMPLES, seed=0)
    ones = np.ones(means.shape[1])
    by_model = [resampled.share((model, ones)) for model in means]
    gain = resampled.difference((means[-1], ones), (means[0], ones))
    return {
        "seeds": {
            str(seed): run.mean(axis=1).tolist() for seed, run in zip(seeds, every, strict=True)
        },
        "all": [[one.value, one.low, one.high] for one in by_model],
        "gain": [gain.value, gain.low, gain.high],
    }


def table(figures: dict[str, dict]) -> str:
    """Markdown: a line for each run, and one for each arm."""
    models = " | ".join(f"M{t}" for t in range(1, MODELS + 1))
    lines = [f"| arm | seed | {models} | change |", "|---|---|" + "---|" * (MODELS + 1)]
    for arm, found in figures.items():
        for seed, means in found["seeds"].items():
            cells = " | ".join(f"{100 * mean:.1f}" for mean in means)
            lines.append(f"| {arm} | {seed} | {cells} | {100 * (means[-1] - means[0]):+.1f} |")
        cells = " | ".join(percent(Estimate(*mean, n=0)) for mean in found["all"])
        value, low, high = (100 * part for part in found["gain"])
        lines.append(f"| **{arm}** | all | {cells} | {value:+.1f} [{low:+.1f}, {high:+.1f}] |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
