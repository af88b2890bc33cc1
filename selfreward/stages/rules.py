"""Pair rules: which of a prompt's candidates become preference pairs.

    a prompt's answers -> candidates (``pairs.py``) -> rule -> preference pairs

A candidate is two answers to one prompt of which one is better, by its score or, of equal scores,
by comparisons, and that pass the filters of ``PairsConfig``. A rule gets the candidates prompt by
prompt, never none, and takes at least one of each prompt; so rules that get the same candidates
(all but ``anchored``) pair the same prompts, and differ in what they pair there. Lengths are in
characters, scores in points.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from statistics import fmean

from selfreward.config import PairsConfig

ROUNDING = 1e-9
"""Points within which scores are one: means of thirds that are one point apart differ by
0.9999999999999996, and 5/6 comes out as one number of 0 and 5/3 and as another of 1/3 and 4/3."""


@dataclass(frozen=True, slots=True)
class Votes:
    """What one judge says of an answer."""

    scores: Mapping[int, Sequence[float]]
    """Of its votes, 0 to 5, by what it was asked: under 0 the votes on the whole answer, or one by
    number of the criterion; at least one."""
    mean: float
    """Over its votes, 0 to 5."""
    weight: float = 1.0
    """Of the judge."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that can be paired."""

    sample: int
    score: float
    """Weighted mean over its judges, 0 to 5."""
    votes: tuple[Votes, ...]
    """By judge: the same ones, in order, for all answers to a prompt; at least one."""
    length: int
    rank: int = 0
    """Among answers of the same score, by comparisons; higher is better, equal is a tie."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two answers to one prompt, the better one as chosen."""

    attempt: int
    chosen: Answer
    rejected: Answer

    @property
    def margin(self) -> float:
        """Score difference in points; 0 where comparisons broke a tie."""
        return self.chosen.score - self.rejected.score

    @property
    def excess(self) -> int:
        """Characters by which chosen is longer; below 0 where it is shorter."""
        return self.chosen.length - self.rejected.length

    @property
    def agreement(self) -> float:
        """Share of all (vote on chosen, vote on rejected) in which chosen is above, ties as halves.

        Votes are set against votes of the same judge, and on the same criterion where there are
        criteria; the mean over criteria, then the weighted mean over judges. 1 where every vote
        puts chosen above. Within a judge this is Mann and Whitney's U over its maximum.
        """
        return self._over_judges(_share)

    @property
    def jurors(self) -> float:
        """Share of the judges, by weight, whose mean puts chosen above; ties as halves."""
        return self._over_judges(lambda a, b: (a.mean > b.mean) + (a.mean == b.mean) / 2)

    def _over_judges(self, share: Callable[[Votes, Votes], float]) -> float:
        both = list(zip(self.chosen.votes, self.rejected.votes, strict=True))
        return fmean([share(a, b) for a, b in both], [a.weight for a, _ in both])


Rule = Callable[[Iterable[Sequence[Candidate]], PairsConfig], list[Candidate]]


def best_worst(groups: Iterable[Sequence[Candidate]], settings: PairsConfig) -> list[Candidate]:
    """The widest margin of each prompt (Self-Rewarding Language Models, arXiv 2401.10020, 2.2)."""
    return [max(group, key=_width) for group in groups]


def all_pairs(groups: Iterable[Sequence[Candidate]], settings: PairsConfig) -> list[Candidate]:
    """All candidates of each prompt, or its ``max_per_prompt`` widest."""
    widest_first = (sorted(group, key=_width, reverse=True) for group in groups)
    return [candidate for group in widest_first for candidate in group[: settings.max_per_prompt]]


def length_control(groups: Iterable[Sequence[Candidate]], settings: PairsConfig) -> list[Candidate]:
    """The shortest of the good answers against the longest of the bad ones.

    With S+ and S- the scores of the widest pair, good is a score of at least (1 - rho) S+ + rho S-
    and bad one of at most (1 - rho) S- + rho S+. A filter may forbid that pair; then it is the one
    of a good and a bad answer whose chosen is least longer than its rejected.

    Source: Meta-Rewarding Language Models, arXiv 2407.19594, 2.2.
    """
    taken = []
    for group in groups:
        widest = max(group, key=_width)
        slack = settings.rho * widest.margin + ROUNDING
        banded = [
            candidate
            for candidate in group
            if candidate.chosen.score >= widest.chosen.score - slack
            and candidate.rejected.score <= widest.rejected.score + slack
        ]
        taken.append(max(banded, key=lambda candidate: (-candidate.excess, _width(candidate))))
    return taken


