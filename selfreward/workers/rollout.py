"""One iteration's prompts, responses and judgments: one stream from engines to committed records.

Each accepted prompt flows on its own: N responses in one request, then K votes on each. Nothing
waits for a stage to end, so the engine's batch stays full to the last. Models that cannot be in
memory together make one stream after the other, as few as there can be. Whatever comes in is
committed before it leads to anything, and what is committed is not asked again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from selfreward.config import EngineConfig, SeedSource
from selfreward.config.judging import FUNCTION, IMPLICIT, REWARD, RUN_MODELS, engine_of
from selfreward.engines.base import FAILURES
from selfreward.engines.sessions import Session, Sessions, is_local
from selfreward.inputs import seeds
from selfreward.inputs.columns import PromptRow, column_names, read_prompt_rows, values_of
from selfreward.inputs.heldout import held_out_of
from selfreward.inputs.judge_templates import run_judge_templates, run_template
from selfreward.inputs.rankings import rankings_of
from selfreward.inputs.topics import read_topics
from selfreward.measures.votes import score_spreads
from selfreward.records import (
    META,
    Comparison,
    Criterion,
    Judgment,
    MetaJudgment,
    Prompt,
    R,
    Record,
    Response,
    judge_key,
    judge_stage,
)
from selfreward.stages.base import Ask, Work, seed_of
from selfreward.stages.comparisons import comparisons_work
from selfreward.stages.evolve import Parent, Rewriter
from selfreward.stages.functions import CANDIDATES, Scorer
from selfreward.stages.judgments import judgments_work
from selfreward.stages.meta import contests, meta_work
from selfreward.stages.overlap import HeldOut
from selfreward.stages.pairs import tied_responses
from selfreward.stages.pool import Pool
from selfreward.stages.prompts import Writing, prompts_work
from selfreward.stages.ranked import (
    ranked_judgments_work,
    ranked_prompts_work,
    ranked_responses_work,
)
from selfreward.stages.responses import responses_work
from selfreward.stages.rewards import ImplicitScorer, RewardScorer
from selfreward.storage.directory import Run
from selfreward.storage.starts import before, start_of
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker
from selfreward.workers.functions import FunctionProcess, function_process

_PART = 1000
"""Records that are in memory at once when a rollout goes on."""
SCORERS = {REWARD: RewardScorer, IMPLICIT: ImplicitScorer}
"""What asks an engine that gives rewards, by its kind."""


@dataclass(frozen=True, slots=True)
class _Role:
    """Which model makes a stage."""

    stage: str
    engine: EngineConfig
    model: Path | str
    """``function`` where none is asked."""
    work: Callable[[Run, Store, int, Any], Work]
    """What there is to do, by the store of now."""
    juror: int | None = None
    """Which of ``judge.jurors`` it is."""

    @property
    def is_function(self) -> bool:
        """Whether it is a judge that is no model."""
        return self.model == FUNCTION


async def generate_iteration(run: Run, store: Store, iteration: int, sessions: Sessions) -> None:
    """Make and commit what is missing of an iteration's prompts, responses and judgments.

    A judge of the jury, but the first, that cannot be asked stops nothing. Votes that come from
    elsewhere are not waited for, but by the comparisons, which need them all.

    Raises:
        StoppedError: Too few prompts within the budget, or a judge without verdicts.
        PreflightError: The engine cannot go on; all that came in before is committed.
    """
    imported = map(judge_stage, run.config.judge.imported_jurors)
    waits = iteration > 0 and not all(store.finished(iteration, stage) for stage in imported)
    roles = [
        role
        for role in _roles(run, store, iteration)
        if not (store.finished(iteration, role.stage) or (waits and role.stage == "comparisons"))
    ]
    for group in _groups(roles, run.config.engine.staged):
        works: list[Work] = []
        async with AsyncExitStack() as stack:
            for role in group:
                session: Session | Scorer
                try:
                    if role.is_function:
                        session = await stack.enter_async_context(_function(run, role))
                    else:
                        session = await sessions.get(role.engine, role.model)
                        if scorer := SCORERS.get(role.engine.kind):
                            session = scorer(session.engine, session.chat)
                except FAILURES as error:
                    if not role.juror:
                        raise
                    works.append(_judgments(run, store, iteration, error, juror=role.juror))
                else:
                    works.append(role.work(run, store, iteration, session))
            await flow(run, store, iteration, works)
        for role, work in zip(group, works, strict=True):
            if work.failure and not role.is_function:
                await sessions.drop(role.engine)


def _function(run: Run, role: _Role) -> FunctionProcess:
    assert role.juror is not None
    judge = run.config.judge.jurors[role.juror]
    columns = [*column_names(run.read_copy("seeds/dataset.jsonl")), CANDIDATES]
    return function_process(run, judge, judge_key(role.juror), columns)


def _roles(run: Run, store: Store, iteration: int) -> list[_Role]:
    if iteration == 0:
        model, engine = run.whole_model("SFT"), run.config.engine
        stages = ("prompts", "responses", "judgments")
        return [_Role(stage, engine, model, partial(_ranked, stage=stage)) for stage in stages]
    config, policy = run.config, run.policy(start_of(store, iteration))
    author = config.prompts.author
    roles = [
        _Role("prompts", config.engine, policy if author == "policy" else author, _prompts),
        _Role("responses", config.engine, policy, _responses),
    ]
    if "anchors" in config.stages(iteration):
        sample = partial(_responses, anchors=True)
        roles.append(_Role("anchors", config.engine, run.policy(1), sample))
    for juror, settings in enumerate(config.judge.jurors):
        if settings.imported:
            continue
        judge = judge_model(run, store, iteration, juror)
        engine = engine_of(settings, config.engine)
        work = partial(_judgments, juror=juror)
        roles.append(_Role(judge_stage(juror), engine, judge, work, juror))
    if config.judge.break_ties:
        first = next(role for role in roles if role.juror == 0)
        roles.append(_Role("comparisons", first.engine, first.model, _comparisons))
    if META in config.stages(iteration):
        first = next(role for role in roles if role.juror == 0)
        roles.append(_Role(META, first.engine, first.model, _meta_judgments))
    return roles


def judge_model(run: Run, store: Store, iteration: int, juror: int) -> Path | str:
    """Which model a judge of an iteration is, as ``Sessions.get`` takes it."""
    model = run.config.judge.jurors[juror].model
    if model == "policy":
        return run.policy(start_of(store, iteration))
    if model in RUN_MODELS:
        return run.policy(1 if model == "M1" else before(store, iteration))
    return model


def _prompts(run: Run, store: Store, iteration: int, session: Session) -> Work:
    def copy(kind: str) -> SeedSource:
        return SeedSource(path=str(run.seed_file(kind).resolve()))

    tried = [p for before in range(1, iteration) for p in store.records(Prompt, before)]
    earlier = [prompt for prompt in tried if prompt.dropped is None]
    human = seeds.read_prompts(copy("prompts"))
    source: Writing | list[PromptRow]
    if run.config.prompts.dataset is not None:
        source = read_prompt_rows(copy("dataset"))
    else:
        source = Writing(
            run_template(run, "prompts"),
            topics=read_topics(copy("topics")) if run.config.prompts.topics else (),
            num_topics_given=sum("topic" in values_of(prompt.columns) for prompt in tried),
            rewriter=_rewriter(run, store, iteration, human, earlier),
        )
    held_out = HeldOut(held_out_of(run), run.config.prompts.overlap_words)
    pool = Pool(human, [prompt.text for prompt in earlier], held_out)
    committed = store.records(Prompt, iteration)
    return prompts_work(session, committed, source, pool, run.config, iteration)


def _rewriter(
    run: Run, store: Store, iteration: int, human: Sequence[str], earlier: Sequence[Prompt]
) -> Rewriter | None:
    """Who says what is rewritten: prompts of the iteration before; in the first one, seeds."""
    config, settings = run.config, run.config.prompts.evolve
    if settings is None:
        return None
    if iteration == 1:
        shown = {*seeds.shown([*human], multiline=config.prompts.multiline)}
        parents = [Parent(text, None, at) for at, text in enumerate(human) if text in shown]
    else:
        last = [prompt for prompt in earlier if prompt.iteration == iteration - 1]
        weights = dict.fromkeys((prompt.attempt for prompt in last), 1.0)
        if settings.by == "spread":
            spreads = score_spreads(store, iteration - 1, config.responses.n)
            weights = {attempt: spreads.get(attempt, 0.0) for attempt in weights}
        parents = [Parent(p.text, p.iteration, p.attempt, weights[p.attempt]) for p in last]
    seed = seed_of(config.seed, "evolve", iteration)
    return Rewriter(run_template(run, "evolve"), parents, settings, seed)


def _responses(
    run: Run, store: Store, iteration: int, session: Session, anchors: bool = False
) -> Work:
    return responses_work(session, store.each(Response, iteration), run.config, anchors)


def _judgments(
    run: Run, store: Store, iteration: int, session: Session | Scorer | BaseException, juror: int
) -> Work:
    templates = run_judge_templates(run, juror)
    judgments, criteria = store.each(Judgment, iteration), store.records(Criterion, iteration)

    def look_up(kind: type[R], *key: int) -> R:
        return store.record(kind, iteration, *key)

    return judgments_work(
        session, judgments, criteria, look_up, templates, run.config, iteration, juror,
        run_name=run.name, on_event=partial(store.add_event, "warning"),
    )  # fmt: skip


def _comparisons(run: Run, store: Store, iteration: int, session: Session) -> Work:
    config, prompts = run.config, store.records(Prompt, iteration)
    responses, judgments = store.records(Response, iteration), store.records(Judgment, iteration)
    tied = tied_responses(responses, judgments, config.pairs, config.judge.weights)
    template, committed = run_template(run, "compare"), store.records(Comparison, iteration)
    return comparisons_work(session, committed, template, prompts, tied, config)


def _meta_judgments(run: Run, store: Store, iteration: int, session: Session) -> Work:
    config, prompts = run.config, store.records(Prompt, iteration)
    assert config.meta is not None
    responses, judgments = store.records(Response, iteration), store.records(Judgment, iteration)
    chosen = contests(responses, judgments, config.meta)
    templates = run_template(run, "judge"), run_template(run, "meta")
    committed = store.records(MetaJudgment, iteration)
    return meta_work(session, committed, templates, prompts, chosen, config)


def _ranked(run: Run, store: Store, iteration: int, session: Session, stage: str) -> Work:
    config = run.config
    assert config.selection is not None
    if stage == "judgments":
        judgments, judge = store.records(Judgment, iteration), run_template(run, "judge")
        return ranked_judgments_work(session, judgments, judge, config, run.name)
    rankings = rankings_of(run).rankings
    if stage == "responses":
        return ranked_responses_work(session, store.records(Response, iteration), rankings, config)
    worse = None if config.selection.ranked else run_template(run, "worse")
    return ranked_prompts_work(session, store.records(Prompt, iteration), rankings, worse, config)


def _groups(roles: Sequence[_Role], staged: bool) -> list[list[_Role]]:
    """Roles that flow together: one model per engine, and one local engine at most.

    Judges need nothing of each other, so each joins the first stream that it can be in.
    Comparisons need all of them, and judging judgments all of the first, so these flow alone.
    """
    groups: list[list[_Role]] = []
    first = 0
    for role in roles:
        is_judge = role.juror is not None
        is_alone = staged or role.stage in ("comparisons", META)
        streams = [] if is_alone else groups[first:] if is_judge else groups[-1:]
        open_to = (g for g in streams if all(_go_together(role, other) for other in g))
        group = next(open_to, None)
        if group is None:
            groups.append(group := [])
        group.append(role)
        first = first if is_judge else len(groups) - 1
    return groups


def _go_together(a: _Role, b: _Role) -> bool:
    if a.is_function or b.is_function:
        return True
    if a.engine == b.engine:
        return a.model == b.model
    return not (is_local(a.engine) and is_local(b.engine))


async def flow(run: Run, store: Store, iteration: int, works: Sequence[Work]) -> None:
    """Let records flow through stages, given in order, until none has anything left to ask."""
    lanes = [_Lane(work, Tracker(store, iteration, work.stage, work.total)) for work in works]
    new: list[Record] = []
    failure: BaseException | None = None
    async with _Flight(lanes, run.config.engine.concurrency) as flight:
        with ExitStack() as stack:
            for lane in lanes:
                stack.enter_context(lane.tracker)
            for known in _committed(store, iteration):
                for lane in lanes:
                    lane.waiting += lane.work.asks(known)
            while True:
                for lane in lanes:
                    lane.waiting += lane.work.asks(new)
                    lane.show()
                if failure is not None:
                    raise failure
                while lanes and flight.has_landed(lanes[0]):
                    _finish(run, store, iteration, lanes.pop(0))
                if not lanes:
                    return
                new, failure = await flight.land()
                if new:
                    store.add(new)
                for lane in lanes:
                    lane.keep(new)


def _committed(store: Store, iteration: int) -> Iterator[list[Record]]:
    """What there is to begin with, a part at a time: prompts, then their responses."""
    yield [*store.records(Prompt, iteration)]
    responses = store.each(Response, iteration)
    while part := [*islice(responses, _PART)]:
        yield [*part]


@dataclass(slots=True, eq=False)
class _Lane:
    """A stage in the stream: its work, the time it takes, and requests that wait to be sent."""

    work: Work
    tracker: Tracker
    waiting: deque[Ask] = field(default_factory=deque)
    num_tokens: int = 0
    """Sampled for it in this launch."""

    def keep(self, new: Sequence[Record]) -> None:
        """Take in what was committed."""
        self.num_tokens += sum(getattr(r, "num_tokens", 0) for r in new if self.work.is_mine(r))
        self.work.count(new)

    def show(self) -> None:
        """Say how far it is, as often as people can read it."""
        if self.tracker.is_due:
            work, tokens = self.work, self.num_tokens
            rate = f"{tokens / self.tracker.elapsed:.0f} tokens/s" if tokens else ""
            self.tracker.note = work.note(rate)
            self.tracker.advance(work.done(work.made), work.total)


class _Flight:
    """Requests in flight, at most ``limit`` at once; those of earlier stages leave first.

    They lead to more, so the requests that are left for the end, when the batch would run empty,
    are the short and independent ones.
    """

    def __init__(self, lanes: Sequence[_Lane], limit: int) -> None:
        self._limit = limit
        self._flying: dict[asyncio.Task[Sequence[Record]], _Lane] = {}
        self._lanes = list(lanes)

    def has_landed(self, lane: _Lane) -> bool:
        """Whether nothing of a stage waits or flies."""
        return not lane.waiting and lane not in self._flying.values()

    async def land(self) -> tuple[list[Record], BaseException | None]:
        """Wait until something comes in; return all that has, and a failure if there is one."""
        for lane in self._lanes:
            while lane.waiting and len(self._flying) < self._limit:
                self._flying[asyncio.ensure_future(lane.waiting.popleft()())] = lane
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
        for lane in self._lanes:
            lane.tracker.share = flying.count(lane) / len(flying)

    async def __aenter__(self) -> "_Flight":
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)


def _finish(run: Run, store: Store, iteration: int, lane: _Lane) -> None:
    """Commit the stage row over all of the stage's records."""
    work = lane.work
    work.check()
    lane.tracker.advance(work.made.kept, work.total)
    lane.tracker.finish(run, rows=work.made.kept, drops=work.made.dropped.total())
