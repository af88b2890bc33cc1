"""One score per response from the votes of several judges.

    votes -> mean by judge -> judges that sit on the prompt -> weighted mean over these

Scores are compared within a prompt alone, and there they have to be comparable: one judge is more
generous than another, so every response of a prompt is scored by the same judges. Where verdicts
are missing, the judges that sit are chosen such that as many comparisons as possible, by weight,
stand behind the pairs; for a single judge that leaves out the responses without a verdict, and no
more. No pydantic here: readers import this.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import comb, fsum
from operator import mul

from selfreward.records import Judgment, Response

Key = tuple[int, int]
"""(attempt, sample)"""
Means = Mapping[int, float]
"""A response's mean score by juror, of those with a verdict on it."""


def means_by_response(judgments: Iterable[Judgment]) -> dict[Key, dict[int, float]]:
    """Mean over the votes with a verdict, 0 to 5, by (attempt, sample) and juror."""
    votes: dict[Key, dict[int, list[tuple[float, float]]]] = {}
    for judgment in judgments:
        if judgment.score is not None:
            of_response = votes.setdefault((judgment.attempt, judgment.sample), {})
            of_response.setdefault(judgment.juror, []).append((judgment.score, judgment.weight))
    return {
        key: {juror: _mean(*zip(*cast, strict=True)) for juror, cast in of_response.items()}
        for key, of_response in votes.items()
    }


def sitting_jurors(
    means: Mapping[int, Means], weights: Sequence[float], able: Collection[int]
) -> tuple[int, ...]:
    """The judges by which the responses to one prompt are scored.

    Among all sets of judges, with the responses on which each of the set has a verdict, the one
    with the largest weight x number of pairs of responses. So a judge that failed altogether does
    not count, one that misses a response costs that response or sits out the prompt, whichever
    loses less, and one that has every verdict always sits.

    Args:
        means: By sample.
        weights: Of the judges, by juror.
        able: Samples that may be paired; the others take no part in the choice, unless there are
            no more.

    Returns:
        Jurors in order; empty if there is no verdict at all.
    """
    jurors = sorted({juror for of_response in means.values() for juror in of_response})
    if len(jurors) < 2:
        return tuple(jurors)
    judged = [sample for sample in able if means.get(sample)] or list(means)
    covers = {j: frozenset(s for s in judged if j in means[s]) for j in jurors}
    if all(len(cover) == len(judged) for cover in covers.values()):
        return tuple(jurors)
    blocks = {frozenset(judged)}
    for cover in set(covers.values()):
        blocks |= {block & cover for block in blocks}

    def worth(sitting: tuple[int, ...], size: int) -> tuple[float, int, float, tuple[int, ...]]:
        weight = fsum(weights[juror] for juror in sitting)
        return weight * comb(size, 2), size, weight, tuple(-juror for juror in sitting)

    choices = [(tuple(j for j in jurors if covers[j] >= block), len(block)) for block in blocks]
    return max((c for c in choices if c[0]), key=lambda choice: worth(*choice))[0]


def jury_scores(
    means: Mapping[Key, Means],
    weights: Sequence[float],
    able: Collection[Key],
) -> tuple[dict[Key, float], dict[int, tuple[int, ...]]]:
    """Score responses of any number of prompts.

    Args:
        means: By (attempt, sample), see ``means_by_response``.
        weights: Of the judges, by juror; a judge of weight 0 never sits.
        able: See ``whole_responses`` and ``sitting_jurors``.

    Returns:
        Weighted mean over the judges that sit, 0 to 5, by (attempt, sample), of the responses on
        which each of them has a verdict; and by attempt the jurors that sit.
    """
    by_prompt: dict[int, dict[int, Means]] = {}
    for (attempt, sample), of_response in means.items():
        counted = {juror: mean for juror, mean in of_response.items() if weights[juror]}
        if counted:
            by_prompt.setdefault(attempt, {})[sample] = counted
    scores, sitting = {}, {}
    for attempt, of_prompt in by_prompt.items():
        fit = [sample for sample in of_prompt if (attempt, sample) in able]
        sitting[attempt] = jurors = sitting_jurors(of_prompt, weights, fit)
        for sample, of_response in of_prompt.items():
            if all(juror in of_response for juror in jurors):
                scores[attempt, sample] = _weighted(of_response, jurors, weights)
    return scores, sitting


def mean_scores(
    responses: Iterable[Response], judgments: Iterable[Judgment], weights: Sequence[float] = (1.0,)
) -> dict[Key, float]:
    """Scores of all responses that have one, by (attempt, sample); see ``jury_scores``."""
    return jury_scores(means_by_response(judgments), weights, whole_responses(responses))[0]


def whole_responses(responses: Iterable[Response]) -> set[Key]:
    """The policy's responses that are not cut off, by (attempt, sample)."""
    return {(r.attempt, r.sample) for r in responses if not r.truncated and not r.is_anchor}


def _weighted(means: Means, jurors: Sequence[int], weights: Sequence[float]) -> float:
    if len(jurors) == 1:  # to the last bit the judge's own mean, whatever it weighs
        return means[jurors[0]]
    return _mean([means[juror] for juror in jurors], [weights[juror] for juror in jurors])


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """In exact sums, so that order does not matter to the last bit."""
    return fsum(map(mul, values, weights)) / fsum(weights)
