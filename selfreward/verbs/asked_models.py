"""Asking models for answers, and judges for verdicts, less what a directory keeps of both.

Each row is kept under the sha256 of all that decided it, so that nothing is asked twice there,
whatever ended the call before.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import msgspec

from selfreward.config import EngineConfig, JudgeConfig, ResponsesConfig
from selfreward.config.judging import ContestConfig
from selfreward.config.run import Config
from selfreward.engines.reward import check_reward_model
from selfreward.errors import ConfigError, IntegrityError
from selfreward.inputs.conversations import conversations_of
from selfreward.inputs.functions import find_function
from selfreward.inputs.questions import Question
from selfreward.inputs.templates import Template
from selfreward.measures.contests import result, settled
from selfreward.measures.reports import Answer, FunctionValues
from selfreward.records import Comparison, Response
from selfreward.stages.evaluate import Pair
from selfreward.storage.lines import Lines
from selfreward.verbs.layout import counted
from selfreward.verbs.named_models import NamedModel
from selfreward.verbs.progress import Count
from selfreward.workers.contests import (
    column_names_of,
    results_by_value,
    score_answers,
)
from selfreward.workers.functions import FunctionProcess
from selfreward.workers.judge import Answering, Asking, answer_in_child, compare_in_child
from selfreward.workers.rewards import rewards_in_child

Kept = tuple[Lines, Lines]
"""Answers, and verdicts."""
T = TypeVar("T")
RESULTS = "results.json"
_ANSWERS, _VERDICTS = "answers.jsonl", "verdicts.jsonl"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model, or the references, and what it says to each prompt."""

    name: str
    digest: str | None
    """Of the model; None for references."""
    answers: tuple[Answer, ...]
    """In the order of the prompts."""


@dataclass(frozen=True, slots=True)
class ContestJudge:
    """Who compares."""

    name: str
    """The model; with a number behind it where a model sits twice, as in two forms."""
    model: str
    digest: str | None
    """Of the model, or of the source of a function; None if hosted."""
    form: str
    """``written``, ``expected``, ``reward`` or ``function``, see ``evaluation.contests``."""
    itself: tuple[str, ...]
    """Names of the contestants that are this very model."""


@dataclass(frozen=True, slots=True)
class _AnswerRow:
    """What is read of a row of ``answers.jsonl``."""

    key: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class _VerdictRow:
    """What is read of a row of ``verdicts.jsonl``."""

    key: str
    comparisons: list[Comparison]
    """One in each order."""


def kept_in(out: Path | None) -> Kept | None:
    """What was answered and compared before, of the directory that keeps it."""
    if out is None:
        return None
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: not a directory", "Name another one.")
    if out.is_dir() and any(out.iterdir()) and not (out / _ANSWERS).is_file():
        raise ConfigError(
            f"--out {out}: holds files, and not of a comparison", "Name a new directory."
        )
    out.mkdir(parents=True, exist_ok=True)
    return Lines(out / _ANSWERS), Lines(out / _VERDICTS)


def asking_of(
    settings: ContestConfig, model: NamedModel, template: Template, config: Config
) -> Asking:
    """How a model is asked to compare."""
    engine = settings.engine or config.engine
    judge = JudgeConfig(model=model.name, form=settings.form, engine=engine, **settings.sampled)
    return Asking(model.path, judge, {"judge": template}, config.seed, model.chat)


