"""Judging, comparing and answering in a child process: the one that asks never holds a model."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from selfreward.config import EngineConfig, JudgeConfig, ResponsesConfig
from selfreward.config.judging import HOSTED
from selfreward.inputs.rankings import Text
from selfreward.inputs.templates import Template
from selfreward.records import Comparison, Judgment, Response
from selfreward.stages.evaluate import Pair, answer_prompts, compare_pairs, judge_texts
from selfreward.workers.process import Child

if TYPE_CHECKING:
    from selfreward.engines.base import ChatFormat, Engine

_GATHER_S = 0.2
_LOG = logging.getLogger(__name__)
R = TypeVar("R", Judgment, Comparison, Response)


@dataclass(frozen=True, slots=True)
class Asking:
    """A judge, and all that decides what it is asked."""

    model: str
    """Model directory, or ``hosted``."""
    settings: JudgeConfig
    """With its engine."""
    templates: Mapping[str, Template]
    """See ``load_judge_templates``."""
    seed: int = 0
    """As a run's."""
    chat: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``Chat``."""
    conversations: Mapping[str, str] = field(default_factory=dict)
    """See ``conversations_of``: of those prompts that are one."""


@dataclass(frozen=True, slots=True)
class Answering:
    """A model that answers, and all that decides how."""

    model: str
    """Model directory."""
    engine: EngineConfig
    settings: ResponsesConfig
    """Of which ``n`` says nothing: each prompt has one answer."""
    seed: int = 0
    """As a run's."""
    chat: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``Chat``."""
    conversations: Mapping[str, str] = field(default_factory=dict)
    """As in ``Asking``."""


def judge_in_child(
    asking: Asking, texts: Sequence[Text], on_judged: Callable[[int], None]
) -> list[list[Judgment]]:
    """Judge texts with a model that is loaded in a child process.

    Args:
        on_judged: Told how many texts are judged, first 0, when the model is loaded.

    Returns:
        The votes on each text, in order.

    Raises:
        SelfRewardError: Whatever the child raised, or that it died.
    """
    given = _in_child(_job(asking) | {"texts": texts}, Judgment, on_judged)
    return [given[number] for number in range(len(texts))]


def compare_in_child(
    asking: Asking,
    pairs: Sequence[Pair],
    on_compared: Callable[[int], None],
    keep: Callable[[dict[int, list[Comparison]]], None] = lambda given: None,
) -> list[list[Comparison]]:
    """Compare pairs as ``judge_in_child`` judges texts; see ``compare_pairs``.

    Args:
        keep: Gets the comparisons of some pairs, by number, as they come in.
    """
    given = _in_child(_job(asking) | {"pairs": pairs}, Comparison, on_compared, keep)
    return [given[number] for number in range(len(pairs))]


def answer_in_child(
    answering: Answering,
    prompts: Mapping[int, str],
    on_answered: Callable[[int], None],
    keep: Callable[[dict[int, list[Response]]], None],
) -> None:
    """Have a model answer prompts, see ``answer_prompts``, as ``judge_in_child`` judges texts.

    Args:
        keep: Gets the answers to some prompts, one each by number, as they come in.
    """
    job = {
        "work": "judge",
        "model": answering.model,
        "engine": answering.engine.model_dump(mode="json"),
        "responses": answering.settings.model_dump(mode="json"),
        "prompts": [*prompts.items()],
        "seed": answering.seed,
        "chat": _plain(answering.chat),
        "conversations": {**answering.conversations},
    }
    _in_child(job, Response, on_answered, keep)


async def judge_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Do what is asked of a child: say what is judged a few times a second, warnings at once."""
    settings = EngineConfig.model_validate(job["engine"])
    checked = bool(job["conversations"]) and "prompts" in job
    engine, chat = await _open(job["model"], settings, job["chat"], say, checked)
    judged: list[Any] = []

    def keep(number: int, records: Sequence[Judgment | Comparison | Response]) -> None:
        judged.append((number, [asdict(record) for record in records]))
        if len(judged) == 1:  # an engine answers a whole batch at once
            asyncio.get_running_loop().call_later(_GATHER_S, tell)

    def tell() -> None:
        if judged:
            say(judged)
            judged.clear()

    try:
        say([])
        await _ask(engine, chat, job, settings.concurrency, keep)
        tell()
    finally:
        await engine.close()


async def _ask(
    engine: "Engine",
    chat: "ChatFormat",
    job: dict[str, Any],
    concurrency: int,
    keep: Callable[[int, Sequence[Judgment | Comparison | Response]], None],
) -> None:
    seed, conversations = job["seed"], job["conversations"]
    if "prompts" in job:
        asked = ResponsesConfig.model_validate(job["responses"]).model_copy(update={"n": 1})
        await answer_prompts(
            engine, chat, dict(job["prompts"]), asked,
            lambda number, response: keep(number, [response]), concurrency=concurrency, seed=seed,
            conversations=conversations,
        )  # fmt: skip
        return
    templates = {name: Template(**template) for name, template in job["templates"].items()}
    template, judge = templates["judge"], JudgeConfig.model_validate(job["judge"])
    if "pairs" in job:
        pairs = [(prompt, one, other) for prompt, one, other in job["pairs"]]
        await compare_pairs(
            engine, chat, template, pairs, judge, keep, concurrency=concurrency, seed=seed,
            conversations=conversations,
        )  # fmt: skip
        return
    texts = [(prompt, response) for prompt, response in job["texts"]]
    await judge_texts(
        engine, chat, template, texts, judge, keep, concurrency=concurrency, seed=seed,
        criteria_template=templates.get("criteria"), conversations=conversations,
    )  # fmt: skip


def _job(asking: Asking) -> dict[str, Any]:
    assert asking.settings.engine is not None
    return {
        "work": "judge",
        "model": asking.model,
        "engine": asking.settings.engine.model_dump(mode="json"),
        "templates": {name: asdict(template) for name, template in asking.templates.items()},
        "judge": asking.settings.model_dump(mode="json"),
        "seed": asking.seed,
        "chat": _plain(asking.chat),
        "conversations": {**asking.conversations},
    }


def _plain(chat: Mapping[str, Any]) -> dict[str, Any]:
    today = chat.get("today")
    return {**chat, "today": None if today is None else today.isoformat()}


def _in_child(
    job: dict[str, Any],
    kind: type[R],
    on_judged: Callable[[int], None],
    keep: Callable[[dict[int, list[R]]], None] = lambda given: None,
) -> dict[int, list[R]]:
    found: dict[int, list[R]] = {}

    def hear(judged: list[Any] | str) -> None:
        if isinstance(judged, str):
            _LOG.warning(judged)
            return
        new = {number: [msgspec.convert(row, kind) for row in rows] for number, rows in judged}
        found.update(new)
        keep(new)
        on_judged(len(found))

    with Child() as child:
        child.work(job, "answering process" if "prompts" in job else "judging process", hear=hear)
    return found


async def _open(
    model: str,
    settings: EngineConfig,
    options: dict[str, Any],
    tell: Callable[[str], None],
    answers_conversations: bool,
) -> "tuple[Engine, ChatFormat]":
    if model == HOSTED:
        from selfreward.engines.server.hosted import open_hosted

        return open_hosted(settings.options, tell)
    from selfreward.engines.chat import Chat

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    today = options.pop("today")
    chat = Chat(Path(model), today=today and date.fromisoformat(today), **options)
    if answers_conversations:
        chat.check_conversation()
    from selfreward.engines.proved import open_proved

    engine = await open_proved(
        settings.kind, Path(model), chat, settings.options, fixed=True, tell=tell
    )
    return engine, chat
