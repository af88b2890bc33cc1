"""Having a judge write what a good answer to a prompt needs, before it scores any answer to it.

The judge is shown the prompt alone, so no response can alter what it is measured by. Each criterion
has a weight of 1 to 3 (such rubrics for a single prompt: Rubrics as Rewards, arXiv 2507.17746).
"""

import logging
import re
from typing import TYPE_CHECKING

from selfreward.config import JurorConfig
from selfreward.engines.base import Engine, Request, RequestError, Sampling
from selfreward.inputs.templates import Template, TooLongError
from selfreward.records import Criterion, FinishReason, Prompt
from selfreward.stages.base import seed_of

if TYPE_CHECKING:
    from selfreward.engines.chat import Chat

GENERAL = "It does what the request asks for, correctly, completely and clearly."
"""The criterion of training rows: they have one score for the whole answer."""
_LINE = re.compile(r"(?:[-*•] |[0-9]{1,2}[.)] )?\[([1-3])\] ?([^\[\s].*)")
"""Such as ``[3] Names the capital``; the mark or number of a list before it is fine."""
_LONGEST = 300
"""Characters; a longer line is no criterion but prose."""
_LOG = logging.getLogger(__name__)


async def write_criteria(
    engine: Engine,
    chat: "Chat",
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
        user, started = template.render(prompt=prompt.text)
        request = Request(
            token_ids=chat.prompt_ids(user, started),
            sampling=Sampling(
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
            ),
            seed=seed_of(run_seed, "criteria", *key),
        )
        [generation] = await engine.generate(request)
    except (RequestError, TooLongError) as error:
        _LOG.warning("criteria %d/%d of judge %d: %s", *key, error)
        return []
    _, written = chat.split_thinking(generation.text)
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
