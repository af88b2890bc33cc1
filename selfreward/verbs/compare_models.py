"""What ``selfreward compare-models`` does: models answer the same prompts, and judges compare them.

    prompts -> an answer of each model -> verdicts on each two, in both orders -> figures

What was answered and compared is kept in ``--out``, each row under the sha256 of all that decided
it, so that nothing is asked twice there, whatever ended the call before.
"""

import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from selfreward.config import EngineConfig, JudgeConfig, ResponsesConfig, SeedSource
from selfreward.config.judging import HOSTED, ContestConfig
from selfreward.config.load import build_config
from selfreward.config.run import Config, check_judges
from selfreward.errors import ConfigError, IntegrityError
from selfreward.inputs.functions import find_function
from selfreward.inputs.judge_templates import COMPARE_TEMPLATE, COMPARE_VARIABLES, run_template
from selfreward.inputs.questions import Question, read_questions
from selfreward.inputs.templates import Template, find_template, load_template
from selfreward.measures.contests import contest, contests_of, result, settled
from selfreward.measures.reports import Answer, Contest, Estimate, FunctionValues
from selfreward.records import Comparison, Response
from selfreward.stages.evaluate import Pair
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.lines import Lines
from selfreward.verbs.named_models import NamedModel, chat_of, named_model
from selfreward.verbs.progress import Count
from selfreward.workers.contests import (
    REFERENCE,
    column_names_of,
    results_by_value,
    score_answers,
)
from selfreward.workers.functions import FunctionProcess
from selfreward.workers.judge import Answering, Asking, answer_in_child, compare_in_child

PROMPTS = "seed/questions.jsonl"
"""The shipped held-out questions: 60, of ten kinds."""
T = TypeVar("T")
_MOST = 25
"""Models; the references take the last letter."""
_FILES = ("answers.jsonl", "verdicts.jsonl", "results.json")


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
    """``written``, ``expected`` or ``function``, see ``evaluation.contests``."""
    itself: tuple[str, ...]
    """Names of the contestants that are this very model."""


@dataclass(frozen=True, slots=True)
class ComparedModels:
    """Models against each other, by each judge."""

    data: str
    """Where the prompts come from."""
    prompts: tuple[str, ...]
    temperature: float
    """Of the answers; 0 is greedy."""
    max_new_tokens: int
    """Of an answer, at most."""
    seed: int
    models: tuple[Contestant, ...]
    judges: tuple[ContestJudge, ...]
    contests: tuple[Contest, ...]
    """Of each two contestants by each judge; results by prompt."""
    agreement: Estimate | None
    """See ``reports.Contests``."""
    seconds: float

    @property
    def has_verdicts(self) -> bool:
        """Whether there is a result at all."""
        return any(each.win_rate.n for each in self.contests)


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


