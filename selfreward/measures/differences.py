"""Two models as judges of the same responses: how much more often one orders them as people do."""

from collections.abc import Sequence

from selfreward.inputs.rankings import Ranking
from selfreward.measures.agreement import LENGTH_RATIO, RESAMPLES
from selfreward.measures.bootstrap import Bootstrap
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
    human = [(number, ranking.prompt, response) for number, ranking in enumerate(rankings)
             for response in ranking.responses]  # fmt: skip
    asked = [number for number, _, _ in human]
    if any([row.ranking for row in report.responses] != asked for report in (a, b)):
        return None
    sample = Sample(
        [
            JudgedResponse(prompt, number, response.preference, (), len(response.text))
            for number, prompt, response in human
        ],
        LENGTH_RATIO,
    )
    first, second = (
        sample.pair_shares(to_array([row.score for row in report.responses]))["accuracy"]
        for report in (a, b)
    )
    return Bootstrap(sample.num_prompts, RESAMPLES, seed=0).difference(second, first)
