"""What the race prints: figures of each entry, and ratios within a repeat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from benchmarks.peers.work import STAGES, Report

NONE = "-"


@dataclass
class Result:
    """One run of one entry."""

    entry: str
    form: str
    repeat: int
    wall: float = 0.0
    """Seconds of the whole process, from its start to its end."""
    cpu: float = 0.0
    """Seconds of processor time of it and all its children."""
    peak: int = 0
    """Bytes, most that the processes had together at once."""
    report: Report | None = None
    error: str | None = None
    """Last line of what went wrong; None where nothing did."""

    @property
    def other(self) -> float:
        """Seconds in no stage: starting, imports, loading, saving."""
        return self.wall - sum(self.report.seconds.values()) if self.report else self.wall


def figure(result: Result, name: str) -> float | None:
    """Seconds of a stage, of a trained pair, of ``other`` or of the ``whole``; None if none."""
    if result.report is None or result.error is not None:
        return None
    if name == "whole":
        return result.wall
    if name == "other":
        return result.other
    if name == "pair":
        trained = result.report.seconds["train"]
        return trained / result.report.pairs if trained and result.report.pairs else None
    return result.report.seconds[name] or None


def ratio(results: Sequence[Result], entry: str, base: str, name: str) -> float | None:
    """How many times as long an entry takes as the base: the median over repeats of both."""
    of = {(result.entry, result.repeat): figure(result, name) for result in results}
    ratios = []
    for repeat in sorted({result.repeat for result in results}):
        one, other = of.get((entry, repeat)), of.get((base, repeat))
        if one is not None and other:
            ratios.append(one / other)
    return median(ratios) if ratios else None


def text_of(
    results: Sequence[Result], bases: Mapping[str, str], flops: float, peaks: Mapping[str, float]
) -> str:
    """Both tables.

    Args:
        bases: The entry that others of the same form are compared with.
        flops: Of a sampled token: two for each parameter.
        peaks: By the entry, of a second of a matrix product in the type that it samples in.
    """
    entries = list(dict.fromkeys(result.entry for result in results))
    by_entry = {e: [result for result in results if result.entry == e] for e in entries}
    figures = [_HEAD, *(_row(e, by_entry[e], flops, peaks[e]) for e in entries)]
    names = ("whole", *STAGES, "pair", "other")
    ratios = [["of ours, same form", *names]]
    for entry in entries:
        base = bases.get(by_entry[entry][0].form, "")
        found = [ratio(results, entry, base, name) for name in names]
        ratios.append([entry, *(_text(value, "{:.2f}") for value in found)])
    return f"{aligned(figures)}\n\n{aligned(ratios)}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; the first and the last to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at == 0 or (at == last and cell == row[-1]) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


_HEAD = [
    "entry", "whole s", "sample s", "judge s", "train s", "s a pair", "other s", "sampled/s",
    "of ceiling", "parsed", "pairs", "CPU s", "peak GB", "loads", "note",
]  # fmt: skip


def _row(entry: str, results: Sequence[Result], flops: float, peak: float) -> list[str]:
    good = [result for result in results if result.report and result.error is None]
    errors = [result.error for result in results if result.error is not None]
    if not good:
        return [entry, *[NONE] * (len(_HEAD) - 2), f"FAILED: {errors[-1]}"]
    reports = [result.report for result in good if result.report]

    def middle(read: Callable[[Result], float | None]) -> float | None:
        found = [value for value in map(read, good) if value is not None]
        return median(found) if found else None

    def tokens_per_s(result: Result) -> float | None:
        seconds = figure(result, "sample")
        return result.report.sampled_tokens / seconds if result.report and seconds else None

    rate = middle(tokens_per_s)
    notes = [note for note in dict.fromkeys(report.note for report in reports) if note]
    if errors:
        notes.append(f"{len(errors)} of {len(results)} FAILED: {errors[-1]}")
    judged = sum(report.judged for report in reports)
    seconds = ("whole", *STAGES, "pair", "other")
    return [
        entry,
        *(_text(middle(partial(figure, name=name)), "{:.1f}") for name in seconds),
        _text(rate, "{:.0f}"),
        _text(rate and rate * flops / peak, "{:.0%}"),
        _text(sum(r.parsed for r in reports) / judged if judged else None, "{:.0%}"),
        " ".join(str(report.pairs) for report in reports),
        _text(middle(lambda r: r.cpu), "{:.1f}"),
        _text(middle(lambda r: r.peak / 1e9), "{:.2f}"),
        " ".join(sorted({str(report.loads) for report in reports})),
        "; ".join(notes),
    ]


def _text(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)
