"""Human responses as the records of iteration 0, and worse ones made on purpose.

With ``sft.selection`` these, and ``models/SFT`` as their judge, are the rollout of iteration 0. The
prompts and the human responses are there already; a model writes only what is needed for the worse
responses, where people ranked none, and the judgments.

A worse response answers another request, which resembles the one at hand but asks for something
else (Self-Taught Evaluators, arXiv 2408.02666, 3.2). There one prompt asks for both; small models
do better when they are asked for the request first and answer it in a turn of its own.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from selfreward.config import Config, JurorConfig, PromptsConfig, ResponsesConfig
from selfreward.engines.base import ChatFormat, Engine, RequestError
from selfreward.errors import StoppedError
from selfreward.inputs.conversations import is_conversation
from selfreward.inputs.rankings import Ranking
from selfreward.inputs.templates import Template, TooLongError
from selfreward.records import Judgment, Prompt, Record, Response
from selfreward.stages.base import Ask, Work, are, counted, first_time, for_each_prompt, seed_of
from selfreward.stages.judge import judge_response
from selfreward.stages.judgments import VOTES_TO_TELL
from selfreward.stages.pool import cut
from selfreward.stages.responses import sample_responses

if TYPE_CHECKING:
    from selfreward.engines.sessions import Session

_LOG = logging.getLogger(__name__)


def human_prompt(chat: ChatFormat, attempt: int, text: str, columns: str | None = None) -> Prompt:
    """A prompt as people wrote it; dropped if it holds a control token of the chat format."""
    token = chat.control_token(text)
    dropped = "control token" if token else None
    return Prompt(0, attempt, text, text, dropped, token or "", columns=columns)


def human_responses(chat: ChatFormat, attempt: int, texts: Sequence[str]) -> list[Response]:
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
    chat: ChatFormat,
    template: Template,
    prompt: Prompt,
    settings: PromptsConfig,
    *,
    run_seed: int,
) -> Prompt:
    """Ask for a request that resembles ``prompt``; return the prompt with it as its detail.

    The prompt is dropped where nothing was written that could be answered instead: ``empty``,
    ``truncated``, ``control token``, ``same request``, or why there was no answer at all; and where
    it is a ``conversation``, in which another request would be answered out of place.
    """
    if is_conversation(prompt.columns):
        return replace(prompt, raw="", dropped="conversation")
    seed = seed_of(run_seed, "prompts", 0, prompt.attempt)
    try:
        asked = template.asked(_one_line(prompt.text), prompt.columns)
        user, started = template.render(**asked)
        request = chat.request(user, started, settings.sampling(stop=("\n",)), seed=seed)
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
    chat: ChatFormat,
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


def ranked_prompts_work(
    session: "Session",
    committed: Sequence[Prompt],
    rankings: Sequence[Ranking],
    template: Template | None,
    config: Config,
) -> Work:
    """Taking the prompts of the rankings.

    Args:
        template: How to ask for another request that resembles a prompt; None where people ranked
            worse responses.
    """
    engine, chat = session.engine, session.chat

    async def make(attempt: int) -> Sequence[Record]:
        ranking = rankings[attempt]
        prompt = human_prompt(chat, attempt, ranking.prompt, ranking.columns)
        if template is None or prompt.dropped is not None:
            return [prompt]
        settings, seed = config.prompts, config.seed
        return [await write_other(engine, chat, template, prompt, settings, run_seed=seed)]

    missing = sorted({*range(len(rankings))} - {prompt.attempt for prompt in committed})
    asks = first_time(partial(make, attempt) for attempt in missing)
    return Work("prompts", committed, len(rankings), asks, are(Prompt))


def ranked_responses_work(
    session: "Session",
    committed: Sequence[Response],
    rankings: Sequence[Ranking],
    config: Config,
) -> Work:
    """Taking the responses of the rankings; a worse one is added where people ranked none."""
    assert config.selection is not None
    engine, chat, adds_worse = session.engine, session.chat, config.selection.ranked is None

    async def make(prompt: Prompt) -> Sequence[Record]:
        texts = [response.text for response in rankings[prompt.attempt].responses]
        human, settings = human_responses(chat, prompt.attempt, texts), config.responses
        if not adds_worse:
            return human
        return await answer_other(engine, chat, prompt, human, settings, run_seed=config.seed)

    asks = for_each_prompt(lambda prompt: partial(make, prompt), {r.attempt for r in committed})
    total = sum(len(ranking.responses) + adds_worse for ranking in rankings)
    return Work("responses", committed, total, asks, are(Response))


def ranked_judgments_work(
    session: "Session",
    committed: Sequence[Judgment],
    template: Template,
    config: Config,
    run_name: str,
) -> Work:
    """Having ``models/SFT`` judge each response in the written form."""
    assert config.selection is not None
    settings = config.selection
    judge = JurorConfig(form="written", votes=settings.votes, **settings.sampled)
    ask = partial(judge_response, session.engine, session.chat, template, run_seed=config.seed)
    prompts: dict[int, Prompt] = {}
    judged = {(judgment.attempt, judgment.sample) for judgment in committed}

    def asks(new: Sequence[Record]) -> list[Ask]:
        if work.made.total >= VOTES_TO_TELL and any(isinstance(record, Judgment) for record in new):
            check()
        prompts.update({p.attempt: p for p in new if isinstance(p, Prompt)})
        fit = [r for r in new if isinstance(r, Response) and r.dropped is None]
        work.total += len(fit) * judge.votes
        return [
            partial(ask, prompts[response.attempt], response, judge)
            for response in fit
            if (response.attempt, response.sample) not in judged
        ]

    def check() -> None:
        made = work.made
        if not made.total or not settings.min_rows or made.verdicts:
            return
        raise StoppedError(
            f"iteration 0: none of {made.total} judgments of models/SFT has a verdict: "
            f"{counted(made.unread)}; sft.selection has nothing to "
            "select",
            f"Read some with `selfreward show {run_name} --iteration 0 --failed`. The model "
            "needs more written EFT rows (sft.eft) or a larger sft.selection.max_new_tokens; or "
            "judge.form=expected, which needs no text: see docs/eft.md.",
        )

    def note(rate: str) -> str:
        return f"{work.made.verdicts} verdicts"

    work = Work("judgments", committed, 0, asks, are(Judgment), check, note=note)
    return work
