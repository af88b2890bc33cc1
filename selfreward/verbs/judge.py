"""What ``selfreward judge`` does: a judge against people, beside the longer response."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

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
from selfreward.inputs.templates import Template, find_template, load_template
from selfreward.measures.agreement import agreement
from selfreward.measures.positions import ComparedPair, compared_pairs, positions
from selfreward.measures.reports import (
    Agreement,
    CalibrationBin,
    Estimate,
    PairShares,
    Positions,
)
from selfreward.measures.sample import JudgedResponse, judged_responses, votes_of
from selfreward.records import FORMS, MAX_SCORE
from selfreward.storage.directory import list_runs
from selfreward.verbs.console import bold
from selfreward.verbs.layout import duration, estimated, listed, percent, table
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
    from selfreward.inputs.rankings import read_ranked

    if like is not None and re.fullmatch(r"M\d+|SFT", model):
        model = str(like.named_model(model))
    elif "/" not in model and any(run.name == model for run in list_runs()):
        raise ConfigError(
            f"model: {model} is a run, not a model",
            f"Name one of its models: `selfreward judge M1 --like {model} --data FILE`.",
        )
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
    "model", "weight",  # the model is named, and weighs nothing where it is alone
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
    if settings.function is not None:
        raise ConfigError(
            f"--like {run.name}: its judge is a function, {settings.function}",
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
        template = find_template(config.chat_template).read_text(encoding="utf-8")
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


_FIGURES = {
    "accuracy": "pairwise accuracy",
    "accuracy_strict": "  ties as misses",
    "ties": "  ties",
    "prefers_longer": "  prefers the longer",
    "exact": "exact order",
    "five_best": "5-best",
    "spearman": "Spearman",
    "kendall": "Kendall tau-b",
}

_CORRELATIONS = ("spearman", "kendall")

_CHANCE = 0.5


def judge_text(report: Report) -> str:
    """What ``selfreward judge`` prints."""
    parts = [_head(report), figures_table(report)]
    if isinstance(report, ComparedReport):
        parts += [_places(report)]
    else:
        parts += [_votes(report), _calibration(report.calibration), _confusion(report.confusion)]
    parts += ["\n".join(beside_length(report, part) for part in ("all", "matched"))]
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    counts, data, rate = report.counts, report.data, report.parse_rate
    how, responses = f"{report.form} form", ""
    if isinstance(report, ComparedReport):
        how += " of comparison"
    else:
        responses = f"{report.counts.responses:,} responses, "
    votes = f", {report.num_votes} votes" if report.num_votes > 1 else ""
    left_out = listed(data.left_out) or "nothing"
    if data.gaps:
        left_out += f"; {data.gaps} rankings skip a rank, which changes nothing"
    reasons = f"; the others: {listed(report.reasons)}" if report.reasons else ""
    rows = [
        ["judge", f"{report.model}, {how}{votes}, {report.template}"],
        ["data", f"{data.path}: {counts.prompts:,} prompts, {responses}"
         f"{counts.pairs:,} pairs of which people preferred one"],
        ["left out", left_out],
        ["verdicts", f"{percent(rate)} of {rate.n:,} votes{reasons}"],
        ["time", f"{duration(report.seconds.judge)}, after "
         f"{duration(report.seconds.load)} to load the model"],
    ]  # fmt: skip
    return table(rows)


def figures_table(report: Agreement | Positions) -> str:
    """The figures of a judge beside those of the longer response."""
    averaged = report.averaged if isinstance(report, Positions) else None
    judges = {"judge": report.judge, "averaged": averaged, "longer wins": report.longest}
    shown = {name: parts for name, parts in judges.items() if parts}
    names, all_pairs = list(shown), [parts.all for parts in shown.values()]
    if report.answered.value != 1:
        names.append("judge, where it has verdicts")
        all_pairs.append(report.judge.parsed)
    matched = f"{report.counts.matched:,} pairs of about the same length, at most "
    return table([
        ["", *names],
        *_part(f"all {report.counts.pairs:,} pairs", all_pairs),
        *_part(f"{matched}{report.length_ratio:g} times", [p.matched for p in shown.values()]),
    ])  # fmt: skip


def _part(title: str, columns: Sequence[PairShares]) -> list[list[str]]:
    """Rows of the figures that the first column has; the others may lack some."""
    rows = [[bold(title)]]
    for name, label in _FIGURES.items():
        if hasattr(columns[0], name):
            show = number if name in _CORRELATIONS else percent
            rows.append([label, *(show(getattr(figures, name, None)) for figures in columns)])
    return rows


def _places(report: ComparedReport) -> str:
    same, first = report.consistent, report.names_first
    said = table(
        [
            ["both orders agree", f"{percent(same)} of {same.n:,} pairs"],
            ["names the first", f"{percent(first)} of {first.n:,} verdicts that name one"],
        ]
    )
    if report.averaged:
        said += "\naveraged: the mean of the probabilities in both orders decides"
    return said


def _votes(report: ScoredReport) -> str:
    votes = report.votes
    if votes is None:
        return ""
    rows = [["votes", "pairwise accuracy", "ties"]]
    for row in report.by_votes:
        rows.append([f"{row.votes}", percent(row.accuracy), percent(row.ties)])
    return (
        f"two votes on one response: the same score {percent(votes.same)}, "
        f"{number(votes.difference)} points apart, Krippendorff's alpha "
        f"{number(votes.alpha)}\n{table(rows)}"
    )


def _calibration(bins: Sequence[CalibrationBin]) -> str:
    has_points = any(row.human_score.n for row in bins)
    rows = [["score", "responses", "preferred to", *(["people's score"] * has_points)]]
    for row in bins:
        low, high = f"{row.low:.2f}", f"{row.high:.2f}"
        rows.append(
            [
                low if low == high else f"{low} to {high}",
                f"{row.n:,}",
                percent(row.standing),
                *([number(row.human_score)] * has_points),
            ]
        )
    return table(rows) if bins else ""


def _confusion(counts: Sequence[Sequence[int]] | None) -> str:
    if counts is None:
        return ""
    rows = [["people's score", *(f"judge {score}" for score in range(MAX_SCORE + 1)), "none"]]
    rows += [[f"{score}", *(f"{count:,}" for count in row)] for score, row in enumerate(counts)]
    return table(rows)


def number(estimate: Estimate | None) -> str:
    """Such as ``0.44 [0.38, 0.51]``."""
    return "" if estimate is None else estimated(estimate, ".2f")


def beside_length(report: Agreement | Positions, part: Literal["all", "matched"]) -> str:
    """Whether a judge beats the longer response, and on matched pairs also chance."""
    gain: Estimate = getattr(report.gain, part)
    accuracy: Estimate = getattr(report.judge, part).accuracy
    where = f"{gain.n:,} pairs" + (" of about the same length" if part == "matched" else "")
    beats = "there is no telling whether the judge beats the longer response"
    if gain.value is None or gain.low is None or gain.high is None:
        return f"On {where} {beats}."
    if gain.low > 0:
        beats = "the judge beats the longer response"
    elif gain.high < 0:
        beats = "the longer response beats the judge"
    interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    said = f"On {where} {beats}: {100 * gain.value:+.1f} points {interval}"
    if part == "all":
        return f"{said}."
    if accuracy.low is not None and accuracy.low > _CHANCE:
        return f"{said}; it is better than chance."
    if accuracy.high is not None and accuracy.high < _CHANCE:
        return f"{said}; it is worse than chance."
    return f"{said}; it cannot be told from chance."
