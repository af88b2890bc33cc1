"""One iteration's prompts, responses and judgments: one stream from engines to committed records.

Each accepted prompt flows on its own: N responses in one request, then K votes on each. Nothing
waits for a stage to end, so the engine's batch stays full to the last. Models that cannot be in
memory together make one stream after the other, as few as there can be. Whatever comes in is
committed before it leads to anything, and what is committed is not asked again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selfreward.config import EngineConfig
from selfreward.engines.sessions import Session, Sessions, is_local
from selfreward.makers import (
    FAILURES,
    SEED_MAKERS,
    Ask,
    ComparisonMaker,
    JudgmentMaker,
    Maker,
    PromptMaker,
    ResponseMaker,
)
from selfreward.records import Prompt, Record, Response, judge_stage
from selfreward.storage.directory import Run
from selfreward.storage.store import Store, made_by
from selfreward.storage.tables import digest


@dataclass(frozen=True, slots=True)
class _Role:
    """Which model makes a stage."""

    stage: str
    engine: EngineConfig
    model: Path | str
    make: Callable[..., Maker]
    juror: int | None = None
    """Which of ``judge.jurors`` it is."""


async def generate_iteration(run: Run, store: Store, iteration: int, sessions: Sessions) -> None:
    """Make and commit what is missing of an iteration's prompts, responses and judgments.

    A judge of the jury, but the first, that cannot be asked stops nothing.

    Raises:
        StoppedError: Too few prompts within the budget, or a judge without verdicts.
        PreflightError: The engine cannot go on; all that came in before is committed.
    """
    roles = [role for role in _roles(run, iteration) if not store.finished(iteration, role.stage)]
    for group in _groups(roles, run.config.engine.staged):
        makers: list[Maker] = []
        for role in group:
            try:
                session: Session | BaseException = await sessions.get(role.engine, role.model)
            except FAILURES as error:
                if not role.juror:
                    raise
                session = error
            makers.append(role.make(run, store, iteration, session))
        await flow(run, store, iteration, list(makers))
        for role, maker in zip(group, makers, strict=True):
            if isinstance(maker, JudgmentMaker) and maker.has_failed:
                await sessions.drop(role.engine)


def _roles(run: Run, iteration: int) -> list[_Role]:
    if iteration == 0:
        model = run.whole_model("SFT")
        engine = run.config.engine
        return [_Role(stage, engine, model, make) for stage, make in SEED_MAKERS.items()]
    config, policy = run.config, run.policy(iteration)
    author = config.prompts.author
    roles = [
        _Role("prompts", config.engine, policy if author == "policy" else author, PromptMaker),
        _Role("responses", config.engine, policy, ResponseMaker),
    ]
    if "anchors" in run.rollout_stages(iteration):
        sample = partial(ResponseMaker, anchors=True)
        roles.append(_Role("anchors", config.engine, run.policy(1), sample))
    for juror, settings in enumerate(config.judge.jurors):
        judge: Path | str = settings.model
        if settings.model in ("policy", "M1"):
            judge = policy if settings.model == "policy" else run.policy(1)
        engine = settings.engine or config.engine
        make = partial(JudgmentMaker, juror=juror)
        roles.append(_Role(judge_stage(juror), engine, judge, make, juror))
    if config.judge.break_ties:
        first = next(role for role in roles if role.juror == 0)
        roles.append(_Role("comparisons", first.engine, first.model, ComparisonMaker))
    return roles


def _groups(roles: Sequence[_Role], staged: bool) -> list[list[_Role]]:
    """Roles that flow together: one model per engine, and one local engine at most.

    Judges need nothing of each other, so each joins the first stream that it can be in.
    Comparisons need all of them, so they flow alone.
    """
    groups: list[list[_Role]] = []
    first = 0
    for role in roles:
        is_judge = role.juror is not None
        is_alone = staged or role.stage == "comparisons"
        streams = [] if is_alone else groups[first:] if is_judge else groups[-1:]
        open_to = (g for g in streams if all(_go_together(role, other) for other in g))
        group = next(open_to, None)
        if group is None:
            groups.append(group := [])
        group.append(role)
        first = first if is_judge else len(groups) - 1
    return groups


def _go_together(a: _Role, b: _Role) -> bool:
    if a.engine == b.engine:
        return a.model == b.model
    return not (is_local(a.engine) and is_local(b.engine))


async def flow(run: Run, store: Store, iteration: int, makers: list[Maker]) -> None:
    """Let records flow through stages, given in order, until none of ``makers`` is left."""
    new: list[Record] = [*store.records(Prompt, iteration), *store.records(Response, iteration)]
    async with _Flight(makers, run.config.engine.concurrency) as flight:
        with ExitStack() as stack:
            for maker in makers:
                stack.enter_context(maker.tracker)
            while True:
                for maker in makers:
                    flight.add(maker, maker.asks(new))
                while makers and flight.has_landed(makers[0]):
                    _finish(run, store, iteration, makers.pop(0))
                if not makers:
                    return
                new, failure = await flight.land()
                if new:
                    store.add(new)
                for maker in makers:
                    maker.keep(new)
                if failure is not None:
                    raise failure


class _Flight:
    """Requests in flight, at most ``limit`` at once; those of earlier stages leave first.

    They lead to more, so the requests that are left for the end, when the batch would run empty,
    are the short and independent ones.
    """

    def __init__(self, makers: Sequence[Maker], limit: int) -> None:
        self._limit = limit
        self._waiting: dict[str, deque[Ask]] = {maker.stage: deque() for maker in makers}
        self._flying: dict[asyncio.Task[Sequence[Record]], Maker] = {}
        self._makers = list(makers)

    def add(self, maker: Maker, asks: Iterable[Ask]) -> None:
        """Put requests in line."""
        self._waiting[maker.stage] += asks

    def has_landed(self, maker: Maker) -> bool:
        """Whether nothing of a stage waits or flies."""
        return not self._waiting[maker.stage] and maker not in self._flying.values()

    async def land(self) -> tuple[list[Record], BaseException | None]:
        """Wait until something comes in; return all that has, and a failure if there is one."""
        for maker in self._makers:
            waiting = self._waiting[maker.stage]
            while waiting and len(self._flying) < self._limit:
                self._flying[asyncio.ensure_future(waiting.popleft()())] = maker
        self._share_time()
        done, _ = await asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._flying[task]
        failures = [error for task in done if (error := task.exception()) is not None]
        made = [record for task in done if task.exception() is None for record in task.result()]
        return made, failures[0] if failures else None

    def _share_time(self) -> None:
        """Stages at work at once share the time, by their requests, so that it adds up."""
        flying = list(self._flying.values())
        for maker in self._makers:
            maker.tracker.share = flying.count(maker) / len(flying)

    async def __aenter__(self) -> "_Flight":
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)


def _finish(run: Run, store: Store, iteration: int, maker: Maker) -> None:
    """Commit the stage row over all of the stage's records."""
    maker.check()
    dropped = sum(getattr(record, "dropped", None) is not None for record in maker.records)
    rows = len(maker.records) - dropped
    maker.tracker.advance(rows)
    made = made_by(store, iteration, maker.stage)
    maker.tracker.finish(run, rows=rows, drops=dropped, digest=digest(made))
