"""Two models as judges of the same responses: how much more often one orders them as people do."""

from collections.abc import Sequence

from selfreward.inputs.rankings import Ranking
from selfreward.measures.agreement import LENGTH_RATIO, RESAMPLES
from selfreward.measures.bootstrap import Bootstrap, Share
from selfreward.measures.reports import Estimate, JudgeReport
from selfreward.measures.sample import JudgedResponse, Sample, to_array


def accuracy_difference(
    rankings: Sequence[Ranking], a: JudgeReport, b: JudgeReport
) -> Estimate | None:
    """Accuracy of judge b less that of judge a, -1 to 1; see ``reports.PairShares``.

    Both judged the same responses, so a resample draws the same prompts for both (a paired cluster
    bootstrap, see ``bootstrap``): what is hard about a prompt is no difference between the judges.

    Args:
        rankings: What both judged, as the evaluation read it.

    Returns:
        None where the reports are not about these responses.
    """
    first, second = (accuracy_share(rankings, report) for report in (a, b))
    if first is None or second is None:
        return None
    return Bootstrap(len(first[0]), RESAMPLES, seed=0).difference(second, first)


def accuracy_share(rankings: Sequence[Ranking], report: JudgeReport) -> Share | None:
    """Pairs that a judge orders as people do, a tie half, and all pairs, by prompt.

    Returns:
        None where the report is not about these responses.
    """
    human = [(number, ranking.prompt, response) for number, ranking in enumerate(rankings)
             for response in ranking.responses]  # fmt: skip
    if [row.ranking for row in report.responses] != [number for number, _, _ in human]:
        return None
    responses = [
        JudgedResponse(prompt, number, response.preference, (), len(response.text))
        for number, prompt, response in human
    ]
    scores = to_array([row.score for row in report.responses])
    return Sample(responses, LENGTH_RATIO).pair_shares(scores)["accuracy"]
