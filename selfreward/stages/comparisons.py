"""Judging two responses against each other, each pair in both orders.

A judge may prefer a place to a response: 25 to 89% of the verdicts of known judges flip when the
order does (Panickssery et al., arXiv 2404.13076). So a pair is asked about in both orders, and
where these disagree it is a tie, as in Self-Rewarding Language Models (arXiv 2401.10020, 3.1.2).
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from selfreward.config import JurorConfig
from selfreward.engines.base import Engine, Request, RequestError, Sampling
from selfreward.records import Comparison, Prompt, Response
from selfreward.stages import seed_of
from selfreward.templates import Template, TooLongError
from selfreward.verdict import parse_choice

if TYPE_CHECKING:
    from selfreward.chat import Chat

VARIABLES = frozenset({"prompt", "response_a", "response_b"})
"""What a template for comparisons is given."""
STARTED, LABELS = "Better:", (" A", " B")
"""How the judge's turn begins in the ``expected`` form, and how it may go on."""

_LOG = logging.getLogger(__name__)


async def compare_responses(
    engine: Engine,
    chat: "Chat",
    template: Template,
    prompt: Prompt,
    a: Response,
    b: Response,
    settings: JurorConfig,
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


def form_of(settings: JurorConfig) -> Literal["written", "expected"]:
    """The form in which a judge compares."""
    return "written" if settings.form == "written" else "expected"


async def _compare(
    engine: Engine, chat: "Chat", template: Template, prompt: Prompt, first: Response,
    second: Response, settings: JurorConfig, run_seed: int,
) -> Comparison:  # fmt: skip
    key = (prompt.iteration, prompt.attempt, first.sample, second.sample)
    form = form_of(settings)
    try:
        user, started = template.render(
            prompt=prompt.text, response_a=first.text, response_b=second.text
        )
        request = _request(chat, user, started, settings, seed_of(run_seed, "comparisons", *key))
        [generation] = await engine.generate(request)
    except (RequestError, TooLongError) as error:
        _LOG.warning("comparisons %d/%d/%d/%d: %s", *key, error)
        why = error.reason if isinstance(error, RequestError) else "too long"
        return Comparison(*key, form, "", None, why)
    if form == "expected":
        probabilities = generation.probabilities
        assert probabilities is not None
        if not math.isfinite(mass := math.fsum(probabilities)) or mass <= 0:
            return Comparison(*key, form, "", None, "no probability", probabilities)
        ahead = probabilities[0] - probabilities[1]
        winner = None if ahead == 0 else first.sample if ahead > 0 else second.sample
        return Comparison(*key, form, "", winner, None, probabilities)
    _, verdict = chat.split_thinking(generation.text)
    choice, reason = parse_choice(verdict, generation.finish_reason)
    winner = {"A": first.sample, "B": second.sample}.get(choice or "")
    num_tokens = len(generation.token_ids)
    return Comparison(*key, form, generation.text, winner, reason, None, num_tokens)


def _request(chat: "Chat", user: str, started: str, settings: JurorConfig, seed: int) -> Request:
    if form_of(settings) == "expected":
        token_ids, labels = chat.label_prompt(user, STARTED, LABELS)
        return Request(token_ids, score_tokens=labels)
    return Request(
        token_ids=chat.prompt_ids(user, started),
        sampling=Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        ),
        seed=seed,
    )


def preference(comparisons: Sequence[Comparison]) -> tuple[int | None, str | None]:
    """What the comparisons of one pair say together.

    Returns:
        (``sample`` of the better response, None); (None, None) for a tie, which is also where
        orders disagree; or (None, reason) where any order has no verdict.
    """
    reasons = [c.reason for c in comparisons if c.reason is not None]
    if reasons or not comparisons:
        return None, reasons[0] if reasons else "not compared"
    winners = {c.winner for c in comparisons}
    return winners.pop() if len(winners) == 1 else None, None


def win_probability(comparisons: Sequence[Comparison], sample: int) -> float | None:
    """Probability that a response is the better one of its pair, averaged over both orders.

    In each order it is the probability of its label, renormalized over both labels; so a judge
    that looks at nothing but the place gives 0.5. After online DPO from AI feedback (arXiv
    2402.04792), whose annotator reads the likelihoods of "1" and "2" in both orders.

    Args:
        comparisons: Of one pair, in the ``expected`` form.
        sample: Which of the two responses.

    Returns:
        0 to 1; None where any order has no verdict.
    """
    shares = []
    for comparison in comparisons:
        if comparison.reason is not None or comparison.probabilities is None:
            return None
        named = comparison.probabilities[0 if comparison.first == sample else 1]
        shares.append(named / math.fsum(comparison.probabilities))
    return math.fsum(shares) / len(shares) if shares else None


def break_ties(tied: Iterable[int], comparisons: Iterable[Comparison]) -> list[list[int]]:
    """Order responses to one prompt by wins minus losses among them (Copeland).

    Ties, and pairs that were not compared or have no verdict, count for neither.

    Args:
        tied: Samples of the responses, such as those of equal score.
        comparisons: Of responses to that prompt; those with others are ignored.

    Returns:
        The samples, the best first; what is still tied is in one group, in ascending order.
    """
    points = Counter(dict.fromkeys(tied, 0))
    pairs: dict[tuple[int, int], list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.first in points and comparison.second in points:
            low, high = sorted((comparison.first, comparison.second))
            pairs.setdefault((low, high), []).append(comparison)
    for pair, given in pairs.items():
        winner, _ = preference(given)
        if winner is not None:
            points[winner] += 1
            points[sum(pair) - winner] -= 1
    ranked = sorted(points, key=lambda sample: (-points[sample], sample))
    return [list(group) for _, group in groupby(ranked, key=points.__getitem__)]
