"""Judging in a child process, so that the one that asks never holds a model."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from selfreward.config import EngineConfig, JudgeConfig
from selfreward.config.judging import HOSTED
from selfreward.inputs.rankings import Text
from selfreward.inputs.templates import Template
from selfreward.records import Comparison, Judgment
from selfreward.stages.evaluate import Pair, compare_pairs, judge_texts
from selfreward.workers.process import Child

if TYPE_CHECKING:
    from selfreward.engines.base import ChatFormat, Engine

_GATHER_S = 0.2
_LOG = logging.getLogger(__name__)
R = TypeVar("R", Judgment, Comparison)


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
    return _in_child(_job(asking) | {"texts": texts}, len(texts), Judgment, on_judged)


def compare_in_child(
    asking: Asking, pairs: Sequence[Pair], on_compared: Callable[[int], None]
) -> list[list[Comparison]]:
    """Compare pairs as ``judge_in_child`` judges texts; see ``compare_pairs``."""
    return _in_child(_job(asking) | {"pairs": pairs}, len(pairs), Comparison, on_compared)


async def judge_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Do what is asked of a child: say what is judged a few times a second, warnings at once."""
    templates = {name: Template(**template) for name, template in job["templates"].items()}
    template, judge = templates["judge"], JudgeConfig.model_validate(job["judge"])
    assert judge.engine is not None
    concurrency, seed = judge.engine.concurrency, job["seed"]
    engine, chat = await _open(job["model"], judge.engine, job["chat"], say)
    judged: list[Any] = []

    def keep(number: int, records: Sequence[Judgment | Comparison]) -> None:
        judged.append((number, [asdict(record) for record in records]))
        if len(judged) == 1:  # an engine answers a whole batch at once
            asyncio.get_running_loop().call_later(_GATHER_S, tell)

    def tell() -> None:
        if judged:
            say(judged)
            judged.clear()

    try:
        say([])
        if "pairs" in job:
            pairs = [(prompt, one, other) for prompt, one, other in job["pairs"]]
            await compare_pairs(
                engine, chat, template, pairs, judge, keep, concurrency=concurrency, seed=seed
            )
        else:
            texts = [(prompt, response) for prompt, response in job["texts"]]
            await judge_texts(
                engine, chat, template, texts, judge, keep, concurrency=concurrency, seed=seed,
                criteria_template=templates.get("criteria"),
            )  # fmt: skip
        tell()
    finally:
        await engine.close()


def _job(asking: Asking) -> dict[str, Any]:
    today = asking.chat.get("today")
    return {
        "work": "judge",
        "model": asking.model,
        "templates": {name: asdict(template) for name, template in asking.templates.items()},
        "judge": asking.settings.model_dump(mode="json"),
        "seed": asking.seed,
        "chat": {**asking.chat, "today": None if today is None else today.isoformat()},
    }


def _in_child(
    job: dict[str, Any], count: int, kind: type[R], on_judged: Callable[[int], None]
) -> list[list[R]]:
    found: list[list[R]] = [[] for _ in range(count)]
    done = 0

    def hear(judged: list[Any] | str) -> None:
        nonlocal done
        if isinstance(judged, str):
            _LOG.warning(judged)
            return
        for number, rows in judged:
            found[number] = [msgspec.convert(row, kind) for row in rows]
        done += len(judged)
        on_judged(done)

    with Child() as child:
        child.work(job, "judging process", hear=hear)
    return found


async def _open(
    model: str, settings: EngineConfig, options: dict[str, Any], tell: Callable[[str], None]
) -> "tuple[Engine, ChatFormat]":
    if model == HOSTED:
        from selfreward.engines.server.hosted import open_hosted

        return open_hosted(settings.options, tell)
    from selfreward.engines.chat import Chat

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    today = options.pop("today")
    chat = Chat(Path(model), today=today and date.fromisoformat(today), **options)
    from selfreward.engines.proved import open_proved

    engine = await open_proved(
        settings.kind, Path(model), chat, settings.options, fixed=True, tell=tell
    )
    return engine, chat