def _rows(lines: Lines | None, kind: type[T]) -> list[T]:
    if lines is None:
        return []
    try:
        return msgspec.convert(lines.rows, list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise IntegrityError(
            f"{lines.path}: {error}", "Remove the line, or name another --out."
        ) from None


def answers_of(
    model: NamedModel,
    questions: Sequence[Question],
    config: Config,
    kept: Kept | None,
    report: Callable[[str], None],
) -> tuple[Answer, ...]:
    """What a model says to each prompt, asked for where it is not kept."""
    settings, conversations = config.responses, conversations_of(questions)
    keys = [
        _answer_key(model, settings, config.seed, i, q.prompt, conversations.get(q.prompt))
        for i, q in enumerate(questions)
    ]
    found = {row.key: row.answer for row in _rows(kept and kept[0], _AnswerRow)}
    left = {i: q.prompt for i, q in enumerate(questions) if keys[i] not in found}
    if left:
        progress = Count(len(left), "prompts", report, who=model.name, doing=("answer", "answered"))

        def keep(given: dict[int, list[Response]]) -> None:
            new = []
            for i, [said] in given.items():
                answer = Answer(said.text, said.num_tokens, said.truncated, said.dropped)
                found[keys[i]] = answer
                where = {"key": keys[i], "model": model.name, "prompt": questions[i].prompt}
                new.append(where | {"answer": asdict(answer)})
            if kept:
                kept[0].add(new)

        answering = Answering(
            model.path, config.engine, settings, config.seed, model.chat, conversations
        )
        answer_in_child(answering, left, progress.show, keep)
    return tuple(found[key] for key in keys)


def results_of(
    judge: ContestJudge,
    asking: Asking,
    contestants: Sequence[Contestant],
    questions: Sequence[Question],
    kept: Kept | None,
    report: Callable[[str], None],
) -> list[list[float | None]]:
    """The results by prompt of each two contestants, asked for where no verdicts are kept."""
    found = {row.key: row.comparisons for row in _rows(kept and kept[1], _VerdictRow)}
    asking = replace(asking, conversations=conversations_of(questions))
    asked: dict[str, tuple[Pair, tuple[str, str]]] = {}
    results: list[list[tuple[float | None, str]]] = []
    for a, b in combinations(contestants, 2):
        results.append([])
        for question, mine, other in zip(questions, a.answers, b.answers, strict=True):
            pair = (question.prompt, mine.text, other.text)
            known, key = settled(mine, other), _verdict_key(judge, asking, pair)
            results[-1].append((known, key))
            if known is None and key not in found:
                asked[key] = pair, (a.name, b.name)
    if asked:
        keys = [*asked]
        who = f"{judge.model}, which judges"
        progress = Count(
            len(keys), "pairs of answers", report, who=who, doing=("compare", "compared")
        )

        def keep(given: dict[int, list[Comparison]]) -> None:
            new = []
            for i, comparisons in given.items():
                found[keys[i]] = comparisons
                [prompt, *_], (a, b) = asked[keys[i]]
                where = {"key": keys[i], "judge": judge.name, "a": a, "b": b, "prompt": prompt}
                new.append(where | {"comparisons": [asdict(one) for one in comparisons]})
            if kept:
                kept[1].add(new)

        compare_in_child(asking, [pair for pair, _ in asked.values()], progress.show, keep)
    return [
        [result(found[key]) if known is None else known for known, key in of_two]
        for of_two in results
    ]


def results_by_function(
    settings: ContestConfig,
    contestants: Sequence[Contestant],
    questions: Sequence[Question],
    report: Callable[[str], None],
) -> list[list[float | None]]:
    """The results by prompt of each two contestants, by what a function gives their answers."""
    assert settings.function is not None
    function = find_function(settings.function, "--judge function")
    report(f"{settings.function} scores {len(contestants)} times {len(questions)} answers")

    async def score() -> list[FunctionValues]:
        columns = column_names_of(questions)
        process = FunctionProcess(function, "--judge function", settings.timeout_s, columns)
        async with process:
            return [
                await score_answers(settings, process, questions, one.answers)
                for one in contestants
            ]

    return _by_values(settings.function, contestants, asyncio.run(score()), report)


def results_by_reward(
    model: NamedModel,
    contestants: Sequence[Contestant],
    questions: Sequence[Question],
    report: Callable[[str], None],
) -> list[list[float | None]]:
    """The results by prompt of each two contestants, by what a reward model gives their answers.

    Raises:
        ConfigError: It is none.
    """
    check_reward_model(Path(model.path), "--judge model", model.trusted)
    total = len(contestants) * len(questions)
    count = Count(total, "answers", report, who=model.name, doing=("score", "scored"))
    answers = [one.answers for one in contestants]
    found = rewards_in_child(Path(model.path), questions, answers, count.show)
    return _by_values(model.name, contestants, found, report)


def _by_values(
    judge: str,
    contestants: Sequence[Contestant],
    found: Sequence[FunctionValues],
    report: Callable[[str], None],
) -> list[list[float | None]]:
    """The same by the values given to each contestant; what has none is reported."""
    for one, given in zip(contestants, found, strict=True):
        lost = Counter(reason for reason in given.reasons if reason)
        for reason, count in lost.most_common():
            report(f"{judge}: no value of {counted(count, 'answer')} of {one.name}: {reason}")
    return [
        results_by_value(a.answers, b.answers, mine.values, other.values)
        for (a, mine), (b, other) in combinations(zip(contestants, found, strict=True), 2)
    ]


def _answer_key(
    model: NamedModel,
    settings: ResponsesConfig,
    seed: int,
    number: int,
    prompt: str,
    conversation: str | None,
) -> str:
    drawn = [seed, number] if settings.temperature else []  # greedy answers are of no seed
    asked = [prompt, conversation] if conversation else [prompt]
    return _key([model.digest, model.chat, settings.sampled, drawn, *asked])


def _verdict_key(judge: ContestJudge, asking: Asking, pair: Pair) -> str:
    who: object = judge.digest
    if who is None:
        assert asking.settings.engine is not None
        who = _addressed(asking.settings.engine)
    template, settings = asdict(asking.templates["judge"]), asking.settings
    turns = [asking.conversations[pair[0]]] if pair[0] in asking.conversations else []
    return _key([who, asking.chat, judge.form, settings.sampled, template, pair, *turns])


def _addressed(engine: EngineConfig) -> dict[str, object]:
    """What a hosted judge is known by."""
    return {name: engine.options.get(name) for name in ("endpoints", "model")}


def _key(parts: Iterable[object]) -> str:
    text = json.dumps([*parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
