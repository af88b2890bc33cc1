"""Human responses as the records of iteration 0, and worse ones made on purpose.

A worse response answers another request, which resembles the one at hand but asks for something
else (Self-Taught Evaluators, arXiv 2408.02666, 3.2). There one prompt asks for both; small models
do better when they are asked for the request first and answer it in a turn of its own.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from selfreward.config import PromptsConfig, ResponsesConfig
from selfreward.engines.base import Engine, Request, RequestError, Sampling
from selfreward.inputs.templates import Template, TooLongError
from selfreward.records import Prompt, Response
from selfreward.stages.base import seed_of
from selfreward.stages.pool import cut
from selfreward.stages.responses import sample_responses

if TYPE_CHECKING:
    from selfreward.engines.chat import Chat

_LOG = logging.getLogger(__name__)


def human_prompt(chat: "Chat", attempt: int, text: str) -> Prompt:
    """A prompt as people wrote it; dropped if it holds a control token of the chat format."""
    token = chat.control_token(text)
    return Prompt(0, attempt, text, text, "control token" if token else None, token or "")


def human_responses(chat: "Chat", attempt: int, texts: Sequence[str]) -> list[Response]:
    """Responses as people wrote or ranked them; those with a control token are dropped."""
    return [
        Response(
            iteration=0,
            attempt=attempt,
            sample=sample,
            text=text,
            finish_reason="stop",
            num_tokens=0,
            dropped="control token" if chat.control_token(text) else None,
            author="human",
        )
        for sample, text in enumerate(texts)
    ]


async def write_other(
    engine: Engine,
    chat: "Chat",
    template: Template,
    prompt: Prompt,
    settings: PromptsConfig,
    *,
    run_seed: int,
) -> Prompt:
    """Ask for a request that resembles ``prompt``; return the prompt with it as its detail.

    The prompt is dropped where nothing was written that could be answered instead: ``empty``,
    ``truncated``, ``control token``, ``same request``, or why there was no answer at all.
    """
    seed = seed_of(run_seed, "prompts", 0, prompt.attempt)
    sampling = Sampling(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
        top_p=settings.top_p, top_k=settings.top_k, stop=("\n",),
    )  # fmt: skip
    try:
        user, started = template.render(prompt=_one_line(prompt.text))
        request = Request(chat.prompt_ids(user, started), sampling, seed=seed)
        written = (await engine.generate(request))[0]
    except (RequestError, TooLongError) as error:
        _LOG.warning("prompts 0/%d: %s", prompt.attempt, error)
        reason = error.reason if isinstance(error, RequestError) else "too long"
        return replace(prompt, raw="", dropped=reason)
    other = cut(written.text)
    dropped = None
    if written.finish_reason == "length":
        dropped = "truncated"
    elif not other:
        dropped = "empty"
    elif chat.control_token(other):
        dropped = "control token"
    elif other.casefold() == _one_line(prompt.text).casefold():
        dropped = "same request"
    num_tokens = len(written.token_ids)
    return replace(prompt, raw=written.text, dropped=dropped, detail=other, num_tokens=num_tokens)


async def answer_other(
    engine: Engine,
    chat: "Chat",
    prompt: Prompt,
    human: Sequence[Response],
    settings: ResponsesConfig,
    *,
    run_seed: int,
) -> list[Response]:
    """Return the human responses and, as the last one, an answer to the prompt's other request.

    That one is dropped where it is empty, holds a control token, or says the same as one of them.
    """
    other = replace(prompt, text=prompt.detail)
    once = settings.model_copy(update={"n": 1})
    [made] = await sample_responses(engine, chat, other, once, run_seed=run_seed)
    same = any(_one_line(made.text) == _one_line(response.text) for response in human)
    dropped = made.dropped or ("same answer" if same else None)
    return [*human, replace(made, sample=len(human), author="policy", dropped=dropped)]


def _one_line(text: str) -> str:
    return " ".join(text.split())
