"""A run up to its own preflight: all that it checks before it looks for its model."""

from collections.abc import Callable

from selfreward.errors import StoppedError
from selfreward.inputs.judge_templates import run_templates
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.workers.checks import check_config

REACHED = "nothing was wrong before the model is loaded"


class Preflight:
    """In place of the children: does of their first job what needs no model, then stops."""

    def __init__(self, run: Run, store: Store, tick: Callable[[], None]) -> None:
        self.run = run

    def prepare(self) -> None:
        check_config(self.run.config, run_templates(self.run, self.run.config))
        raise StoppedError(REACHED)

    def close(self) -> None:
        """Nothing is kept."""
