"""Labels by people, in the viewer: what is asked next, and what is said of it.

A labeler is blind: an item goes out as its prompt and its answers, each under a handle drawn for
this showing. Which run's records it is about, and in which order the answers stand, stays here
until the label comes back. Only ``labels.db`` is ever written to.
"""

import json
import secrets
import subprocess
import sys
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from selfreward.errors import (
    KINDS,
    ConfigError,
    IntegrityError,
    PreflightError,
    SelfRewardError,
)
from selfreward.storage.directory import Run
from selfreward.storage.label import (
    FLAGS,
    Content,
    Item,
    Kind,
    Label,
    content,
    in_force,
    labeler_name,
)
from selfreward.storage.label import KINDS as LABEL_KINDS
from selfreward.storage.labels import Labels, reading
from selfreward.verbs.questions import Order, Questions, Queue
from selfreward.viewer.answers import as_json, opened

MOST_BYTES = 64_000
"""Of a request's body."""
_KEPT = 5_000
"""Items that are remembered; a label on one that was forgotten is refused in words."""
_RUNS = 8
_PATIENCE_S = 300.0

B = TypeVar("B")


class Better(msgspec.Struct, tag="ab", tag_field="kind", forbid_unknown_fields=True):
    """Which of two answers is better."""

    better: str | None
    """Its handle; None for a tie."""


class Ranks(msgspec.Struct, tag="ranking", tag_field="kind", forbid_unknown_fields=True):
    """The order of all answers."""

    ranks: dict[str, int]
    """By handle; 1 is best, equals may share one."""


class Rating(msgspec.Struct, tag="rating", tag_field="kind", forbid_unknown_fields=True):
    """What a person thinks of one answer by itself."""

    rating: int
    flags: list[str] = []


class Skip(msgspec.Struct, tag="skip", tag_field="kind", forbid_unknown_fields=True):
    """That it was passed over."""


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """A label as it comes from the page."""

    handle: str
    labeler: str
    answer: Better | Ranks | Rating | Skip
    note: str = ""
    seconds: float | None = None


class Undo(msgspec.Struct, forbid_unknown_fields=True):
    """Whose last label is taken back."""

    labeler: str
    mode: Kind


@dataclass(frozen=True, slots=True)
class _Shown:
    """An item on its way to a labeler and back."""

    handle: str
    path: str
    """Of the run."""
    labeler: str
    item: Item
    digest: str
    answers: dict[str, int]
    """Sample by handle, in the order in which they are shown."""


class ForgottenError(IntegrityError):
    """An item that was shown before the viewer was started again, or long ago."""