def compare_models(
    names: Sequence[str],
    *,
    prompts: str = PROMPTS,
    judges: Sequence[str] = (),
    temperature: float = 0.0,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    limit: int | None = None,
    engine: Sequence[str] = (),
    out: Path | None = None,
    report: Callable[[str], None],
) -> ComparedModels:
    """Have models answer the same prompts, and judges compare the answers of each two.

    Args:
        names: ``RUN:M2`` or any model source.
        prompts: See ``evaluation.questions``; their references are one more contestant.
        judges: Each a model as above, ``hosted``, or a mapping in YAML as in
            ``evaluation.contests``, which may name a function. None: M1 of the first run that is
            named.
        temperature: Of the answers, which are sampled with the same seeds by each model.
        max_new_tokens: Of an answer. None for what the first run that is named has; so is
            ``seed``.
        limit: Prompts to take, the first ones.
        engine: ``KEY=VALUE`` words, as in the config under ``engine``.
        out: Directory that keeps what was asked, and takes the results.
        report: Told what is being done, one line each.

    Raises:
        ConfigError: Models, judges, prompts or options are wrong, or a model would be its own only
            judge.
        NotFoundError: No such run, or it has no such model.
        PreflightError: A model cannot be run here.
    """
    start = time.monotonic()
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{twice} is named twice", "Name each model once.")
    if len(names) > _MOST:
        raise ConfigError(f"{len(names)} models: at most {_MOST} have a letter in the table")
    questions = read_questions(SeedSource(path=prompts, limit=limit))
    has_references = questions[0].reference is not None
    if len(names) + has_references < 2:
        raise ConfigError(
            f"there is nothing to compare {names[0]} with",
            "Name a second model, or prompts with a 'reference'.",
        )
    named = [named_model(name, report) for name in names]
    run = next((model.run for model in named if model.run), None)
    options = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    config = _config(run, options, _contests(judges, run), engine)
    asked = [_judge(judge, named, run, report) for judge in config.evaluation.contests]
    sitting = _sitting(asked, named, named_by_user=bool(judges))
    template, kept = _template(run), _kept(out)

    contestants = [
        Contestant(model.name, model.digest, _answers(model, questions, config, kept, report))
        for model in named
    ]
    if has_references:
        given = tuple(Answer(q.reference or "", 0, False, None) for q in questions)
        contestants.append(Contestant(REFERENCE, None, given))
    contests = []
    for judge, (settings, model) in zip(sitting, asked, strict=True):
        if settings.function is not None:
            results = _by_values(settings, contestants, questions, report)
        else:
            asking = _asking(settings, model, template, config)
            results = _results(judge, asking, contestants, questions, kept, report)
        contests += [
            contest(a.name, b.name, judge.name, of_two, a.answers, b.answers)
            for (a, b), of_two in zip(combinations(contestants, 2), results, strict=True)
        ]
    found = contests_of(contests)
    compared = ComparedModels(
        data=prompts,
        prompts=tuple(question.prompt for question in questions),
        temperature=config.responses.temperature,
        max_new_tokens=config.responses.max_new_tokens,
        seed=config.seed,
        models=tuple(contestants),
        judges=tuple(sitting),
        contests=found.contests,
        agreement=found.agreement,
        seconds=time.monotonic() - start,
    )
    if out is not None:
        plain = msgspec.to_builtins(compared)
        durable.write_file(out / _FILES[2], json.dumps(plain, indent=1) + "\n")
    return compared


def _kept(out: Path | None) -> tuple[Lines, Lines] | None:
    """What was answered and compared before, of the directory that keeps it."""
    if out is None:
        return None
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: not a directory", "Name another one.")
    if out.is_dir() and any(out.iterdir()) and not (out / _FILES[0]).is_file():
        raise ConfigError(
            f"--out {out}: holds files, and not of a comparison", "Name a new directory."
        )
    out.mkdir(parents=True, exist_ok=True)
    return Lines(out / _FILES[0]), Lines(out / _FILES[1])


def _contests(judges: Sequence[str], run: Run | None) -> list[dict[str, Any]]:
    """The judges as ``evaluation.contests`` has them."""
    if not judges:
        if run is None:
            raise ConfigError(
                "there is no judge: no model of a run is named, whose M1 would compare",
                "Name one with --judge, which is none of the models compared.",
            )
        return [{"model": f"{run.handle}:M1"}]
    found = []
    for word in judges:
        value: object = {"model": word}
        if word.lstrip().startswith("{"):
            try:
                value = yaml.safe_load(word)
            except yaml.YAMLError as error:
                raise ConfigError(
                    f"--judge {word}: not YAML ({error})".replace("\n", " ")
                ) from None
        if not isinstance(value, dict) or not {"model", "function"} & value.keys():
            raise ConfigError(
                f"--judge {word}: needs a model or a function",
                "--judge '{model: MODEL}', --judge '{function: my_rewards:brief}'",
            )
        if value.get("model") == "M1" and run is not None:
            value["model"] = f"{run.handle}:M1"
        found.append(value)
    if len({json.dumps(value, sort_keys=True, default=str) for value in found}) < len(found):
        raise ConfigError("--judge: a judge is named twice", "Name each once.")
    return found


def _config(
    run: Run | None,
    options: Mapping[str, float | None],
    contests: list[dict[str, Any]],
    engine: Sequence[str],
) -> Config:
    """A config that says how the models are asked, all else left at its defaults."""
    data: dict[str, Any] = {"engine": {}, "responses": {}}
    if run is not None:
        data = run.config.model_dump(mode="json", include={"engine", "responses", "seed"})
    data["evaluation"] = {"contests": contests}
    words = [
        f"{key if key == 'seed' else f'responses.{key}'}={value}"
        for key, value in options.items()
        if value is not None
    ]
    words += [f"engine.{word}" for word in engine]
    try:
        config = build_config(data, words, name="comparison")
        check_judges(config)
    except ConfigError as error:  # which speaks of the config, as it knows no option
        said, hint = (
            re.sub(r"evaluation\.contests\.(\d+)", lambda m: f"judge {int(m[1]) + 1}", text)
            for text in (error.message, error.hint)
        )
        raise ConfigError(said, hint) from None
    return config


