"""Figures of Meta-Rewarding: what the meta-judge preferred, and the pairs of judgments."""

from collections import Counter
from dataclasses import dataclass

from selfreward.records import JUDGE_PAIRS
from selfreward.storage.store import Store


@dataclass(frozen=True, slots=True)
class MetaFigures:
    """Of the judgments that were judged, and their pairs (Meta-Rewarding)."""

    n: int
    """Comparisons of two judgments, each order counted."""
    with_verdict: int
    wins: int
    """Of one judgment; the other verdicts are ties."""
    first_wins: int
    """Of these, of the one that was shown first."""
    unequal: int
    """Wins where the two scores differ."""
    higher_wins: int
    """Of these, of the higher score. Towards all, the judge is taught to give more points."""
    tokens: int
    pairs: int
    dropped: dict[str, int]
    """Prompts without a pair of judgments, by reason."""


_META = """
SELECT count(*), count(*) - count(m.reason), count(winner), sum(winner = first),
sum(winner IS NOT NULL AND a.score <> b.score),
sum(CASE winner WHEN first THEN a.score > b.score WHEN second THEN b.score > a.score END),
sum(m.num_tokens) FROM meta_judgments AS m
JOIN judgments AS a ON a.iteration = m.iteration AND a.attempt = m.attempt
AND a.sample = m.sample AND a.juror = 0 AND a.vote = m.first
JOIN judgments AS b ON b.iteration = m.iteration AND b.attempt = m.attempt
AND b.sample = m.sample AND b.juror = 0 AND b.vote = m.second WHERE m.iteration = ?"""


def meta_figures(store: Store, iteration: int) -> MetaFigures | None:
    """The figures of an iteration; None where no judgment was judged."""
    n, *counts = (count or 0 for count in next(store.query(_META, (iteration,))))
    dropped = Counter(store.drop_reasons(iteration, JUDGE_PAIRS))
    if not n and not dropped:
        return None
    [(pairs,)] = store.query("SELECT count(*) FROM judge_pairs WHERE iteration = ?", (iteration,))
    reasons = dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0])))
    names = ("with_verdict", "wins", "first_wins", "unequal", "higher_wins", "tokens")
    return MetaFigures(n=n, pairs=pairs, dropped=reasons, **dict(zip(names, counts, strict=True)))
