"""Trains a tiny model by the processes of a launcher, and prints what comes of it.

    python -m tests.support.host_training SETTINGS.json

Each line is a JSON object: a step, the figures of a step, or the error at the end.
"""

import json
import sys
from pathlib import Path
from typing import Any

from selfreward.config import LaunchConfig
from selfreward.errors import SelfRewardError
from selfreward.training import distributed
from selfreward.training.base import Training
from tests.support.training import dpo_rows, sft_rows


def say(**told: Any) -> None:
    print(json.dumps(told), flush=True)


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_bytes())
    root, method = Path(settings["root"]), settings["method"]
    training = Training(
        method,
        Path(settings["model"]),
        root / "M1",
        root / "checkpoints" / "M1",
        settings["options"],
        None,
        0,
    )
    rows: list[Any] = sft_rows(16) if method == "sft" else dpo_rows(16)
    distributed._BEGIN_S = settings["begin_s"]
    try:
        distributed.train_processes(
            LaunchConfig(**settings["launch"]),
            root / "train.log",
            training,
            rows,
            on_log=lambda step, figures: say(log=[step, dict(figures)]),
            on_step=lambda done, total: say(step=[done, total]),
        )
    except SelfRewardError as error:
        say(error=error.message, hint=error.hint)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
