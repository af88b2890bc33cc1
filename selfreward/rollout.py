"""One iteration's prompts, responses and judgments, from engines to committed records.

The stages themselves know no store; here each finished request is committed at once, and what is
committed is not asked again.
"""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from selfreward import seeds
from selfreward.chat import Chat
from selfreward.config import SeedSource
from selfreward.engines.base import Engine
from selfreward.errors import StoppedError
from selfreward.records import Judgment, Prompt, Response, Stage
from selfreward.run import Run, versions
from selfreward.stages.judgments import judge_response
from selfreward.stages.prompts import Pool, draw_prompts, write_prompts
from selfreward.stages.responses import sample_responses
from selfreward.store import Record, Store, digest
from selfreward.tracker import Tracker

T = TypeVar("T")
_VOTES_TO_TELL = 48
"""After so many votes without a single verdict the judge will not start to give one."""


@dataclass(frozen=True, slots=True)
class Session:
    """A model ready to be asked."""

    engine: Engine
    chat: Chat


class OpenSession(Protocol):
    """Opens the model for a role."""

    def __call__(self, model: Path | str) -> Session:
        """Open a model directory, or resolve and open a model source."""
        ...


async def generate_iteration(run: Run, store: Store, iteration: int, open_: OpenSession) -> None:
    """Make and commit what is missing of an iteration's prompts, responses and judgments.

    Raises:
        StoppedError: Too few prompts within the budget, or a judge without verdicts.
    """
    config, policy = run.config, run.policy(iteration)
    judge = run.policy(1) if config.judge.model == "M1" else config.judge.model
    roles: list[tuple[str, Path | str, Callable[..., Awaitable[None]]]] = [
        ("prompts", config.prompts.author, _prompts),
        ("responses", "policy", _responses),
        ("judgments", judge, _judgments),
    ]
    async with _Sessions(open_) as sessions:
        for stage, model, make in roles:
            if store.finished(iteration, stage):
                continue
            session = await sessions.get(policy if model == "policy" else model)
            await make(run, store, iteration, session)


async def _prompts(run: Run, store: Store, iteration: int, session: Session) -> None:
    settings = run.config.prompts
    committed = store.records(Prompt, iteration)
    earlier = [
        prompt.text
        for before in range(1, iteration)
        for prompt in store.records(Prompt, before)
        if prompt.dropped is None
    ]
    pool = Pool(_seed_prompts(run, "prompts"), earlier)
    accepted = sum(prompt.dropped is None for prompt in committed)
    tokens = 0
    with Tracker(store, iteration, "prompts", total=settings.count) as tracker:
        if settings.dataset is not None:
            rows = _seed_prompts(run, "dataset")
            drawn = draw_prompts(rows, session.chat, pool, settings, iteration=iteration)
            windows = _once(drawn[len(committed) :])
        else:
            windows = write_prompts(
                session.engine, session.chat, run.template("prompts"), pool, settings,
                iteration=iteration, run_seed=run.config.seed, committed=committed,
            )  # fmt: skip
        async for window in windows:
            store.add(window)
            committed += window
            accepted += sum(prompt.dropped is None for prompt in window)
            tokens += sum(prompt.num_tokens for prompt in window)
            tracker.advance(accepted, note=f"{len(committed)} attempts, {_rate(tokens, tracker)}")
        if accepted < settings.count:
            reasons = Counter(p.dropped for p in committed if p.dropped is not None)
            why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            raise StoppedError(
                f"iteration {iteration}: {accepted} of {settings.count} prompts after "
                f"{len(committed)} attempts; dropped: {why or 'none'}",
                "Resume with a larger prompts.max_attempts, or start a run with fewer prompts, a "
                "higher temperature, another prompts.author or a prompts.dataset.",
            )
        _finish(run, store, iteration, "prompts", committed, tracker)


async def _responses(run: Run, store: Store, iteration: int, session: Session) -> None:
    settings = run.config.responses
    prompts = _accepted(store, iteration)
    done = store.records(Response, iteration)
    answered = {response.attempt for response in done}
    total, tokens = len(prompts) * settings.n, 0
    with Tracker(store, iteration, "responses", total) as tracker:
        asked = [
            sample_responses(
                session.engine, session.chat, prompt, settings, run_seed=run.config.seed
            )
            for prompt in prompts
            if prompt.attempt not in answered
        ]
        async with aclosing(_bounded(asked, run.config.engine.concurrency)) as batches:
            async for batch in batches:
                new = [response for group in batch for response in group]
                store.add(new)
                done += new
                tokens += sum(response.num_tokens for response in new)
                tracker.advance(len(done), note=_rate(tokens, tracker))
        done.sort(key=lambda r: (r.attempt, r.sample))
        _finish(run, store, iteration, "responses", done, tracker)


