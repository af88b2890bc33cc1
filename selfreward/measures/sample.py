"""Responses that both people and a judge looked at, and what they share of each other's order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfreward.inputs.rankings import Ranking, Text
from selfreward.measures.bootstrap import Floats, Share, Shares
from selfreward.measures.reports import Counts, Parts
from selfreward.measures.statistics import ranks, tau_b
from selfreward.records import FORMS, MAX_SCORE, Judgment

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class JudgedResponse:
    """A response with what people and what the judge think of it."""

    prompt: str
    """What is drawn in the bootstrap; several rankings may share it."""
    ranking: int
    """Responses of one ranking were compared with each other by people."""
    preference: float
    """Of people; more is better within the ranking."""
    votes: tuple[float | None, ...]
    """Of the judge, 0 to 5 points; None without a verdict."""
    length: int
    """Characters."""
    human_score: float | None = None
    """Points from people, 0 to 5, if they gave any."""

    @property
    def score(self) -> float | None:
        """Mean over the votes that have a verdict; None if there are none."""
        return mean_vote(self.votes)


class Sample:
    """Responses as arrays, their pairs, and sums by prompt.

    Args:
        responses: Those of a ranking next to each other.
        length_ratio: See ``LENGTH_RATIO``.
    """

    def __init__(self, responses: Sequence[JudgedResponse], length_ratio: float) -> None:
        numbers: dict[str, int] = {}
        self.prompts = np.array(
            [numbers.setdefault(r.prompt, len(numbers)) for r in responses], int
        )
        self.num_prompts = len(numbers)
        self.preferences = to_array([r.preference for r in responses])
        self.lengths = to_array([r.length for r in responses])
        groups: dict[tuple[str, int], list[int]] = {}
        for at, response in enumerate(responses):
            groups.setdefault((response.prompt, response.ranking), []).append(at)
        self.rankings = [np.array(group) for group in groups.values()]
        better: list[int] = []
        worse: list[int] = []
        for group in self.rankings:
            preference = self.preferences[group]
            above, below = np.nonzero(preference[:, None] > preference[None, :])
            better += group[above].tolist()
            worse += group[below].tolist()
        self.better, self.worse = np.array(better, int), np.array(worse, int)
        long = np.maximum(self.lengths[self.better], self.lengths[self.worse])
        short = np.minimum(self.lengths[self.better], self.lengths[self.worse])
        self.matched: Flags = long <= length_ratio * short

    def counts(self) -> Counts:
        """How much there is of each."""
        return Counts(
            prompts=self.num_prompts,
            rankings=len(self.rankings),
            ordered=sum(map(self._is_ordered, self.rankings)),
            responses=len(self.preferences),
            pairs=len(self.better),
            matched=int(self.matched.sum()),
        )

    def shares(self, scores: Floats, among: Flags | None = None) -> Parts[Shares, Shares]:
        """Shares of pairs, of all also those of rankings, of the responses ``among`` alone."""
        among = np.ones(len(scores), bool) if among is None else among
        paired = among[self.better] & among[self.worse]
        return Parts(
            all=self.pair_shares(scores, paired) | self._ranking_shares(scores, among),
            matched=self.pair_shares(scores, paired & self.matched),
        )

    def pair_shares(self, scores: Floats, among: Flags | None = None) -> Shares:
        """Shares of pairs; a pair in which a score is missing is neither hit nor tie."""
        among = np.ones(len(self.better), bool) if among is None else among
        prompts = self.prompts[self.better]
        better, worse = scores[self.better], scores[self.worse]
        hit, tie = among & (better > worse), among & (better == worse)
        longer = self.lengths[self.better] > self.lengths[self.worse]
        unequal = self.lengths[self.better] != self.lengths[self.worse]
        told = among & unequal & ~np.isnan(better) & ~np.isnan(worse)
        higher = np.where(longer, better > worse, worse > better) + tie / 2

        def share(numerator: Any, denominator: Any) -> Share:
            return self._by_prompt(prompts, numerator), self._by_prompt(prompts, denominator)

        return {
            "accuracy": share(hit + tie / 2, among),
            "accuracy_strict": share(hit, among),
            "ties": share(tie, among),
            "prefers_longer": share(told * higher, told),
        }

    def _ranking_shares(self, scores: Floats, among: Flags) -> Shares:
        """Shares of rankings, and of responses given 5."""
        prompts: list[int] = []
        rows: list[tuple[float, float, float]] = []
        best = np.zeros(len(scores), bool)
        ordered = np.zeros(len(scores), bool)
        for group in self.rankings:
            if not self._is_ordered(group):
                continue
            ordered[group] = True
            best[group] = self.preferences[group] == self.preferences[group].max()
            group = group[among[group]]
            if self._is_ordered(group):
                prompts.append(int(self.prompts[group[0]]))
                rows.append(_rank_agreement(self.preferences[group], scores[group]))
        where, table = np.array(prompts, int), np.array(rows).reshape(-1, 3)
        counted = self._by_prompt(where, np.ones(len(rows)))
        five = ordered & (scores == MAX_SCORE)
        return {
            **{
                name: (self._by_prompt(where, table[:, column]), counted)
                for column, name in enumerate(("exact", "spearman", "kendall"))
            },
            "five_best": self.per_response(five * best, five),
        }

    def standings(self) -> Floats:
        """Share of the other responses of the ranking that people like less, an equal one half;
        shape (responses,), not a number where there is no other.
        """
        standings = np.full(len(self.preferences), np.nan)
        for group in self.rankings:
            if len(group) > 1:
                ours, others = self.preferences[group][:, None], self.preferences[group][None, :]
                points = (ours > others).sum(1) + ((ours == others).sum(1) - 1) / 2
                standings[group] = points / (len(group) - 1)
        return standings

    def per_response(self, numerator: Any, denominator: Any) -> Share:
        """A share of responses."""
        return self._by_prompt(self.prompts, numerator), self._by_prompt(self.prompts, denominator)

    def _is_ordered(self, group: NDArray[np.int_]) -> bool:
        return bool(len(group) > 1 and np.ptp(self.preferences[group]) > 0)

    def _by_prompt(self, prompts: NDArray[np.int_], values: Any) -> Floats:
        return np.bincount(prompts, weights=values, minlength=self.num_prompts).astype(float)


def _rank_agreement(preferences: Floats, scores: Floats) -> tuple[float, float, float]:
    """(exact, Spearman, Kendall tau-b) of one ranking; see ``agreement``."""
    if np.isnan(scores).any() or np.ptp(scores) == 0:
        return 0.0, 0.0, 0.0
    above = preferences[:, None] > preferences[None, :]
    exact = bool((scores[:, None] > scores[None, :])[above].all())
    ours, theirs = preferences.tolist(), scores.tolist()
    spearman = np.corrcoef(ranks(ours), ranks(theirs))[1, 0]  # just as SciPy has it
    return float(exact), float(spearman), tau_b(ours, theirs) or 0.0


def mean_vote(votes: Sequence[float | None]) -> float | None:
    """Mean over the votes that have a verdict; None if there are none."""
    given = [vote for vote in votes if vote is not None]
    return sum(given) / len(given) if given else None


def to_array(values: Sequence[float | None]) -> Floats:
    """Values as numbers, of which None becomes not a number."""
    return np.array([np.nan if value is None else value for value in values], float)


def votes_of(judgments: Sequence[Judgment]) -> list[float | None]:
    """The scores that a judge gave a text, None without a verdict.

    Those by criteria are one vote: their weighted mean, over the ones with a verdict.
    """
    if not (judgments and FORMS[judgments[0].form].by_criterion):
        return [judgment.score for judgment in judgments]
    given = [(j.score, j.weight) for j in judgments if j.score is not None]
    return [fmean(*zip(*given, strict=True)) if given else None]


def judged_responses(
    rankings: Sequence[Ranking], votes: Mapping[Text, Sequence[float | None]]
) -> list[JudgedResponse]:
    """Put what people and the judge think of each response together."""
    return [
        JudgedResponse(
            prompt=ranking.prompt,
            ranking=number,
            preference=response.preference,
            votes=tuple(votes[ranking.prompt, response.text]),
            length=len(response.text),
            human_score=response.score,
        )
        for number, ranking in enumerate(rankings)
        for response in ranking.responses
    ]
