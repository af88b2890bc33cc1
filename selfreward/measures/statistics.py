"""Statistics of the figures; SciPy has some, and takes longer to import than a verb takes."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from selfreward.measures.reports import Estimate

_WIDTHS = (0.01, 0.02, 0.05, 0.1, 0.2)
_MAX_BINS = 10


@dataclass(frozen=True, slots=True)
class Bins:
    """A histogram over just the values there are."""

    low: float
    """Middle of the first bin, a multiple of ``width``."""
    width: float
    counts: tuple[int, ...]

    @property
    def middles(self) -> tuple[float, ...]:
        """Of each bin."""
        return tuple(self.low + i * self.width for i in range(len(self.counts)))


def binned(values: Sequence[float]) -> Bins:
    """Bins of the smallest of a few widths that makes no more than ten, else of width 1.

    Each is centered on a multiple of its width. There is none between 0.2 and 1, which would hold
    two of the thirds that means of three votes are, and the next bin one.

    Args:
        values: At least one.
    """
    low, high = min(values), max(values)
    width = next((w for w in _WIDTHS if _bin(high, w) - _bin(low, w) < _MAX_BINS), 1.0)
    first = _bin(low, width)
    counts = Counter(_bin(value, width) - first for value in values)
    return Bins(first * width, width, tuple(counts[i] for i in range(max(counts) + 1)))


def _bin(value: float, width: float) -> int:
    return math.floor(value / width + 0.5)


def clustered_mean(clusters: Iterable[Sequence[float]]) -> tuple[float | None, float | None]:
    """Mean over all values and its standard error, clustered.

    Where all clusters have the same size this is the standard error over the cluster means.

    Source: Miller 2024, arXiv 2411.00640, section 2.2, times G / (G - 1) in the variance, as usual
    for few clusters.

    Returns:
        (mean, standard error); None for no values, and for the error of a single cluster.
    """
    clusters = [values for values in clusters if values]
    n, num_clusters = sum(map(len, clusters)), len(clusters)
    if n == 0:
        return None, None
    mean = math.fsum(x for values in clusters for x in values) / n
    if num_clusters == 1:
        return mean, None
    squares = math.fsum((math.fsum(values) - len(values) * mean) ** 2 for values in clusters)
    return mean, math.sqrt(squares * num_clusters / (num_clusters - 1)) / n


def difference(a: Estimate, b: Estimate) -> Estimate:
    """How much larger b is than a, two figures of samples that are drawn apart.

    The interval is made of the two intervals, whatever shape they have (MOVER: Zou and Donner 2008,
    Statistics in Medicine 27, 1693-1702); of those of two normal means it is that of their
    difference. Where the samples go together, as where both are about the same prompts, it is too
    wide rather than too narrow.

    Returns:
        With the smaller ``n``; no interval where one of the two has none.
    """
    n = min(a.n, b.n)
    if a.value is None or b.value is None:
        return Estimate(None, None, None, n)
    apart = b.value - a.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(apart, None, None, n)
    below = math.hypot(b.value - b.low, a.high - a.value)
    above = math.hypot(b.high - b.value, a.value - a.low)
    return Estimate(apart, apart - below, apart + above, n)


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None if either is constant or empty."""
    ranks_a, ranks_b = ranks(a), ranks(b)
    n = len(ranks_a)
    center = (n + 1) / 2
    products = ((x - center) * (y - center) for x, y in zip(ranks_a, ranks_b, strict=True))
    covariance = math.fsum(products)
    variance_a = math.fsum((x - center) ** 2 for x in ranks_a)
    variance_b = math.fsum((y - center) ** 2 for y in ranks_b)
    if variance_a == 0 or variance_b == 0:
        return None
    return covariance / math.sqrt(variance_a * variance_b)


def tau_b(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's tau-b, a tie being neither order; None if either is constant or empty.

    Equal to SciPy's to the last bit, as records of earlier releases have it.
    """
    both = combinations(zip(a, b, strict=True), 2)
    orders = [((x > u) - (x < u), (y > v) - (y < v)) for (x, y), (u, v) in both]
    told_a, told_b = sum(i != 0 for i, _ in orders), sum(j != 0 for _, j in orders)
    if told_a == 0 or told_b == 0:
        return None
    tau = sum(i * j for i, j in orders) / math.sqrt(told_a) / math.sqrt(told_b)
    return min(1.0, max(-1.0, tau))


def standard_deviation(values: Sequence[float]) -> float:
    """Of a sample of two and more."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))


def ranks(values: Sequence[float]) -> list[float]:
    """From 1 for the smallest, ties at their mean rank."""
    counts = Counter(values)
    rank, below = {}, 0
    for value in sorted(counts):
        rank[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [rank[value] for value in values]


def by_count(counts: Mapping[str, int]) -> dict[str, int]:
    """The largest first; of equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