async def _judgments(run: Run, store: Store, iteration: int, session: Session) -> None:
    settings = run.config.judge
    prompts = {prompt.attempt: prompt for prompt in _accepted(store, iteration)}
    responses = [r for r in store.records(Response, iteration) if r.dropped is None]
    done = store.records(Judgment, iteration)
    judged = {(judgment.attempt, judgment.sample) for judgment in done}
    template = run.template("judge")
    with Tracker(store, iteration, "judgments", len(responses) * settings.num_votes) as tracker:
        asked = [
            judge_response(
                session.engine, session.chat, template, prompts[response.attempt], response,
                settings, run_seed=run.config.seed,
            )
            for response in responses
            if (response.attempt, response.sample) not in judged
        ]  # fmt: skip
        async with aclosing(_bounded(asked, run.config.engine.concurrency)) as batches:
            async for batch in batches:
                new = [judgment for votes in batch for judgment in votes]
                store.add(new)
                done += new
                scores = [j.score for j in done if j.score is not None]
                if scores:
                    note = f"mean score {sum(scores) / len(scores):.2f}, {len(scores)} verdicts"
                else:
                    note = "no verdict yet"
                    if len(done) >= _VOTES_TO_TELL and settings.min_parse_rate > 0:
                        break
                tracker.advance(len(done), note=note)
        _require_verdicts(run, iteration, done)
        done.sort(key=lambda j: (j.attempt, j.sample, j.vote))
        _finish(run, store, iteration, "judgments", done, tracker)


def _require_verdicts(run: Run, iteration: int, judgments: list[Judgment]) -> None:
    least = run.config.judge.min_parse_rate
    parsed = sum(judgment.score is not None for judgment in judgments)
    if not judgments or parsed >= least * len(judgments):
        return
    reasons = Counter(judgment.reason for judgment in judgments if judgment.reason is not None)
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    raise StoppedError(
        f"iteration {iteration}: {parsed} of {len(judgments)} judgments have a verdict, below "
        f"judge.min_parse_rate {least:g}; the others: {why}",
        f"Read some with `selfreward show {run.name} --failed`. More EFT data, a larger "
        "judge.max_new_tokens or judge.form=expected helps; resume with "
        "judge.min_parse_rate=0 to go on all the same.",
    )


def _finish(
    run: Run, store: Store, iteration: int, stage: str, records: Iterable[Record], tracker: Tracker
) -> None:
    """Commit the stage row over all of the stage's records, given in key order."""
    rows = list(records)
    dropped = sum(getattr(row, "dropped", None) is not None for row in rows)
    tracker.advance(len(rows) - dropped)
    store.finish_stage(
        Stage(
            iteration=iteration,
            stage=stage,
            rows=len(rows) - dropped,
            drops=dropped,
            digest=digest(rows),
            fingerprint=run.stage_fingerprint(store, iteration, stage),
            seconds=tracker.seconds,
            versions=versions(),
        )
    )


async def _bounded(asked: Sequence[Coroutine[Any, Any, T]], limit: int) -> AsyncGenerator[list[T]]:
    """Await with at most ``limit`` in flight; yield whatever is done, together."""
    waiting = iter(asked)
    flying: set[asyncio.Future[T]] = set()
    try:
        while True:
            for request in waiting:
                flying.add(asyncio.ensure_future(request))
                if len(flying) >= limit:
                    break
            if not flying:
                return
            done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done]
    finally:
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
        for request in waiting:
            request.close()


async def _once(batch: list[T]) -> AsyncIterator[list[T]]:
    if batch:
        yield batch


def _accepted(store: Store, iteration: int) -> list[Prompt]:
    return [p for p in store.records(Prompt, iteration) if p.dropped is None]


def _seed_prompts(run: Run, kind: str) -> list[str]:
    return seeds.read_prompts(SeedSource(path=str(run.seed_file(kind).resolve())))


def _rate(tokens: int, tracker: Tracker) -> str:
    return f"{tokens / max(tracker.elapsed, 1e-9):.0f} tokens/s"


class _Sessions:
    """Keeps one model open at a time: stages that use the same one share its engine."""

    def __init__(self, open_: OpenSession) -> None:
        self._open, self._stack = open_, AsyncExitStack()
        self._model: Path | str | None = None
        self._session: Session | None = None

    async def get(self, model: Path | str) -> Session:
        if self._session is None or model != self._model:
            await self._stack.aclose()
            self._model, self._session = model, self._open(model)
            self._stack.push_async_callback(self._session.engine.close)
        return self._session

    async def __aenter__(self) -> "_Sessions":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