def _judge(
    settings: ContestConfig,
    named: Sequence[NamedModel],
    run: Run | None,
    report: Callable[[str], None],
) -> tuple[ContestConfig, NamedModel]:
    if settings.model == HOSTED:
        return settings, NamedModel(HOSTED, HOSTED, None, chat_of(run))
    if settings.function is not None:
        function = find_function(settings.function, "--judge function")
        return settings, NamedModel(settings.function, function.path, function.digest)
    known = next((model for model in named if model.name == settings.model), None)
    return settings, known or named_model(settings.model, report)


def _sitting(
    asked: Sequence[tuple[ContestConfig, NamedModel]],
    named: Sequence[NamedModel],
    *,
    named_by_user: bool,
) -> list[ContestJudge]:
    """The judges, and whom of the contestants each is.

    Raises:
        ConfigError: None of those that were named is another model than the contestants.
    """
    found: list[ContestJudge] = []
    for settings, model in asked:
        itself = [one.name for one in named if model.digest and one.digest == model.digest]
        before = sum(judge.model == model.name for judge in found)
        name = f"{model.name} ({before + 1})" if before else model.name
        found.append(ContestJudge(name, model.name, model.digest, settings.form, tuple(itself)))
    if named_by_user and all(judge.itself for judge in found):
        raise ConfigError(
            f"--judge {found[0].model} is one of the models compared ({found[0].itself[0]}), and "
            "would judge its own answers alone",
            "Name another one, or another one beside it.",
        )
    return found


def _template(run: Run | None) -> Template:
    if run is not None and (run.path / "templates" / "compare.jinja").is_file():
        return run_template(run, "compare")
    return load_template(find_template(COMPARE_TEMPLATE), COMPARE_VARIABLES)


def _asking(
    settings: ContestConfig, model: NamedModel, template: Template, config: Config
) -> Asking:
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


def _answers(
    model: NamedModel,
    questions: Sequence[Question],
    config: Config,
    kept: tuple[Lines, Lines] | None,
    report: Callable[[str], None],
) -> tuple[Answer, ...]:
    """What a model says to each prompt, asked for where it is not kept."""
    settings = config.responses
    keys = [_answer_key(model, settings, config.seed, i, q.prompt) for i, q in enumerate(questions)]
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

        answering = Answering(model.path, config.engine, settings, config.seed, model.chat)
        answer_in_child(answering, left, progress.show, keep)
    return tuple(found[key] for key in keys)


def _results(
    judge: ContestJudge,
    asking: Asking,
    contestants: Sequence[Contestant],
    questions: Sequence[Question],
    kept: tuple[Lines, Lines] | None,
    report: Callable[[str], None],
) -> list[list[float | None]]:
    """The results by prompt of each two contestants, asked for where no verdicts are kept."""
    found = {row.key: row.comparisons for row in _rows(kept and kept[1], _VerdictRow)}
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


def _by_values(
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

    found = asyncio.run(score())
    for one, given in zip(contestants, found, strict=True):
        lost = Counter(reason for reason in given.reasons if reason)
        for reason, count in lost.most_common():
            report(f"{settings.function}: no value of {count} answers of {one.name}: {reason}")
    return [
        results_by_value(a.answers, b.answers, mine.values, other.values)
        for (a, mine), (b, other) in combinations(zip(contestants, found, strict=True), 2)
    ]


def _answer_key(
    model: NamedModel, settings: ResponsesConfig, seed: int, number: int, prompt: str
) -> str:
    drawn = [seed, number] if settings.temperature else []  # greedy answers are of no seed
    return _key([model.digest, model.chat, settings.sampled, drawn, prompt])


def _verdict_key(judge: ContestJudge, asking: Asking, pair: Pair) -> str:
    who: object = judge.digest
    if who is None:
        assert asking.settings.engine is not None
        who = _addressed(asking.settings.engine)
    template, settings = asdict(asking.templates["judge"]), asking.settings
    return _key([who, asking.chat, judge.form, settings.sampled, template, pair])


def _addressed(engine: EngineConfig) -> dict[str, object]:
    """What a hosted judge is known by."""
    return {name: engine.options.get(name) for name in ("endpoints", "model")}


def _key(parts: Iterable[object]) -> str:
    text = json.dumps([*parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
