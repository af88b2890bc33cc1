"""Judging in a child process, so that the one that asks never holds a model."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
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
    from selfreward.engines.base import Engine
    from selfreward.engines.chat import Chat

_GATHER_S = 0.2
R = TypeVar("R", Judgment, Comparison)


def judge_in_child(
    model: str,
    engine: EngineConfig,
    templates: Mapping[str, Template],
    texts: Sequence[Text],
    settings: JudgeConfig,
    on_judged: Callable[[int], None],
) -> list[list[Judgment]]:
    """Judge texts with a model that is loaded in a child process.

    Args:
        model: Model directory, or ``hosted``.
        engine: How to run it.
        templates: Of the judge, see ``load_judge_templates``.
        on_judged: Told how many texts are judged, first 0, when the model is loaded.

    Returns:
        The votes on each text, in order.

    Raises:
        SelfRewardError: Whatever the child raised, or that it died.
    """
    job = _job(model, engine, templates, settings) | {"texts": texts}
    return _in_child(job, len(texts), Judgment, on_judged)


def compare_in_child(
    model: str,
    engine: EngineConfig,
    templates: Mapping[str, Template],
    pairs: Sequence[Pair],
    settings: JudgeConfig,
    on_compared: Callable[[int], None],
) -> list[list[Comparison]]:
    """Compare pairs as ``judge_in_child`` judges texts; see ``compare_pairs``."""
    job = _job(model, engine, templates, settings) | {"pairs": pairs}
    return _in_child(job, len(pairs), Comparison, on_compared)


async def judge_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Do what is asked of a child; what is judged is said a few times a second."""
    settings = EngineConfig.model_validate(job["engine"])
    templates = {name: Template(**template) for name, template in job["templates"].items()}
    template, judge = templates["judge"], JudgeConfig.model_validate(job["judge"])
    engine, chat = await _open(job["model"], settings)
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
                engine, chat, template, pairs, judge, keep, concurrency=settings.concurrency
            )
        else:
            texts = [(prompt, response) for prompt, response in job["texts"]]
            await judge_texts(
                engine, chat, template, texts, judge, keep, concurrency=settings.concurrency,
                criteria_template=templates.get("criteria"),
            )  # fmt: skip
        tell()
    finally:
        await engine.close()


def _job(
    model: str, engine: EngineConfig, templates: Mapping[str, Template], settings: JudgeConfig
) -> dict[str, Any]:
    return {
        "work": "judge",
        "model": model,
        "engine": engine.model_dump(mode="json"),
        "templates": {name: asdict(template) for name, template in templates.items()},
        "judge": settings.model_dump(mode="json"),
    }


def _in_child(
    job: dict[str, Any], count: int, kind: type[R], on_judged: Callable[[int], None]
) -> list[list[R]]:
    found: list[list[R]] = [[] for _ in range(count)]
    done = 0

    def hear(judged: list[Any]) -> None:
        nonlocal done
        for number, rows in judged:
            found[number] = [msgspec.convert(row, kind) for row in rows]
        done += len(judged)
        on_judged(done)

    with Child() as child:
        child.work(job, "judging process", hear=hear)
    return found


async def _open(model: str, settings: EngineConfig) -> "tuple[Engine, Chat]":
    if model == HOSTED:
        from selfreward.engines.server.hosted import open_hosted

        return open_hosted(settings.options)  # type: ignore[return-value]  # has what judging needs
    from selfreward.engines.chat import Chat

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    chat = Chat(Path(model))
    from selfreward.engines.proved import open_proved

    engine = await open_proved(settings.kind, Path(model), chat, settings.options, fixed=True)
    return engine, chat
