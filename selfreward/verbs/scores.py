"""The headline table: what each iteration made, how it was scored and what was trained on it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from selfreward.errors import NotFoundError
from selfreward.measures.evaluated import CanaryFigures, JudgeFigures, PositionFigures
from selfreward.measures.figures import IterationFigures, figures_of
from selfreward.measures.health import finding, remedy
from selfreward.measures.reports import Estimate
from selfreward.measures.selection import Hits, SelectionFigures
from selfreward.measures.votes import JurorAgreement, JurorFigures
from selfreward.records import FORMS, stages_of
from selfreward.storage.directory import Run
from selfreward.verbs.console import bold, dim
from selfreward.verbs.layout import bars, duration, estimated, listed, percent, share, table

Rounds = Sequence[IterationFigures]
T = TypeVar("T")
_PER_TABLE = 4
"""Iterations side by side; more go into further tables, so that lines fit a terminal."""

FOOTNOTES = """\
A response's score is the mean over its votes, with a jury the weighted mean over its judges; ± is
the standard error of the mean, clustered by prompt, because answers to one prompt are alike. Scores
are the judge's own opinion, and the judge may change with the iteration: they are no external
evaluation. Lengths are in characters, scores and margins in points (0 to 5); spread of votes is the
mean of highest minus lowest vote."""
JUDGE_FOOTNOTE = """\
The new model as a judge: held-out responses that people scored, 95% intervals over prompts."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of a run."""

    run: str
    iterations: tuple[IterationFigures, ...]
    """Those that have begun, in order."""


def scores_of(run: Run) -> Scores:
    """The figures of all iterations that have any.

    Raises:
        NotFoundError: Nothing has been made yet.
    """
    with run.store() as store:
        begun = {progress.iteration for progress in store.progress()}
        begun |= {stage.iteration for stage in store.stages()}
        if not begun:
            raise NotFoundError(
                f"run {run.name} has no records yet", f"Watch it: selfreward status {run.name}"
            )
        return Scores(run.name, tuple(figures_of(store, iteration) for iteration in sorted(begun)))


def scores_text(scores: Scores) -> str:
    """What ``selfreward scores`` prints."""
    blocks = [bold(scores.run)]
    rounds = [figures for figures in scores.iterations if figures.iteration > 0]
    blocks += [_seed_line(f) for f in scores.iterations if f.iteration == 0]
    blocks += [selection_text(f.selection) for f in scores.iterations if f.selection]
    for start in range(0, len(rounds), _PER_TABLE):
        blocks.append(_table(rounds[start : start + _PER_TABLE]))
    if warnings := [line for f in scores.iterations for line in health_lines(f)]:
        blocks.append("\n".join(f"warning: {line}" for line in warnings))
    if rounds:
        measured = any(figures.judge for figures in rounds)
        blocks.append(dim(f"{FOOTNOTES}\n{JUDGE_FOOTNOTE}" if measured else FOOTNOTES))
    return "\n\n".join(blocks)


def _seed_line(figures: IterationFigures) -> str:
    if "train" not in figures.stages and "evaluate" in figures.stages:
        return f"no seed SFT, M1 = M0\n{first_judge(figures)}"
    training = figures.training
    done = "M0 -> M1" if "train" in figures.stages else "M0 -> M1 (not finished)"
    left_out = f"; rows left out: {listed(training.dropped)}" if training.dropped else ""
    lines = [
        f"seed SFT {done}: {training.steps} steps, loss {_number(training.loss)}, "
        f"{duration(sum(figures.seconds.values()))}{left_out}",
        first_judge(figures),
    ]
    return "\n".join(filter(None, lines))


