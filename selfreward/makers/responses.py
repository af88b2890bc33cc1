"""Answering an iteration's prompts, by the policy and by M1."""

from collections.abc import Sequence
from functools import partial

from selfreward.engines.sessions import Session
from selfreward.makers.base import Ask, rate
from selfreward.records import Prompt, Record, Response
from selfreward.stages.responses import sample_responses
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker


class ResponseMaker:
    """Answers each accepted prompt N times.

    Args:
        anchors: Whether the session is M1, which gives the anchors: a stage of its own.
    """

    def __init__(
        self, run: Run, store: Store, iteration: int, session: Session, anchors: bool = False
    ) -> None:
        self._settings, self._run_seed = run.config.responses, run.config.seed
        self._session, self._anchors = session, anchors
        self.stage = "anchors" if anchors else "responses"
        self.records = [r for r in store.records(Response, iteration) if self._is_mine(r)]
        self._answered = {response.attempt for response in self.records}
        n = self._settings.anchors if anchors else self._settings.n
        self.tracker = Tracker(store, iteration, self.stage, run.config.prompts.count * n)
        self._tokens = 0

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One request per accepted prompt."""
        return [
            partial(
                sample_responses, self._session.engine, self._session.chat, prompt,
                self._settings, run_seed=self._run_seed, anchors=self._anchors,
            )
            for prompt in new
            if isinstance(prompt, Prompt)
            and prompt.dropped is None
            and prompt.attempt not in self._answered
        ]  # fmt: skip

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        responses = [r for r in new if isinstance(r, Response) and self._is_mine(r)]
        self.records += responses
        self._tokens += sum(response.num_tokens for response in responses)
        self.tracker.advance(len(self.records), note=rate(self._tokens, self.tracker))

    def check(self) -> None:
        """Whether there are answers enough shows when pairs are built of them."""

    def _is_mine(self, response: Response) -> bool:
        return response.is_anchor == self._anchors
