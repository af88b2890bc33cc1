"""What ``selfreward judge`` prints: the figures of a judge beside those of the longer response."""

from collections.abc import Sequence
from typing import Literal

from selfreward.measures.reports import (
    Agreement,
    CalibrationBin,
    Estimate,
    PairShares,
    Positions,
)
from selfreward.records import MAX_SCORE
from selfreward.verbs.console import bold
from selfreward.verbs.judge import ComparedReport, Report, ScoredReport
from selfreward.verbs.layout import duration, estimated, listed, percent, table

_FIGURES = {
    "accuracy": "pairwise accuracy",
    "accuracy_strict": "  ties as misses",
    "ties": "  ties",
    "prefers_longer": "  prefers the longer",
    "exact": "exact order",
    "five_best": "5-best",
    "spearman": "Spearman",
    "kendall": "Kendall tau-b",
}

_CORRELATIONS = ("spearman", "kendall")

_CHANCE = 0.5


def judge_text(report: Report) -> str:
    """What ``selfreward judge`` prints."""
    parts = [_head(report), figures_table(report)]
    if isinstance(report, ComparedReport):
        parts += [_places(report)]
    else:
        parts += [_votes(report), _calibration(report.calibration), _confusion(report.confusion)]
    parts += ["\n".join(beside_length(report, part) for part in ("all", "matched"))]
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    counts, data, rate = report.counts, report.data, report.parse_rate
    how, responses = f"{report.form} form", ""
    if isinstance(report, ComparedReport):
        how += " of comparison"
    else:
        responses = f"{report.counts.responses:,} responses, "
    votes = f", {report.num_votes} votes" if report.num_votes > 1 else ""
    left_out = listed(data.left_out) or "nothing"
    if data.gaps:
        left_out += f"; {data.gaps} rankings skip a rank, which changes nothing"
    reasons = f"; the others: {listed(report.reasons)}" if report.reasons else ""
    rows = [
        ["judge", f"{report.model}, {how}{votes}, {report.template}"],
        ["data", f"{data.path}: {counts.prompts:,} prompts, {responses}"
         f"{counts.pairs:,} pairs of which people preferred one"],
        ["left out", left_out],
        ["verdicts", f"{percent(rate)} of {rate.n:,} votes{reasons}"],
        ["time", f"{duration(report.seconds.judge)}, after "
         f"{duration(report.seconds.load)} to load the model"],
    ]  # fmt: skip
    return table(rows)


def figures_table(report: Agreement | Positions) -> str:
    """The figures of a judge beside those of the longer response."""
    averaged = report.averaged if isinstance(report, Positions) else None
    judges = {"judge": report.judge, "averaged": averaged, "longer wins": report.longest}
    shown = {name: parts for name, parts in judges.items() if parts}
    names, all_pairs = list(shown), [parts.all for parts in shown.values()]
    if report.answered.value != 1:
        names.append("judge, where it has verdicts")
        all_pairs.append(report.judge.parsed)
    matched = f"{report.counts.matched:,} pairs of about the same length, at most "
    return table([
        ["", *names],
        *_part(f"all {report.counts.pairs:,} pairs", all_pairs),
        *_part(f"{matched}{report.length_ratio:g} times", [p.matched for p in shown.values()]),
    ])  # fmt: skip


def _part(title: str, columns: Sequence[PairShares]) -> list[list[str]]:
    """Rows of the figures that the first column has; the others may lack some."""
    rows = [[bold(title)]]
    for name, label in _FIGURES.items():
        if hasattr(columns[0], name):
            show = number if name in _CORRELATIONS else percent
            rows.append([label, *(show(getattr(figures, name, None)) for figures in columns)])
    return rows


def _places(report: ComparedReport) -> str:
    same, first = report.consistent, report.names_first
    said = table(
        [
            ["both orders agree", f"{percent(same)} of {same.n:,} pairs"],
            ["names the first", f"{percent(first)} of {first.n:,} verdicts that name one"],
        ]
    )
    if report.averaged:
        said += "\naveraged: the mean of the probabilities in both orders decides"
    return said


def _votes(report: ScoredReport) -> str:
    votes = report.votes
    if votes is None:
        return ""
    rows = [["votes", "pairwise accuracy", "ties"]]
    for row in report.by_votes:
        rows.append([f"{row.votes}", percent(row.accuracy), percent(row.ties)])
    return (
        f"two votes on one response: the same score {percent(votes.same)}, "
        f"{number(votes.difference)} points apart, Krippendorff's alpha "
        f"{number(votes.alpha)}\n{table(rows)}"
    )


def _calibration(bins: Sequence[CalibrationBin]) -> str:
    has_points = any(row.human_score.n for row in bins)
    rows = [["score", "responses", "preferred to", *(["people's score"] * has_points)]]
    for row in bins:
        low, high = f"{row.low:.2f}", f"{row.high:.2f}"
        rows.append(
            [
                low if low == high else f"{low} to {high}",
                f"{row.n:,}",
                percent(row.standing),
                *([number(row.human_score)] * has_points),
            ]
        )
    return table(rows) if bins else ""


def _confusion(counts: Sequence[Sequence[int]] | None) -> str:
    if counts is None:
        return ""
    rows = [["people's score", *(f"judge {score}" for score in range(MAX_SCORE + 1)), "none"]]
    rows += [[f"{score}", *(f"{count:,}" for count in row)] for score, row in enumerate(counts)]
    return table(rows)


def number(estimate: Estimate | None) -> str:
    """Such as ``0.44 [0.38, 0.51]``."""
    return "" if estimate is None else estimated(estimate, ".2f")


def beside_length(report: Agreement | Positions, part: Literal["all", "matched"]) -> str:
    """Whether a judge beats the longer response, and on matched pairs also chance."""
    gain: Estimate = getattr(report.gain, part)
    accuracy: Estimate = getattr(report.judge, part).accuracy
    where = f"{gain.n:,} pairs" + (" of about the same length" if part == "matched" else "")
    beats = "there is no telling whether the judge beats the longer response"
    if gain.value is None or gain.low is None or gain.high is None:
        return f"On {where} {beats}."
    if gain.low > 0:
        beats = "the judge beats the longer response"
    elif gain.high < 0:
        beats = "the longer response beats the judge"
    interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    said = f"On {where} {beats}: {100 * gain.value:+.1f} points {interval}"
    if part == "all":
        return f"{said}."
    if accuracy.low is not None and accuracy.low > _CHANCE:
        return f"{said}; it is better than chance."
    if accuracy.high is not None and accuracy.high < _CHANCE:
        return f"{said}; it is worse than chance."
    return f"{said}; it cannot be told from chance."
