"""Sampling N candidate responses to a prompt (arXiv 2401.10020, 2.2)."""

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from selfreward.config import Config, ResponsesConfig
from selfreward.engines.base import ChatFormat, Engine, Generation, RequestError
from selfreward.inputs.columns import demonstration_of
from selfreward.inputs.conversations import messages_of
from selfreward.records import Prompt, Record, Response
from selfreward.stages.base import Ask, Work, for_each_prompt, seed_of

if TYPE_CHECKING:
    from selfreward.engines.sessions import Session

_LOG = logging.getLogger(__name__)


async def sample_responses(
    engine: Engine,
    chat: ChatFormat,
    prompt: Prompt,
    settings: ResponsesConfig,
    *,
    run_seed: int,
    anchors: bool = False,
) -> list[Response]:
    """Ask for all N responses to one prompt in one request; return them in sample order.

    Empty answers and answers that hold a control token of the chat format are kept but marked
    ``dropped``; truncated ones keep their finish reason. Where the engine cannot answer the
    prompt, all N are empty, with its reason. A person's answer comes last, if there is one.

    Args:
        anchors: Whether the model is M1, which gives the ``anchors`` numbered after the N.
    """
    first, n = (settings.n, settings.anchors) if anchors else (0, settings.n)
    stage, author = ("anchors", "M1") if anchors else ("responses", "policy")
    seed = seed_of(run_seed, stage, prompt.iteration, prompt.attempt)
    request = chat.request(
        messages_of(prompt.text, prompt.columns), "", settings.sampling(), n, seed
    )
    try:
        generations = await engine.generate(request)
    except RequestError as error:
        _LOG.warning("%s %d/%d: %s", stage, prompt.iteration, prompt.attempt, error)
        key = prompt.iteration, prompt.attempt
        made = [
            Response(*key, first + i, "", "error", 0, dropped=error.reason, author=author)
            for i in range(n)
        ]
    else:
        made = [
            response_of(chat, prompt, first + i, generation, author)
            for i, generation in enumerate(generations)
        ]
    return made if anchors else made + _demonstrated(chat, prompt, settings)


def _demonstrated(chat: ChatFormat, prompt: Prompt, settings: ResponsesConfig) -> list[Response]:
    """What a person answered, numbered after what models give; none where it is not asked for."""
    if not settings.demonstrations:
        return []
    text, sample = demonstration_of(prompt.columns), settings.n + settings.anchors
    dropped = "control token" if chat.control_token(text) else None
    key = prompt.iteration, prompt.attempt, sample
    return [Response(*key, text, "stop", 0, dropped=dropped, author="human")]


def response_of(
    chat: ChatFormat, prompt: Prompt, sample: int, generation: Generation, author: str = "policy"
) -> Response:
    """What was sampled as a response; see ``sample_responses``."""
    thinking, text = chat.split_thinking(generation.text)
    text = text.strip()
    dropped = None
    if not text:
        dropped = "empty"
    elif chat.control_token(text):
        dropped = "control token"
    odd = None  # needed for what may be paired alone, so that DPO trains what was said
    if dropped is None and generation.finish_reason == "stop":
        asked = messages_of(prompt.text, prompt.columns)
        odd = chat.odd_ids(asked, text, generation.token_ids)
    return Response(
        iteration=prompt.iteration,
        attempt=prompt.attempt,
        sample=sample,
        text=text,
        finish_reason=generation.finish_reason,
        num_tokens=len(generation.token_ids),
        thinking=thinking.strip(),
        dropped=dropped,
        logprob=generation.logprob,
        author=author,
        token_ids=odd,
    )


def responses_work(
    session: "Session", committed: Iterable[Response], config: Config, anchors: bool = False
) -> Work:
    """Answering each accepted prompt; whether there are answers enough shows when they are paired.

    Args:
        committed: All responses of the iteration; they are read once and not kept.
        anchors: Whether the session is M1, which gives the anchors: a stage of its own.
    """

    def is_mine(record: Record) -> bool:
        return isinstance(record, Response) and record.is_anchor == anchors

    def sample(prompt: Prompt) -> Ask:
        ask = partial(sample_responses, session.engine, session.chat, prompt, settings)
        return partial(ask, run_seed=config.seed, anchors=anchors)

    settings = config.responses
    n = settings.n + settings.demonstrations
    stage, n = ("anchors", settings.anchors) if anchors else ("responses", n)
    done: set[int] = set()
    work = Work(stage, (), config.prompts.count * n, for_each_prompt(sample, done), is_mine)
    for response in filter(is_mine, committed):
        work.made.add(response)
        done.add(response.attempt)
    return work