class Desk:
    """What is under way between the viewer and its labelers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin anew, as after a start of the viewer."""
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._queues: OrderedDict[str, Queue] = OrderedDict()
        self._given: dict[str, tuple[bytes, int]] = {}
        self._figures: dict[str, tuple[int, Any]] = {}

    def next(self, run: Run, asked: Questions, labeler: str, held: list[str]) -> dict[str, Any]:
        """The next item of a labeler who still holds others, and how much is labeled."""
        with self._lock:
            passed = {shown.item for handle in held if (shown := self._shown.get(handle))}
            queue = self._queue(run)
            with reading(run) as kept:
                labels = kept.of_kind(asked.kind) if kept else []
            with run.store() as store:
                found = queue.find(store, asked, labeler, labels, passed)
                told = None
                if found.item is not None:
                    text = content(store, found.item)
                    told = self._show(run, labeler, found.item, text)
        return {"item": told, "labeled": found.labeled, "prompts": found.prompts}

    def label(self, run: Run, given: Given) -> dict[str, Any]:
        """Keep a label; the same one sent twice is kept once.

        Raises:
            ForgottenError: The item is not known any more.
            IntegrityError: The records no longer hold what was shown.
            ConfigError: It is no label of its item.
        """
        labeler = labeler_name(given.labeler)
        with self._lock:
            shown = self._shown.get(given.handle)
            if shown is None or shown.path != str(run.path) or shown.labeler != labeler:
                raise ForgottenError(
                    "this item is not known any more; nothing was kept", "It is asked again."
                )
            sent = msgspec.json.encode([given.answer, given.note])
            before = self._given.get(given.handle)
            if before is not None and before[0] == sent:
                return {"number": before[1]}
            with run.store() as store:
                if content(store, shown.item).digest != shown.digest:
                    raise IntegrityError(
                        "the records no longer hold the answers that were shown, so nothing was "
                        "kept",
                        f"`selfreward verify {run.name}` says what is wrong with them.",
                    )
            with Labels(run, writes=True) as labels:
                number = labels.add(_label(shown, given))
            self._given[given.handle] = (sent, number)
        return {"number": number}

    def undo(self, run: Run, labeler: str, kind: Kind) -> dict[str, Any]:
        """Take the last label of a kind back, and show its item again with what was said of it."""
        with self._lock:
            with reading(run) as kept:
                has_any = kept is not None
            last = None
            if has_any:
                with Labels(run, writes=True) as labels:
                    last = labels.undo(labeler, kind)
            if last is None:
                return {"item": None}
            with run.store() as store:
                told = self._show(run, labeler, last.item, content(store, last.item))
            answers = self._shown[told["handle"]].answers
        before: dict[str, Any] = {"rating": last.rating, "flags": last.flags, "note": last.note}
        if last.ranks is not None:
            ranks = dict(zip(last.item.samples, last.ranks, strict=True))
            before["ranks"] = {handle: ranks[sample] for handle, sample in answers.items()}
        return {"item": told, "before": before}

    def summary(self, run: Run, with_figures: bool) -> dict[str, Any]:
        """Who labeled how much; and the figures of ``selfreward labels``, from a child process."""
        with reading(run) as labels:
            history = labels.history() if labels else []
        counts = in_force(history)
        rows = []
        for name in sorted({label.labeler for label in counts}):
            kinds = Counter(
                "skipped" if label.is_skip else label.item.kind
                for label in counts
                if label.labeler == name
            )
            rows.append({"name": name, **{k: kinds[k] for k in (*LABEL_KINDS, "skipped")}})
        figures = self._computed(run, len(history)) if with_figures and rows else None
        return {"labelers": rows, "figures": figures}

    def _queue(self, run: Run) -> Queue:
        path = str(run.path)
        queue = self._queues.pop(path, None) or Queue(run)
        self._queues[path] = queue
        while len(self._queues) > _RUNS:
            self._queues.popitem(last=False)
        return queue

    def _show(self, run: Run, labeler: str, item: Item, texts: Content) -> dict[str, Any]:
        order = self._queue(run).shown(item, labeler)
        answers = {secrets.token_urlsafe(9): sample for sample in order}
        handle = secrets.token_urlsafe(12)
        self._shown[handle] = _Shown(handle, str(run.path), labeler, item, texts.digest, answers)
        while len(self._shown) > _KEPT:
            gone, _ = self._shown.popitem(last=False)
            self._given.pop(gone, None)
        by_sample = dict(zip(item.samples, texts.answers, strict=True))
        told = {
            "handle": handle,
            "mode": item.kind,
            "prompt": texts.prompt,
            "answers": [{"handle": h, "text": by_sample[s]} for h, s in answers.items()],
        }
        return told | ({"boxes": FLAGS} if item.kind == "rating" else {})

    def _computed(self, run: Run, size: int) -> Any:
        """The figures of so many rows, computed where NumPy may be."""
        path = str(run.path.resolve())
        known = self._figures.get(path)
        if known is None or known[0] != size:
            command = [sys.executable, "-m", "selfreward", "labels", path, "--json"]
            try:
                done = subprocess.run(
                    command, capture_output=True, check=False, timeout=_PATIENCE_S
                )
                found = json.loads(done.stdout)
            except (ValueError, subprocess.TimeoutExpired):
                raise PreflightError(
                    "the figures of the labels cannot be computed",
                    f"`selfreward labels {run.name}` says why.",
                ) from None
            if error := found.get("error"):
                kind = KINDS.get(error["kind"], SelfRewardError)
                raise kind(error["message"], error["hint"])
            known = self._figures[path] = (size, found)
        return known[1]


