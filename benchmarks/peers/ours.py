"""Contender: ``selfreward run`` of one iteration, as any user starts it.

The driver writes the config, measures the command, and asks the run's records afterwards, which is
not measured. No seed step, no evaluation, one vote, prompts from a file, and stages one after
another (``engine.staged``), so that each has a time of its own.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.peers.work import (
    BATCHES_A_STEP,
    BETA,
    LEARNING_RATE,
    PAIRS_A_BATCH,
    SAMPLING,
    Report,
    Work,
)

NAME = "race"
_STAGES = {"sample": "responses", "judge": "judgments", "train": "train"}
_LOADS = {"responses": 1, "train": 1}
"""By the stage that reads the weights: the engine judges with what it sampled with, and the
trainer has them in a process of its own."""
_SEED = "Which tree loses its needles in winter?"
"""A demonstration that no prompt repeats; nothing is shown it, as all prompts are given."""


def config(work: Work, form: str, engine: dict[str, Any]) -> dict[str, Any]:
    """The config of the run; the files that it names are written to ``scratch``."""
    scratch = Path(work.scratch)
    for name, prompts in (("prompts", work.prompts), ("seeds", [_SEED])):
        lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
        (scratch / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    template = scratch / f"{form}.jinja"
    template.write_text(work.templates[form])
    return {
        "model": work.model,
        "iterations": 1,
        "seed": work.seed,
        "sft": None,
        "engine": {"staged": True, **engine},
        "prompts": {
            "dataset": str(scratch / "prompts.jsonl"), "count": len(work.prompts),
            "seeds": str(scratch / "seeds.jsonl"),
            "keywords": [], "min_words": 1, "rouge_l_max": 1.0, "overlap_words": None,
        },
        "responses": {"n": work.responses, "max_new_tokens": work.tokens, **SAMPLING},
        "judge": {
            "form": form, "template": str(template), "votes": 1, "truncated": True,
            "min_parse_rate": 0, "max_new_tokens": work.judge_tokens, **SAMPLING,
        },
        "dpo": {
            "beta": BETA, "learning_rate": LEARNING_RATE, "num_train_epochs": 1,
            "per_device_train_batch_size": PAIRS_A_BATCH,
            "gradient_accumulation_steps": BATCHES_A_STEP,
        },
        "evaluation": {"ranked": None, "canaries": False, "questions": None, "contests": []},
    }  # fmt: skip


def command(python: Path, work: Work, form: str, engine: dict[str, Any]) -> list[str]:
    """What starts the run; JSON is YAML."""
    path = Path(work.scratch) / "race.yaml"
    path.write_text(json.dumps(config(work, form, engine), indent=1))
    return [str(python), "-m", "selfreward", "run", str(path), "--name", NAME]


def report(python: Path, environment: dict[str, str]) -> Report | None:
    """What the records say; None where the run did not come to its pairs."""
    status, scores = (_asked(python, verb, environment) for verb in ("status", "scores"))
    if not status or not scores or not scores["iterations"]:
        return None
    done = {row["stage"] for row in status["stages"] if row["state"] == "finished"}
    if "pairs" not in done:
        return None
    return read(status, scores["iterations"][0], done)


def read(status: dict[str, Any], found: dict[str, Any], done: set[str]) -> Report:
    """The report of a run that came to its pairs, from what the two verbs say of it."""
    seconds = {row["stage"]: row["seconds"] for row in status["stages"]}
    return Report(
        seconds={name: seconds[stage] for name, stage in _STAGES.items()},
        sampled_tokens=found["responses"]["tokens"],
        judge_tokens=found["judgments"]["tokens"],
        answers=found["responses"]["n"],
        judged=found["judgments"]["n"],
        parsed=found["judgments"]["parsed"],
        pairs=found["pairs"]["n"],
        loads=sum(loads for stage, loads in _LOADS.items() if stage in done),
        note="" if found["pairs"]["n"] else "no pairs: nothing trained",
    )


def _asked(python: Path, verb: str, environment: dict[str, str]) -> Any:
    done = subprocess.run(
        [python, "-m", "selfreward", verb, NAME, "--json"],
        env=environment,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None
