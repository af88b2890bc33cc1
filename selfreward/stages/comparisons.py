"""Judging two responses against each other, each pair in both orders.

A judge may prefer a place to a response: 25 to 89% of the verdicts of known judges flip when the
order does (Panickssery et al., arXiv 2404.13076). So a pair is asked about in both orders, and
where these disagree it is a tie, as in Self-Rewarding Language Models (arXiv 2401.10020, 3.1.2).
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from selfreward.config import Config, JurorConfig
from selfreward.config.judging import ContestConfig
from selfreward.engines.base import ChatFormat, Engine, Request, RequestError
from selfreward.inputs.templates import Template, TooLongError
from selfreward.records import Comparison, Prompt, Response
from selfreward.stages.base import Work, are, first_time, seed_of
from selfreward.stages.verdict import parse_choice

if TYPE_CHECKING:
    from selfreward.engines.sessions import Session

VARIABLES = frozenset({"prompt", "response_a", "response_b"})
"""What a template for comparisons is given."""
STARTED, LABELS = "Better:", (" A", " B")
"""How the judge's turn begins in the ``expected`` form, and how it may go on."""

_LOG = logging.getLogger(__name__)


async def compare_responses(
    engine: Engine,
    chat: ChatFormat,
    template: Template,
    prompt: Prompt,
    a: Response,
    b: Response,
    settings: JurorConfig | ContestConfig,
    *,
    run_seed: int,
) -> list[Comparison]:
    """Return the judge's verdicts on two responses to one prompt, one for each order.

    ``written``: a sampled justification, then a line that names the better one or a tie.
    ``expected``, and for a judge of any other form: the more probable of the two labels, a tie
    only where they are equal. A request that cannot be made or answered has no verdict, with its
    reason.
    """
    return [
        await _compare(engine, chat, template, prompt, first, second, settings, run_seed)
        for first, second in ((a, b), (b, a))
    ]


def form_of(settings: JurorConfig | ContestConfig) -> Literal["written", "expected"]:
    """The form in which a judge compares."""
    return "expected" if settings.traits.weighs else "written"


async def _compare(
    engine: Engine, chat: ChatFormat, template: Template, prompt: Prompt, first: Response,
    second: Response, settings: JurorConfig | ContestConfig, run_seed: int,
) -> Comparison:  # fmt: skip
    key = (prompt.iteration, prompt.attempt, first.sample, second.sample)

    def render() -> tuple[str, str]:
        asked = template.asked(prompt.text, prompt.columns)
        return template.render(**asked, response_a=first.text, response_b=second.text)

    seed = seed_of(run_seed, "comparisons", *key)
    found = await choose(engine, chat, render, settings, seed, f"comparisons {key[1:]}")
    return Comparison(*key, *found.of(first.sample, second.sample))


@dataclass(frozen=True, slots=True)
class Choice:
    """A verdict on the two things that a request showed; as the fields of a ``Comparison``."""

    form: str
    raw: str
    place: int | None
    """Of the better one, 0 or 1; None for a tie, and where there is no verdict."""
    reason: str | None = None
    probabilities: tuple[float, ...] | None = None
    num_tokens: int = 0

    def of(self, first: int, second: int) -> tuple[Any, ...]:
        """The same with the number of the better one in place of where it was shown."""
        winner = None if self.place is None else (first, second)[self.place]
        return self.form, self.raw, winner, self.reason, self.probabilities, self.num_tokens


async def choose(
    engine: Engine,
    chat: ChatFormat,
    render: Callable[[], tuple[str, str]],
    settings: JurorConfig | ContestConfig,
    seed: int,
    name: str,
) -> Choice:
    """Ask a judge once which of two things is better; see ``compare_responses``.

    Args:
        render: Gives the user turn and the start of the judge's own; may raise TooLongError, or
            RequestError where it is not to be asked.
        name: Of the request, for the log.
    """
    form = form_of(settings)
    try:
        user, started = render()
        [generation] = await engine.generate(_request(chat, user, started, settings, seed))
    except (RequestError, TooLongError) as error:
        _LOG.warning("%s: %s", name, error)
        return Choice(
            form, "", None, error.reason if isinstance(error, RequestError) else "too long"
        )
    if form == "expected":
        probabilities = generation.probabilities
        assert probabilities is not None
        if not math.isfinite(mass := math.fsum(probabilities)) or mass <= 0:
            return Choice(form, "", None, "no probability", probabilities)
        ahead = probabilities[0] - probabilities[1]
        return Choice(form, "", None if ahead == 0 else int(ahead < 0), None, probabilities)
    _, verdict = chat.split_thinking(generation.text, started)
    choice, reason = parse_choice(verdict, generation.finish_reason)
    place = {"A": 0, "B": 1}.get(choice or "")
    return Choice(form, generation.text, place, reason, None, len(generation.token_ids))


def _request(
    chat: ChatFormat, user: str, started: str, settings: JurorConfig | ContestConfig, seed: int
) -> Request:
    if form_of(settings) == "expected":
        token_ids, labels = chat.label_prompt(user, STARTED, LABELS)
        return Request(token_ids, score_tokens=labels)
    return chat.request(user, started, settings.sampling(), seed=seed)


def comparisons_work(
    session: "Session",
    committed: Sequence[Comparison],
    template: Template,
    prompts: Sequence[Prompt],
    tied: Sequence[tuple[Response, Response]],
    config: Config,
) -> Work:
    """Having the first judge compare responses that tie, each two in both orders.

    Scores need every verdict, so this comes after all judges are done. What is still tied then
    makes no pair, and says so.

    Args:
        prompts: All of the iteration.
        tied: See ``pairs.tied_responses``.
    """
    known = {(c.attempt, frozenset((c.first, c.second))) for c in committed}
    by_attempt = {prompt.attempt: prompt for prompt in prompts}
    ask = partial(compare_responses, session.engine, session.chat, template, run_seed=config.seed)
    asks = first_time(
        partial(ask, by_attempt[a.attempt], a, b, config.judge)
        for a, b in tied
        if (a.attempt, frozenset((a.sample, b.sample))) not in known
    )
    return Work("comparisons", committed, 2 * len(tied), asks, are(Comparison))
