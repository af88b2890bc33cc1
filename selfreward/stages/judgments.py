"""The stage of a judge: every response of an iteration scored, see ``judge.py`` for one of them."""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from selfreward.config import Config
from selfreward.config.judging import IMPLICIT, REWARD
from selfreward.engines.base import FAILURES
from selfreward.errors import StoppedError
from selfreward.inputs.templates import Template
from selfreward.records import (
    Criterion,
    Judgment,
    Prompt,
    R,
    Record,
    Response,
    judge_key,
    judge_stage,
)
from selfreward.stages.base import Ask, Work, counted
from selfreward.stages.criteria import CriteriaWait, Key, write_criteria
from selfreward.stages.functions import Scorer, judge_by_function
from selfreward.stages.judge import judge_response, no_verdict

if TYPE_CHECKING:
    from selfreward.engines.sessions import Session

VOTES_TO_TELL = 48
"""After so many votes without a single verdict the judge will not start to give one."""

_LOG = logging.getLogger(__name__)
_R = TypeVar("_R", Judgment, Criterion)


class LookUp(Protocol):
    """Finds a record of the iteration that is committed.

    All responses of an iteration may wait to be judged, and their texts do not fit into memory.
    """

    def __call__(self, kind: type[R], *key: int) -> R:
        """The one of a kind whose key goes on so after the iteration."""


def judgments_work(
    session: "Session | Scorer | BaseException",
    judgments: Iterable[Judgment],
    criteria: Sequence[Criterion],
    look_up: LookUp,
    templates: Mapping[str, Template],
    config: Config,
    iteration: int,
    juror: int,
    *,
    run_name: str,
    on_event: Callable[[str], None],
) -> Work:
    """Having each answer judged by the votes of one judge.

    The first judge has to work. Another one that fails is told of and gives no verdicts from then
    on; the rest go on.

    Args:
        session: The judge; for one of the jury also the failure for which it cannot be asked.
        judgments: All of the iteration that are committed; they are read once and not kept.
        criteria: All of the iteration that are committed.
        templates: Of this judge, as ``load_judge_templates`` returns them.
        juror: Which of ``judge.jurors``.
        on_event: Told what went wrong with a judge without stopping the run.
    """

    def tell(found: str) -> None:
        name = config.judge.jurors[juror].name
        on_event(f"iteration {iteration}, {judge_key(juror)} ({name}): {found}")

    def check() -> None:
        least, n, parsed = config.judge.min_parse_rate, work.made.total, work.made.verdicts
        if work.failure or not n or parsed >= least * n:
            return
        found = (
            f"{parsed} of {n} judgments have a verdict, below judge.min_parse_rate {least:g}; "
            f"the others: {counted(work.made.unread)}"
        )
        if juror > 0:
            return tell(found)
        better = "More EFT data, a larger judge.max_new_tokens or judge.form=expected"
        better = "A mended function or judge.scale" if config.judge.function else better
        better = "A wider judge.scale" if config.judge.form in (REWARD, IMPLICIT) else better
        raise StoppedError(
            f"iteration {iteration}: {found}",
            f"Read some with `selfreward show {run_name} --failed`. {better} helps, in a new run; "
            "resume with judge.min_parse_rate=0 to go on all the same.",
        )

    total = config.prompts.count * config.responses.per_prompt(iteration)
    at_work = _Juror(session, judgments, criteria, look_up, templates, config, juror, total, tell)
    work = at_work.work
    work.check = check
    return work


@dataclass(slots=True, eq=False)
class _Scores:
    """The sum of scores."""

    points: float = 0.0
    count: int = 0

    def add(self, score: float | None) -> None:
        """Add one, if there is one."""
        if score is not None:
            self.points += score
            self.count += 1

    def take(self, others: "_Scores") -> None:
        """Add others."""
        self.points += others.points
        self.count += others.count


