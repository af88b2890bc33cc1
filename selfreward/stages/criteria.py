"""Having a judge write what a good answer to a prompt needs, before it scores any answer to it.

The judge is shown the prompt alone, so no response can alter what it is measured by. Each criterion
has a weight of 1 to 3 (such rubrics for a single prompt: Rubrics as Rewards, arXiv 2507.17746).
"""

import logging
import re
from collections.abc import Iterable, Sequence

from selfreward.config import JurorConfig
from selfreward.engines.base import ChatFormat, Engine, RequestError
from selfreward.inputs.templates import Template, TooLongError
from selfreward.records import Criterion, FinishReason, Prompt
from selfreward.stages.base import seed_of

GENERAL = "It does what the request asks for, correctly, completely and clearly."
"""The criterion of training rows: they have one score for the whole answer."""
_LINE = re.compile(r"(?:[-*•] |[0-9]{1,2}[.)] )?\[([1-3])\] ?([^\[\s].*)")
"""Such as ``[3] Names the capital``; the mark or number of a list before it is fine."""
_LONGEST = 300
"""Characters; a longer line is no criterion but prose."""
_LOG = logging.getLogger(__name__)

Key = tuple[int, int]
"""``attempt`` and ``sample`` of a response."""


async def write_criteria(
    engine: Engine,
    chat: ChatFormat,
    template: Template,
    prompt: Prompt,
    settings: JurorConfig,
    *,
    run_seed: int,
    juror: int = 0,
) -> list[Criterion]:
    """Have a judge write the criteria of a prompt, in one request; none if they cannot be read."""
    key = (prompt.iteration, prompt.attempt, juror)
    try:
        user, started = template.render(**template.asked(prompt.text, prompt.columns))
        seed = seed_of(run_seed, "criteria", *key)
        request = chat.request(user, started, settings.sampling(), seed=seed)
        [generation] = await engine.generate(request)
    except (RequestError, TooLongError) as error:
        _LOG.warning("criteria %d/%d of judge %d: %s", *key, error)
        return []
    _, written = chat.split_thinking(generation.text, started)
    begun = started.rpartition("\n")[2] if written.split("\n")[0].strip() else ""
    found = read_criteria(begun + written, generation.finish_reason)
    safe = [(text, weight) for text, weight in found if not chat.control_token(text)]
    if not safe:
        _LOG.warning("criteria %d/%d of judge %d: none in %r", *key, generation.text)
    return [Criterion(*key, i, *safe[i]) for i in range(min(len(safe), settings.max_criteria))]


def read_criteria(text: str, finish_reason: FinishReason) -> list[tuple[str, float]]:
    """Read criteria line by line: the weight, 1 to 3, in brackets, and what is asked for.

    Other lines are left out, and so is a last one that was cut off. Of lines that ask for the same,
    but for case, spaces and the final stop, the first counts.

    Returns:
        (text, weight), in the order written.
    """
    lines = text.splitlines()
    if finish_reason == "length" and not text.endswith("\n"):
        lines = lines[:-1]
    found: dict[str, tuple[str, float]] = {}
    for line in lines:
        if len(line) > _LONGEST:
            continue
        if match := _LINE.fullmatch(" ".join(line.split())):
            found.setdefault(match[2].casefold().rstrip(" ."), (match[2], float(match[1])))
    return list(found.values())


class CriteriaWait:
    """Responses, by their keys, that wait for the criteria of their prompt, of one judge.

    Args:
        criteria: Those that are committed.
        judged: Prompts with a judged response. If they have no criteria none could be read, and
            they are not asked about again.
    """

    def __init__(self, criteria: Iterable[Criterion], judged: Iterable[int]) -> None:
        self._criteria: dict[int, list[Criterion]] = {}
        self._take(criteria)
        self._without = {attempt for attempt in judged if attempt not in self._criteria}
        self._asked: set[int] = set()
        self._waiting: dict[int, list[Key]] = {}

    def of(self, attempt: int) -> Sequence[Criterion]:
        """The criteria of a prompt; none if there are none, or not yet."""
        return self._criteria.get(attempt, ())

    def admit(
        self, responses: Sequence[Key], criteria: Sequence[Criterion]
    ) -> tuple[list[Key], list[int]]:
        """Take in what is new.

        Returns:
            Responses to be judged now, and prompts whose criteria are to be asked for.
        """
        for key in responses:
            self._waiting.setdefault(key[0], []).append(key)
        self._take(criteria)
        ready: list[Key] = []
        unknown: list[int] = []
        touched = [*(c.attempt for c in criteria), *(attempt for attempt, _ in responses)]
        for attempt in dict.fromkeys(touched):
            if attempt in self._criteria or attempt in self._without:
                ready += self._waiting.pop(attempt, [])
            elif attempt not in self._asked:
                self._asked.add(attempt)
                unknown.append(attempt)
        return ready, unknown

    def give_up(self, attempt: int) -> list[Key]:
        """Have a prompt go without criteria; return the responses that waited for them."""
        self._without.add(attempt)
        return self._waiting.pop(attempt, [])

    def _take(self, criteria: Iterable[Criterion]) -> None:
        for criterion in criteria:
            self._criteria.setdefault(criterion.attempt, []).append(criterion)
