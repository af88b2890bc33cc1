"""Judging an iteration's responses."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from selfreward.engines.sessions import Session
from selfreward.errors import SelfRewardError, StoppedError
from selfreward.inputs.judge_templates import run_template
from selfreward.makers.base import Ask
from selfreward.makers.criteria import CriteriaWait
from selfreward.records import Criterion, Judgment, Prompt, Record, Response, judge_key, judge_stage
from selfreward.stages.criteria import write_criteria
from selfreward.stages.judgments import judge_response, no_verdict
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker

_LOG = logging.getLogger(__name__)
_R = TypeVar("_R", Judgment, Criterion)
_VOTES_TO_TELL = 48
"""After so many votes without a single verdict the judge will not start to give one."""

FAILURES = (SelfRewardError, OSError, RuntimeError, ValueError)
"""What engines, and the libraries below them, raise when they cannot go on."""


class JudgmentMaker:
    """Has each answer judged by K votes of one judge.

    In the ``criteria`` form answers wait until the criteria of their prompt are committed.

    Args:
        session: The judge; for one of the jury also the failure for which it cannot be asked.
        juror: Which of ``judge.jurors``. The first one has to work. Another one that fails is
            recorded and gives no verdicts from then on; the rest go on.
    """

    def __init__(
        self,
        run: Run,
        store: Store,
        iteration: int,
        session: Session | BaseException,
        juror: int = 0,
    ) -> None:
        self._run, self._store, self._iteration = run, store, iteration
        self._juror, self.stage = juror, judge_stage(juror)
        self._session: Session | None = None
        self._failure = ""
        self._settings = run.config.judge.jurors[juror]
        self._template = run_template(run, "judge", juror)
        if self._settings.form == "criteria":
            self._criteria_template = run_template(run, "criteria", juror)
        self._prompts: dict[int, Prompt] = {}
        self.records = [j for j in store.records(Judgment, iteration) if j.juror == juror]
        self._judged = {(judgment.attempt, judgment.sample) for judgment in self.records}
        self._scores = [j.score for j in self.records if j.score is not None]
        self._criteria = CriteriaWait(
            self._own_criteria(store.records(Criterion, iteration)),
            {attempt for attempt, _ in self._judged},
        )
        self._total = run.config.prompts.count * self._settings.num_votes
        self._total *= run.config.responses.per_prompt(iteration)
        self._total -= self._votes_less(self.records)
        self.tracker = Tracker(store, iteration, self.stage, self._total)
        if isinstance(session, Session):
            self._session = session
        else:
            self._note_failure(session)

    @property
    def has_failed(self) -> bool:
        """Whether it is one of the jury and cannot be asked any more."""
        return bool(self._failure)

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One per answer that is fit to be judged, or first one for the criteria of its prompt."""
        self._prompts |= {p.attempt: p for p in new if isinstance(p, Prompt)}
        responses = [record for record in new if isinstance(record, Response)]
        unfit = sum(response.dropped is not None for response in responses)
        self._total -= unfit * self._settings.num_votes
        fit = [
            response
            for response in responses
            if response.dropped is None and (response.attempt, response.sample) not in self._judged
        ]
        unknown: list[int] = []
        if self._settings.form == "criteria":
            fit, unknown = self._criteria.admit(fit, self._own_criteria(new))
        asks: list[Ask] = [partial(self._write_criteria, self._prompts[a]) for a in unknown]
        return asks + [partial(self._judge, self._prompts[r.attempt], r) for r in fit]

    async def _judge(self, prompt: Prompt, response: Response) -> Sequence[Record]:
        ask = partial(judge_response, criteria=self._criteria.of(prompt.attempt))
        votes = await self._ask(ask, self._template, prompt, response)
        if votes is None:
            return no_verdict(response, self._settings, "juror failed", self._juror)
        return votes

    async def _write_criteria(self, prompt: Prompt) -> Sequence[Record]:
        """The criteria of a prompt; if there are none, votes without a score instead."""
        criteria = await self._ask(write_criteria, self._criteria_template, prompt)
        if criteria:
            return criteria
        reason = "juror failed" if criteria is None else "no criteria"
        return [
            vote
            for response in self._criteria.give_up(prompt.attempt)
            for vote in no_verdict(response, self._settings, reason, self._juror)
        ]

    async def _ask(self, ask: Callable[..., Awaitable[list[_R]]], *what: Any) -> list[_R] | None:
        """What the judge answers; None if it is one of the jury and has failed."""
        if self._session is None:
            return None
        engine, chat = self._session.engine, self._session.chat
        seed = self._run.config.seed
        try:
            return await ask(engine, chat, *what, self._settings, run_seed=seed, juror=self._juror)
        except FAILURES as error:
            if self._juror == 0:
                raise
            self._note_failure(error)
            return None

    def _own_criteria(self, records: Sequence[Record]) -> list[Criterion]:
        return [c for c in records if isinstance(c, Criterion) and c.juror == self._juror]

    def _votes_less(self, judgments: Sequence[Judgment]) -> int:
        """By how many the votes on some responses are fewer than there may be."""
        responses = {(judgment.attempt, judgment.sample) for judgment in judgments}
        return len(responses) * self._settings.num_votes - len(judgments)

    def _note_failure(self, error: BaseException) -> None:
        """Ask no more; requests in flight fail alike, so the first one is recorded."""
        if self._failure:
            return
        _LOG.warning("%s of iteration %d fails", self.stage, self._iteration, exc_info=error)
        self._session, self._failure = None, f"{type(error).__name__}: {error}"
        self._note_event(self._failure)

    def _note_event(self, text: str) -> None:
        where = f"iteration {self._iteration}, {judge_key(self._juror)}"
        self._store.add_event("warning", f"{where} ({self._settings.model}): {text}")

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        judgments = [j for j in new if isinstance(j, Judgment) and j.juror == self._juror]
        self.records += judgments
        self._total -= self._votes_less(judgments)
        self._scores += [j.score for j in judgments if j.score is not None]
        note = "no verdict yet"
        if self._failure:
            note = f"failed: {self._failure}"
        elif self._scores:
            mean = sum(self._scores) / len(self._scores)
            note = f"mean score {mean:.2f}, {len(self._scores)} verdicts"
        elif self._juror == 0 and len(self.records) >= _VOTES_TO_TELL:
            self.check()
        self.tracker.advance(len(self.records), self._total, note)

    def check(self) -> None:
        """See ``Maker``."""
        least, parsed = self._run.config.judge.min_parse_rate, len(self._scores)
        if self._failure or not self.records or parsed >= least * len(self.records):
            return
        reasons = Counter(j.reason for j in self.records if j.reason is not None)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        found = (
            f"{parsed} of {len(self.records)} judgments have a verdict, below "
            f"judge.min_parse_rate {least:g}; the others: {why}"
        )
        if self._juror > 0:
            self._note_event(found)
            return
        raise StoppedError(
            f"iteration {self._iteration}: {found}",
            f"Read some with `selfreward show {self._run.name} --failed`. More EFT data, a larger "
            "judge.max_new_tokens or judge.form=expected helps; resume with "
            "judge.min_parse_rate=0 to go on all the same.",
        )
