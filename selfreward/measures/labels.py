"""How far the judge of a run agrees with the people who labeled its answers, and they with another.

    labels that count -> rankings -> the figures of ``agreement``, all and by iteration
                      -> orders of two answers by labeler -> labelers with each other
                      -> ratings and boxes by iteration

Each label of two or more answers is one ranking, and so are the ratings that one person gave the
answers to one prompt. In which order answers were shown makes no difference to any figure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import median

import numpy as np

from selfreward.measures.agreement import RESAMPLES, agreement
from selfreward.measures.bootstrap import Bootstrap
from selfreward.measures.calibration import vote_agreement
from selfreward.measures.reports import Agreement, Estimate, VoteAgreement
from selfreward.measures.sample import JudgedResponse, votes_of
from selfreward.measures.votes import scores_of
from selfreward.records import MAX_SCORE, Judgment, Response
from selfreward.storage.label import FLAGS, RATINGS, Content, Item, Label, altered, content
from selfreward.storage.store import Store

At = tuple[int, int]
"""(iteration, attempt)"""
Votes = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one person thinks of answers to one prompt, from one label or all ratings of it."""

    labeler: str
    item: Item
    """The answers of all ratings together."""
    content: Content
    preferences: tuple[float, ...]
    """By answer; more is better."""
    scores: tuple[float | None, ...]
    """By answer, 0 to 5, see ``points_of``; None where they only compared."""
    notes: tuple[str, ...]
    """By answer; empty where there is none, or it is about all of them."""
    flags: tuple[tuple[str, ...], ...]
    """By answer; see ``FLAGS``."""


@dataclass(frozen=True, slots=True)
class Labeler:
    """How much one person labeled."""

    name: str
    ab: int
    ranking: int
    rating: int
    """Labels of each kind that count."""
    skipped: int
    seconds: float | None
    """Median time of a label; None where it is not known."""


@dataclass(frozen=True, slots=True)
class TwoLabelers:
    """How far people agree on what more than one of them labeled."""

    labelers: tuple[str, ...]
    """Two names; none for all of them together."""
    prompts: int
    """On which two of them ordered the same answers."""
    same: Estimate
    """Share of pairs of answers that both put in the same order, a tie of one alone as a half."""
    kendall: Estimate
    """Kendall's tau-b of the two orders within a prompt, mean; 0 where one has nothing but ties."""


@dataclass(frozen=True, slots=True)
class People:
    """How far labelers agree with each other."""

    together: TwoLabelers
    each: tuple[TwoLabelers, ...]
    """Every two labelers who labeled the same, by name."""
    alpha: Estimate
    """Krippendorff's alpha over the orders (better, tied, worse) of two answers; 0 is chance."""
    ratings: VoteAgreement | None
    """Of answers that more than one rated, in points of 1 to 7; None without any."""


@dataclass(frozen=True, slots=True)
class Rated:
    """What people think of the answers of one iteration by themselves."""

    iteration: int
    rating: Estimate
    """Mean, 1 to 7, over ratings."""
    flags: dict[str, int]
    """How many ratings tick each box of ``FLAGS``, without those that none ticks."""


@dataclass(frozen=True, slots=True)
class JudgeOfIteration:
    """The judge of one iteration against people."""

    iteration: int
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """What the labels of a run come to."""

    run: str
    labelers: tuple[Labeler, ...]
    """By name."""
    prompts: int
    """With a label that counts."""
    superseded: int
    """Labels that a later one of the same person on the same item replaced, or that were undone."""
    left_out: dict[str, int]
    """Labels and answers that no figure takes in, by reason."""
    judge: Agreement | None
    """None without labels that a judge could be held against."""
    iterations: tuple[JudgeOfIteration, ...]
    people: People | None
    """None where no two labelers ordered or rated the same answers."""
    ratings: tuple[Rated, ...]


def points_of(rating: int) -> float:
    """A rating of 1 to 7 on the judge's scale of 0 to 5: a straight line from end to end."""
    return (rating - RATINGS[0]) * MAX_SCORE / (RATINGS[-1] - RATINGS[0])


def label_figures(
    store: Store, run: str, history: Sequence[Label], counts: Sequence[Label]
) -> LabelFigures:
    """Compute all figures.

    Args:
        history: All labels; undos and what was superseded are only counted.
        counts: Those that count, see ``storage.labels.in_force``.
    """
    found, left_out = opinions(store, counts)
    told, not_judged = _judged(store, found)
    if not_judged:
        left_out["not judged yet"] = not_judged
    rounds = sorted({opinion.item.iteration for opinion, _ in told})
    given = [label for label in history if label.undoes is None]
    return LabelFigures(
        run=run,
        labelers=_labelers(counts),
        prompts=len({(o.item.iteration, o.item.attempt) for o in found}),
        superseded=len(given) - len(counts),
        left_out=left_out,
        judge=_agreement(told) if told else None,
        iterations=tuple(
            JudgeOfIteration(t, _agreement([each for each in told if each[0].item.iteration == t]))
            for t in rounds
        ),
        people=people(found),
        ratings=_ratings(found),
    )


