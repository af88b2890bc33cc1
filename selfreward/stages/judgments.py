"""Scoring responses with LLM-as-a-Judge (arXiv 2401.10020, 2.1 and 2.2)."""

from typing import TYPE_CHECKING

from selfreward.config import JudgeConfig
from selfreward.engines.base import Engine, Request, Sampling
from selfreward.records import Judgment, Prompt, Response
from selfreward.stages import seed_of
from selfreward.templates import Template
from selfreward.verdict import expected_score, parse_score

if TYPE_CHECKING:
    from selfreward.chat import Chat


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
    expected score under the probabilities of the score tokens.
    """
    key = (response.iteration, response.attempt, response.sample)
    user, started = template.render(prompt=prompt.text, response=response.text)
    if settings.form == "expected":
        token_ids, score_tokens = chat.score_prompt(user)
        request = Request(token_ids, score_tokens=score_tokens)
        [generation] = await engine.generate(request)
        assert generation.probabilities is not None
        score, reason = expected_score(generation.probabilities)
        return [Judgment(*key, 0, "expected", "", score, reason, generation.probabilities)]
    request = Request(
        token_ids=chat.prompt_ids(user, started),
        sampling=Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        ),
        n=settings.votes,
        seed=seed_of(run_seed, "judgments", *key),
    )
    judgments = []
    for vote, generation in enumerate(await engine.generate(request)):
        _, verdict = chat.split_thinking(generation.text)
        score, reason = parse_score(verdict, generation.finish_reason)
        num_tokens = len(generation.token_ids)
        judgments.append(
            Judgment(*key, vote, "written", generation.text, score, reason, None, num_tokens)
        )
    return judgments
