"""The judges of a run, asked while a model is trained: what is sampled then has points at once.

    completions of some prompts -> Responses -> votes of each judge -> points by the jury

As in a rollout but for two things: nothing of it is kept, only counts, and any judge that cannot be
asked ends the training, which goes on from its last checkpoint.
"""

import asyncio
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

from selfreward.config import Config
from selfreward.config.judging import REWARD, REWARD_ENGINE
from selfreward.engines.base import Generation
from selfreward.engines.chat import Chat
from selfreward.engines.sessions import OpenSession
from selfreward.inputs.columns import column_names
from selfreward.records import Judgment, Prompt, Response, judge_key
from selfreward.stages.functions import CANDIDATES, Scorer, judge_by_function
from selfreward.stages.jury import jury_scores, means_by_response, whole_responses
from selfreward.stages.responses import response_of
from selfreward.stages.rewards import RewardScorer
from selfreward.storage.directory import Run
from selfreward.training.base import Verdict
from selfreward.workers.functions import function_process

CUT_OFF = "cut off"
"""Reason of a completion that did not end within its tokens, unless ``judge.truncated``."""


@contextmanager
def judge_rewards(
    run: Run, prompts: Sequence[Prompt], chat: Chat, open_session: OpenSession
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
            scorers = runner.run(_open(run, stack, open_session))
            yield JudgeRewards(run.config, prompts, chat, scorers, runner)
        finally:
            runner.run(stack.aclose())


async def _open(run: Run, stack: AsyncExitStack, open_session: OpenSession) -> dict[int, Scorer]:
    """Open each judge that has a weight, by juror."""
    scorers: dict[int, Scorer] = {}
    for juror, settings in enumerate(run.config.judge.jurors):
        if not settings.weight:
            continue
        if settings.form == REWARD:
            opened = open_session(REWARD_ENGINE, settings.model)
            session = await opened if inspect.isawaitable(opened) else opened
            stack.push_async_callback(session.engine.close)
            scorers[juror] = RewardScorer(session.engine, session.chat)
        else:
            columns = [*column_names(run.read_copy("seeds/dataset.jsonl")), CANDIDATES]
            process = function_process(run, settings, judge_key(juror), columns)
            scorers[juror] = await stack.enter_async_context(process)
    return scorers


class JudgeRewards:
    """See ``training.base.Rewards``."""

    def __init__(
        self,
        config: Config,
        prompts: Sequence[Prompt],
        chat: Chat,
        scorers: dict[int, Scorer],
        runner: asyncio.Runner,
    ) -> None:
        self._judge, self._prompts, self._chat = config.judge, prompts, chat
        self._scorers, self._runner = scorers, runner

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
        # A prompt may come twice, and each time is a group of its own.
        prompts = [
            replace(self._prompts[row], attempt=group) for group, (row, _) in enumerate(samples)
        ]
        responses = [
            [self._response(prompt, sample, ids) for sample, ids in enumerate(completions)]
            for prompt, (_, completions) in zip(prompts, samples, strict=True)
        ]
        every = [response for group in responses for response in group]
        texts = [[response.text for response in group] for group in responses]
        asked = [
            judge_by_function(
                scorer,
                prompts[response.attempt],
                response,
                self._judge.jurors[juror],
                juror,
                texts[response.attempt],
            )
            for response in every
            if _unjudged(response, self._judge.truncated) is None
            for juror, scorer in self._scorers.items()
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
    return CUT_OFF if response.truncated and not truncated else None
