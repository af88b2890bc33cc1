"""What ``selfreward labels`` says: a run's judge against the people who labeled its answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfreward.errors import ConfigError, NotFoundError
from selfreward.inputs.conversations import written
from selfreward.measures.labels import (
    LabelFigures,
    Opinion,
    People,
    Rated,
    TwoLabelers,
    label_figures,
    opinions,
)
from selfreward.records import Prompt
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.label import FLAGS, KINDS, Label, in_force
from selfreward.storage.labels import Labels
from selfreward.verbs.console import bold
from selfreward.verbs.judge_text import beside_length, figures_table, number
from selfreward.verbs.layout import duration, filled, listed, percent, table


def figures_of_labels(
    run: Run, labeler: str | None = None, kind: str | None = None
) -> LabelFigures:
    """What the labels of a run come to.

    Args:
        labeler: Only those of one person.
        kind: Only those of one kind.

    Raises:
        NotFoundError: There are none (of theirs).
        IntegrityError: The labels are damaged, or of another run.
        ConfigError: There is no such kind.
    """
    history = _history(run, labeler, kind)
    with run.store() as store:
        return label_figures(store, run.name, history, in_force(history))


def export(
    run: Run, path: Path, labeler: str | None = None, kind: str | None = None
) -> dict[str, int]:
    """Write what people think as JSON lines of ranked responses, see ``inputs.rankings``.

    A row is one label, or all ratings that one person gave the answers to one prompt. It has ranks,
    and of ratings also scores of 0 to 5 (``points_of``) and notes as justifications; so rows of
    ratings alone are EFT data, too.

    Returns:
        How many rows there are of each kind.

    Raises:
        NotFoundError, IntegrityError, ConfigError: See ``figures_of_labels``.
    """
    with run.store() as store:
        found, _ = opinions(store, in_force(_history(run, labeler, kind)))
        prompts = [store.record(Prompt, o.item.iteration, o.item.attempt) for o in found]
    if not found:
        raise NotFoundError(f"run {run.name}: no labels to export", "Label some, skips aside.")
    rows = [_row(opinion, prompt) for opinion, prompt in zip(found, prompts, strict=True)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    durable.write_file(path, "".join(lines))
    counts = {name: sum(o.item.kind == name for o in found) for name in KINDS}
    return {name: count for name, count in counts.items() if count}


def _row(opinion: Opinion, prompt: Prompt) -> dict[str, Any]:
    answers = []
    rows = zip(
        opinion.content.answers, opinion.preferences, opinion.scores, opinion.notes, strict=True
    )
    for text, preference, score, note in rows:
        answer: dict[str, Any] = {"text": text}
        answer["rank"] = 1 + sum(other > preference for other in opinion.preferences)
        if score is not None:
            answer["score"] = round(score, 3)
        if note.strip():
            answer["justification"] = note.strip()
        answers.append(answer)
    item = opinion.item
    return {
        "prompt": written(prompt.text, prompt.columns),
        "responses": answers,
        "labeler": opinion.labeler,
        "kind": item.kind,
        "iteration": item.iteration,
        "attempt": item.attempt,
    }


def _history(run: Run, labeler: str | None, kind: str | None) -> list[Label]:
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind {kind}: no kind of label", f"It is one of {', '.join(KINDS)}.")
    with Labels(run) as labels:
        history = labels.history()
    names = sorted({label.labeler for label in history})
    if labeler is not None and labeler not in names:
        raise NotFoundError(
            f"run {run.name} has no labels by {labeler!r}", f"Labelers: {', '.join(names)}."
        )
    found = [
        label
        for label in history
        if labeler in (None, label.labeler) and kind in (None, label.item.kind)
    ]
    if not found:
        raise NotFoundError(f"run {run.name} has no labels of kind {kind or 'any'} yet")
    return found


def labels_text(figures: LabelFigures, width: int = 80) -> str:
    """What is printed: the findings in words, then tables.

    Args:
        width: Of the terminal, in columns.
    """
    said = [filled(line, width) for line in (_amount(figures), *_findings(figures))]
    blocks = ["\n".join([bold(figures.run), *said]), _labelers(figures)]
    if figures.judge is not None and figures.judge.counts.pairs:
        blocks.append(figures_table(figures.judge))
    if len(figures.iterations) > 1:
        blocks.append(_iterations(figures))
    if figures.people is not None:
        blocks.append(_people(figures.people))
    if figures.ratings:
        blocks.append(_ratings(figures.ratings))
    return "\n\n".join(blocks)


def _amount(figures: LabelFigures) -> str:
    kinds = {
        "A/B": sum(who.ab for who in figures.labelers),
        "rankings": sum(who.ranking for who in figures.labelers),
        "ratings": sum(who.rating for who in figures.labelers),
        "passed over": sum(who.skipped for who in figures.labelers),
        "superseded or undone": figures.superseded,
    }
    names = ", ".join(who.name for who in figures.labelers) or "nobody"
    said = f"Labels by {names} on {figures.prompts:,} prompts: "
    said += f"{listed({name: count for name, count in kinds.items() if count}) or 'none'}."
    if figures.left_out:
        said += f" Left out: {listed(figures.left_out)}."
    return said


def _findings(figures: LabelFigures) -> list[str]:
    lines = []
    judge, people = figures.judge, figures.people
    if judge is None or not judge.counts.pairs:
        lines.append("No two answers are ordered by people and scored by the judge yet.")
    else:
        accuracy = judge.judge.all.accuracy
        lines.append(
            f"The judge orders {percent(accuracy)} of {judge.counts.pairs:,} pairs as people do, "
            f"a tie half; who takes the longer answer, {percent(judge.longest.all.accuracy)}."
        )
        lines.append(beside_length(judge, "all"))
    if people is not None and people.together.same.n:
        lines.append(
            f"Two labelers order {percent(people.together.same)} of {people.together.same.n:,} "
            "pairs alike; a judge can hardly agree with people more than people do."
        )
    return lines


def _labelers(figures: LabelFigures) -> str:
    rows = [["labeler", "A/B", "rankings", "ratings", "passed over", "time of a label"]]
    for who in figures.labelers:
        time = "" if who.seconds is None else duration(who.seconds)
        counts = (who.ab, who.ranking, who.rating, who.skipped)
        rows.append([who.name, *(f"{count:,}" for count in counts), time])
    return table(rows)


def _iterations(figures: LabelFigures) -> str:
    rows = [["iteration", "pairs", "pairwise accuracy", "longer wins", "Kendall tau-b"]]
    for row in figures.iterations:
        found = row.agreement
        rows.append(
            [
                f"{row.iteration}",
                f"{found.counts.pairs:,}",
                percent(found.judge.all.accuracy),
                percent(found.longest.all.accuracy),
                number(found.judge.all.kendall),
            ]
        )
    return table(rows)


def _people(people: People) -> str:
    rows = [["labelers", "prompts", "pairs", "same order", "Kendall tau-b"]]
    if len(people.each) > 1:
        rows.append(_two("each two", people.together))
    rows += [_two(" and ".join(two.labelers), two) for two in people.each]
    lines = [table(rows)] if people.each else []
    lines.append(f"Krippendorff's alpha of the orders {number(people.alpha)}")
    if people.ratings is not None:
        rated = people.ratings
        lines.append(
            f"ratings of one answer: the same {percent(rated.same)}, {number(rated.difference)} "
            f"points of 7 apart, alpha {number(rated.alpha)}"
        )
    return "\n".join(lines)


def _two(name: str, two: TwoLabelers) -> list[str]:
    return [name, f"{two.prompts:,}", f"{two.same.n:,}", percent(two.same), number(two.kendall)]


def _ratings(ratings: Sequence[Rated]) -> str:
    rows = [["", *(f"iteration {row.iteration}" for row in ratings)]]
    rows.append(["mean rating, 1 to 7", *(number(row.rating) for row in ratings)])
    rows.append(["ratings", *(f"{row.rating.n:,}" for row in ratings)])
    for flag, words in FLAGS.items():
        if any(flag in row.flags for row in ratings):
            counts = (row.flags.get(flag, 0) for row in ratings)
            rows.append([f"  {words}", *(f"{count:,}" for count in counts)])
    return table(rows)
