"""What comparisons say together. No pydantic here: readers import this."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from selfreward.records import Comparison


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
