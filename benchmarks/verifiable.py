"""Whether the loop learns what can be checked: the share of constraints that M1 to M4 keep.

    python benchmarks/verifiable.py DIR [words of selfreward compare, such as --json --plot FILE]

M1 is the instructed model as it comes. Prompts state a constraint on the form of the answer and
carry it as a column. 32 subjects are for training, 8 others are held out; the 8 constraints are the
same. In arm ``self`` the model's own
scores make the pairs; in arm ``jury`` a function sits beside it, which gives the share of the
constraints that an answer keeps (``selfreward.rewards.constraints:strict``). In both, that function
measures every model on the held-out prompts. Data, the experiment file and its runs lie in DIR;
edit the file's seeds, and say the same again, for more of them.
"""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import yaml

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
CONFIG = {
    "model": "bundled:smollm2-135m",
    "iterations": 3,
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
    },
}
EXPERIMENT = {
    "base": "config.yaml",
    "arms": {"self": {}, "jury": {"judge.jury": [{"function": STRICT}]}},
    "seeds": [1, 2, 3],
}


def compare(name: str, experiment: dict[str, Any]) -> None:
    """Write what is missing of an experiment in DIR, then compare its arms."""
    if sys.argv[1:2] in ([], ["-h"], ["--help"]):
        sys.exit(f"usage: python {sys.argv[0]} DIR [words of selfreward compare]")
    root = Path(sys.argv[1]).resolve()
    path = root / f"{name}.yaml"
    if not path.exists():
        write_inputs(root)
        path.write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    os.environ["SELFREWARD_RUNS"] = str(root)
    verb = [sys.executable, "-m", "selfreward", "compare", str(path), *sys.argv[2:]]
    sys.exit(subprocess.run(verb).returncode)


def write_inputs(root: Path) -> None:
    """The config of both arms, and the prompts with their constraints."""
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
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")


if __name__ == "__main__":
    compare("verifiable", EXPERIMENT)
