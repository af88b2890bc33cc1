"""What ``selfreward compare-models`` does: models answer the same prompts, and judges compare them.

    prompts -> an answer of each model -> verdicts on each two, in both orders -> figures

What was answered and compared is kept in ``--out``, see ``asked_models``.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import yaml

from selfreward.config import SeedSource
from selfreward.config.judging import HOSTED, REWARD, ContestConfig
from selfreward.config.load import build_config
from selfreward.config.run import Config, check_judges
from selfreward.errors import ConfigError
from selfreward.inputs.functions import find_function
from selfreward.inputs.judge_templates import COMPARE_TEMPLATE, COMPARE_VARIABLES, run_template
from selfreward.inputs.questions import Question, read_questions
from selfreward.inputs.templates import Template, find_template, load_template
from selfreward.measures.contests import contest, contests_of
from selfreward.measures.reports import Answer, Contest, Estimate
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.verbs.asked_models import (
    RESULTS,
    Contestant,
    ContestJudge,
    answers_of,
    asking_of,
    kept_in,
    results_by_function,
    results_by_reward,
    results_of,
)
from selfreward.verbs.named_models import NamedModel, chat_of, named_model
from selfreward.workers.contests import REFERENCE

_Results = list[list[float | None]]

PROMPTS = "seed/questions.jsonl"
"""The shipped held-out questions: 60, of ten kinds."""
_MOST = 25
"""Models; the references take the last letter."""


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
    questions = read_questions(SeedSource(path=prompts, limit=limit))
    _check_names(names, has_references=questions[0].reference is not None)
    named = [named_model(name, report) for name in names]
    run = next((model.run for model in named if model.run), None)
    options = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    config = _config(run, options, _contests(judges, run), engine)
    asked = [_judge(judge, named, run, report) for judge in config.evaluation.contests]
    sitting = _sitting(asked, named, named_by_user=bool(judges))
    template, kept = _template(run), kept_in(out)

    contestants = [
        Contestant(model.name, model.digest, answers_of(model, questions, config, kept, report))
        for model in named
    ]
    contestants += _references(questions)

    def verdicts(judge: ContestJudge, settings: ContestConfig, model: NamedModel) -> _Results:
        """By prompt, of each two contestants in the order of their combinations."""
        if settings.function is not None:
            return results_by_function(settings, contestants, questions, report)
        if settings.form == REWARD:
            return results_by_reward(model, contestants, questions, report)
        asking = asking_of(settings, model, template, config)
        return results_of(judge, asking, contestants, questions, kept, report)

    twos = list(combinations(contestants, 2))
    found = contests_of(
        [
            contest(a.name, b.name, judge.name, of_two, a.answers, b.answers)
            for judge, how in zip(sitting, asked, strict=True)
            for (a, b), of_two in zip(twos, verdicts(judge, *how), strict=True)
        ]
    )
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
        durable.write_file(
            out / RESULTS, json.dumps(msgspec.to_builtins(compared), indent=1) + "\n"
        )
    return compared


def _references(questions: Sequence[Question]) -> list[Contestant]:
    """What the prompts have as their references is one more contestant, if they have any."""
    if questions[0].reference is None:
        return []
    given = tuple(Answer(q.reference or "", 0, False, None) for q in questions)
    return [Contestant(REFERENCE, None, given)]


def _check_names(names: Sequence[str], *, has_references: bool) -> None:
    """Refuse a model twice, and too many or too few to be compared."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{twice} is named twice", "Name each model once.")
    if has_references and REFERENCE in names:
        raise ConfigError(
            f"{REFERENCE}: so the references of the prompts are called",
            f"Name the model by its path, ./{REFERENCE}.",
        )
    if len(names) > _MOST:
        raise ConfigError(f"{len(names)} models: at most {_MOST} have a letter in the table")
    if len(names) + has_references < 2:
        raise ConfigError(
            f"there is nothing to compare {names[0]} with",
            "Name a second model, or prompts with a 'reference'.",
        )


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