def length_regularized(
    groups: Iterable[Sequence[Candidate]], settings: PairsConfig
) -> list[Candidate]:
    """The widest margin of each prompt after alpha points per character are taken off all scores.

    One alpha of 0 or more serves the iteration: that at which chosen and rejected come nearest to
    the same mean length. Found exactly: as alpha grows, each prompt moves to candidates whose
    chosen is shorter by comparison, at steps that can be computed.

    Source: DICE, arXiv 2406.09760, which tries alphas 0.001 apart up to 1 instead, and also takes
    pairs whose margin before the penalty is below 0, which are no candidates here.
    """
    ways = [_way(group) for group in groups]
    steps = sorted(
        (alpha, prompt, place)
        for prompt, way in enumerate(ways)
        for place, (alpha, _) in enumerate(way)
        if place > 0
    )
    changes = (
        ways[prompt][place][1].excess - ways[prompt][place - 1][1].excess
        for _, prompt, place in steps
    )
    excesses = accumulate(changes, initial=sum(way[0][1].excess for way in ways))
    num_steps, _ = min(enumerate(map(abs, excesses)), key=itemgetter(1))
    places = Counter(prompt for _, prompt, _ in steps[:num_steps])
    return [way[places[prompt]][1] for prompt, way in enumerate(ways)]


def anchored(groups: Iterable[Sequence[Candidate]], settings: PairsConfig) -> list[Candidate]:
    """The policy's best answer against the worst that M1 gave to the same prompt.

    Each candidate is one of either; in iteration 1, where the policy is M1, any two answers are.

    Source: Temporal Self-Rewarding, arXiv 2508.06026, its anchored rejection: rejected answers of
    the first model keep the two apart, which would become alike over the iterations. Its chosen
    answers come with the help of a model trained ahead, which is not done here.
    """
    return best_worst(groups, settings)


RULES: dict[str, Rule] = {
    "best_worst": best_worst,
    "all_pairs": all_pairs,
    "length_control": length_control,
    "length_regularized": length_regularized,
    "anchored": anchored,
}
"""The values of ``pairs.rule``."""


def _share(chosen: Votes, rejected: Votes) -> float:
    """Of one judge; see ``Candidate.agreement``. Half where no criterion has both verdicts."""
    shares = []
    for asked in sorted(chosen.scores.keys() & rejected.scores.keys()):
        votes = [(a, b) for a in chosen.scores[asked] for b in rejected.scores[asked]]
        shares.append(sum((a > b) + (a == b) / 2 for a, b in votes) / len(votes))
    return fmean(shares) if shares else 0.5


def _width(candidate: Candidate) -> tuple[float, ...]:
    """Sorts by margin; of equal margins, best answer, worst answer, earlier samples come first."""
    chosen, rejected = candidate.chosen, candidate.rejected
    places = (chosen.score, -rejected.score, chosen.rank, -rejected.rank)
    return candidate.margin, *places, -chosen.sample, -rejected.sample


def _way(group: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
    """The candidates that win a prompt by margin - alpha x excess, as alpha grows from 0.

    Returns:
        (alpha, candidate), in order: from this alpha on, this candidate wins. The first is the
        widest, at alpha 0; each that follows has a smaller excess and an equal or larger alpha.
    """
    way = [(0.0, max(group, key=_width))]
    while True:
        alpha, now = way[-1]
        costs = [
            ((now.margin - other.margin) / (now.excess - other.excess), other.excess, i)
            for i, other in enumerate(group)
            if other.excess < now.excess
        ]
        if not costs:
            return way
        cost, _, i = min(costs)
        way.append((max(alpha, cost), group[i]))