class _Juror:
    """One judge at work on an iteration; see ``judgments_work``.

    Where it judges by criteria answers wait until those of their prompt are committed.
    """

    def __init__(
        self,
        session: "Session | Scorer | BaseException",
        judgments: Iterable[Judgment],
        criteria: Sequence[Criterion],
        look_up: LookUp,
        templates: Mapping[str, Template],
        config: Config,
        number: int,
        num_responses: int,
        tell: Callable[[str], None],
    ) -> None:
        self._session, self._templates, self._run_seed = session, templates, config.seed
        self._number, self._tell, self._settings = number, tell, config.judge.jurors[number]
        self._judges_truncated, self._look_up = config.judge.truncated, look_up
        self._num_samples = config.responses.n
        self._truncated: set[Key] = set()
        """Responses that are still to be judged."""
        self._judged: dict[Key, _Scores] = {}
        """By response, until it comes by: an earlier launch judged it."""
        self._scores = _Scores()
        total = num_responses * self._settings.num_votes
        self.work = Work(judge_stage(number), (), total, self._asks, self._is_mine, note=self._note)
        for judgment in filter(self._is_mine, judgments):
            self.work.made.add(judgment)
            key = (judgment.attempt, judgment.sample)
            self._judged.setdefault(key, _Scores()).add(judgment.score)
        self.work.total -= self._votes_less(self._judged, self.work.made.total)
        self._criteria = CriteriaWait(
            (c for c in criteria if c.juror == number), {attempt for attempt, _ in self._judged}
        )
        if isinstance(session, BaseException):
            self._fail(session)

    def _is_mine(self, record: Record) -> bool:
        return isinstance(record, Judgment) and record.juror == self._number

    def _votes_less(self, responses: Collection[Key], num_votes: int) -> int:
        """By how many the votes on these responses are fewer than there may be."""
        return len(responses) * self._settings.num_votes - num_votes

    def _asks(self, new: Sequence[Record]) -> list[Ask]:
        """One per answer that is to be judged, or first one for the criteria of its prompt."""
        self._count([j for j in new if isinstance(j, Judgment) and j.juror == self._number])
        responses = [record for record in new if isinstance(record, Response)]
        fit = [r for r in responses if r.dropped is None]
        fit = [r for r in fit if self._judges_truncated or not r.truncated]
        self.work.total -= (len(responses) - len(fit)) * self._settings.num_votes
        keys = [(r.attempt, r.sample) for r in fit if not self._is_judged(r)]
        unknown: list[int] = []
        if self._settings.traits.by_criterion:
            written = [c for c in new if isinstance(c, Criterion) and c.juror == self._number]
            keys, unknown = self._criteria.admit(keys, written)
        asks: list[Ask] = [partial(self._write_criteria, attempt) for attempt in unknown]
        return asks + [partial(self._judge, *key) for key in keys]

    def _is_judged(self, response: Response) -> bool:
        """Whether an earlier launch judged it, which is then told of it and forgotten."""
        key = (response.attempt, response.sample)
        scores = self._judged.pop(key, None)
        if scores is None and response.truncated:
            self._truncated.add(key)
        elif scores is not None and not response.truncated:
            self._scores.take(scores)
        return scores is not None

    def _count(self, new: Sequence[Judgment]) -> None:
        """Without a verdict among so many there is no sense in going on."""
        keys = {(judgment.attempt, judgment.sample) for judgment in new}
        self.work.total -= self._votes_less(keys, len(new))
        for judgment in new:
            if (judgment.attempt, judgment.sample) not in self._truncated:
                self._scores.add(judgment.score)
        self._truncated -= keys  # an answer's votes come together
        made = self.work.made
        if new and self._number == 0 and made.total >= VOTES_TO_TELL and not made.verdicts:
            self.work.check()

    def _note(self, rate: str) -> str:
        if self.work.failure:
            return f"failed: {self.work.failure}"
        scores = self._scores
        if not scores.count:
            return "no verdict yet"
        return f"mean score {scores.points / scores.count:.2f}, {scores.count} verdicts"

    async def _judge(self, attempt: int, sample: int) -> Sequence[Record]:
        prompt = self._look_up(Prompt, attempt)
        response = self._look_up(Response, attempt, sample)
        votes = await self._ask(self._vote, prompt, response)
        if votes is None:
            return no_verdict(response, self._settings, "juror failed", self._number)
        return votes

    async def _write_criteria(self, attempt: int) -> Sequence[Record]:
        """The criteria of a prompt; if there are none, votes without a score instead."""
        prompt = self._look_up(Prompt, attempt)
        criteria = await self._ask(self._criteria_of, prompt)
        if criteria:
            return criteria
        reason = "juror failed" if criteria is None else "no criteria"
        return [
            vote
            for key in self._criteria.give_up(attempt)
            for response in [self._look_up(Response, *key)]
            for vote in no_verdict(response, self._settings, reason, self._number)
        ]

    async def _vote(self, session: Any, prompt: Prompt, response: Response) -> list[Judgment]:
        if not self._settings.traits.template:
            candidates = self._candidates(prompt) if self._settings.function else ()
            return await judge_by_function(
                session, prompt, response, self._settings, self._number, candidates
            )
        return await judge_response(
            session.engine, session.chat, self._templates["judge"], prompt, response,
            self._settings, run_seed=self._run_seed, juror=self._number,
            criteria=self._criteria.of(prompt.attempt),
        )  # fmt: skip

    def _candidates(self, prompt: Prompt) -> list[str]:
        """What the policy sampled for a prompt: committed together, so all of it is there."""
        samples = range(self._num_samples)
        return [self._look_up(Response, prompt.attempt, sample).text for sample in samples]

    async def _criteria_of(self, session: Any, prompt: Prompt) -> list[Criterion]:
        return await write_criteria(
            session.engine, session.chat, self._templates["criteria"], prompt, self._settings,
            run_seed=self._run_seed, juror=self._number,
        )  # fmt: skip

    async def _ask(self, ask: Callable[..., Awaitable[list[_R]]], *what: Any) -> list[_R] | None:
        """What the judge answers; None if it is one of the jury and has failed."""
        if isinstance(self._session, BaseException):
            return None
        try:
            return await ask(self._session, *what)
        except FAILURES as error:
            if self._number == 0:
                raise
            self._fail(error)
            return None

    def _fail(self, error: BaseException) -> None:
        """Ask no more; requests in flight fail alike, so the first one is told."""
        if self.work.failure:
            return
        _LOG.warning("%s fails", self.work.stage, exc_info=error)
        self._session, self.work.failure = error, f"{type(error).__name__}: {error}"
        self._tell(self.work.failure)
