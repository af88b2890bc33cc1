"""``selfreward report``: what a run found, gathered for one page that can be mailed.

run -> Report (words, tables, charts, examples; everything short enough) -> ``report_page``
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfreward.charts import chart_data, charts_of, draw
from selfreward.charts.data import ChartData
from selfreward.measures.diversity import diversity
from selfreward.measures.figures import LIVE_ATTEMPTS, IterationFigures
from selfreward.measures.votes import ALL
from selfreward.storage.benchmarks import Benchmark
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.benchmark_table import benchmark_rows
from selfreward.verbs.console import unmarked
from selfreward.verbs.examples import Examples, cut, examples_of
from selfreward.verbs.findings import findings
from selfreward.verbs.layout import MISSING, duration, percent, share
from selfreward.verbs.lineage import lineage, trained_otherwise
from selfreward.verbs.score_rows import gain, points, score_rows
from selfreward.verbs.scores import health_lines, scores_of
from selfreward.verbs.status import Status, last_model, status_of

_COLUMNS = 12
"""Iterations in a table; of more the first and the last ones, as of charts and examples."""
_CHARTED = 5
_ROWS, _LABEL = 160, 120
_SETTINGS = (
    "model", "revision", "iterations", "seed", "system_prompt", "engine.kind",
    "sft.ift.path", "sft.ift.limit", "sft.eft.path", "sft.eft.limit", "sft.learning_rate",
    "sft.num_train_epochs", "prompts.count", "prompts.author", "prompts.human_shots",
    "prompts.generated_shots", "prompts.temperature", "prompts.top_p", "prompts.rouge_l_max",
    "responses.n", "responses.temperature", "responses.top_p", "responses.max_new_tokens",
    "judge.model", "judge.form", "judge.template", "judge.votes", "judge.temperature",
    "judge.break_ties", "pairs.rule", "pairs.min_margin", "pairs.max_per_prompt",
    "train.method", "train.sft.start", "train.sft.min_score", "train.replay.aift",
    "train.replay.seed", "dpo.beta", "dpo.learning_rate", "dpo.num_train_epochs", "dpo.loss_type",
    "dpo.weigh_by", "dpo.max_length", "rloo.beta", "rloo.learning_rate", "rloo.num_generations",
    "grpo.beta", "grpo.learning_rate", "grpo.num_generations", "lora.r",
    "quantization.bnb_4bit_quant_type", "launch.processes",
)  # fmt: skip
"""Those that decide what a run finds; no others leave the machine with the page."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head; the first cell of a row names it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """What was left out."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart as it stands in the page."""

    name: str
    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows."""

    run: str
    model: str
    state: str
    """In a sentence."""
    is_finished: bool
    as_of: str
    """UTC time of the last record."""
    judges: str
    """Who gave the scores, in a sentence."""
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    figures: Table | None
    """The rows that are always asked for; None without iterations, as the next."""
    all_figures: Table | None
    people: Table | None
    """Each model as a judge, against people."""
    benchmarks: Table | None
    prompts: Table | None
    lineage: Table
    settings: Table
    charts: tuple[Picture, ...]
    charts_note: str
    examples: tuple[Examples, ...]


def report_of(run: Run) -> tuple[Report, ChartData]:
    """Gather what the page shows, and what charts are drawn from.

    Raises:
        NotFoundError: The run has no records yet.
    """
    status, settings = status_of(run), run.settings
    scores = scores_of(run)
    figures = scores.iterations
    rounds = [f for f in figures if f.iteration > 0]
    with run.store() as store:
        data = chart_data(store, figures)
        ancestors = _lineage(run, store)
        otherwise = trained_otherwise(run, store)
        prompts = _prompts(store, _ends(rounds, _COLUMNS))
        examples: list[Examples] = []
        if scored := [f for f in rounds if f.scores.n]:
            last = scored[-1]
            is_whole = last.attempts == last.prompts.attempts
            part = ALL if is_whole else LIVE_ATTEMPTS
            examples = examples_of(run, store, last.iteration, part)
    pictures, note = _pictures(data)
    report = Report(
        run=run.name,
        model=cut(str(settings["model"]), 300).text,
        state=_state(status),
        is_finished=status.state == "finished",
        as_of=status.updated or "",
        judges=_judges(settings),
        findings=tuple(findings(figures, scores.best)),
        warnings=tuple(health_lines(figures)),
        figures=_figures("Figures by iteration", rounds, False),
        all_figures=_figures("Every figure by iteration", rounds, True),
        people=_people(figures),
        benchmarks=_benchmarks(scores.benchmarks),
        prompts=prompts,
        lineage=ancestors,
        settings=_settings(settings, otherwise),
        charts=pictures,
        charts_note=note,
        examples=tuple(examples),
    )
    return report, data


def _state(status: Status) -> str:
    if status.state == "finished":
        ended = f" It ended {status.ended}." if status.ended else ""
        return f"Finished: M0 to {last_model(status)}, {duration(status.seconds)} of work.{ended}"
    at = f"iteration {status.iteration} of {status.iterations}"
    stage = f", stage {status.stage}" if status.stage else ""
    now = {
        "running": "It is being written",
        "failed": "It ended with an error",
        "waiting": "It waits for votes",
    }
    said = f"{now.get(status.state, 'It was stopped')} in {at}{stage}"
    error = f": {cut(status.error, 300).text}" if status.error else ""
    return f"This run is not finished. {said}{error}. What follows is what there was by then."


def _judges(settings: Mapping[str, Any]) -> str:
    judge = settings["judge"]
    model, others = judge["model"], len(judge["jury"])
    who = f"a fixed judge, {cut(str(model), 300).text}"
    if model == "policy":
        who = "the model that wrote the answers itself, which scores its own work"
    elif model == "M1":
        who = "M1, the model after the seed step"
    elif function := judge.get("function"):
        who = f"a function, {cut(str(function), 300).text}"
    jury = f", and by {others} more" if others else ""
    return (
        f"Scores are given by {who}{jury}. They are its opinion, never an external evaluation: "
        "they may rise while answers get no better. Only agreement with people, below, is held "
        "against something outside."
    )


def _ends(rounds: Sequence[IterationFigures], most: int) -> list[IterationFigures]:
    """All iterations, or the first and the last ones."""
    return [*rounds] if len(rounds) <= most else [rounds[0], *rounds[1 - most :]]


def _left_out(rounds: Sequence[IterationFigures], shown: Sequence[IterationFigures]) -> str:
    left = len(rounds) - len(shown)
    return f"{left} iterations between the first and the last ones are left out." if left else ""


def _figures(caption: str, rounds: Sequence[IterationFigures], everything: bool) -> Table | None:
    if not rounds:
        return None
    shown = _ends(rounds, _COLUMNS)
    head, *rows = [[*map(unmarked, row)] for row in score_rows(rounds, everything, shown)]
    short = [tuple(cut(cell, _LABEL).text for cell in row) for row in rows[:_ROWS]]
    notes = [_left_out(rounds, shown)]
    notes += [f"{len(rows) - _ROWS} rows are left out."] if len(rows) > _ROWS else []
    return Table(caption, tuple(head), tuple(short), " ".join(filter(None, notes)))


def _people(figures: Sequence[IterationFigures]) -> Table | None:
    measured = [f for f in figures if f.judge]
    shown = _ends(measured, _COLUMNS)
    if not shown:
        return None
    judges = [f.judge for f in shown if f.judge]
    rows = (
        ("pairs", *(str(judge.pairs) for judge in judges)),
        ("agrees with people", *(percent(judge.accuracy) for judge in judges)),
        ("longer wins", *(percent(judge.longest) for judge in judges)),
        ("difference, points of %", *(gain(judge.gain) for judge in judges)),
        ("Spearman", *(points(judge.spearman) for judge in judges)),
        ("parse rate", *(percent(judge.parse_rate, bare=True) for judge in judges)),
        ("drift from M1, points", *(points(f.drift) if f.drift else MISSING for f in shown)),
        ("won by asking for a 5, points",
         *(points(f.canaries.uplift) if f.canaries else MISSING for f in shown)),
    )  # fmt: skip
    head = ("model", *(f"M{f.iteration + 1}" for f in shown))
    caption = "Each model as a judge of held-out answers; [ ] 95% intervals"
    return Table(caption, head, rows, _left_out(measured, shown))


def _benchmarks(results: Sequence[Benchmark]) -> Table | None:
    if not results:
        return None
    head, *rows = benchmark_rows(results)
    ends = [*range(len(head))]
    if len(head) > _COLUMNS + 1:
        ends = [*ends[:2], *ends[1 - _COLUMNS :]]
    short = [
        tuple(cut(row[at], _LABEL).text if at < len(row) else "" for at in ends)
        for row in rows[:_ROWS]
    ]
    notes = [f"{len(head) - len(ends)} models are left out."] if len(head) > len(ends) else []
    notes += [f"{len(rows) - _ROWS} rows are left out."] if len(rows) > _ROWS else []
    caption = "Benchmarks by model; [ ] 95% intervals, differences in points of %"
    return Table(caption, tuple(head[at] for at in ends), tuple(short), " ".join(notes))


def _prompts(store: Store, shown: Sequence[IterationFigures]) -> Table | None:
    rows = []
    for f in shown:
        data = f.data
        if found := data.prompts if data else diversity(store, f.iteration):
            answers = data.responses if data else None
            rows.append((
                str(f.iteration), f"{f.prompts.accepted:,} of {f.prompts.attempts:,}",
                f"{found.words:.1f}", f"{found.distinct_1:.1%}", f"{found.distinct_2:.1%}",
                f"{found.openings:,} of {found.n:,}",
                share(data.near_duplicates, data.compared) if data else MISSING,
                f"{answers.distinct_2:.1%}" if answers else MISSING,
            ))  # fmt: skip
    head = ("iteration", "accepted", "words each", "distinct words", "distinct word pairs",
            "different first two words", "nearly repeated",
            "distinct word pairs of answers")  # fmt: skip
    return Table("How varied the accepted prompts are", head, tuple(rows)) if rows else None


def _lineage(run: Run, store: Store) -> Table:
    base = run.base_model()
    source = cut(str(base.get("source", "")), 300).text
    digest = cut(str(base.get("digest", "not found yet")), 64).text
    rows = [("M0", digest, source or "base model", "", "")]
    for made in lineage(store):
        how = f"{made.method} of {made.base}, {made.rows:,} rows"
        rows.append((made.model, made.digest, how, duration(made.seconds), made.finished))
    head = ("model", "digest (sha256)", "made by", "time", "finished (UTC)")
    if len(rows) > 2 * _COLUMNS:
        rows = [*rows[:_COLUMNS], *rows[-_COLUMNS:]]
    return Table("Lineage: which model was made from which", head, tuple(rows))


def _settings(settings: Mapping[str, Any], otherwise: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for key in _SETTINGS:
        value: Any = settings
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            rows.append((key, cut(str(value), 300).text))
    for model, values in list(otherwise.items())[-_COLUMNS:]:
        rows += [
            (f"{key}, as {model} was trained", cut(str(v), 300).text) for key, v in values.items()
        ]
    return Table("Settings that decide what a run finds", ("key", "value"), tuple(rows))


def _pictures(data: ChartData) -> tuple[tuple[Picture, ...], str]:
    wanted = charts_of(data.iterations)
    each = sorted({w.iteration for w in wanted if w.iteration is not None})
    shown = {None, *each} if len(each) <= _CHARTED else {None, each[0], *each[1 - _CHARTED :]}
    note = ""
    if len(each) > _CHARTED:
        note = (
            f"Charts of single iterations are shown for the first and the last {_CHARTED - 1}; "
            "`selfreward report RUN --figures DIR` draws all."
        )
    drawn = tuple(
        Picture(w.name, w.title, draw(w.name, data, "page", None, w.iteration))
        for w in wanted
        if w.iteration in shown
    )
    return drawn, note