def opinions(store: Store, counts: Iterable[Label]) -> tuple[list[Opinion], dict[str, int]]:
    """What people think, in an order that is the same whenever they said it.

    Returns:
        The opinions, and how many labels are in none of them, by reason.
    """
    labels = [label for label in counts if not label.is_skip]
    gone = altered(store, labels)
    left_out = {"the records no longer hold what was labeled": len(gone)} if gone else {}
    labels = sorted(
        (label for label in labels if label.number not in gone),
        key=lambda label: (label.labeler, label.item),
    )
    rated: defaultdict[tuple[str, int, int], list[Label]] = defaultdict(list)
    found = []
    for label in labels:
        if label.ranks is None:
            rated[label.labeler, label.item.iteration, label.item.attempt].append(label)
            continue
        orders, many = tuple(float(-rank) for rank in label.ranks), len(label.ranks)
        found.append(
            Opinion(
                label.labeler, label.item, content(store, label.item), orders,
                scores=(None,) * many, notes=("",) * many, flags=((),) * many,
            )
        )  # fmt: skip
    for (labeler, iteration, attempt), group in rated.items():
        item = Item("rating", iteration, attempt, tuple(label.item.samples[0] for label in group))
        ratings = [label.rating for label in group if label.rating is not None]
        found.append(
            Opinion(
                labeler, item, content(store, item), tuple(map(float, ratings)),
                scores=tuple(map(points_of, ratings)),
                notes=tuple(label.note for label in group),
                flags=tuple(label.flags for label in group),
            )
        )  # fmt: skip
    return found, left_out


def people(found: Sequence[Opinion]) -> People | None:
    """How far labelers agree with each other, kind by kind of label on the same answers."""
    orders: dict[str, dict[tuple[str, At], dict[tuple[int, int], int]]] = {}
    for opinion in found:
        item = opinion.item
        of_item = orders.setdefault(opinion.labeler, {})
        of_prompt = of_item.setdefault((item.kind, (item.iteration, item.attempt)), {})
        for (a, x), (b, y) in combinations(
            sorted(zip(item.samples, opinion.preferences, strict=True)), 2
        ):
            of_prompt[a, b] = (x > y) - (x < y)
    numbers: dict[str, int] = {}
    for opinion in found:
        numbers.setdefault(opinion.content.prompt, len(numbers))
    where = {(o.item.iteration, o.item.attempt): numbers[o.content.prompt] for o in found}
    bootstrap = Bootstrap(len(numbers), RESAMPLES, seed=0)
    two = {(a, b): _common(orders[a], orders[b], where) for a, b in combinations(sorted(orders), 2)}
    ratings = _rating_agreement(bootstrap, found, numbers)
    if not any(two.values()) and ratings is None:
        return None
    return People(
        together=_two((), [each for common in two.values() for each in common], bootstrap),
        each=tuple(_two(names, common, bootstrap) for names, common in two.items() if common),
        alpha=_order_alpha(bootstrap, orders, where),
        ratings=ratings,
    )


Common = tuple[int, list[tuple[int, int]]]
"""Number of a prompt, and the orders that two labelers gave pairs of its answers."""


def _common(
    a: dict[tuple[str, At], dict[tuple[int, int], int]],
    b: dict[tuple[str, At], dict[tuple[int, int], int]],
    where: dict[At, int],
) -> list[Common]:
    found = []
    for place in sorted(a.keys() & b.keys()):
        both = sorted(a[place].keys() & b[place].keys())
        if both:
            found.append((where[place[1]], [(a[place][pair], b[place][pair]) for pair in both]))
    return found


def _two(names: tuple[str, ...], common: Sequence[Common], bootstrap: Bootstrap) -> TwoLabelers:
    size = bootstrap.num_prompts
    same, pairs, kendall, times = (np.zeros(size) for _ in range(4))
    for prompt, orders in common:
        same[prompt] += sum(1 - abs(x - y) / 2 for x, y in orders)
        pairs[prompt] += len(orders)
        kendall[prompt] += _kendall(orders)
        times[prompt] += 1
    return TwoLabelers(
        labelers=names,
        prompts=int(np.count_nonzero(times)),
        same=bootstrap.share((same, pairs)),
        kendall=bootstrap.share((kendall, times)),
    )


def _kendall(orders: Sequence[tuple[int, int]]) -> float:
    """Tau-b from the orders of pairs (Kendall 1945): ties of either count in neither's norm."""
    first, second = sum(x != 0 for x, _ in orders), sum(y != 0 for _, y in orders)
    return sum(x * y for x, y in orders) / sqrt(first * second) if first and second else 0.0


