"""Comparing an iteration's responses where scores do not tell them apart."""

from collections.abc import Sequence
from functools import partial

from selfreward.engines.sessions import Session
from selfreward.inputs.judge_templates import run_template
from selfreward.makers.base import Ask
from selfreward.records import Comparison, Judgment, Prompt, Record, Response
from selfreward.stages.comparisons import compare_responses
from selfreward.stages.pairs import tied_responses
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker


class ComparisonMaker:
    """Has the first judge compare responses that tie, each two in both orders.

    Scores need every verdict, so this comes after all judges are done.
    """

    stage = "comparisons"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        self._config, self._session = run.config, session
        self._template = run_template(run, "compare")
        self._prompts = {prompt.attempt: prompt for prompt in store.records(Prompt, iteration)}
        self._tied = tied_responses(
            store.records(Response, iteration),
            store.records(Judgment, iteration),
            run.config.pairs,
            run.config.judge.weights,
        )
        self.records = store.records(Comparison, iteration)
        self.tracker = Tracker(store, iteration, self.stage, 2 * len(self._tied))

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One per two responses, all of them the first time."""
        tied, self._tied = self._tied, []
        known = {(c.attempt, frozenset((c.first, c.second))) for c in self.records}
        return [
            partial(self._compare, a, b)
            for a, b in tied
            if (a.attempt, frozenset((a.sample, b.sample))) not in known
        ]

    async def _compare(self, a: Response, b: Response) -> Sequence[Record]:
        return await compare_responses(
            self._session.engine, self._session.chat, self._template, self._prompts[a.attempt],
            a, b, self._config.judge, run_seed=self._config.seed,
        )  # fmt: skip

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        self.records += [record for record in new if isinstance(record, Comparison)]
        self.tracker.advance(len(self.records))

    def check(self) -> None:
        """What is still tied makes no pair, and says so."""
