"""Which judgments become EFT rows: those that agree with people (arXiv 2401.10020, 3.1.1).

    K votes on each response to a prompt
      |-- the first set, vote k of each, whose scores order the responses as people do  kept
      |-- people gave no order but points: the nearest vote, within half a point       kept
      `-- then the surplus of the commonest score goes again

The paper accepts a set of judgments, one per response, whose scores have people's order. Of K sets
any may have it by chance; with ``combine`` any of the K ** (number of responses) combinations may,
which a judge that rolls dice passes far more often: see ``measures/selection.py``.

judgments in = judgments kept + drops
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from selfreward.inputs.rankings import Ranking
from selfreward.records import Drop, Judgment, Response, kept
from selfreward.stages.base import seed_of
from selfreward.stages.verdict import points

STAGE = "selection"
NEAR = 0.5
"""Points that a vote may be away from what people gave: it rounds to the same score."""
COMMONEST = "commonest score"

Key = tuple[int, int]
"""(attempt, sample)"""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What people think of a response."""

    preference: float
    """More is better, among the responses to its prompt; has no unit."""
    score: float | None = None
    """Points, 0 to 5; None where people only compared."""


def select(
    judgments: Sequence[Judgment],
    opinions: Mapping[Key, Opinion],
    *,
    max_share: float,
    run_seed: int,
    combine: bool = False,
) -> tuple[list[Judgment], list[Drop]]:
    """Keep at most one vote per response.

    A response without any verdict is left out and the others of its prompt have to agree among
    themselves. Of several sets that agree with people the first is taken.

    Args:
        judgments: Votes in the ``written`` form, in key order.
        opinions: Of every response that was judged.
        max_share: See ``cap``.
        run_seed: Decides which rows of the commonest score stay.
        combine: Take any combination of votes; of several that agree the first, going by the votes
            on the first response, then on the second, and so on.

    Returns:
        The judgments kept, in key order, and a drop for each of the others. Reasons:
        ``no verdict``, ``order disagrees``, ``tie`` (all votes on the prompt give one score),
        ``no whole set`` (each lacks a verdict that others have),
        ``no order`` (nothing to compare a response with, nor points from people), ``far from
        people's score``, ``other vote`` (another one on the same response agrees), and
        ``commonest score``.
    """
    agreeing: list[Judgment] = []
    drops: list[Drop] = []
    for _, group in groupby(judgments, key=lambda judgment: judgment.attempt):
        votes = list(group)
        parsed = [vote for vote in votes if vote.score is not None]
        chosen, reasons = _agreeing(parsed, opinions, combine)
        agreeing += chosen
        for vote in votes:
            if vote.score is None:
                drops.append(_drop(vote, "no verdict", vote.reason or ""))
            elif vote not in chosen:
                drops.append(_drop(vote, *reasons.get(vote.sample, ("other vote", ""))))
    surplus = cap(agreeing, max_share=max_share, run_seed=run_seed)
    drops += [_drop(vote, COMMONEST, f"{vote.score:g}") for vote in surplus]
    return kept(agreeing, drops), drops


def first_choice(
    scores: Sequence[Sequence[float]], preferences: Sequence[float]
) -> tuple[int, ...] | None:
    """Choose one score per response so that the order is that of the preferences.

    Whenever one response is preferred to another its score is strictly higher; responses of equal
    preference may have any scores.

    Args:
        scores: By response; at least one each.
        preferences: By response.

    Returns:
        Places in ``scores``, by response: of all choices that fit, the first in lexicographic
        order. None if none fits.
    """
    allowed = [list(row) for row in scores]
    if not _can_agree(allowed, preferences):
        return None
    chosen = []
    for at, row in enumerate(scores):
        for place, score in enumerate(row):
            allowed[at] = [score]
            if _can_agree(allowed, preferences):
                chosen.append(place)
                break
    return tuple(chosen)


def whole_sets(rows: Sequence[Sequence[Judgment]]) -> list[list[Judgment]]:
    """The sets of which every response has a verdict: vote k of each, by k.

    Args:
        rows: By response; its votes with a verdict.
    """
    by_vote = [{vote.vote: vote for vote in row} for row in rows]
    numbers = set.intersection(*map(set, by_vote)) if by_vote else set()
    return [[votes[k] for votes in by_vote] for k in sorted(numbers)]