def _order_alpha(
    bootstrap: Bootstrap,
    orders: dict[str, dict[tuple[str, At], dict[tuple[int, int], int]]],
    where: dict[At, int],
) -> Estimate:
    """Alpha over -1, 0, 1; each pair in both directions, so that none is the first by chance."""
    units: defaultdict[tuple[str, At, tuple[int, int]], list[float]] = defaultdict(list)
    for of_labeler in orders.values():
        for (kind, at), pairs in of_labeler.items():
            for pair, order in pairs.items():
                units[kind, at, pair].append(order)
    prompts = [where[at] for _, at, _ in units for _ in range(2)]
    votes = [[sign * order for order in given] for given in units.values() for sign in (1, -1)]
    found = vote_agreement(bootstrap, np.array(prompts, int), votes)
    return Estimate(None, None, None, 0) if found is None else found.alpha


def _rating_agreement(
    bootstrap: Bootstrap, found: Sequence[Opinion], numbers: dict[str, int]
) -> VoteAgreement | None:
    given: defaultdict[tuple[int, At, int], list[float]] = defaultdict(list)
    for opinion in found:
        if opinion.item.kind == "rating":
            at = (opinion.item.iteration, opinion.item.attempt)
            for sample, rating in zip(opinion.item.samples, opinion.preferences, strict=True):
                given[numbers[opinion.content.prompt], at, sample].append(rating)
    return vote_agreement(bootstrap, np.array([key[0] for key in given], int), [*given.values()])


def _judged(
    store: Store, found: Sequence[Opinion]
) -> tuple[list[tuple[Opinion, dict[int, Votes]]], int]:
    """Opinions with the judge's votes by sample, and how many are on what is not judged yet."""
    known: dict[At, dict[int, Votes]] = {}
    for opinion in found:
        at = (opinion.item.iteration, opinion.item.attempt)
        if at not in known:
            known[at] = _votes(store, *at)
    told = [(o, known[o.item.iteration, o.item.attempt]) for o in found]
    told = [(o, votes) for o, votes in told if votes.keys() >= {*o.item.samples}]
    return told, len(found) - len(told)


def _votes(store: Store, iteration: int, attempt: int) -> dict[int, Votes]:
    """By sample that was judged; of a jury the one score that pairs are made by.

    Without votes that came from elsewhere: they may be the very labels that are held against them.
    """
    found = store.records(Judgment, iteration, attempt)
    judgments = [judgment for judgment in found if judgment.form != "imported"]
    by_sample: defaultdict[int, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        by_sample[judgment.sample].append(judgment)
    if all(judgment.juror == 0 for judgment in judgments):
        return {sample: tuple(votes_of(given)) for sample, given in by_sample.items()}
    scores = scores_of(store, store.records(Response, iteration, attempt), judgments)
    return {sample: (scores.get((attempt, sample)),) for sample in by_sample}


def _agreement(told: Sequence[tuple[Opinion, dict[int, Votes]]]) -> Agreement:
    return agreement([
        JudgedResponse(o.content.prompt, number, preference, votes[sample], len(text), score)
        for number, (o, votes) in enumerate(told)
        for sample, preference, text, score in zip(
            o.item.samples, o.preferences, o.content.answers, o.scores, strict=True
        )
    ])  # fmt: skip


def _labelers(counts: Sequence[Label]) -> tuple[Labeler, ...]:
    rows = []
    for name in sorted({label.labeler for label in counts}):
        mine = [label for label in counts if label.labeler == name]
        given = [label for label in mine if not label.is_skip]
        kinds = Counter(label.item.kind for label in given)
        times = [label.seconds for label in given if label.seconds is not None]
        rows.append(
            Labeler(
                name, kinds["ab"], kinds["ranking"], kinds["rating"], len(mine) - len(given),
                median(times) if times else None,
            )
        )  # fmt: skip
    return tuple(rows)


def _ratings(found: Sequence[Opinion]) -> tuple[Rated, ...]:
    rounds: defaultdict[int, list[Opinion]] = defaultdict(list)
    for opinion in found:
        if opinion.item.kind == "rating":
            rounds[opinion.item.iteration].append(opinion)
    rows = []
    for iteration, mine in sorted(rounds.items()):
        numbers = {p: i for i, p in enumerate(dict.fromkeys(o.content.prompt for o in mine))}
        total, times = np.zeros(len(numbers)), np.zeros(len(numbers))
        for opinion in mine:
            total[numbers[opinion.content.prompt]] += sum(opinion.preferences)
            times[numbers[opinion.content.prompt]] += len(opinion.preferences)
        ticked = Counter(flag for opinion in mine for flags in opinion.flags for flag in flags)
        mean = Bootstrap(len(numbers), RESAMPLES, seed=0).share((total, times))
        rows.append(Rated(iteration, mean, {flag: ticked[flag] for flag in FLAGS if ticked[flag]}))
    return tuple(rows)
