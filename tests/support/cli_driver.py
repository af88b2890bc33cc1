"""The command line with scripted workers in place of child processes that load a model.

    python -m tests.support.cli_driver [selfreward's arguments]

SCRIPTED_MOOD chooses what the workers do: ``well``, ``forever`` (until a signal), ``mute`` (a judge
without verdicts), ``bug``, ``missing`` (the model is not found), ``diverges`` (each DPO).
SCRIPTED_DELAY_S is how long an answer takes at most, in seconds. SCRIPTED_CLOCK is ``frozen``, or
``jumps`` by up to a day back or forth whenever it is read.
"""

import os
import random
import time

from selfreward.cli import main as cli
from selfreward.errors import PreflightError, StoppedError
from selfreward.workers import children
from tests.support.loop_driver import ScriptedWorkers


class Workers(ScriptedWorkers):
    def __init__(self, run, store, tick) -> None:
        super().__init__(run, float(os.environ.get("SCRIPTED_DELAY_S", "0")))
        self.tick = tick

    def prepare(self) -> None:
        if os.environ.get("SCRIPTED_MOOD") == "missing":
            raise PreflightError("model: org/m is not in the hub cache")
        super().prepare()

    def train(self, iteration: int, stage: str = "train") -> None:
        if iteration and os.environ.get("SCRIPTED_MOOD") == "diverges":
            raise StoppedError("loss is nan at step 3")
        super().train(iteration, stage)

    def generate(self, iteration: int) -> None:
        mood = os.environ.get("SCRIPTED_MOOD", "well")
        while mood == "forever":
            self.tick()
            time.sleep(0.05)
        if mood == "bug":
            raise ZeroDivisionError("\x1b[31mred")
        super().generate(iteration)
        self.tick()


def set_clock(kind: str) -> None:
    """Let the time of day be wrong, in this process and for good."""
    began, draw = time.time(), random.Random(0)
    utc = time.gmtime

    def now() -> float:
        return began + (draw.uniform(-86400, 86400) if kind == "jumps" else 0)

    time.time = now  # type: ignore[assignment]
    time.gmtime = lambda at=None: utc(now() if at is None else at)  # type: ignore[assignment]


if __name__ == "__main__":
    children.Children = Workers  # type: ignore[misc,assignment]
    cli.main()
