"""What people think of the responses that ``sft.selection`` has judged."""

from collections.abc import Sequence

from selfreward.config import SeedSource
from selfreward.inputs import seeds
from selfreward.inputs.rankings import HumanData, RankedResponse, Ranking, read_ranked
from selfreward.records import Response
from selfreward.stages.selection import Key, Opinion
from selfreward.storage.directory import Run


def rankings_of(run: Run) -> HumanData:
    """The run's own copy of ``selection.ranked``; without it, the good answers of the IFT rows.

    A ranking's place in the list is its attempt, and a response's place in it its sample.
    """
    sft = run.config.sft
    assert sft is not None and sft.selection is not None
    limit = sft.selection.prompts
    if sft.selection.ranked is not None:
        ranked = SeedSource(path=str(run.seed_file("ranked").resolve()))
        return read_ranked(ranked, limit=limit, needs_order=False)
    rows = seeds.read_ift(SeedSource(path=str(run.seed_file("ift").resolve())))[:limit]
    good = [Ranking(row.prompt, (RankedResponse(row.response, 0.0),)) for row in rows]
    return HumanData(good, {}, 0)


def opinions_on(rankings: Sequence[Ranking], responses: Sequence[Response]) -> dict[Key, Opinion]:
    """What people think of each response; one made on purpose is worse than any of theirs."""
    return {
        (response.attempt, response.sample): _opinion(rankings[response.attempt], response)
        for response in responses
    }


def _opinion(ranking: Ranking, response: Response) -> Opinion:
    if response.author != "human":
        return Opinion(preference=-1.0)
    human = ranking.responses[response.sample]
    return Opinion(human.preference, human.score)