def _table(rounds: Rounds) -> str:
    def row(label: str, cell: Callable[[IterationFigures], str]) -> list[str]:
        return [label, *(cell(figures) for figures in rounds)]

    def reasons(of: Callable[[IterationFigures], dict[str, int]]) -> list[list[str]]:
        """One row per reason that any of the iterations has."""
        counts = [of(figures) for figures in rounds]
        total: Counter[str] = sum(map(Counter, counts), Counter())
        names = [name for name, _ in total.most_common()]
        return [[f"  {name}", *(str(count.get(name, 0)) for count in counts)] for name in names]

    rows = [
        [bold("iteration"), *(bold(str(f.iteration)) for f in rounds)],
        row("policy", lambda f: f"M{f.iteration} -> M{f.iteration + 1}"),
        row("prompts", lambda f: f"{f.prompts.accepted} of {f.prompts.attempts} tried"),
        *reasons(lambda f: f.prompts.dropped),
        *([row("counted so far", _counted)] if any(map(_is_part, rounds)) else []),
        row("responses", lambda f: str(f.responses.n)),
        row("  truncated", lambda f: str(f.responses.truncated)),
        *reasons(lambda f: f.responses.dropped),
        *anchor_rows(rounds),
        row("judgments", lambda f: str(f.judgments.n)),
        row("parse rate", lambda f: share(f.judgments.parsed, f.judgments.n)),
        *reasons(lambda f: f.judgments.unparsed),
        *jury_rows(rounds),
        row("mean score", lambda f: bold(mean_with_error(f.scores.mean, f.scores.se))),
        row("  n responses (prompts)", lambda f: f"{f.scores.n} ({f.scores.prompts})"),
        row("standard deviation", lambda f: _number(f.scores.std, few(f.scores.n))),
        row("  within a prompt", _within),
        row("histogram 0 to 5", lambda f: bars(f.scores.histogram) or "-"),
        row("  counts", lambda f: " ".join(map(str, f.scores.histogram))),
        row("share of 5s", lambda f: _percent(f.scores.fives, "no scores")),
        row("spread of votes", _spread),
        row("probability on scores", _mass),
        row("Spearman(length, score)", _spearman),
        *([row("ties compared", _compared)] if any(f.comparisons for f in rounds) else []),
        row("pairs", _pairs),
        *reasons(lambda f: f.pairs.dropped),
        row("responses never paired", _never_paired),
        *reasons(lambda f: f.pairs.responses_dropped),
        row("ties", lambda f: _percent(f.pairs.tie_rate, "not built")),
        row("margin", lambda f: mean_with_error(f.pairs.margin, f.pairs.margin_se, "pairs")),
        row("length chosen/rejected", _lengths),
        row("DPO steps", lambda f: str(f.training.steps)),
        *reasons(lambda f: f.training.dropped),
        row("  loss", lambda f: _trained(f, f.training.loss)),
        row("  accuracy", lambda f: _trained(f, f.training.accuracy)),
        row("  reward margin", lambda f: _trained(f, f.training.reward_margin)),
        *judge_rows(rounds),
        row("tokens sampled", lambda f: f"{tokens(f):,}"),
        row("time", lambda f: duration(sum(f.seconds.values()))),
        *(row(f"  {stage}", partial(_stage_time, stage)) for stage in _stages(rounds)),
    ]
    return table(rows)


def mean_with_error(mean: float | None, error: float | None, of: str = "scores") -> str:
    """Such as ``2.413 ± 0.051``."""
    return f"n/a (no {of})" if mean is None else f"{mean:.3f} ± {_number(error, 'one prompt')}"


def tokens(figures: IterationFigures) -> int:
    """Tokens that models wrote in an iteration."""
    others = figures.jury.judges[1:] if figures.jury else ()  # the first is in ``judgments``
    anchors = (figures.anchors,) if figures.anchors else ()
    made = (figures.prompts, figures.responses, *anchors, figures.judgments, *others)
    return sum(part.tokens for part in made)


def few(n: int) -> str:
    """Why a spread cannot be had from n values."""
    return "one score" if n == 1 else "no scores"


def _stages(rounds: Rounds) -> tuple[str, ...]:
    return stages_of(2, {stage for figures in rounds for stage in figures.seconds})


def _stage_time(stage: str, figures: IterationFigures) -> str:
    return duration(figures.seconds[stage]) if stage in figures.seconds else "-"


def _is_part(figures: IterationFigures) -> bool:
    return figures.attempts < figures.prompts.attempts


