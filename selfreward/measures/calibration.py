"""What a judge's score means to people, and how far its own votes agree."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfreward.measures.bootstrap import Bootstrap, Floats
from selfreward.measures.reports import CalibrationBin, Estimate, VoteAgreement
from selfreward.records import MAX_SCORE
from selfreward.stages.verdict import points

MAX_BINS = 6
"""As many as there are points on the scale."""

Prompts = NDArray[np.int_]
"""Number of the prompt of each response, from 0; shape (responses,)."""


def calibration(
    bootstrap: Bootstrap, prompts: Prompts, scores: Floats, standings: Floats, human: Floats
) -> tuple[CalibrationBin, ...]:
    """What people think of responses, by the judge's score.

    One bin per score that occurs if there are at most six, else six of about equal size; equal
    scores share a bin.

    Args:
        bootstrap: Of the prompts.
        prompts: See ``Prompts``.
        scores: Of the judge; not a number without a verdict. Same shape.
        standings: Share of the ranking's other responses that people like less.
        human: Points from people. Not a number where unknown, as above.
    """
    judged = ~np.isnan(scores)
    bins = _bins(scores, judged)
    table = []
    for number in np.unique(bins[judged]):
        inside = judged & (bins == number)
        table.append(
            CalibrationBin(
                low=float(scores[inside].min()),
                high=float(scores[inside].max()),
                score=float(scores[inside].mean()),
                n=int(inside.sum()),
                standing=_mean(bootstrap, prompts, standings, inside),
                human_score=_mean(bootstrap, prompts, human, inside),
            )
        )
    return tuple(table)


def confusion(scores: Floats, human: Floats) -> tuple[tuple[int, ...], ...] | None:
    """See ``Agreement``."""
    if np.isnan(human).all():
        return None
    table = [[0] * (MAX_SCORE + 2) for _ in range(MAX_SCORE + 1)]
    for score, theirs in zip(scores, human, strict=True):
        if not np.isnan(theirs):
            column = MAX_SCORE + 1 if np.isnan(score) else points(score)
            table[points(theirs)][column] += 1
    return tuple(map(tuple, table))


def vote_agreement(
    bootstrap: Bootstrap, prompts: Prompts, votes: Sequence[Sequence[float | None]]
) -> VoteAgreement | None:
    """How far the votes on one response agree; None where no response has two verdicts.

    Source of alpha: Krippendorff, Content Analysis, 2004, chapter 11.
    """
    size = bootstrap.num_prompts
    first = next((vote for given in votes for vote in given if vote is not None), 0.0)
    pairs, same, difference, within, n, total, squares = (np.zeros(size) for _ in range(7))
    for prompt, given in zip(prompts, votes, strict=True):
        verdicts = [vote for vote in given if vote is not None]
        if len(verdicts) < 2:
            continue
        gaps = [abs(a - b) for a, b in combinations(verdicts, 2)]
        pairs[prompt] += len(gaps)
        same[prompt] += gaps.count(0)
        difference[prompt] += sum(gaps)
        within[prompt] += 2 * sum(gap**2 for gap in gaps) / (len(verdicts) - 1)
        n[prompt] += len(verdicts)
        # Moved to where votes that are all equal give exactly no variance.
        total[prompt] += sum(vote - first for vote in verdicts)
        squares[prompt] += sum((vote - first) ** 2 for vote in verdicts)
    if not pairs.any():
        return None
    return VoteAgreement(
        same=bootstrap.share((same, pairs)),
        difference=bootstrap.share((difference, pairs)),
        alpha=bootstrap.estimate(_alpha, within, n, total, squares, counted=n),
    )


def _mean(
    bootstrap: Bootstrap, prompts: Prompts, values: Floats, inside: NDArray[np.bool_]
) -> Estimate:
    """Of the values that are known, over these responses."""
    known = inside & ~np.isnan(values)
    total, count = (
        np.bincount(prompts[known], of, bootstrap.num_prompts).astype(np.float64)
        for of in (values[known], np.ones(known.sum()))
    )
    return bootstrap.share((total, count))


def _alpha(within: Any, n: Any, total: Any, squares: Any) -> Any:
    observed = within / n
    expected = 2 * (n * squares - total**2) / (n * (n - 1))
    return 1 - observed / expected


def _bins(scores: Floats, judged: NDArray[np.bool_]) -> NDArray[np.int_]:
    values, bins = np.unique(scores[judged], return_inverse=True)
    if len(values) > MAX_BINS:
        counts = np.bincount(bins)
        middle = np.cumsum(counts) - counts / 2  # where equal scores stand on average
        bins = (MAX_BINS * middle / counts.sum()).astype(int)[bins]
    numbers = np.full(len(scores), -1)
    numbers[judged] = bins
    return numbers
