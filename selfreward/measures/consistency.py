"""How far a model and the one that it was trained from rank the same responses alike (CREAM).

Both are judges of the run: the policy M(t), and M(t-1) as the juror ``model: previous``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from selfreward.measures.statistics import tau_b
from selfreward.measures.votes import JudgeRow
from selfreward.stages.jury import Key

CONSISTENCY = "consistency"
"""Name of the report."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """Of an iteration."""

    value: float | None
    """Mean over the prompts of (tau-b + 1) / 2, 0 to 1: 1 where all are ranked alike, 0 where all
    are ranked the other way round; None without a prompt that counts."""
    prompts: int
    """On which both tell responses apart, so that there is a tau."""


def consistency(
    rows: Iterable[JudgeRow], whole: Iterable[Key], judges: tuple[int, int]
) -> Consistency:
    """Agreement of two judges on the order of the responses to each prompt.

    Kendall's tau-b, which counts a tie of one judge as neither order: to break ties by the place of
    a response, as CREAM's code does, would count as agreement what is none.

    Args:
        rows: Of an iteration, see ``votes.read_votes``.
        whole: Responses that count, by (attempt, sample).
        judges: Their jurors.

    Source: CREAM, arXiv 2410.12735, its consistency rate; it ranks by implicit rewards.
    """
    counted, means = {*whole}, dict[int, dict[int, dict[int, float]]]()
    for row in rows:
        if row.mean is not None and (row.attempt, row.sample) in counted:
            of_response = means.setdefault(row.attempt, {}).setdefault(row.sample, {})
            of_response[row.juror] = row.mean
    shares = []
    for of_prompt in means.values():
        both = [
            [scores[j] for j in judges] for scores in of_prompt.values() if {*judges} <= {*scores}
        ]
        tau = tau_b([one for one, _ in both], [other for _, other in both])
        if tau is not None:
            shares.append((tau + 1) / 2)
    return Consistency(fmean(shares) if shares else None, len(shares))
