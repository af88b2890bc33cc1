"""Scoring responses with LLM-as-a-Judge (arXiv 2401.10020, 2.1 and 2.2)."""

import logging
from typing import TYPE_CHECKING

from selfreward.config import JudgeConfig
from selfreward.engines.base import Engine, Request, RequestError, Sampling
from selfreward.records import Judgment, Prompt, Response
from selfreward.stages import seed_of
from selfreward.templates import Template, TooLongError
from selfreward.verdict import expected_score, parse_score

if TYPE_CHECKING:
    from selfreward.chat import Chat

_LOG = logging.getLogger(__name__)


async def judge_response(
    engine: Engine,
    chat: "Chat",
    template: Template,
    prompt: Prompt,
    response: Response,
    settings: JudgeConfig,
    *,
    run_seed: int,
) -> list[Judgment]:
    """Return the judge's votes on one response, all from one request.

    ``written``: K sampled justifications, each with its own verdict. ``expected``: one vote, the
    expected score under the probabilities of the score tokens. A request that cannot be made
    or answered gives votes without a score, with its reason.
    """
    key = (response.iteration, response.attempt, response.sample)
    try:
        user, started = template.render(prompt=prompt.text, response=response.text)
        request = _request(chat, user, started, settings, seed_of(run_seed, "judgments", *key))
        generations = await engine.generate(request)
    except (RequestError, TooLongError) as error:
        _LOG.warning("judgments %d/%d/%d: %s", *key, error)
        why = error.reason if isinstance(error, RequestError) else "too long"
        return [
            Judgment(*key, vote, settings.form, "", None, why) for vote in range(settings.num_votes)
        ]
    if settings.form == "expected":
        probabilities = generations[0].probabilities
        assert probabilities is not None
        score, reason = expected_score(probabilities)
        return [Judgment(*key, 0, "expected", "", score, reason, probabilities)]
    judgments = []
    for vote, generation in enumerate(generations):
        _, verdict = chat.split_thinking(generation.text)
        score, reason = parse_score(verdict, generation.finish_reason)
        num_tokens = len(generation.token_ids)
        judgments.append(
            Judgment(*key, vote, "written", generation.text, score, reason, None, num_tokens)
        )
    return judgments


def _request(chat: "Chat", user: str, started: str, settings: JudgeConfig, seed: int) -> Request:
    if settings.form == "expected":
        token_ids, score_tokens = chat.score_prompt(user)
        return Request(token_ids, score_tokens=score_tokens)
    return Request(
        token_ids=chat.prompt_ids(user, started),
        sampling=Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        ),
        n=settings.votes,
        seed=seed,
    )