def cap(rows: Sequence[Judgment], *, max_share: float, run_seed: int) -> list[Judgment]:
    """Return the surplus of the commonest score, by whole points.

    Without it the score makes up at most ``max_share`` of the rows; but it never gets rarer than
    the next score is, else two common scores would have to go by turns, down to the rarest.
    """
    by_score: defaultdict[int, list[Judgment]] = defaultdict(list)
    for row in rows:
        assert row.score is not None
        by_score[points(row.score)].append(row)
    commonest, *others = sorted(by_score.values(), key=len, reverse=True) or [[]]
    num_others = sum(map(len, others))
    most = len(commonest)
    if max_share < 1:
        most = math.floor(max_share * num_others / (1 - max_share) + 1e-9)  # 2.9999... is 3
    most = max(most, len(others[0]) if others else 0)
    drawn = sorted(commonest, key=lambda row: seed_of(run_seed, STAGE, row.attempt, row.sample))
    return drawn[most:]


def _agreeing(
    votes: Sequence[Judgment], opinions: Mapping[Key, Opinion], combine: bool
) -> tuple[list[Judgment], dict[int, tuple[str, str]]]:
    """The votes on one prompt that agree with people, and why a response (sample) has none.

    Args:
        votes: Those with a verdict.
    """
    rows = [list(group) for _, group in groupby(votes, key=lambda vote: vote.sample)]
    opinion = [opinions[row[0].attempt, row[0].sample] for row in rows]
    scores = [[vote.score for vote in row if vote.score is not None] for row in rows]
    preferences = [one.preference for one in opinion]
    if len(set(preferences)) > 1:
        sets = whole_sets(rows)
        if not combine:
            found = next((one for one in sets if _is_ordered(one, preferences)), None)
            if found is not None:
                return found, {}
        elif (choice := first_choice(scores, preferences)) is not None:
            return [row[place] for row, place in zip(rows, choice, strict=True)], {}
        is_tie = len({score for row in scores for score in row}) == 1
        reason = "tie" if is_tie else "order disagrees" if sets or combine else "no whole set"
        return [], {row[0].sample: (reason, "") for row in rows}
    chosen, reasons = [], {}
    for row, one, given in zip(rows, opinion, scores, strict=True):
        if one.score is None:
            reasons[row[0].sample] = ("no order", "")
            continue
        away = [abs(score - one.score) for score in given]
        if min(away) <= NEAR:
            chosen.append(row[away.index(min(away))])
        else:
            reasons[row[0].sample] = ("far from people's score", f"people: {one.score:g}")
    return chosen, reasons


def _is_ordered(votes: Sequence[Judgment], preferences: Sequence[float]) -> bool:
    return _can_agree([[vote.score] for vote in votes if vote.score is not None], preferences)


def _can_agree(allowed: Sequence[Sequence[float]], preferences: Sequence[float]) -> bool:
    """Whether any choice fits: from the worst responses up, the least scores are the best ones."""
    order = sorted(range(len(allowed)), key=lambda at: preferences[at])
    bound = -math.inf
    for _, level in groupby(order, key=lambda at: preferences[at]):
        least = [min((s for s in allowed[at] if s > bound), default=math.inf) for at in level]
        bound = max(least)
    return bound < math.inf


def _drop(vote: Judgment, reason: str, detail: str) -> Drop:
    return Drop(vote.iteration, STAGE, vote.item, reason, detail)


def opinions_on(rankings: Sequence[Ranking], responses: Sequence[Response]) -> dict[Key, Opinion]:
    """What people think of each response; one made on purpose is worse than any of theirs."""
    return {
        (response.attempt, response.sample): _opinion(rankings[response.attempt], response)
        for response in responses
    }


def _opinion(ranking: Ranking, response: Response) -> Opinion:
    if response.author != "human":
        return Opinion(preference=-1.0)
    human = ranking.responses[response.sample]
    return Opinion(human.preference, human.score)