def _counted(figures: IterationFigures) -> str:
    """Of a large open iteration the scores of its first attempts are shown."""
    return f"first {figures.attempts:,} tried" if _is_part(figures) else "all"


def _spread(figures: IterationFigures) -> str:
    scores = figures.scores
    return _number(scores.vote_spread, "one vote each" if scores.n else "no scores")


def _within(figures: IterationFigures) -> str:
    scores = figures.scores
    return _number(scores.prompt_std, "one each" if scores.n else "no scores")


def _mass(figures: IterationFigures) -> str:
    judgments = figures.judgments
    form = judgments.form
    why = "no judgments" if form is None or FORMS[form].weighs else form
    return _number(judgments.mass, why)


def _spearman(figures: IterationFigures) -> str:
    scores = figures.scores
    return _number(scores.spearman_length, "all alike" if scores.n > 1 else few(scores.n))


def _compared(figures: IterationFigures) -> str:
    compared = figures.comparisons
    return f"{compared.told_apart} of {compared.n} told apart" if compared else "-"


def _pairs(figures: IterationFigures) -> str:
    if "pairs" not in figures.stages:
        return "n/a (not built)"
    pairs = figures.pairs
    several = f"{pairs.n} from " if pairs.n > pairs.paired else ""
    return f"{several}{pairs.paired} of {pairs.prompts} prompts"


def _never_paired(figures: IterationFigures) -> str:
    if "pairs" not in figures.stages:
        return "n/a (not built)"
    return str(sum(figures.pairs.responses_dropped.values()))


def _lengths(figures: IterationFigures) -> str:
    pairs = figures.pairs
    if not pairs.n:
        return "n/a (no pairs)"
    return f"{pairs.chosen_length:.0f} / {pairs.rejected_length:.0f}"


def _trained(figures: IterationFigures, value: float | None) -> str:
    return _number(value, "not logged" if figures.training.steps else "-")


def _percent(value: float | None, why: str) -> str:
    return f"n/a ({why})" if value is None else f"{value:.1%}"


def _number(value: float | None, why: str = "not logged") -> str:
    return f"n/a ({why})" if value is None else f"{value:.3f}"


def jury_rows(rounds: Rounds) -> list[list[str]]:
    """Rows of the table of scores: a label, and a cell for each iteration; none without a jury."""
    juries = [figures.jury for figures in rounds]
    judges = [{judge.judge: judge for judge in jury.judges} if jury else {} for jury in juries]
    pairs = [{two.judges: two for two in jury.agreement} if jury else {} for jury in juries]
    names = dict.fromkeys(name for of_round in judges for name in of_round)
    twos = dict.fromkeys(two for of_round in pairs for two in of_round)
    rows = [[f"  {name}", *(_judge_cell(each.get(name)) for each in judges)] for name in names]
    rows += [
        [f"  {two[0]}, {two[1]}", *(_agreement_cell(each.get(two)) for each in pairs)]
        for two in twos
    ]
    return [row for row in rows if any(cell != "-" for cell in row[1:])]


def anchor_rows(rounds: Rounds) -> list[list[str]]:
    """Such a row on M1's answers; none if there are none."""
    anchors = [figures.anchors for figures in rounds]
    if not any(anchors):
        return []
    cells = (f"{a.n}, mean score {_points(a.mean)}" if a else "-" for a in anchors)
    return [["answers of M1", *cells]]


def _judge_cell(judge: JurorFigures | None) -> str:
    if judge is None:
        return "-"
    return f"mean {_points(judge.mean)}, {share(judge.parsed, judge.n)} parsed"


def _agreement_cell(two: JurorAgreement | None) -> str:
    if two is None or two.difference is None:
        return "-"
    same = "n/a" if two.same is None else f"{two.same:.1%}"
    return f"{same} same order, {two.difference:.2f} apart"


def _points(mean: float | None) -> str:
    return "n/a" if mean is None else f"{mean:.3f}"


