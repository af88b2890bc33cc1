"""Intervals by the bootstrap over prompts.

Responses to one prompt are not independent, so whole prompts are drawn (a cluster bootstrap; Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 for the percentile interval).
Every figure here is a function of sums over prompts, so that a resample is a vector of how often
each prompt was drawn and all of them are one matrix product. All figures share the resamples,
which makes differences between them paired.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from selfreward.measures.reports import Estimate, PairShares, Parts

Floats = NDArray[np.float64]
Share = tuple[Floats, Floats]
"""Numerator and denominator of a figure, each summed by prompt; shape (prompts,)."""
Shares = dict[str, Share]
"""By the names of ``reports.JudgedRankings``, or those of them that are about pairs."""
P = TypeVar("P", bound=PairShares)

CONFIDENCE = 0.95
FEWEST_PROMPTS = 10
"""With fewer prompts the percentile interval is far too narrow, so none is given."""


class Bootstrap:
    """Resamples of prompts.

    Args:
        num_prompts: Prompts in the sample.
        resamples: How many resamples.
        seed: Of the draw.
    """

    def __init__(self, num_prompts: int, resamples: int, seed: int) -> None:
        self.num_prompts = num_prompts
        draw = np.random.default_rng(seed)
        even = np.full(num_prompts, 1 / max(num_prompts, 1))
        self._times: Floats = np.zeros((resamples, num_prompts))
        if num_prompts:
            self._times += draw.multinomial(num_prompts, even, resamples)

    def share(self, share: Share) -> Estimate:
        """Estimate sum(numerator) / sum(denominator); see ``estimate``."""
        return self.estimate(np.divide, *share, counted=share[1])

    def shares(self, kind: type[P], shares: Shares) -> P:
        """Estimates of the shares that ``kind`` names."""
        return kind(**{field.name: self.share(shares[field.name]) for field in fields(kind)})

    def difference(self, first: Share, second: Share) -> Estimate:
        """Estimate how much larger the first share is than the second; see ``estimate``."""
        counted = np.minimum(first[1], second[1])
        return self.estimate(lambda a, b, c, d: a / b - c / d, *first, *second, counted=counted)

    def gain(
        self,
        judge: Parts[Shares, Shares],
        longest: Parts[Shares, Shares],
    ) -> Parts[Estimate, Estimate]:
        """Estimate how much more accurate a judge is than the longer response."""
        return Parts(
            all=self.difference(judge.all["accuracy"], longest.all["accuracy"]),
            matched=self.difference(judge.matched["accuracy"], longest.matched["accuracy"]),
        )

    def refit(self, figure: Callable[[Floats], float | None]) -> Estimate:
        """Estimate a figure that is no function of sums; see ``estimate``.

        Args:
            figure: Of how often each prompt counts, shape (prompts,); None where it has no value.
        """
        value, n = figure(np.ones(self.num_prompts)), self.num_prompts
        if value is None:
            return Estimate(None, None, None, n)
        found = [again for times in self._times if (again := figure(times)) is not None]
        if n < FEWEST_PROMPTS or not found:
            return Estimate(value, None, None, n)
        return Estimate(value, *_interval(np.asarray(found), value), n)

    def estimate(self, figure: Callable[..., Any], *columns: Floats, counted: Floats) -> Estimate:
        """Estimate a figure with its percentile interval.

        Args:
            figure: Function of the sums of the columns, elementwise over arrays of such sums;
                not a number where it has no value.
            columns: What is summed over prompts; shape (prompts,).
            counted: How many things of each prompt the figure is about.

        Returns:
            The figure, with an interval that is widened to hold it, and the sum of ``counted``.
        """
        n = round(float(counted.sum()))
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(figure(*(column.sum() for column in columns)))
            resampled = np.asarray(figure(*(self._times @ column for column in columns)), float)
        if not np.isfinite(value):
            return Estimate(None, None, None, n)
        resampled = resampled[np.isfinite(resampled)]  # a resample may draw nothing that counts
        if np.count_nonzero(counted) < FEWEST_PROMPTS or not resampled.size:
            return Estimate(value, None, None, n)
        return Estimate(value, *_interval(resampled, value), n)


def _interval(resampled: Floats, value: float) -> tuple[float, float]:
    """The percentile interval, widened to hold the value."""
    tail = (1 - CONFIDENCE) / 2
    low, high = map(float, np.quantile(resampled, (tail, 1 - tail)))
    return min(low, value), max(high, value)
