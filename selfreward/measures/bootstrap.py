"""Intervals by the bootstrap over prompts.

Responses to one prompt are not independent, so whole prompts are drawn (a cluster bootstrap; Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 for the percentile interval).
Every figure here is a function of sums over prompts, so that a resample is a vector of how often
each prompt was drawn and all of them are one matrix product. All figures share the resamples,
which makes differences between them paired.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Share = tuple[Floats, Floats]
"""Numerator and denominator of a figure, each summed by prompt; shape (prompts,)."""

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

    def share(self, share: Share) -> dict[str, Any]:
        """Estimate sum(numerator) / sum(denominator); see ``estimate``."""
        return self.estimate(np.divide, *share, counted=share[1])

    def shares(
        self, shares: Mapping[str, Share], names: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """Estimates of the shares of these names."""
        return {name: self.share(shares[name]) for name in names}

    def difference(self, first: Share, second: Share) -> dict[str, Any]:
        """Estimate how much larger the first share is than the second; see ``estimate``."""
        counted = np.minimum(first[1], second[1])
        return self.estimate(lambda a, b, c, d: a / b - c / d, *first, *second, counted=counted)

    def estimate(
        self, figure: Callable[..., Any], *columns: Floats, counted: Floats
    ) -> dict[str, Any]:
        """Estimate a figure with its percentile interval.

        Args:
            figure: Function of the sums of the columns, elementwise over arrays of such sums;
                not a number where it has no value.
            columns: What is summed over prompts; shape (prompts,).
            counted: How many things of each prompt the figure is about.

        Returns:
            ``value``, None if there is none; ``low`` and ``high``, the 95% interval, which is
            widened to hold the value and is None where fewer than ten prompts count; ``n``, the
            sum of ``counted``.
        """
        estimate: dict[str, Any] = {"value": None, "low": None, "high": None}
        estimate["n"] = round(float(counted.sum()))
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(figure(*(column.sum() for column in columns)))
            resampled = np.asarray(figure(*(self._times @ column for column in columns)), float)
        if not np.isfinite(value):
            return estimate
        estimate["value"] = value
        resampled = resampled[np.isfinite(resampled)]  # a resample may draw nothing that counts
        if np.count_nonzero(counted) >= FEWEST_PROMPTS and resampled.size:
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(resampled, (tail, 1 - tail))
            estimate["low"], estimate["high"] = min(float(low), value), max(float(high), value)
        return estimate
