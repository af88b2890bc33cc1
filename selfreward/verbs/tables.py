"""The records of a run as Arrow tables, read from ``records.db`` in batches.

    records -> rows with what belongs to them -> batches of a schema -> files, pandas, datasets

One row is one record; keys are those of ``records.py``. Pairs are in the conversational form that
TRL takes: ``prompt``, ``chosen`` and ``rejected`` are lists of messages.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

from selfreward.errors import NotFoundError
from selfreward.inputs.conversations import Message, messages_of
from selfreward.measures.votes import scores_of
from selfreward.records import JudgePair, Judgment, PreferencePair, Prompt, Response
from selfreward.storage.awaited import awaited
from selfreward.storage.directory import Run
from selfreward.storage.label import Content, Item, Label, in_force
from selfreward.storage.labels import reading
from selfreward.storage.store import Store

What = Literal[
    "prompts", "responses", "judgments", "pairs", "labels", "judge_pairs", "wanted"
]  # fmt: skip
WHAT: tuple[What, ...] = get_args(What)
"""All tables."""
RARE: tuple[What, ...] = ("judge_pairs", "wanted")
"""Of which most runs have nothing: where judgments are judged, and where a run waits."""
AT_ONCE = 64
"""Prompts of a batch."""

_KEYS = [("iteration", pa.int32()), ("attempt", pa.int32())]
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMAS: dict[What, pa.Schema] = {
    "prompts": pa.schema(
        [*_KEYS, ("text", pa.string()), ("raw", pa.string()), ("dropped", pa.string()),
         ("detail", pa.string()), ("num_tokens", pa.int64()), ("columns", pa.string())]
    ),
    "responses": pa.schema(
        [*_KEYS, ("sample", pa.int32()), ("prompt", pa.string()), ("text", pa.string()),
         ("score", pa.float64()), ("author", pa.string()), ("finish_reason", pa.string()),
         ("dropped", pa.string()), ("thinking", pa.string()), ("logprob", pa.float64()),
         ("num_tokens", pa.int64()), ("token_ids", pa.list_(pa.int32()))]
    ),
    "judgments": pa.schema(
        [*_KEYS, ("sample", pa.int32()), ("juror", pa.int32()), ("vote", pa.int32()),
         ("form", pa.string()), ("raw", pa.string()), ("score", pa.float64()),
         ("reason", pa.string()), ("probabilities", pa.list_(pa.float64())),
         ("weight", pa.float64()), ("num_tokens", pa.int64())]
    ),
    "pairs": pa.schema(
        [*_KEYS, ("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES),
         ("score_chosen", pa.float64()), ("score_rejected", pa.float64()), ("margin", pa.float64()),
         ("chosen_sample", pa.int32()), ("rejected_sample", pa.int32())]
    ),
    "judge_pairs": pa.schema(
        [*_KEYS, ("sample", pa.int32()), ("prompt", _MESSAGES), ("chosen", _MESSAGES),
         ("rejected", _MESSAGES), ("elo_chosen", pa.float64()), ("elo_rejected", pa.float64()),
         ("chosen_vote", pa.int32()), ("rejected_vote", pa.int32())]
    ),
    "labels": pa.schema(
        [*_KEYS, ("kind", pa.string()), ("labeler", pa.string()), ("samples", pa.list_(pa.int32())),
         ("ranks", pa.list_(pa.int32())), ("rating", pa.int32()), ("flags", pa.list_(pa.string())),
         ("note", pa.string()), ("shown", pa.list_(pa.int32())), ("seconds", pa.float64()),
         ("at", pa.string()), ("digest", pa.string())]
    ),
    "wanted": pa.schema(
        [*_KEYS, ("sample", pa.int32()), ("judge", pa.string()), ("prompt", pa.string()),
         ("text", pa.string()), ("score", pa.float64()), ("note", pa.string()),
         ("digest", pa.string())]
    ),
}  # fmt: skip
"""Columns of each table. A ``score`` is in points, 0 to 5: of a response that by which pairs are
made, null without a verdict. docs/api.md explains every column."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some prompts of an iteration."""

    store: Store
    iteration: int
    attempts: range
    run: Run
    system_prompt: str | None


def table(run: Run, what: What, iteration: int | None = None) -> pa.Table:
    """All records of one kind; see ``batches``."""
    return pa.Table.from_batches(batches(run, what, iteration), SCHEMAS[what])


def batches(run: Run, what: What, iteration: int | None = None) -> Iterator[pa.RecordBatch]:
    """Records of one kind in key order, all as they were at one moment.

    Labels are those in force: neither what was undone or changed nor what was passed over.

    Args:
        iteration: None for all.

    Raises:
        NotFoundError: There is no such iteration.
        IntegrityError: A record cannot be read.
    """
    system_prompt = run.settings["system_prompt"]
    with run.store() as store, store.snapshot():
        for number in iterations_of(run, store, iteration):
            if what == "labels":
                if rows := _labels(run, number):
                    yield pa.RecordBatch.from_pylist(rows, SCHEMAS[what])
                continue
            if what == "wanted":
                yield from _wanted(run, store, number)
                continue
            query = f"SELECT min(attempt), max(attempt) FROM {what} WHERE iteration = ?"
            first, last = next(store.query(query, (number,)))
            for start in range(first or 0, 0 if last is None else last + 1, AT_ONCE):
                some = _Batch(store, number, range(start, start + AT_ONCE), run, system_prompt)
                if rows := _ROWS[what](some):
                    yield pa.RecordBatch.from_pylist(rows, SCHEMAS[what])