def _label(shown: _Shown, given: Given) -> Label:
    """A label by samples, from one by handles.

    Raises:
        ConfigError: It is about other answers, or of another kind.
    """
    answer, item = given.answer, shown.item
    ranks: tuple[int, ...] | None = None
    rating: int | None = None
    flags: tuple[str, ...] = ()
    if isinstance(answer, Rating):
        rating = answer.rating
        flags = tuple(flag for flag in FLAGS if flag in answer.flags)
        if len(flags) != len(answer.flags):
            raise ConfigError(f"flags: {answer.flags!r:.200} are not of {', '.join(FLAGS)}")
    elif isinstance(answer, Better):
        if answer.better is not None and answer.better not in shown.answers:
            raise ConfigError("better: no answer of this item")
        best = None if answer.better is None else shown.answers[answer.better]
        ranks = tuple(1 if best in (None, sample) else 2 for sample in item.samples)
    elif isinstance(answer, Ranks):
        if answer.ranks.keys() != shown.answers.keys():
            raise ConfigError("ranks: needs a rank for each answer of this item, and no other")
        by_sample = {shown.answers[handle]: rank for handle, rank in answer.ranks.items()}
        ranks = tuple(by_sample[sample] for sample in item.samples)
    kinds: dict[type, Kind] = {Better: "ab", Ranks: "ranking", Rating: "rating"}
    if kinds.get(type(answer), item.kind) != item.kind:
        raise ConfigError(f"a label of kind {kinds[type(answer)]} on an item of kind {item.kind}")
    return Label(
        labeler=shown.labeler, item=item, digest=shown.digest,
        shown=tuple(shown.answers.values()), ranks=ranks, rating=rating, flags=flags,
        note=given.note.strip(), seconds=given.seconds,
    )  # fmt: skip


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    """What ``labels/next`` is asked with."""

    mode: Kind
    labeler: str
    order: Order = "random"
    answers: int = 4
    overlap: float = 0.2
    iteration: int | None = None


def _next(desk: Desk, request: Request) -> Response:
    params = request.query_params
    plain = {name: value for name, value in params.items() if name != "held"}
    try:
        query = msgspec.convert(plain, _Query, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"labels/next: {error}") from None
    asked = Questions(query.mode, query.order, query.answers, query.overlap, query.iteration)
    labeler, held = labeler_name(query.labeler), params.getlist("held")
    with opened(request) as run:
        return as_json(desk.next(run, asked, labeler, held))


def _summary(desk: Desk, request: Request) -> Response:
    with opened(request) as run:
        return as_json(desk.summary(run, request.query_params.get("figures") == "1"))


async def _add(desk: Desk, request: Request) -> Response:
    given = await _body(request, Given)

    def add() -> Response:
        with opened(request) as run:
            return as_json(desk.label(run, given))

    return await run_in_threadpool(add)


async def _undo(desk: Desk, request: Request) -> Response:
    given = await _body(request, Undo)

    def undo() -> Response:
        with opened(request) as run:
            return as_json(desk.undo(run, labeler_name(given.labeler), given.mode))

    return await run_in_threadpool(undo)


async def _body(request: Request, kind: type[B]) -> B:
    """The body of a request.

    Raises:
        HTTPException: It is no JSON, or too long.
        ConfigError: It is not of the shape.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "a label is sent as application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"a label has at most {MOST_BYTES:,} bytes")
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"no label: {error}") from None


def _routes(desk: Desk) -> list[Route]:
    at = "/api/run/{name}/labels"
    return [
        Route(f"{at}/next", partial(_next, desk)),
        Route(f"{at}/summary", partial(_summary, desk)),
        Route(f"{at}/undo", partial(_undo, desk), methods=["POST"]),
        Route(at, partial(_add, desk), methods=["POST"]),
    ]


desk = Desk()
routes = _routes(desk)
"""To be mounted beside the other addresses of the viewer."""
