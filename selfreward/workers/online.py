"""The judges of a run, asked while a model is trained: what is sampled then has points at once.

    completions of some prompts -> Responses -> votes of each judge -> points by the jury

As in a rollout but for two things: nothing of it is kept, only counts, and any judge that cannot be
asked ends the training, which goes on from its last checkpoint.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from selfreward.config import Config, EngineConfig, JurorConfig
from selfreward.config.judging import FUNCTION, engine_of
from selfreward.engines.base import Generation
from selfreward.engines.chat import Chat
from selfreward.engines.sessions import OpenSession, Session
from selfreward.inputs.columns import column_names
from selfreward.inputs.judge_templates import run_judge_templates
from selfreward.records import Criterion, Judgment, Prompt, Response, judge_key
from selfreward.stages.functions import CANDIDATES, Scorer, judge_by_function
from selfreward.stages.judge import judge_response
from selfreward.stages.jury import jury_scores, means_by_response, whole_responses
from selfreward.stages.responses import response_of
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.training.base import Verdict
from selfreward.workers.functions import function_process
from selfreward.workers.rollout import SCORERS, judge_model

TRUNCATED = "truncated"
"""Reason of a completion that did not end within its tokens, unless ``judge.truncated``."""


Votes = Callable[[Prompt, Response, Sequence[str]], Awaitable[list[Judgment]]]
"""A judge: its votes on a response, given all that was sampled for the prompt."""


@contextmanager
def judge_rewards(
    run: Run,
    store: Store,
    iteration: int,
    prompts: Sequence[Prompt],
    chat: Chat,
    open_session: OpenSession,
) -> Iterator["JudgeRewards"]:
    """The judges that count, open as long as the body runs.

    Args:
        prompts: One for each row that is trained on.
        chat: Of the model that is trained.

    Raises:
        SelfRewardError: A judge cannot be opened.
    """
    stack = AsyncExitStack()
    with asyncio.Runner() as runner:
        try:
            judges = runner.run(_open(run, store, iteration, stack, open_session))
            yield JudgeRewards(run.config, prompts, chat, judges, runner)
        finally:
            runner.run(stack.aclose())


async def _open(
    run: Run, store: Store, iteration: int, stack: AsyncExitStack, open_session: OpenSession
) -> dict[int, Votes]:
    """Open each judge that has a weight, by juror; those of one model share it."""
    opened: list[tuple[EngineConfig, Path | str, Session]] = []
    slots = asyncio.Semaphore(run.config.engine.concurrency)

    async def session_of(engine: EngineConfig, model: Path | str) -> Session:
        for others, known, session in opened:
            if (others, known) == (engine, model):
                return session
        opening = open_session(engine, model)
        session = await opening if inspect.isawaitable(opening) else opening
        stack.push_async_callback(session.engine.close)
        opened.append((engine, model, session))
        return session

    judges: dict[int, Votes] = {}
    for juror, settings in enumerate(run.config.judge.jurors):
        if not settings.weight:
            continue
        if settings.form == FUNCTION:
            columns = [*column_names(run.read_copy("seeds/dataset.jsonl")), CANDIDATES]
            process = function_process(run, settings, judge_key(juror), columns)
            judges[juror] = _by_value(await stack.enter_async_context(process), settings, juror)
            continue
        engine = engine_of(settings, run.config.engine)
        session = await session_of(engine, judge_model(run, store, iteration, juror))
        if scorer := SCORERS.get(engine.kind):
            judges[juror] = _by_value(scorer(session.engine, session.chat), settings, juror)
        else:
            judges[juror] = _in_words(run, store, iteration, session, juror, slots)
    return judges


def _by_value(scorer: Scorer, settings: JurorConfig, juror: int) -> Votes:
    async def votes(prompt: Prompt, response: Response, texts: Sequence[str]) -> list[Judgment]:
        return await judge_by_function(scorer, prompt, response, settings, juror, texts)

    return votes


def _in_words(
    run: Run, store: Store, iteration: int, session: Session, juror: int, slots: asyncio.Semaphore
) -> Votes:
    """A judge that is asked in words; by criteria it goes by those of the stage ``judgments``.

    Args:
        slots: For one response that is being judged each.
    """
    config, settings = run.config, run.config.judge.jurors[juror]
    template = run_judge_templates(run, juror)["judge"]
    criteria: dict[int, list[Criterion]] = {}
    for criterion in store.records(Criterion, iteration):
        if criterion.juror == juror:
            criteria.setdefault(criterion.attempt, []).append(criterion)

    async def votes(prompt: Prompt, response: Response, texts: Sequence[str]) -> list[Judgment]:
        async with slots:
            return await judge_response(
                session.engine, session.chat, template, prompt, response, settings,
                run_seed=config.seed, juror=juror, criteria=criteria.get(prompt.attempt, ()),
            )  # fmt: skip

    return votes


class JudgeRewards:
    """See ``training.base.Rewards``."""

    def __init__(
        self,
        config: Config,
        prompts: Sequence[Prompt],
        chat: Chat,
        judges: dict[int, Votes],
        runner: asyncio.Runner,
    ) -> None:
        self._judge, self._prompts, self._chat = config.judge, prompts, chat
        self._judges, self._runner = judges, runner

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a completion."""
        return self._chat.end_ids

    def __call__(
        self, samples: Sequence[tuple[int, Sequence[Sequence[int]]]]
    ) -> list[list[Verdict]]:
        """The verdicts on all completions of some prompts."""
        return self._runner.run(self._verdicts(samples))

    async def _verdicts(
        self, samples: Sequence[tuple[int, Sequence[Sequence[int]]]]
    ) -> list[list[Verdict]]:
        prompts = [self._prompts[row] for row, _ in samples]
        # A prompt may come twice, and each time is a group of its own.
        responses = [
            [
                self._response(replace(prompt, attempt=group), sample, ids)
                for sample, ids in enumerate(completions)
            ]
            for group, (prompt, (_, completions)) in enumerate(zip(prompts, samples, strict=True))
        ]
        every = [response for group in responses for response in group]
        texts = [[response.text for response in group] for group in responses]
        asked = [
            votes_on(prompts[response.attempt], response, texts[response.attempt])
            for response in every
            if _unjudged(response, self._judge.truncated) is None
            for votes_on in self._judges.values()
        ]
        votes = [vote for cast in await asyncio.gather(*asked) for vote in cast]
        scores, _ = jury_scores(
            means_by_response(votes), self._judge.weights, whole_responses(every)
        )
        failed: dict[tuple[int, int], Judgment] = {}
        for vote in votes:
            if vote.score is None:
                failed.setdefault((vote.attempt, vote.sample), vote)

        def verdict(response: Response) -> Verdict:
            key = (response.attempt, response.sample)
            if (score := scores.get(key)) is not None:
                return Verdict(score)
            reason = _unjudged(response, self._judge.truncated)
            return Verdict(None, reason or failed[key].reason)

        return [[verdict(response) for response in group] for group in responses]

    def _response(self, prompt: Prompt, sample: int, ids: Sequence[int]) -> Response:
        is_whole = bool(ids) and ids[-1] in self.end_ids
        said = tuple(ids[:-1] if is_whole else ids)
        generation = Generation(self._chat.decode(said), said, "stop" if is_whole else "length")
        return response_of(self._chat, prompt, sample, generation)


def _unjudged(response: Response, truncated: bool) -> str | None:
    """Why no judge is asked; None if they are."""
    if response.dropped is not None:
        return response.dropped
    return TRUNCATED if response.truncated and not truncated else None
