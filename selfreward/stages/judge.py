"""One response judged by one LLM-as-a-Judge (arXiv 2401.10020, 2.1 and 2.2): its votes.

prompt, response -> template -> what the judge writes, or how probable the scores are -> Judgment
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from selfreward.config import JurorConfig
from selfreward.engines.base import ChatFormat, Engine, Generation, Request, RequestError
from selfreward.errors import ConfigError
from selfreward.inputs.templates import Template, TooLongError
from selfreward.records import Criterion, Judgment, Prompt, Response
from selfreward.stages.base import seed_of
from selfreward.stages.verdict import expected_score, parse_score, read_justification

_LOG = logging.getLogger(__name__)
_Expected = tuple[float | None, str | None, tuple[float, ...] | None]
"""Score, reason, probabilities; as in a Judgment."""


async def judge_response(
    engine: Engine,
    chat: ChatFormat,
    template: Template,
    prompt: Prompt,
    response: Response,
    settings: JurorConfig,
    *,
    run_seed: int,
    juror: int = 0,
    criteria: Sequence[Criterion] = (),
) -> list[Judgment]:
    """Return a judge's votes on one response.

    ``written``: K sampled justifications of one request, each with its own verdict. ``expected``:
    one vote, the expected score under the probabilities of the score tokens. ``written_expected``:
    K justifications, and the expected score after each. ``criteria``: the expected score by each
    criterion; without criteria one vote without a score. A request that cannot be made or answered
    gives votes without a score, with its reason.

    Args:
        juror: Which of ``judge.jurors`` this is.
        criteria: Of this prompt and judge, see ``stages.criteria``.
    """
    judge = _Judge(engine, chat, template, prompt, response, settings, juror)
    if settings.traits.by_criterion and not criteria:
        return no_verdict(response, settings, "no criteria", juror)
    key = (response.iteration, response.attempt, response.sample)
    seed = seed_of(run_seed, "judgments", *key, *([juror] if juror else []))
    try:
        return await _VOTES[settings.form](judge, seed, criteria)
    except (RequestError, TooLongError) as error:
        return no_verdict(response, settings, judge.why(error), juror)


def no_verdict(
    response: Response, settings: JurorConfig, reason: str, juror: int = 0
) -> list[Judgment]:
    """The votes on a response of which nothing was asked, or nothing can be known."""
    key = (response.iteration, response.attempt, response.sample)
    num_votes = 1 if settings.traits.by_criterion else settings.num_votes
    return [
        Judgment(*key, vote, settings.form, "", None, reason, juror=juror)
        for vote in range(num_votes)
    ]


class _Judge:
    """One judge and one response; see ``judge_response``."""

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        template: Template,
        prompt: Prompt,
        response: Response,
        settings: JurorConfig,
        juror: int,
    ) -> None:
        self._engine, self._chat, self._settings = engine, chat, settings
        asked = template.asked(prompt.text, prompt.columns)
        self._render = partial(template.render, **asked, response=response.text)
        self._key = (response.iteration, response.attempt, response.sample)
        self._juror = juror

    def vote(
        self,
        number: int,
        raw: str,
        score: float | None,
        reason: str | None,
        probabilities: tuple[float, ...] | None = None,
        num_tokens: int = 0,
        weight: float = 1.0,
    ) -> Judgment:
        """A vote of this judge on this response."""
        form = self._settings.form
        return Judgment(
            *self._key, number, form, raw, score, reason, probabilities, num_tokens, self._juror,
            weight,
        )  # fmt: skip

    def why(self, error: RequestError | TooLongError) -> str:
        """The reason of a request that failed, for the records; the log gets all of it."""
        _LOG.warning("judgments %d/%d/%d: %s", *self._key, error)
        return error.reason if isinstance(error, RequestError) else "too long"

    async def write(self, seed: int) -> tuple[str, list[Generation]]:
        """Sample K justifications; return how the judge's turn was started, and these."""
        settings = self._settings
        user, started = self._render()
        request = self._chat.request(user, started, settings.sampling(), settings.votes, seed)
        return started, await self._engine.generate(request)

    def read(self, number: int, started: str, written: Generation) -> Judgment:
        """The vote whose verdict is in the text."""
        _, answer = self._chat.split_thinking(written.text, started)
        score, reason = parse_score(answer, written.finish_reason)
        num_tokens = len(written.token_ids)
        return self.vote(number, written.text, score, reason, num_tokens=num_tokens)

    async def expect_after(self, number: int, started: str, written: Generation) -> Judgment:
        """The vote whose score is expected after the text; its own score line is not read."""
        thinking, answer = self._chat.split_thinking(written.text, started)
        justification, reason = read_justification(answer, written.finish_reason)
        if reason is None and self._chat.control_token(f"{thinking}\n{justification}"):
            reason = "control token"  # tokenized again it would end the judge's turn
        expected: _Expected = (None, reason, None)
        if reason is None:
            before = written.text.removesuffix(answer) + justification
            expected = await self.expect(before, started)
        return self.vote(number, written.text, *expected, num_tokens=len(written.token_ids))

    async def by_criterion(self, criterion: Criterion) -> Judgment:
        """The vote by one criterion."""
        expected = await self.expect(criterion=criterion.text)
        return self.vote(criterion.number, "", *expected, weight=criterion.weight)

    async def expect(self, before: str = "", started: str = "", **variables: str) -> _Expected:
        """Ask for the probabilities of the scores.

        Args:
            before: What the judge has written; empty if the score comes first.
            started: How its turn was started, before that.
            variables: Of the template, beside prompt and response.
        """
        try:
            user, _ = self._render(**variables)
            token_ids, score_tokens = self._chat.score_prompt(user, before, started)
            [generation] = await self._engine.generate(
                Request(token_ids, score_tokens=score_tokens)
            )
        except (RequestError, TooLongError) as error:
            return None, self.why(error), None
        except ConfigError:
            if not before:  # else it is this text alone that the tokenizer joins with the score
                raise
            return None, "no score token", None
        probabilities = generation.probabilities
        assert probabilities is not None
        return *expected_score(probabilities), probabilities


async def _written(judge: _Judge, seed: int, criteria: Sequence[Criterion]) -> list[Judgment]:
    started, generations = await judge.write(seed)
    return [judge.read(i, started, written) for i, written in enumerate(generations)]


async def _expected(judge: _Judge, seed: int, criteria: Sequence[Criterion]) -> list[Judgment]:
    return [judge.vote(0, "", *await judge.expect())]


async def _both(judge: _Judge, seed: int, criteria: Sequence[Criterion]) -> list[Judgment]:
    started, generations = await judge.write(seed)
    votes = (judge.expect_after(i, started, written) for i, written in enumerate(generations))
    return list(await asyncio.gather(*votes))


async def _by_criteria(judge: _Judge, seed: int, criteria: Sequence[Criterion]) -> list[Judgment]:
    return list(await asyncio.gather(*map(judge.by_criterion, criteria)))


_VOTES: dict[str, Callable[[_Judge, int, Sequence[Criterion]], Awaitable[list[Judgment]]]] = {
    "written": _written,
    "expected": _expected,
    "written_expected": _both,
    "criteria": _by_criteria,
}
"""What a judge does in each of ``records.FORMS``, given the seed of what it writes.

May raise RequestError or TooLongError: no vote has a verdict then."""
