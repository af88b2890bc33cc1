"""Having a judge score what people ranked."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from selfreward.config import JudgeConfig
from selfreward.engines.base import Engine
from selfreward.evaluation.ranked import Ranking
from selfreward.evaluation.sample import JudgedResponse
from selfreward.records import Judgment, Prompt, Response
from selfreward.stages.judgments import judge_response
from selfreward.templates import Template

if TYPE_CHECKING:
    from selfreward.chat import Chat

Text = tuple[str, str]
"""(prompt, response)"""


def texts_of(rankings: Iterable[Ranking]) -> list[Text]:
    """What is to be judged, each text once, in order."""
    texts = ((ranking.prompt, r.text) for ranking in rankings for r in ranking.responses)
    return list(dict.fromkeys(texts))


async def judge_texts(
    engine: Engine,
    chat: "Chat",
    template: Template,
    texts: Sequence[Text],
    settings: JudgeConfig,
    keep: Callable[[int, list[Judgment]], None],
    *,
    concurrency: int,
    seed: int = 0,
) -> None:
    """Judge texts as a run judges its responses.

    A text that holds a control token of the chat format, which a run would drop, gets votes
    without a score, with that reason.

    Args:
        keep: Gets the number of a text and the votes on it, in the order in which they come in.
        concurrency: Requests in flight at once.
        seed: As a run's.
    """
    numbers: dict[str, int] = {}
    samples: list[int] = []
    counts: dict[str, int] = {}
    for prompt, _ in texts:
        numbers.setdefault(prompt, len(numbers))
        counts[prompt] = counts.get(prompt, -1) + 1
        samples.append(counts[prompt])
    waiting = iter(enumerate(texts))

    async def work() -> None:
        for at, (prompt, text) in waiting:
            key = 0, numbers[prompt], samples[at]
            if chat.control_token(prompt) or chat.control_token(text):
                why = "control token"
                votes = [
                    Judgment(*key, vote, settings.form, "", None, why)
                    for vote in range(settings.num_votes)
                ]
            else:
                votes = await judge_response(
                    engine, chat, template,
                    Prompt(0, key[1], prompt, "", None), Response(*key, text, "stop", 0),
                    settings, run_seed=seed,
                )  # fmt: skip
            keep(at, votes)

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(texts)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


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
