"""Figures of multiple-choice questions, as lm-eval has them."""

from collections.abc import Sequence

import numpy as np

from selfreward.inputs.choices import Choices
from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.reports import BenchmarkResult, Estimate
from selfreward.storage.benchmarks import Score

_RESAMPLES, _SEED = 1000, 0
Right = dict[str, tuple[int, ...]]


def answered_right(questions: Sequence[Choices], likelihoods: Sequence[Sequence[float]]) -> Right:
    """1 for each question that is answered rightly, else 0; by metric, as in lm-eval's ``task.py``.

    ``acc``: the likeliest choice is the right one. ``acc_norm``: so it is once each log-likelihood
    is divided by the length of its choice in characters, as longer texts are less likely. Of equal
    ones the first is taken.

    Args:
        likelihoods: Natural log-likelihood of each choice, by question.
    """
    acc, norm = [], []
    for each, values in zip(questions, likelihoods, strict=True):
        by_length = [v / len(c) for v, c in zip(values, each.choices, strict=True)]
        acc.append(int(int(np.argmax(values)) == each.answer))
        norm.append(int(int(np.argmax(by_length)) == each.answer))
    return {"acc": tuple(acc), "acc_norm": tuple(norm)}


def benchmark_result(
    name: str, version: str, style: str, right: Right, first: BenchmarkResult | None
) -> BenchmarkResult:
    """The figures of a model, held against those of M1.

    Args:
        right: See ``answered_right``.
        first: What M1 made of the same questions; None where it is M1.
    """
    gains = None
    if first is not None:
        gains = {metric: gained(found, first.right[metric]) for metric, found in right.items()}
    scores = {metric: share_right(found) for metric, found in right.items()}
    return BenchmarkResult(name, version, style, right, scores, gains)


def scored(right: Sequence[int]) -> Score:
    """``share_right`` as it is kept for people."""
    found = share_right(right)
    assert found.value is not None
    return Score(found.value, found.low, found.high)


def share_right(right: Sequence[int]) -> Estimate:
    """Share that is right, 0 to 1, with its interval by the bootstrap over questions."""
    found = np.asarray(right, float)
    return Bootstrap(len(right), _RESAMPLES, _SEED).share((found, np.ones(len(right))))


def gained(right: Sequence[int], before: Sequence[int]) -> Estimate:
    """By how much a share is above another of the same questions, -1 to 1, each held against
    itself.
    """
    one, other, n = np.asarray(right, float), np.asarray(before, float), np.ones(len(right))
    bootstrap = Bootstrap(len(right), _RESAMPLES, _SEED)
    return bootstrap.estimate(lambda a, b, c: (a - b) / c, one, other, n, counted=n)
