"""Asking a model what is held out: to score or compare what people ranked, and to answer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import TypeVar

from selfreward.config import JurorConfig, ResponsesConfig
from selfreward.config.judging import ContestConfig
from selfreward.engines.base import ChatFormat, Engine
from selfreward.inputs.conversations import LEFT_OUT, messages_of
from selfreward.inputs.rankings import Ranking, Text
from selfreward.inputs.templates import Template
from selfreward.records import Comparison, Criterion, Judgment, Prompt, Response
from selfreward.stages.comparisons import compare_responses, form_of
from selfreward.stages.criteria import write_criteria
from selfreward.stages.judge import judge_response, no_verdict
from selfreward.stages.responses import sample_responses

Item = TypeVar("Item")
_NONE: Mapping[str, str] = MappingProxyType({})


async def judge_texts(
    engine: Engine,
    chat: ChatFormat,
    template: Template,
    texts: Sequence[Text],
    settings: JurorConfig,
    keep: Callable[[int, list[Judgment]], None],
    *,
    concurrency: int,
    seed: int = 0,
    criteria_template: Template | None = None,
    conversations: Mapping[str, str] = _NONE,
) -> None:
    """Judge texts as a run judges its responses.

    A text that holds a control token of the chat format, which a run would drop, gets votes
    without a score, with that reason. Criteria are asked for once per prompt.

    Args:
        keep: Gets the number of a text and the votes on it, in the order in which they come in.
        concurrency: Requests in flight at once.
        seed: As a run's.
        criteria_template: Needed for the ``criteria`` form.
        conversations: See ``conversations_of``: of those prompts that are one.
    """
    numbers: dict[str, int] = {}
    samples: list[int] = []
    counts: dict[str, int] = {}
    for prompt, _ in texts:
        numbers.setdefault(prompt, len(numbers))
        counts[prompt] = counts.get(prompt, -1) + 1
        samples.append(counts[prompt])
    criteria: dict[str, asyncio.Task[list[Criterion]]] = {}

    async def criteria_of(prompt: Prompt) -> list[Criterion]:
        if not settings.traits.by_criterion:
            return []
        assert criteria_template is not None
        if prompt.text not in criteria:
            criteria[prompt.text] = asyncio.create_task(
                write_criteria(engine, chat, criteria_template, prompt, settings, run_seed=seed)
            )
        return await criteria[prompt.text]

    async def judge(at: int, asked: Text) -> None:
        prompt = _prompt(numbers[asked[0]], asked[0], conversations)
        response = Response(0, prompt.attempt, samples[at], asked[1], "stop", 0)
        if chat.control_token(prompt.text) or chat.control_token(response.text):
            votes = no_verdict(response, settings, "control token")
        else:
            votes = await judge_response(
                engine, chat, template, prompt, response, settings,
                run_seed=seed, criteria=await criteria_of(prompt),
            )  # fmt: skip
        keep(at, votes)

    await in_flight(judge, texts, concurrency)


async def in_flight(
    ask: Callable[[int, Item], Awaitable[None]], items: Sequence[Item], concurrency: int
) -> None:
    """Ask about each item, with its number, so many at once; a failure ends them all."""
    waiting = iter(enumerate(items))

    async def work() -> None:
        for at, item in waiting:
            await ask(at, item)

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def answer_prompts(
    engine: Engine,
    chat: ChatFormat,
    prompts: Mapping[int, str],
    settings: ResponsesConfig,
    keep: Callable[[int, Response], None],
    *,
    concurrency: int,
    seed: int = 0,
    conversations: Mapping[str, str] = _NONE,
) -> None:
    """Have a model answer each prompt once, every model with the same seeds.

    A prompt that holds a control token of the chat format has no answer, for that reason; nor has
    a conversation of which the chat template leaves a turn out.

    Args:
        prompts: By number, from which a prompt's seed is made.
        settings: With ``n`` of 1.
        keep: Gets the number of a prompt and the answer, in the order in which they come in.
        concurrency: Requests in flight at once.
        seed: As a run's.
        conversations: See ``conversations_of``: of those prompts that are one.
    """

    async def ask(_: int, numbered: tuple[int, str]) -> None:
        number, text = numbered
        prompt = _prompt(number, text, conversations)
        dropped = "control token" if chat.control_token(text) else None
        if dropped is None and chat.left_out(messages_of(text, prompt.columns)) is not None:
            dropped = LEFT_OUT
        if dropped is not None:
            keep(number, Response(0, number, 0, "", "error", 0, dropped=dropped))
            return
        [response] = await sample_responses(engine, chat, prompt, settings, run_seed=seed)
        keep(number, response)

    await in_flight(ask, [*prompts.items()], concurrency)


Pair = tuple[str, str, str]
"""(prompt, a response, another), the responses in the order of their texts."""


def pairs_of(rankings: Iterable[Ranking]) -> list[Pair]:
    """What is to be compared, each pair once, in order."""
    pairs = (
        _pair(ranking.prompt, one.text, other.text)
        for ranking in rankings
        for one, other in combinations(ranking.responses, 2)
        if one.preference != other.preference
    )
    return list(dict.fromkeys(pairs))


async def compare_pairs(
    engine: Engine,
    chat: ChatFormat,
    template: Template,
    pairs: Sequence[Pair],
    settings: JurorConfig | ContestConfig,
    keep: Callable[[int, list[Comparison]], None],
    *,
    concurrency: int,
    seed: int = 0,
    conversations: Mapping[str, str] = _NONE,
) -> None:
    """Compare pairs of responses, each in both orders.

    A text that holds a control token of the chat format, which a run would drop, has no verdict,
    for that reason.

    Args:
        keep: Gets the number of a pair and its two comparisons, in the order in which they come
            in. In them ``attempt`` is that number, and ``first`` and ``second`` are 0 and 1.
        concurrency: Requests in flight at once.
        seed: As a run's.
        conversations: See ``conversations_of``: of those prompts that are one.
    """

    async def compare(number: int, pair: Pair) -> None:
        prompt, *texts = pair
        if any(map(chat.control_token, pair)):
            why, form = "control token", form_of(settings)
            orders = ((0, 1), (1, 0))
            keep(number, [Comparison(0, number, *o, form, "", None, why) for o in orders])
            return
        asked = _prompt(number, prompt, conversations)
        a, b = (Response(0, number, sample, text, "stop", 0) for sample, text in enumerate(texts))
        keep(
            number,
            await compare_responses(
                engine, chat, template, asked, a, b, settings, run_seed=seed
            ),
        )  # fmt: skip

    await in_flight(compare, pairs, concurrency)


def _prompt(number: int, text: str, conversations: Mapping[str, str]) -> Prompt:
    return Prompt(0, number, text, "", None, columns=conversations.get(text))


def _pair(prompt: str, one: str, other: str) -> Pair:
    return prompt, min(one, other), max(one, other)
