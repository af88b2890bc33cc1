"""What ``selfreward judge`` does: a judge against people, beside the longer response."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from selfreward.config import Config, JudgeConfig, SeedSource
from selfreward.config.judging import HOSTED, JurorConfig
from selfreward.config.load import build_config
from selfreward.config.run import check_judges
from selfreward.errors import ConfigError
from selfreward.inputs import models
from selfreward.inputs.judge_templates import (
    COMPARE_TEMPLATE,
    load_judge_templates,
    template_name,
)
from selfreward.inputs.templates import Template, find_template, load_template, read_source
from selfreward.measures.agreement import agreement
from selfreward.measures.positions import ComparedPair, compared_pairs, positions
from selfreward.measures.reports import Agreement, Positions
from selfreward.measures.sample import JudgedResponse, judged_responses, votes_of
from selfreward.records import FORMS
from selfreward.storage.directory import list_runs
from selfreward.verbs.progress import Count
from selfreward.workers.judge import Asking, compare_in_child, judge_in_child

if TYPE_CHECKING:
    from selfreward.inputs.rankings import Ranking
    from selfreward.records import Comparison, Judgment
    from selfreward.storage.directory import Run


@dataclass(frozen=True, slots=True)
class JudgedData:
    """What was judged."""

    path: str
    limit: int | None
    """Rankings taken at most."""
    left_out: dict[str, int]
    """By reason."""
    gaps: int
    """Rankings that skip a rank."""


@dataclass(frozen=True, slots=True)
class JudgeSeconds:
    """How long it took."""

    load: float
    """Until the model was loaded."""
    judge: float


@dataclass(frozen=True)
class Judging:
    """How, and by whom, human-ranked responses were judged."""

    model: str
    digest: str | None
    """Of the model; None if hosted."""
    form: str
    template: str
    num_votes: int
    """Asked for, per response or order."""
    engine: dict[str, Any]
    """As ``judge.engine`` in the config."""
    data: JudgedData
    reasons: dict[str, int]
    """Votes without a verdict by reason, the most frequent first."""
    seconds: JudgeSeconds


@dataclass(frozen=True)
class ScoredReport(Agreement, Judging):
    """The figures of a judge that scores, with all from which they can be computed again."""

    responses: tuple[JudgedResponse, ...]


@dataclass(frozen=True)
class ComparedReport(Positions, Judging):
    """The same of a judge that compares."""

    compared: tuple[ComparedPair, ...]


Report = ScoredReport | ComparedReport


def judge_report(
    model: str,
    data: str,
    words: Sequence[str] = (),
    *,
    like: "Run | None" = None,
    compare: bool = False,
    form: str | None = None,
    template: str | None = None,
    votes: int | None = None,
    engine: Sequence[str] = (),
    limit: int | None = None,
    report: Callable[[str], None],
) -> Report:
    """Have human-ranked responses judged, and put what people think beside it.

    Args:
        model: Any model source, or ``hosted``; with ``like`` also the run's ``M0``,
            ``SFT``, ``M1``, ....
        data: See ``evaluation.ranked``.
        words: ``KEY=VALUE`` of the config, of those keys that say how a judge is asked.
        like: Ask as this run asks the judge that it evaluates, but for what is given here.
        compare: Have each two responses compared instead of scoring each.
        form: Of the judge; None for that of the config, like the next two.
        template: Name or path.
        votes: Per response.
        engine: ``KEY=VALUE`` words, as in the config under ``judge.engine``.
        limit: Rankings to take, the first ones.
        report: Told what is being done, one line each.

    Raises:
        ConfigError: Data, template or options are wrong.
        PreflightError: The model cannot be run here.
    """
    from selfreward.inputs.conversations import conversations_of
    from selfreward.inputs.rankings import read_ranked

    model = _model_source(model, like)
    words = [*(f"judge.engine.{word}" for word in engine), *words]
    config = _config(model, like, compare, form, template, votes, words)
    settings, templates = config.judge, _templates(config.judge, compare)
    human = read_ranked(SeedSource(path=data), limit=limit)
    resolved = None
    if model != HOSTED:
        trusted = config.trust_remote_code
        resolved = models.resolve(
            model, revision=config.revision, trust_remote_code=trusted, report=report
        )
    asking = Asking(
        model=HOSTED if resolved is None else str(resolved.path),
        settings=settings,
        templates=templates,
        seed=config.seed,
        chat=_chat_options(config, like),
        conversations=conversations_of(human.rankings),
    )
    assert settings.engine is not None
    judging = partial(
        Judging,
        model=model,
        digest=None if resolved is None else resolved.digest,
        form=settings.form,
        template=settings.template,
        num_votes=1 if compare or settings.traits.by_criterion else settings.num_votes,
        engine=settings.engine.model_dump(mode="json"),
        data=JudgedData(data, limit, human.left_out, human.num_gaps),
    )
    judge = _compared if compare else _scored
    return judge(asking, human.rankings, report, judging)


def _model_source(model: str, like: "Run | None") -> str:
    """Where a judge lies that may be named as one of the models of a run."""
    if like is not None and re.fullmatch(r"M\d+|SFT", model):
        return str(like.named_model(model))
    if "/" not in model and any(run.name == model for run in list_runs()):
        raise ConfigError(
            f"model: {model} is a run, not a model",
            f"Name one of its models: `selfreward judge M1 --like {model} --data FILE`.",
        )
    return model


def _scored(
    asking: Asking,
    rankings: "Sequence[Ranking]",
    report: Callable[[str], None],
    judging: Callable[..., Judging],
) -> ScoredReport:
    from selfreward.inputs.rankings import texts_of

    texts = texts_of(rankings)
    progress = Count(len(texts), "responses", report)
    votes = judge_in_child(asking, texts, progress.show)
    how = judging(reasons=_reasons(votes), seconds=JudgeSeconds(**progress.seconds()))
    scores = {text: votes_of(given) for text, given in zip(texts, votes, strict=True)}
    responses = judged_responses(rankings, scores)
    return ScoredReport(**_fields(how), **_fields(agreement(responses)), responses=tuple(responses))


def _compared(
    asking: Asking,
    rankings: "Sequence[Ranking]",
    report: Callable[[str], None],
    judging: Callable[..., Judging],
) -> ComparedReport:
    from selfreward.stages.evaluate import pairs_of

    pairs = pairs_of(rankings)
    progress = Count(len(pairs), "pairs", report)
    given = compare_in_child(asking, pairs, progress.show)
    how = judging(reasons=_reasons(given), seconds=JudgeSeconds(**progress.seconds()))
    compared = compared_pairs(rankings, dict(zip(pairs, given, strict=True)))
    return ComparedReport(**_fields(how), **_fields(positions(compared)), compared=tuple(compared))


def _fields(record: Judging | Agreement | Positions) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _reasons(judged: "Sequence[Sequence[Judgment | Comparison]]") -> dict[str, int]:
    reasons = (vote.reason for given in judged for vote in given if vote.reason is not None)
    return dict(Counter(reasons).most_common())


_OF_RUN = (
    "seed", "revision", "trust_remote_code", "system_prompt", "chat_template",
    "chat_template_kwargs",
)  # fmt: skip
_OF_JUDGE = tuple(f"judge.{name}" for name in JurorConfig.model_fields if name not in (
    "model", "weight", "imported",  # the model is named, and weighs nothing where it is alone
))  # fmt: skip
_KEY = re.compile(rf"({'|'.join(map(re.escape, (*_OF_RUN, *_OF_JUDGE)))})(\.|=)")
"""Of the config: what says how a judge is asked."""


def _config(
    model: str, like: "Run | None", compare: bool, form: str | None, template: str | None,
    votes: int | None, words: Sequence[str],
) -> Config:  # fmt: skip
    """The config of a run that would ask this judge, all else left at its defaults."""
    if compare and votes is not None:
        raise ConfigError("--votes: a comparison is asked once in each order")
    if compare and form not in (None, "written", "expected"):
        raise ConfigError(f"--form {form}: comparisons are written or expected")
    if form in FORMS and not FORMS[form].template:
        others = ", ".join(name for name, each in FORMS.items() if each.template)
        raise ConfigError(
            f"--form {form}: nothing is asked in words, so there is no such judge to measure",
            f"Take one of {others}.",
        )
    for word in words:
        if not _KEY.match(word):
            known = ", ".join((*_OF_RUN, *_OF_JUDGE))
            raise ConfigError(f"{word}: no key that says how a judge is asked", f"Such: {known}.")
    data: dict[str, object] = {"judge": {"engine": {}}} if like is None else _settings_of(like)
    judge = {**cast("dict[str, object]", data["judge"]), "model": model}
    if template is None and compare:
        template = (like and _own_template(like, "compare")) or COMPARE_TEMPLATE
    elif template is None and form in FORMS:
        template = FORMS[form].template
    given = {"form": form, "template": template, "votes": votes}
    judge |= {name: value for name, value in given.items() if value is not None}
    config = build_config({**data, "judge": judge}, words, name="judge")
    check_judges(config)
    return config


def _settings_of(run: "Run") -> dict[str, object]:
    """How a run asks the judge that it evaluates, its own copies of the templates included."""
    config, juror = run.config, run.config.judge.evaluated
    settings = config.judge.jurors[juror]
    if not settings.traits.template:
        raise ConfigError(
            f"--like {run.name}: its judge is of form {settings.form}, {settings.name}",
            "Say how the model is to be asked: --form, --template and --votes.",
        )
    own_engine = settings.engine if settings.model == "policy" else None
    judge = settings.model_dump(mode="json", include=set(JurorConfig.model_fields))
    judge["engine"] = (own_engine or config.engine).model_dump(mode="json")
    for kind, key in (("judge", "template"), ("criteria", "criteria_template")):
        judge[key] = _own_template(run, template_name(kind, juror)) or judge[key]
    data = config.model_dump(mode="json", include=set(_OF_RUN) - {"revision"})
    return {**data, "judge": judge, "chat_template": _own_template(run, "chat")}


def _own_template(run: "Run", name: str) -> str | None:
    path = run.path / "templates" / f"{name}.jinja"
    return str(path) if path.is_file() else None


def _chat_options(config: Config, like: "Run | None") -> dict[str, Any]:
    """For ``Chat``, as the run's own chat gets them."""
    template = None
    if config.chat_template:
        template = read_source(find_template(config.chat_template))
    return {
        "system_prompt": config.system_prompt,
        "template_kwargs": config.chat_template_kwargs,
        "trust_remote_code": config.trust_remote_code,
        "chat_template": template,
        "today": None if like is None else like.made,
    }


def _templates(settings: JudgeConfig, compare: bool) -> dict[str, Template]:
    if not compare:
        return load_judge_templates(settings)
    from selfreward.stages.comparisons import VARIABLES

    return {"judge": load_template(find_template(settings.template), set(VARIABLES))}
