"""Rows of the table of scores: a label, and a cell for each iteration.

The words are explained in docs/scores.md; a row that is not ``Row.short`` is shown by ``--all``.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

from selfreward.measures.curves import Curve, OnlineFigures, TrainingFigures
from selfreward.measures.evaluated import (
    JudgeFigures,
    PositionFigures,
)
from selfreward.measures.figures import IterationFigures
from selfreward.measures.reports import Estimate
from selfreward.measures.sampled import num_sampled
from selfreward.measures.votes import JurorAgreement, JurorFigures
from selfreward.records import FORMS, stages_of
from selfreward.verbs.answer_rows import contest_rows, cut_off_rows, reward_rows, verified_rows
from selfreward.verbs.console import bold
from selfreward.verbs.data_rows import data_rows
from selfreward.verbs.layout import MISSING, bars, counted, duration, estimated, percent, share
from selfreward.verbs.score_cells import Cell, Rounds, Row, measured


def score_rows(rounds: Rounds, everything: bool, shown: Rounds | None = None) -> list[list[str]]:
    """All rows with something in them, of the iterations ``shown``.

    Args:
        rounds: All iterations, so that each part of a long table has the same rows.
        everything: Also what is rarely asked for.
        shown: Some of them; None for all.
    """
    shown = rounds if shown is None else shown
    rows = [
        *_made(rounds),
        *_scored(rounds),
        *_paired(rounds),
        *_trained(rounds),
        *cut_off_rows(rounds),
        *verified_rows(rounds),
        *reward_rows(rounds),
        *contest_rows(rounds),
        *_evaluated(rounds),
        *_spent(rounds),
    ]
    head = [bold("iteration"), *(bold(str(figures.iteration)) for figures in shown)]
    table = [head]
    for row in rows:
        if not (everything or row.short):
            continue
        if any(row.cell(figures) != MISSING for figures in rounds):
            table.append([row.label, *(row.cell(figures) for figures in shown)])
    return table


def _reasons(rounds: Rounds, of: Callable[[IterationFigures], dict[str, int]]) -> list[Row]:
    """One row per reason that any of the iterations has."""
    total: Counter[str] = sum(map(Counter, map(of, rounds)), Counter())

    def count(name: str, figures: IterationFigures) -> str:
        return str(of(figures).get(name, 0))

    return [Row(f"  {name}", partial(count, name)) for name, _ in total.most_common()]


# What was made, and how it was scored


def _made(rounds: Rounds) -> list[Row]:
    return [
        Row("policy", lambda f: f"M{f.start} -> M{f.iteration + 1}", short=True),
        Row("prompts", _prompts, short=True),
        *_reasons(rounds, lambda f: f.prompts.dropped),
        *data_rows(),
        *([Row("counted so far", _counted, short=True)] if any(map(_is_part, rounds)) else []),
        Row("responses", lambda f: str(f.responses.n), short=True),
        Row("  truncated", _truncated, short=True),
        Row("  mean score of these", _truncated_mean, short=True),
        *_reasons(rounds, lambda f: f.responses.dropped),
        Row("  mean length", _length),
        Row("answers of M1", _anchors, short=True),
    ]


def _scored(rounds: Rounds) -> list[Row]:
    return [
        Row("judgments", lambda f: str(f.judgments.n)),
        Row("parse rate", lambda f: share(f.judgments.parsed, f.judgments.n), short=True),
        Row("probability on scores", _mass, short=True),
        *_reasons(rounds, lambda f: f.judgments.unparsed),
        *_jury(rounds),
        Row("mean score", lambda f: bold(mean_with_error(f.scores.mean, f.scores.se)), short=True),
        Row("  n responses (prompts)", lambda f: f"{f.scores.n} ({f.scores.prompts})", short=True),
        Row("standard deviation", lambda f: number(f.scores.std, few(f.scores.n))),
        Row("  within a prompt", _within, short=True),
        Row("histogram", _bins, short=True),
        Row("histogram 0 to 5", lambda f: bars(f.scores.histogram) or MISSING),
        Row("  counts", lambda f: " ".join(map(str, f.scores.histogram))),
        Row("share of 5s", lambda f: _percent(f.scores.fives, "no scores")),
        Row("spread of votes", _spread),
        Row("Spearman(length, score)", _spearman, short=True),
        Row("ties compared", _compared, short=True),
        Row("judgments compared", _meta, short=True),
        Row("  higher score wins", _higher, short=True),
        Row("  first one wins", _first),
    ]


def mean_with_error(mean: float | None, error: float | None, of: str = "scores") -> str:
    """Such as ``2.413 ± 0.051``."""
    return f"n/a (no {of})" if mean is None else _with_error(mean, error)


def few(n: int) -> str:
    """Why a spread cannot be had from n values."""
    return "one score" if n == 1 else "no scores"


def number(value: float | None, why: str = "not logged") -> str:
    """Such as ``0.051``; without one, why."""
    return f"n/a ({why})" if value is None else f"{value:.3f}"


def _with_error(mean: float | None, error: float | None, form: str = ".3f") -> str:
    if mean is None:
        return MISSING
    return f"{mean:{form}} ± {'n/a (one prompt)' if error is None else format(error, form)}"


def _percent(value: float | None, why: str) -> str:
    return f"n/a ({why})" if value is None else f"{value:.1%}"


def _is_part(figures: IterationFigures) -> bool:
    return figures.attempts < figures.prompts.attempts


def _counted(figures: IterationFigures) -> str:
    """Of a large open iteration the scores of its first attempts are shown."""
    return f"first {figures.attempts:,} tried" if _is_part(figures) else "all"


def _prompts(figures: IterationFigures) -> str:
    return f"{figures.prompts.accepted} of {figures.prompts.attempts} tried"


def _length(figures: IterationFigures) -> str:
    return _with_error(figures.responses.length, figures.responses.length_se, ".0f")


def _truncated(figures: IterationFigures) -> str:
    responses = figures.responses
    part = f" ({share(responses.truncated, responses.n)})" if responses.truncated else ""
    return f"{responses.truncated}{part}"


def _truncated_mean(figures: IterationFigures) -> str:
    scores = figures.scores
    return f"{scores.truncated_mean:.3f}" if scores.truncated_mean is not None else MISSING


def _anchors(figures: IterationFigures) -> str:
    anchors = figures.anchors
    return f"{anchors.n}, mean score {_points(anchors.mean)}" if anchors else MISSING


def _spread(figures: IterationFigures) -> str:
    scores = figures.scores
    return number(scores.vote_spread, "one vote each" if scores.n else "no scores")


def _within(figures: IterationFigures) -> str:
    scores = figures.scores
    return number(scores.prompt_std, "one each" if scores.n else "no scores")


def _bins(figures: IterationFigures) -> str:
    bins = figures.scores.bins
    if bins is None:
        return MISSING
    form = ".2f" if bins.width < 0.1 else ".1f" if bins.width < 1 else ".0f"
    low, high = bins.middles[0], bins.middles[-1]
    return f"{low:{form}} {bars(bins.counts)} {high:{form}}"


def _mass(figures: IterationFigures) -> str:
    form, mass = figures.judgments.form, figures.judgments.mass
    if mass is not None:
        return f"{mass:.3f}" if mass >= 0.001 else f"{mass:.1g}"
    return MISSING if form is None or not FORMS[form].weighs else "n/a (no judgments)"


def _spearman(figures: IterationFigures) -> str:
    scores = figures.scores
    return number(scores.spearman_length, "all alike" if scores.n > 1 else few(scores.n))


def _compared(figures: IterationFigures) -> str:
    compared = figures.comparisons
    return f"{compared.told_apart} of {compared.n} told apart" if compared else MISSING


def _meta(figures: IterationFigures) -> str:
    meta = figures.meta
    return f"{meta.wins} of {meta.n} name a better one" if meta else MISSING


def _higher(figures: IterationFigures) -> str:
    meta = figures.meta
    return share(meta.higher_wins, meta.unequal) if meta else MISSING


def _first(figures: IterationFigures) -> str:
    meta = figures.meta
    return share(meta.first_wins, meta.wins) if meta else MISSING


# Juries


def _jury(rounds: Rounds) -> list[Row]:
    """Each judge of a jury, and each two; none without one."""
    juries = [figures.jury for figures in rounds if figures.jury]
    names = dict.fromkeys(judge.judge for jury in juries for judge in jury.judges)
    twos = dict.fromkeys(two.judges for jury in juries for two in jury.agreement)
    return [
        *(Row(f"  {name}", partial(_judge_cell, name), short=True) for name in names),
        *(Row(f"  {two[0]}, {two[1]}", partial(_agreement_cell, two), short=True) for two in twos),
    ]


def _judge_cell(name: str, figures: IterationFigures) -> str:
    judges = figures.jury.judges if figures.jury else ()
    found: JurorFigures | None = next((j for j in judges if j.judge == name), None)
    if found is None:
        return MISSING
    return f"mean {_points(found.mean)}, {share(found.parsed, found.n)} parsed"


def _agreement_cell(names: tuple[str, str], figures: IterationFigures) -> str:
    twos = figures.jury.agreement if figures.jury else ()
    two: JurorAgreement | None = next((t for t in twos if t.judges == names), None)
    if two is None or two.difference is None:
        return MISSING
    same = "n/a" if two.same is None else f"{two.same:.1%}"
    return f"{same} same order, {two.difference:.2f} apart"


def _points(mean: float | None) -> str:
    return "n/a" if mean is None else f"{mean:.3f}"


# What was trained on, and what came out


def _paired(rounds: Rounds) -> list[Row]:
    return [
        Row("pairs", _pairs, short=True),
        *_reasons(rounds, lambda f: f.pairs.dropped),
        Row("responses never paired", _never_paired),
        *_reasons(rounds, lambda f: f.pairs.responses_dropped),
        Row("ties", lambda f: _percent(f.pairs.tie_rate, "not built")),
        Row(
            "margin",
            lambda f: mean_with_error(f.pairs.margin, f.pairs.margin_se, "pairs"),
            short=True,
        ),
        Row("length chosen/rejected", _lengths, short=True),
        Row("pairs of judgments", _judge_pairs, short=True),
        *_reasons(rounds, lambda f: f.meta.dropped if f.meta else {}),
    ]


def _pairs(figures: IterationFigures) -> str:
    if "pairs" not in figures.stages:
        return "n/a (not built)"
    pairs = figures.pairs
    several = f"{pairs.n} from " if pairs.n > pairs.paired else ""
    return f"{several}{pairs.paired} of {pairs.prompts} prompts"


def _judge_pairs(figures: IterationFigures) -> str:
    meta = figures.meta
    if meta is None:
        return MISSING
    return f"{meta.pairs} of {meta.pairs + sum(meta.dropped.values())} prompts"


def _never_paired(figures: IterationFigures) -> str:
    if "pairs" not in figures.stages:
        return "n/a (not built)"
    return str(sum(figures.pairs.responses_dropped.values()))


def _lengths(figures: IterationFigures) -> str:
    pairs = figures.pairs
    if not pairs.n:
        return "n/a (no pairs)"
    return f"{pairs.chosen_length:.0f} / {pairs.rejected_length:.0f}"


def _trained(rounds: Rounds) -> list[Row]:
    return [
        Row("training steps", lambda f: str(f.training.steps), short=True),
        *_reasons(rounds, lambda f: f.training.dropped),
        Row("  consistency", _consistency, short=True),
        Row("  loss", _curve(lambda t: t.loss), short=True),
        Row("  accuracy", _curve(lambda t: t.accuracy), short=True),
        Row("  reward margin", _curve(lambda t: t.reward_margin), short=True),
        Row("  reward chosen", _curve(lambda t: t.chosen_reward), short=True),
        Row("  reward rejected", _curve(lambda t: t.rejected_reward)),
        Row("  log-prob chosen", _curve(lambda t: t.chosen_logp, ".1f"), short=True),
        Row("  log-prob rejected", _curve(lambda t: t.rejected_logp, ".1f")),
        *(_online(rounds) if any(figures.training.online for figures in rounds) else []),
    ]


def _online(rounds: Rounds) -> list[Row]:
    """What was sampled in training."""

    def curve(of: Callable[[OnlineFigures], Curve | None], form: str) -> Cell:
        return _curve(lambda t: of(t.online) if t.online else None, form)

    def sampled(figures: IterationFigures) -> str:
        online = figures.training.online
        return str(online.sampled) if online else MISSING

    def without(figures: IterationFigures) -> str:
        online = figures.training.online
        return share(sum(online.no_verdict.values()), online.sampled) if online else MISSING

    def reasons(figures: IterationFigures) -> dict[str, int]:
        return figures.training.online.no_verdict if figures.training.online else {}

    online = [figures.training.online for figures in rounds]
    mixed = [Row("  loss of seed rows", curve(lambda o: o.mixed, ".3f"), short=True)]
    return [
        Row("  responses", sampled, short=True),
        Row("  without a verdict", without, short=True),
        *_reasons(rounds, reasons),
        Row("  mean points", curve(lambda o: o.reward, ".2f"), short=True),
        Row("  KL to the reference", curve(lambda o: o.kl, ".4f"), short=True),
        Row("  tokens", curve(lambda o: o.length, ".0f"), short=True),
        *(mixed if any(each and each.mixed for each in online) else []),
        Row("  truncated", curve(lambda o: o.truncated, ".2f")),
    ]


def _consistency(figures: IterationFigures) -> str:
    found = figures.training.consistency
    if found is None or found.value is None:
        return MISSING
    return f"{found.value:.3f} ({counted(found.prompts, 'prompt')})"


def _curve(of: Callable[[TrainingFigures], Curve | None], form: str = ".3f") -> Cell:
    def cell(figures: IterationFigures) -> str:
        curve = of(figures.training)
        return curve_text(curve, form) if curve else MISSING

    return cell


def curve_text(curve: Curve, form: str = ".3f") -> str:
    """Such as ``0.671 (0.690 to 0.655)``: the mean of all steps, of first and last quarter."""
    if curve.mean is None:
        return "not finite"
    text = f"{curve.mean:{form}}"
    if curve.first is not None and curve.last is not None:
        text += f" ({curve.first:{form}} to {curve.last:{form}})"
    return f"{text}, {curve.not_finite} not finite" if curve.not_finite else text


def _evaluated(rounds: Rounds) -> list[Row]:
    rows = []
    if any(figures.judge for figures in rounds):
        rows += [
            Row(label, measured(lambda f: f.judge, cell), label in _SHORT)
            for label, cell in _JUDGE_CELLS.items()
        ]
        rows.append(Row("drift from M1, points", measured(lambda f: f.drift, points), short=True))
    if any(figures.positions for figures in rounds):
        rows += [
            Row(label, measured(lambda f: f.positions, cell))
            for label, cell in _POSITIONS_CELLS.items()
        ]
    if any(figures.canaries for figures in rounds):
        uplift = measured(lambda f: f.canaries, lambda canaries: points(canaries.uplift))
        rows += [Row("canary uplift, points", uplift, short=True), Row("  most", _worst)]
    return rows


def has_verdicts(judge: JudgeFigures) -> bool:
    """Whether there is anything by which to say how well it judges."""
    return bool(judge.parse_rate.value)


def _with_verdicts(show: Callable[[JudgeFigures], str]) -> Callable[[JudgeFigures], str]:
    return lambda judge: show(judge) if has_verdicts(judge) else "n/a (no verdict)"


_JUDGE_CELLS: dict[str, Callable[[JudgeFigures], str]] = {
    "new model as a judge": lambda j: f"{j.prompts} prompts, {j.pairs} pairs",
    "  agrees with people": _with_verdicts(lambda j: percent(j.accuracy)),
    "  longer wins": lambda j: percent(j.longest),
    "  agrees less longer wins": _with_verdicts(lambda j: gain(j.gain)),
    "  agrees, equal length": _with_verdicts(lambda j: percent(j.accuracy_matched)),
    "  longer wins, equal length": lambda j: percent(j.longest_matched),
    "  Spearman": _with_verdicts(lambda j: points(j.spearman)),
    "  parse rate": lambda j: percent(j.parse_rate, bare=True),
}
_POSITIONS_CELLS: dict[str, Callable[[PositionFigures], str]] = {
    "  comparing two, agrees": lambda f: percent(f.accuracy),
    "  same in both orders": lambda f: percent(f.consistent, bare=True),
    "  names the first": lambda f: percent(f.names_first, bare=True),
}
_SHORT = ("new model as a judge", "  agrees with people", "  agrees less longer wins")


def points(estimate: Estimate) -> str:
    """Such as ``+0.12 [-0.03, +0.27]``."""
    return estimated(estimate, "+.2f")


def gain(estimate: Estimate) -> str:
    """Such as ``+4.1 [-3.0, +9.8]``, in points of percent."""
    return estimated(estimate, "+.1f", 100)


def _worst(figures: IterationFigures) -> str:
    worst = figures.canaries.worst if figures.canaries else None
    return f"{worst.uplift:+.2f}, {worst.kind}" if worst else MISSING


def _spent(rounds: Rounds) -> list[Row]:
    stages = stages_of(2, {stage for figures in rounds for stage in figures.seconds})
    return [
        Row("tokens sampled", lambda f: f"{num_sampled(f):,}"),
        Row("time", lambda f: duration(sum(f.seconds.values())), short=True),
        *(Row(f"  {stage}", partial(_stage_time, stage)) for stage in stages),
    ]


def _stage_time(stage: str, figures: IterationFigures) -> str:
    return duration(figures.seconds[stage]) if stage in figures.seconds else MISSING
