"""What the stages of a rollout still have to ask, and how far each is.

A maker holds the records of one stage, committed and new, and turns records of the stage before it
into requests. The stages themselves know no store; the makers know no tasks.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from selfreward import seeds
from selfreward.config import SeedSource
from selfreward.errors import StoppedError
from selfreward.records import Judgment, Prompt, Response
from selfreward.run import Run
from selfreward.sessions import Session
from selfreward.stages.judgments import judge_response
from selfreward.stages.prompts import Author, Pool, draw_prompts
from selfreward.stages.responses import sample_responses
from selfreward.store import Record, Store
from selfreward.tracker import Tracker

Ask = Callable[[], Awaitable[Sequence[Record]]]
"""One request that is not sent yet, and the records that its answer becomes."""

_VOTES_TO_TELL = 48
"""After so many votes without a single verdict the judge will not start to give one."""


class Maker(Protocol):
    """One stage of a rollout."""

    stage: str
    records: list[Any]
    """All of the stage that is committed."""
    tracker: Tracker

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """What records that were just committed, or found at the start, lead to."""

    def keep(self, new: Sequence[Record]) -> None:
        """Take in what was committed of this stage, and show it.

        Raises:
            StoppedError: There is no sense in going on.
        """

    def check(self) -> None:
        """Say whether the stage, all of it made, is enough to go on.

        Raises:
            StoppedError: It is not.
        """


class PromptMaker:
    """Writes new prompts, or draws them from a data set."""

    stage = "prompts"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        self._iteration, self._engine = iteration, session.engine
        self._settings = settings = run.config.prompts
        self.records = store.records(Prompt, iteration)
        self.tracker = Tracker(store, iteration, self.stage, total=settings.count)
        self._tokens = 0
        self._accepted = sum(prompt.dropped is None for prompt in self.records)
        earlier = [
            prompt.text
            for before in range(1, iteration)
            for prompt in store.records(Prompt, before)
            if prompt.dropped is None
        ]
        pool = Pool(_seed_prompts(run, "prompts"), earlier)
        self._author: Author | None = None
        self._drawn: list[Prompt] = []
        if settings.dataset is None:
            self._author = Author(
                session.chat, run.template("prompts"), pool, settings,
                iteration=iteration, run_seed=run.config.seed, committed=self.records,
            )  # fmt: skip
        else:
            rows = _seed_prompts(run, "dataset")
            drawn = draw_prompts(rows, session.chat, pool, settings, iteration=iteration)
            self._drawn = drawn[len(self.records) :]

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """Further attempts that decided ones make room for."""
        if self._author is None:
            drawn, self._drawn = self._drawn, []
            return [partial(_at_once, drawn)] if drawn else []
        return [partial(self._write, self._author, a) for a in self._author.take_attempts()]

    async def _write(self, author: Author, attempt: int) -> list[Prompt]:
        await author.write(self._engine, attempt)
        return author.decide()  # at once, so that decisions are committed in attempt order

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        prompts = [record for record in new if isinstance(record, Prompt)]
        self.records += prompts
        self._accepted += sum(prompt.dropped is None for prompt in prompts)
        self._tokens += sum(prompt.num_tokens for prompt in prompts)
        note = f"{len(self.records)} attempts{_rate(self._tokens, self.tracker)}"
        self.tracker.advance(self._accepted, note=note)

    def check(self) -> None:
        """See ``Maker``."""
        if self._accepted >= self._settings.count:
            return
        reasons = Counter(p.dropped for p in self.records if p.dropped is not None)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise StoppedError(
            f"iteration {self._iteration}: {self._accepted} of {self._settings.count} prompts "
            f"after {len(self.records)} attempts; dropped: {why or 'none'}",
            "Resume with a larger prompts.max_attempts, or start a run with fewer prompts, a "
            "higher temperature, another prompts.author or a prompts.dataset.",
        )


class ResponseMaker:
    """Answers each accepted prompt N times."""

    stage = "responses"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        self._settings, self._run_seed = run.config.responses, run.config.seed
        self._session = session
        self.records = store.records(Response, iteration)
        self._answered = {response.attempt for response in self.records}
        total = run.config.prompts.count * self._settings.n
        self.tracker = Tracker(store, iteration, self.stage, total)
        self._tokens = 0

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One request per accepted prompt."""
        return [
            partial(
                sample_responses, self._session.engine, self._session.chat, prompt,
                self._settings, run_seed=self._run_seed,
            )
            for prompt in new
            if isinstance(prompt, Prompt)
            and prompt.dropped is None
            and prompt.attempt not in self._answered
        ]  # fmt: skip

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        responses = [record for record in new if isinstance(record, Response)]
        self.records += responses
        self._tokens += sum(response.num_tokens for response in responses)
        note = _rate(self._tokens, self.tracker).removeprefix(", ")
        self.tracker.advance(len(self.records), note=note)

    def check(self) -> None:
        """Whether there are answers enough shows when pairs are built of them."""


