"""IFT and EFT seed data from Open Assistant, as arXiv 2401.10020, 3.1.1, makes them.

    first-turn English prompts with human replies
      |-- EFT: every reply of some prompts, with the score that humans gave it
      `-- IFT: the best reply of the other prompts (human rank 0)

The data (Koepf et al. 2023, arXiv 2304.07327, Apache-2.0) is read as the message rows of the hub's
``OpenAssistant/oasst2``, or as prompts that are already grouped:

    rankings  {"prompt", "responses": [{"text", "rank", "quality"?}, ...]}
    scored    {"prompt", "response", "quality", "score_0_5"}
    ift       {"prompt", "response"}: the best reply

A score is the mean human ``quality`` label, 0 to 1, times 5. Replies that have only a rank are left
out of the EFT data: a rank says which of two replies is better, not how good either is, and the
rubric is absolute. Humans wrote no justifications, so the EFT data serves ``judge.form: expected``.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs import seeds
from selfreward.inputs.rows import read_rows
from selfreward.inputs.shapes import instead
from selfreward.storage import durable

NUM_IFT = 3200
"""Arxiv 2401.10020, 3.1.1."""
NUM_EFT = 760
"""Prompts: 1,630 + 541 judgments of 2.85 replies each (the same section)."""
_POOR = 0.5
"""Differs from the paper: a best reply of lower human quality is no example to learn from."""
_KINDS = ("rankings", "scored", "ift")


@dataclass(slots=True)
class _Reply:
    text: str
    rank: int | None = None
    """0 is best."""
    quality: float | None = None
    """Mean human label, 0 to 1."""


@dataclass(slots=True)
class _Thread:
    prompt: str
    replies: dict[str, _Reply] = field(default_factory=dict)
    """By text."""

    def add(self, text: str, rank: int | None = None, quality: float | None = None) -> None:
        """Take in a reply, or what else is known of one that is there."""
        reply = self.replies.setdefault(text, _Reply(text))
        reply.rank = rank if reply.rank is None else reply.rank
        reply.quality = quality if reply.quality is None else reply.quality

    @property
    def scored(self) -> list[_Reply]:
        """Replies with a human score, best first."""
        scored = [reply for reply in self.replies.values() if reply.quality is not None]
        return sorted(scored, key=lambda reply: (-(reply.quality or 0.0), reply.text))

    @property
    def best(self) -> _Reply | None:
        """The reply of rank 0; of several, the one of the highest quality."""
        best = [reply for reply in self.replies.values() if reply.rank == 0]
        return min(best, key=lambda reply: (-(reply.quality or 0.0), reply.text), default=None)


def build(
    source: str,
    out: Path,
    *,
    num_ift: int = NUM_IFT,
    num_eft: int = NUM_EFT,
    seed: int = 0,
    split: str = "train",
    revision: str | None = None,
) -> dict[str, Any]:
    """Write ``out/ift.jsonl`` and ``out/eft.jsonl``; no prompt is in both.

    EFT prompts are drawn first, at most half of all, from those with two or more scored replies.
    The draw depends on the seed and the prompts' texts, not on the order of the rows.

    Args:
        source: Hub id, a JSONL or parquet file, or a directory of ``rankings.SPLIT.jsonl``,
            ``scored.SPLIT.jsonl`` and ``ift.SPLIT.jsonl``, of which any may be missing.
        out: Directory for the two files, which must not be there yet.
        num_ift: Most IFT rows.
        num_eft: Most EFT prompts.
        seed: Of the draw.
        split: ``train`` or ``validation`` on the hub; part of the file names in a directory.
        revision: Commit of a hub data set.

    Returns:
        Counts that add up. ``rows``: read = kept + dropped. ``prompts``: read = ift + eft +
        dropped. ``replies`` of the EFT prompts: read = eft + dropped. Each ``dropped`` is by
        reason.

    Raises:
        ConfigError: The source is not in one of the layouts, or holds nothing usable; or a file
            is in the way.
        PreflightError: The hub cannot be reached.
    """
    paths = [out / "ift.jsonl", out / "eft.jsonl"]
    if there := [path for path in paths if path.exists()]:
        raise ConfigError(f"{there[0]} exists; nothing was written", "Choose another directory.")
    reader = _Reader()
    threads = reader.read(source, split, revision)
    order = sorted(threads, key=lambda t: hashlib.sha256(f"{seed}/{t.prompt}".encode()).digest())
    chosen = [thread for thread in order if len(thread.scored) >= 2]
    eft = chosen[: min(num_eft, len(order) // 2)]
    ift, dropped = _draw_ift([t for t in order if t not in eft], num_ift)
    if not ift and not eft:
        raise ConfigError(f"{source}: holds no prompt with a best or with scored replies")
    out.mkdir(parents=True, exist_ok=True)
    durable.write_file(paths[0], _jsonl(ift))
    durable.write_file(paths[1], _jsonl(_eft_row(thread) for thread in eft))
    return {
        "rows": reader.counts(),
        "prompts": {
            "read": len(threads), "ift": len(ift), "eft": len(eft), "dropped": dict(dropped),
        },
        "replies": _reply_counts(eft),
    }  # fmt: skip


def _reply_counts(threads: list[_Thread]) -> dict[str, Any]:
    num_replies = sum(len(thread.replies) for thread in threads)
    num_scored = sum(len(thread.scored) for thread in threads)
    dropped = {"no human score": num_replies - num_scored} if num_replies else {}
    return {"read": num_replies, "eft": num_scored, "dropped": dropped}


def _draw_ift(threads: list[_Thread], count: int) -> tuple[list[dict[str, Any]], Counter[str]]:
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for thread in threads:
        best = thread.best
        if best is None:
            dropped["no best reply"] += 1
        elif best.quality is not None and best.quality < _POOR:
            dropped["best reply is poor"] += 1
        elif len(rows) == count:
            dropped["surplus"] += 1
        else:
            rows.append({"prompt": thread.prompt, "response": best.text})
    return rows, dropped


def _eft_row(thread: _Thread) -> dict[str, Any]:
    responses = [
        {"text": reply.text, "score": round(5 * reply.quality, 2), "rank": reply.rank}
        for reply in thread.scored
        if reply.quality is not None
    ]
    return {"prompt": thread.prompt, "responses": responses}


def _jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class _Reader:
    """Groups rows of any layout into threads and counts what it leaves out."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.dropped: Counter[str] = Counter()
        self._threads: dict[str, _Thread] = {}

    def read(self, source: str, split: str, revision: str | None) -> list[_Thread]:
        """Read all rows of a source."""
        paths = [source]
        if (directory := Path(source)).is_dir():
            names = [f"{kind}.{split}.jsonl" for kind in _KINDS]
            paths = [str(directory / name) for name in names if (directory / name).is_file()]
            if not paths:
                raise ConfigError(f"{source}: holds none of {', '.join(names)}")
        messages: list[tuple[str, dict[str, Any]]] = []
        for path in paths:
            hub = {} if Path(path).exists() else {"split": split, "revision": revision}
            for at, row in read_rows(SeedSource.model_validate({"path": path, **hub})):
                self.num_rows += 1
                if {"message_id", "parent_id", "text", "role"} <= row.keys():
                    messages.append((at, row))
                else:
                    self._add_grouped(at, row)
        self._add_messages(messages)
        return list(self._threads.values())

    def counts(self) -> dict[str, Any]:
        """Rows: read = kept + dropped."""
        num_dropped = self.dropped.total()
        return {
            "read": self.num_rows,
            "kept": self.num_rows - num_dropped,
            "dropped": dict(self.dropped),
        }

    def _add_grouped(self, at: str, row: dict[str, Any]) -> None:
        prompt = row.get("prompt")
        if isinstance(prompt, str) and isinstance(row.get("responses"), list):
            replies = row["responses"]
        elif isinstance(prompt, str) and isinstance(row.get("response"), str):
            best = None if "score_0_5" in row else 0
            replies = [{"text": row["response"], "quality": row.get("quality"), "rank": best}]
        else:
            raise ConfigError(
                f"{at}: not a row of Open Assistant, its columns are {sorted(row)}",
                "The layouts are in the documentation of seed data.",
            )
        if not prompt.strip() or not replies:
            self.dropped["empty"] += 1
            return
        thread = self._thread(prompt)
        for reply in replies:
            if not isinstance(reply, dict):
                raise ConfigError(f"{at}: a reply is an object, found {reply!r:.40}")
            self._add_reply(at, thread, reply.get("text"), reply.get("rank"), reply.get("quality"))

    def _add_messages(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        """Put first-turn replies under their prompts; later turns and the like are dropped."""
        roots: dict[str, _Thread | None] = {}
        replies = []
        for at, row in sorted(messages, key=lambda message: str(message[1]["message_id"])):
            reason, is_root = _why_dropped(row), row["parent_id"] is None
            if is_root and reason is None and seeds.plain(row["text"]) in self._threads:
                reason = "duplicate prompt"
            if is_root:
                roots[row["message_id"]] = self._thread(row["text"]) if reason is None else None
            elif reason is None:
                replies.append((at, row))
            if reason is not None:
                self.dropped[reason] += 1
        for at, row in replies:
            if row["parent_id"] not in roots:
                self.dropped["later turn"] += 1
            elif (thread := roots[row["parent_id"]]) is None:
                self.dropped["its prompt was dropped"] += 1
            else:
                quality = _quality(at, row.get("labels"))
                self._add_reply(at, thread, row["text"], row.get("rank"), quality)

    def _thread(self, prompt: str) -> _Thread:
        return self._threads.setdefault(seeds.plain(prompt), _Thread(prompt.strip()))

    def _add_reply(
        self, at: str, thread: _Thread, text: object, rank: object, quality: object
    ) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{at}: a reply needs a text, {instead(text)}")
        whole = isinstance(rank, int | float) and rank >= 0 and float(rank).is_integer()
        if rank is not None and not whole:
            raise ConfigError(f"{at}: a rank is a whole number from 0, found {rank!r:.40}")
        if quality is not None and not (isinstance(quality, int | float) and 0 <= quality <= 1):
            raise ConfigError(f"{at}: a quality is a number from 0 to 1, found {quality!r:.40}")
        thread.add(
            text.strip(),
            None if rank is None else int(rank),  # type: ignore[call-overload]
            None if quality is None else float(quality),
        )


def _why_dropped(row: dict[str, Any]) -> str | None:
    """Why a message is of no use whatever its place in the tree is, or None."""
    if row.get("deleted"):
        return "deleted"
    if row.get("review_result") is False:
        return "failed review"
    if row.get("tree_state", "ready_for_export") != "ready_for_export":
        return "tree not finished"
    if row.get("synthetic"):
        return "synthetic"
    if row.get("lang", "en") != "en":
        return "other language"
    if not isinstance(row["text"], str) or not row["text"].strip():
        return "empty"
    if (row["parent_id"] is None) != (row["role"] == "prompter"):
        return "later turn"
    return None


def _quality(at: str, labels: object) -> object:
    """Mean of the human label ``quality``, if there is one."""
    if labels is None:
        return None
    if not isinstance(labels, dict) or not labels.keys() >= {"name", "value"}:
        raise ConfigError(f"{at}: labels must hold the lists name and value, found {labels!r:.40}")
    return dict(zip(labels["name"], labels["value"], strict=False)).get("quality")
