"""What ``selfreward scores`` says: what was found, in words, then the table and its warnings.

figures of all iterations -> findings -> table, in parts as wide as the terminal -> warnings
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selfreward.errors import NotFoundError
from selfreward.measures.best import Best, best_of
from selfreward.measures.figures import IterationFigures, figures_of
from selfreward.measures.health import finding, remedy
from selfreward.measures.reports import Gate
from selfreward.measures.selection import Hits, SelectionFigures
from selfreward.records import GateName
from selfreward.storage.benchmarks import Benchmark
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.benchmark_table import benchmarks_of, benchmarks_text
from selfreward.verbs.console import bold, dim
from selfreward.verbs.findings import findings
from selfreward.verbs.layout import (
    bars,
    duration,
    filled,
    fitted,
    listed,
    share,
    table_width,
)
from selfreward.verbs.score_cells import Rounds
from selfreward.verbs.score_rows import curve_text, score_rows

FOOTNOTE = """\
Scores are the judge's own opinion of the answers, never an external evaluation. ± is the standard \
error of a mean, clustered by prompt; [ ] a 95% interval over prompts. Training figures are means \
over all steps (first quarter to last quarter). docs/scores.md explains every row."""
SHORT_FOOTNOTE = "--all shows every row, --json every figure."


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of a run."""

    run: str
    iterations: tuple[IterationFigures, ...]
    """Those that have begun, in order."""
    best: Best | None = None
    """The best model by what the loop does not train; None where fewer than two are measured."""
    benchmarks: tuple[Benchmark, ...] = ()
    """What its evaluations and ``selfreward benchmark`` found of its models."""


def scores_of(run: Run) -> Scores:
    """The figures of all iterations that have any.

    Raises:
        NotFoundError: Nothing has been made yet.
    """
    with run.store() as store:
        begun = begun_iterations(store)
        if not begun:
            raise NotFoundError(
                f"run {run.name} has no records yet", f"Watch it: selfreward status {run.name}"
            )
        iterations = tuple(figures_of(store, iteration) for iteration in begun)
        benchmarks = tuple(benchmarks_of(run, store))
    return Scores(run.name, iterations, best_of(run, iterations), benchmarks)


def begun_iterations(store: Store) -> list[int]:
    """The iterations of which something is recorded, in order."""
    begun = {progress.iteration for progress in store.progress()}
    return sorted(begun | {stage.iteration for stage in store.stages()})


def scores_text(scores: Scores, width: int = 80, everything: bool = False) -> str:
    """What ``selfreward scores`` prints.

    Args:
        width: Of the terminal, in columns; 40 and more.
        everything: Also the rows that are rarely asked for.
    """
    rounds = [figures for figures in scores.iterations if figures.iteration > 0]
    blocks = [
        "\n".join(
            [
                bold(scores.run),
                *(filled(s, width) for s in findings(scores.iterations, scores.best)),
            ]
        )
    ]
    for figures in scores.iterations:
        if figures.iteration == 0:
            blocks.append(filled(_seed_line(figures), width))
        if figures.selection:
            blocks.append(selection_text(figures.selection, width))
    blocks += _tables(rounds, everything, width)
    if scores.benchmarks:
        blocks.append(benchmarks_text(scores.benchmarks, width))
    if warnings := health_lines(scores.iterations):
        blocks.append("\n".join(filled(f"warning: {line}", width, "  ") for line in warnings))
    if rounds:
        note = FOOTNOTE if everything else f"{FOOTNOTE} {SHORT_FOOTNOTE}"
        blocks.append(dim(filled(note, width)))
    return "\n\n".join(blocks)


def _seed_line(figures: IterationFigures) -> str:
    if "train" not in figures.stages and "evaluate" in figures.stages:
        return "no seed SFT, M1 = M0"
    training = figures.training
    done = "M0 -> M1" if "train" in figures.stages else "M0 -> M1 (not finished)"
    loss = curve_text(training.loss) if training.loss else "not logged"
    left_out = f"; rows left out: {listed(training.dropped)}" if training.dropped else ""
    spent = duration(sum(figures.seconds.values()))
    return f"seed SFT {done}: {training.steps} steps, loss {loss}, {spent}{left_out}"


def _tables(rounds: Rounds, everything: bool, width: int) -> list[str]:
    """As many iterations side by side as fit, the others in further tables."""
    tables: list[str] = []
    start = 0
    while start < len(rounds):
        size = len(rounds) - start
        rows = score_rows(rounds, everything, rounds[start:])
        while size > 1 and table_width(rows) > width:
            size -= 1
            rows = score_rows(rounds, everything, rounds[start : start + size])
        tables.append(fitted(rows, width))
        start += size
    return tables


def health_lines(iterations: Sequence[IterationFigures]) -> list[str]:
    """A line on each gate that any iteration fails: what the last one found, and what to do."""
    failed: dict[GateName, list[tuple[IterationFigures, Gate]]] = {}
    for figures in iterations:
        for gate in figures.health:
            if gate.passed is False:
                failed.setdefault(gate.name, []).append((figures, gate))
    lines = []
    for found in failed.values():
        last, gate = found[-1]
        where = f"iteration {last.iteration}"
        if len(found) > 1:
            where = f"iterations {', '.join(str(f.iteration) for f, _ in found)}; in the last"
        lines.append(f"{where}: {finding(gate)}. {remedy(gate, last)}")
    return lines


def selection_text(selection: SelectionFigures, width: int) -> str:
    """A table of these figures, at most so many columns wide."""
    histogram = selection.histogram
    rows = [
        ["EFT selection", f"{selection.rows} rows from {selection.prompts_kept} of "
         f"{selection.prompts} prompts"],
        ["  votes", f"{selection.votes} on {selection.responses} responses"],
        ["  parse rate", share(selection.parsed, selection.votes)],
        *_passed(selection),
        ["  agreeing with people", f"{selection.agreeing} votes, before the cap"],
        *([f"    {reason}", str(count)] for reason, count in selection.dropped.items()),
        _histogram("sampled", histogram.sampled),
        _histogram("agreeing", histogram.agreeing),
        _histogram("kept", histogram.kept),
        ["  pairwise accuracy", _accuracy(selection.agreement.judge)],
        ["  longer wins", _accuracy(selection.agreement.longest)],
    ]  # fmt: skip
    if selection.left_out:
        rows.append(["  not read", listed(selection.left_out)])
    return fitted(rows, width)


def _passed(selection: SelectionFigures) -> list[list[str]]:
    if selection.prompts_agreeing is None or selection.chance is None:
        return []
    return [
        ["  prompts in people's order", share(selection.prompts_agreeing, selection.prompts)],
        ["  by chance", f"{selection.chance:.1%}, were each score drawn from those sampled"],
    ]


def _histogram(name: str, histogram: Sequence[int]) -> list[str]:
    return [f"  scores 0 to 5, {name}", f"{bars(histogram)}  {' '.join(map(str, histogram))}"]


def _accuracy(found: Hits) -> str:
    if found.accuracy is None:
        return "n/a (no pairs)"
    return f"{found.accuracy:.1%} of {found.pairs} pairs, {found.ties} ties"
