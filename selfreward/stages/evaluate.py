"""Having a judge score what people ranked."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from selfreward.config import JurorConfig
from selfreward.engines.base import Engine
from selfreward.inputs.rankings import Ranking
from selfreward.inputs.templates import Template
from selfreward.measures.sample import JudgedResponse
from selfreward.records import Criterion, Judgment, Prompt, Response
from selfreward.stages.criteria import write_criteria
from selfreward.stages.judgments import judge_response, no_verdict

if TYPE_CHECKING:
    from selfreward.engines.chat import Chat

Text = tuple[str, str]
"""(prompt, response)"""
Item = TypeVar("Item")


def texts_of(rankings: Iterable[Ranking]) -> list[Text]:
    """What is to be judged, each text once, in order."""
    texts = ((ranking.prompt, r.text) for ranking in rankings for r in ranking.responses)
    return list(dict.fromkeys(texts))


async def judge_texts(
    engine: Engine,
    chat: "Chat",
    template: Template,
    texts: Sequence[Text],
    settings: JurorConfig,
    keep: Callable[[int, list[Judgment]], None],
    *,
    concurrency: int,
    seed: int = 0,
    criteria_template: Template | None = None,
) -> None:
    """Judge texts as a run judges its responses.

    A text that holds a control token of the chat format, which a run would drop, gets votes
    without a score, with that reason. Criteria are asked for once per prompt.

    Args:
        keep: Gets the number of a text and the votes on it, in the order in which they come in.
        concurrency: Requests in flight at once.
        seed: As a run's.
        criteria_template: Needed for the ``criteria`` form.
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
        if settings.form != "criteria":
            return []
        assert criteria_template is not None
        if prompt.text not in criteria:
            criteria[prompt.text] = asyncio.create_task(
                write_criteria(engine, chat, criteria_template, prompt, settings, run_seed=seed)
            )
        return await criteria[prompt.text]

    async def judge(at: int, asked: Text) -> None:
        prompt = Prompt(0, numbers[asked[0]], asked[0], "", None)
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


def votes_of(judgments: Sequence[Judgment]) -> list[float | None]:
    """The scores that a judge gave a text, None without a verdict.

    Those by criteria are one vote: their weighted mean, over the ones with a verdict.
    """
    if not (judgments and judgments[0].form == "criteria"):
        return [judgment.score for judgment in judgments]
    given = [(j.score, j.weight) for j in judgments if j.score is not None]
    return [fmean(*zip(*given, strict=True)) if given else None]


def judged_responses(
    rankings: Sequence[Ranking], votes: Mapping[Text, Sequence[float | None]]
) -> list[JudgedResponse]:
    """Put what people and the judge think of each response together."""
    return [
        JudgedResponse(
            prompt=ranking.prompt,
            ranking=number,
            preference=response.preference,
            votes=tuple(votes[ranking.prompt, response.text]),
            length=len(response.text),
            human_score=response.score,
        )
        for number, ranking in enumerate(rankings)
        for response in ranking.responses
    ]