def judge_rows(rounds: Rounds) -> list[list[str]]:
    """Rows of the table of scores: a label, and a cell for each iteration; none if none has any."""
    rows = []
    if any(f.judge for f in rounds):
        rows += _rows([f.judge for f in rounds], _JUDGE_ROWS)
        rows += _rows([f.drift for f in rounds], {"drift from M1, points": points})
    if any(f.positions for f in rounds):
        rows += _rows([f.positions for f in rounds], _POSITIONS_ROWS)
    if any(f.canaries for f in rounds):
        rows += _rows([f.canaries for f in rounds], _CANARY_ROWS)
    return rows


def first_judge(figures: IterationFigures) -> str:
    """A line on M1 as a judge; empty where it was not measured."""
    parts = []
    if judge := figures.judge:
        parts += [
            f"orders {percent(judge.accuracy)} of {judge.pairs} held-out pairs as people do",
            f"longer wins {percent(judge.longest, bare=True)}",
        ]
    if figures.canaries:
        parts.append(f"canary uplift {points(figures.canaries.uplift)} points")
    return f"M1 as a judge: {', '.join(parts)}" if parts else ""


def health_lines(figures: IterationFigures) -> list[str]:
    """A line on each gate that the iteration fails: what was found, and what to do."""
    failed = (gate for gate in figures.health if gate.passed is False)
    return [f"iteration {figures.iteration}: {finding(g)}. {remedy(g)}" for g in failed]


def points(estimate: Estimate) -> str:
    """Such as ``+0.12 [-0.03, +0.27]``."""
    return estimated(estimate, "+.2f")


_JUDGE_ROWS: dict[str, Callable[[JudgeFigures], str]] = {
    "new model as a judge": lambda f: f"{f.prompts} prompts, {f.pairs} pairs",
    "  agrees with people": lambda f: percent(f.accuracy),
    "  longer wins": lambda f: percent(f.longest),
    "  agrees, equal length": lambda f: percent(f.accuracy_matched),
    "  longer wins, equal length": lambda f: percent(f.longest_matched),
    "  Spearman": lambda f: points(f.spearman),
    "  parse rate": lambda f: percent(f.parse_rate, bare=True),
}

_POSITIONS_ROWS: dict[str, Callable[[PositionFigures], str]] = {
    "  comparing two, agrees": lambda f: percent(f.accuracy),
    "  same in both orders": lambda f: percent(f.consistent, bare=True),
    "  names the first": lambda f: percent(f.names_first, bare=True),
}

_CANARY_ROWS: dict[str, Callable[[CanaryFigures], str]] = {
    "canary uplift, points": lambda f: points(f.uplift),
    "  most": lambda f: f"{f.worst.uplift:+.2f}, {f.worst.kind}" if f.worst else "-",
}


def _rows(found: Sequence[T | None], cells: dict[str, Callable[[T], str]]) -> list[list[str]]:
    return [
        [label, *("not measured" if part is None else cell(part) for part in found)]
        for label, cell in cells.items()
    ]


def selection_text(selection: SelectionFigures) -> str:
    """A table of these figures."""
    histogram = selection.histogram
    rows = [
        ["EFT selection", f"{selection.rows} rows from {selection.prompts_kept} of "
         f"{selection.prompts} prompts"],
        ["  votes", f"{selection.votes} on {selection.responses} responses"],
        ["  parse rate", share(selection.parsed, selection.votes)],
        ["  agreeing with people", f"{selection.agreeing} votes, before the cap"],
        *([f"    {reason}", str(count)] for reason, count in selection.dropped.items()),
        _scores("sampled", histogram.sampled),
        _scores("agreeing", histogram.agreeing),
        _scores("kept", histogram.kept),
        ["  pairwise accuracy", _accuracy(selection.agreement.judge)],
        ["  longer wins", _accuracy(selection.agreement.longest)],
    ]  # fmt: skip
    if selection.left_out:
        rows.append(["  not read", listed(selection.left_out)])
    return table(rows)


def _scores(name: str, histogram: Sequence[int]) -> list[str]:
    return [f"  scores 0 to 5, {name}", f"{bars(histogram)}  {' '.join(map(str, histogram))}"]


def _accuracy(found: Hits) -> str:
    if found.accuracy is None:
        return "n/a (no pairs)"
    return f"{found.accuracy:.1%} of {found.pairs} pairs, {found.ties} ties"
