"""Statistics of the figures; SciPy has some, and takes longer to import than a verb takes."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence


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


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None if either is constant or empty."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    n = len(ranks_a)
    center = (n + 1) / 2
    products = ((x - center) * (y - center) for x, y in zip(ranks_a, ranks_b, strict=True))
    covariance = math.fsum(products)
    variance_a = math.fsum((x - center) ** 2 for x in ranks_a)
    variance_b = math.fsum((y - center) ** 2 for y in ranks_b)
    if variance_a == 0 or variance_b == 0:
        return None
    return covariance / math.sqrt(variance_a * variance_b)


def standard_deviation(values: Sequence[float]) -> float:
    """Of a sample of two and more."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))


def _ranks(values: Sequence[float]) -> list[float]:
    counts = Counter(values)
    rank, below = {}, 0
    for value in sorted(counts):
        rank[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [rank[value] for value in values]