def iterations_of(run: Run, store: Store, iteration: int | None) -> list[int]:
    """The iterations with records, or just the one that is asked for.

    Raises:
        NotFoundError: It has no records.
    """
    query = " UNION ".join(f"SELECT DISTINCT iteration FROM {what}" for what in _ROWS)
    there = sorted(row[0] for row in store.query(query))
    if iteration is None:
        return there
    if iteration not in there:
        raise NotFoundError(
            f"run {run.name} has no records of iteration {iteration}",
            f"It has those of: {', '.join(map(str, there)) or 'none yet'}.",
        )
    return [iteration]


def _prompts(batch: _Batch) -> list[dict[str, Any]]:
    return [_plain(row) for row in batch.store.records(Prompt, batch.iteration, batch.attempts)]


def _responses(batch: _Batch) -> list[dict[str, Any]]:
    responses, prompts = _answers(batch)
    votes = batch.store.records(Judgment, batch.iteration, batch.attempts)
    scores = scores_of(batch.store, responses, votes)
    return [
        {
            **_plain(row),
            "prompt": prompts[row.attempt].text,
            "score": scores.get((row.attempt, row.sample)),
        }
        for row in responses
    ]


def _judgments(batch: _Batch) -> list[dict[str, Any]]:
    return [_plain(row) for row in batch.store.records(Judgment, batch.iteration, batch.attempts)]


def _pairs(batch: _Batch) -> list[dict[str, Any]]:
    pairs = batch.store.records(PreferencePair, batch.iteration, batch.attempts)
    if not pairs:
        return []
    responses, prompts = _answers(batch)
    said = {(row.attempt, row.sample): row.text for row in responses}
    return [
        {
            "iteration": pair.iteration,
            "attempt": pair.attempt,
            "prompt": _asked(prompts[pair.attempt], batch.system_prompt),
            "chosen": [_message("assistant", said[pair.attempt, pair.chosen])],
            "rejected": [_message("assistant", said[pair.attempt, pair.rejected])],
            "score_chosen": pair.chosen_score,
            "score_rejected": pair.rejected_score,
            "margin": pair.margin,
            "chosen_sample": pair.chosen,
            "rejected_sample": pair.rejected,
        }
        for pair in pairs
    ]


def _judge_pairs(batch: _Batch) -> list[dict[str, Any]]:
    pairs = batch.store.records(JudgePair, batch.iteration, batch.attempts)
    if not pairs:
        return []
    from selfreward.inputs.judge_templates import run_template
    from selfreward.stages.meta import judge_texts

    responses, prompts = _answers(batch)
    judgments = batch.store.records(Judgment, batch.iteration, batch.attempts)
    template = run_template(batch.run, "judge")
    return [
        {
            "iteration": pair.iteration,
            "attempt": pair.attempt,
            "sample": pair.sample,
            "prompt": _asked(Prompt(0, 0, user, "", None), batch.system_prompt),
            "chosen": [_message("assistant", started + chosen)],
            "rejected": [_message("assistant", started + rejected)],
            "elo_chosen": pair.chosen_elo,
            "elo_rejected": pair.rejected_elo,
            "chosen_vote": pair.chosen,
            "rejected_vote": pair.rejected,
        }
        for pair, user, started, chosen, rejected in judge_texts(
            pairs, [*prompts.values()], responses, judgments, template
        )
    ]


_ROWS: dict[What, Callable[[_Batch], list[dict[str, Any]]]] = {
    "prompts": _prompts, "responses": _responses, "judgments": _judgments, "pairs": _pairs,
    "judge_pairs": _judge_pairs,
}  # fmt: skip


def _labels(run: Run, iteration: int) -> list[dict[str, Any]]:
    with reading(run) as labels:
        found = in_force(labels.history()) if labels else []
    return [
        {
            **{
                name: getattr(label, name)
                for name in SCHEMAS["labels"].names
                if name in Label.__slots__
            },
            **{name: getattr(label.item, name) for name in Item.__slots__},
        }
        for label in sorted(found, key=lambda label: (label.item, label.labeler))
        if label.item.iteration == iteration and not label.is_skip
    ]


def _wanted(run: Run, store: Store, iteration: int) -> Iterator[pa.RecordBatch]:
    """The responses that judges from elsewhere are still to score, without anybody's score."""
    judge = run.settings["judge"]
    for juror, settings in enumerate(judge["jury"], 1):
        name = settings.get("imported")
        left = name and iteration and awaited(store, iteration, juror, judge["truncated"])
        left = left or []
        for start in range(0, len(left), AT_ONCE):
            rows = []
            for response in left[start : start + AT_ONCE]:
                prompt = store.record(Prompt, iteration, response.attempt).text
                digest = Content(prompt, (response.text,)).digest
                rows.append({**_plain(response), "judge": name, "prompt": prompt, "score": None,
                             "note": None, "digest": digest})  # fmt: skip
            rows = [{column: row[column] for column in SCHEMAS["wanted"].names} for row in rows]
            yield pa.RecordBatch.from_pylist(rows, SCHEMAS["wanted"])


def _answers(batch: _Batch) -> tuple[list[Response], dict[int, Prompt]]:
    """The responses of a batch, and its prompts by attempt."""
    prompts = batch.store.records(Prompt, batch.iteration, batch.attempts)
    responses = batch.store.records(Response, batch.iteration, batch.attempts)
    return responses, {prompt.attempt: prompt for prompt in prompts}


def _asked(prompt: Prompt, system_prompt: str | None) -> list[Message]:
    """The messages of a prompt, after the run's system prompt unless it has a system turn."""
    messages = messages_of(prompt.text, prompt.columns)
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [_message("system", system_prompt), *messages]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _plain(record: Prompt | Response | Judgment) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}
