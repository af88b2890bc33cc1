"""A run up to its own preflight: all that it checks before it loads a model."""
from selfreward.inputs.judge_templates import run_templates
from selfreward.errors import StoppedError
from selfreward.workers import children
from selfreward.workers.checks import check_config
from tests.support.fuzz import Law, Said


class Preflight:
    """In place of the children: does of their first job what needs no model, then stops."""

    def __init__(self, run, store, tick) -> None:
        self.run = run

    def prepare(self) -> None:
        check_config(self.run.config, run_templates(self.run, self.run.config))
        raise StoppedError("nothing was wrong so far")

    def close(self) -> None:
        """Nothing is kept."""


def run(law: Law, words: list[str]) -> Said:
    law.patch.setattr(children, "Children", Preflight)
    return law.obey(["run", *words, "--name", "x"])