class JudgmentMaker:
    """Has each answer judged by K votes."""

    stage = "judgments"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        self._run, self._iteration, self._session = run, iteration, session
        self._settings = run.config.judge
        self._template = run.template("judge")
        self._prompts: dict[int, Prompt] = {}
        self.records = store.records(Judgment, iteration)
        self._judged = {(judgment.attempt, judgment.sample) for judgment in self.records}
        self._scores = [j.score for j in self.records if j.score is not None]
        self._total = run.config.prompts.count * run.config.responses.n * self._settings.num_votes
        self.tracker = Tracker(store, iteration, self.stage, self._total)

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One request per answer that is fit to be judged."""
        self._prompts |= {p.attempt: p for p in new if isinstance(p, Prompt)}
        responses = [record for record in new if isinstance(record, Response)]
        unfit = sum(response.dropped is not None for response in responses)
        self._total -= unfit * self._settings.num_votes
        return [
            partial(
                judge_response, self._session.engine, self._session.chat, self._template,
                self._prompts[response.attempt], response, self._settings,
                run_seed=self._run.config.seed,
            )
            for response in responses
            if response.dropped is None
            and (response.attempt, response.sample) not in self._judged
        ]  # fmt: skip

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        judgments = [record for record in new if isinstance(record, Judgment)]
        self.records += judgments
        self._scores += [j.score for j in judgments if j.score is not None]
        note = "no verdict yet"
        if self._scores:
            mean = sum(self._scores) / len(self._scores)
            note = f"mean score {mean:.2f}, {len(self._scores)} verdicts"
        elif len(self.records) >= _VOTES_TO_TELL:
            self.check()
        self.tracker.advance(len(self.records), self._total, note)

    def check(self) -> None:
        """See ``Maker``."""
        least, parsed = self._settings.min_parse_rate, len(self._scores)
        if not self.records or parsed >= least * len(self.records):
            return
        reasons = Counter(j.reason for j in self.records if j.reason is not None)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise StoppedError(
            f"iteration {self._iteration}: {parsed} of {len(self.records)} judgments have a "
            f"verdict, below judge.min_parse_rate {least:g}; the others: {why}",
            f"Read some with `selfreward show {self._run.name} --failed`. More EFT data, a larger "
            "judge.max_new_tokens or judge.form=expected helps; resume with "
            "judge.min_parse_rate=0 to go on all the same.",
        )


MAKERS: dict[str, Callable[[Run, Store, int, Session], Maker]] = {
    "prompts": PromptMaker,
    "responses": ResponseMaker,
    "judgments": JudgmentMaker,
}


async def _at_once(records: Sequence[Record]) -> Sequence[Record]:
    return records


def _seed_prompts(run: Run, kind: str) -> list[str]:
    return seeds.read_prompts(SeedSource(path=str(run.seed_file(kind).resolve())))


def _rate(tokens: int, tracker: Tracker) -> str:
    return f", {tokens / tracker.elapsed:.0f} tokens/s" if tokens else ""
