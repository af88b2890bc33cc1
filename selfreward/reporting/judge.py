"""What ``selfreward judge`` does and says: a judge against people, beside the longer response."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from selfreward import models
from selfreward.config import JudgeConfig, SeedSource
from selfreward.configfile import build_config
from selfreward.jobs import check_judge
from selfreward.reporting.console import bold
from selfreward.reporting.layout import duration, listed, table
from selfreward.sessions import HOSTED
from selfreward.templates import find_template, load_template
from selfreward.verdict import MAX_SCORE

_TEMPLATES = {"expected": "judge/expected.jinja"}
"""By form; other forms take that of the config."""
_STEP, _LINE_S = 0.05, 30
"""A line of progress at each further share of the work, and at least every so many seconds."""
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
_CHANCE = 0.5
_CORRELATIONS = ("spearman", "kendall")


def judge_report(
    model: str,
    data: str,
    *,
    form: str | None = None,
    template: str | None = None,
    votes: int | None = None,
    engine: Sequence[str] = (),
    limit: int | None = None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Judge human-ranked responses and compare.

    Args:
        model: Any model source, or ``hosted``.
        data: See ``evaluation.ranked``.
        form: Of the judge; None for that of the config, like the next two.
        template: Name or path.
        votes: Per response.
        engine: ``KEY=VALUE`` words, as in the config under ``judge.engine``.
        limit: Rankings to take, the first ones.
        report: Told what is being done, one line each.

    Returns:
        The figures of ``evaluation.agreement.agreement`` and ``model``, ``digest`` (None if
        hosted), ``form``, ``template``, ``num_votes``, ``engine``, ``data`` (``path``, ``limit``,
        ``left_out`` by reason, ``gaps``), ``reasons`` (votes without a verdict by reason),
        ``seconds`` (``load``, ``judge``) and ``responses``, from which all can be computed again.

    Raises:
        ConfigError: Data, template or options are wrong.
        PreflightError: The model cannot be run here.
    """
    from selfreward.evaluation.agreement import agreement
    from selfreward.evaluation.child import judge_in_child
    from selfreward.evaluation.judging import judged_responses, texts_of
    from selfreward.evaluation.ranked import read_ranked

    settings = _settings(model, form, template, votes, engine)
    assert settings.engine is not None
    checked = load_template(find_template(settings.template), {"prompt", "response"})
    human = read_ranked(SeedSource(path=data), limit=limit)
    texts = texts_of(human.rankings)
    resolved = None if model == HOSTED else models.resolve(model, report=report)
    progress = _Progress(len(texts), report)
    verdicts = judge_in_child(
        HOSTED if resolved is None else str(resolved.path),
        settings.engine, checked, texts, settings, progress.show,
    )  # fmt: skip
    seconds = progress.seconds()
    scores = {
        text: [vote.score for vote in given] for text, given in zip(texts, verdicts, strict=True)
    }
    responses = judged_responses(human.rankings, scores)
    reasons = Counter(v.reason for given in verdicts for v in given if v.reason is not None)
    return {
        "model": model,
        "digest": None if resolved is None else resolved.digest,
        "form": settings.form,
        "template": settings.template,
        "num_votes": settings.num_votes,
        "engine": settings.engine.model_dump(mode="json"),
        "data": {
            "path": data, "limit": limit, "left_out": human.left_out, "gaps": human.num_gaps,
        },
        "reasons": dict(reasons.most_common()),
        "seconds": seconds,
        **agreement(responses),
        "responses": [asdict(response) for response in responses],
    }  # fmt: skip


def judge_text(report: dict[str, Any]) -> str:
    """What ``selfreward judge`` prints."""
    parts = [
        _head(report),
        _figures(report),
        _votes(report),
        _calibration(report["calibration"]),
        _confusion(report["confusion"]),
        "\n".join(_verdict(report, part) for part in ("all", "matched")),
    ]
    return "\n\n".join(part for part in parts if part)


def _settings(
    model: str, form: str | None, template: str | None, votes: int | None, engine: Sequence[str]
) -> JudgeConfig:
    chosen: dict[str, object] = {"model": model, "engine": {}}
    template = template or _TEMPLATES.get(form or "")
    given = {"form": form, "template": template, "votes": votes}
    chosen |= {name: value for name, value in given.items() if value is not None}
    config = build_config({"judge": chosen}, [f"judge.engine.{w}" for w in engine], name="judge")
    check_judge(config)
    return config.judge


class _Progress:
    """Lines of progress with the time that is left; the model's load does not count as work."""

    def __init__(self, total: int, report: Callable[[str], None]) -> None:
        self._total, self._report = total, report
        self._start = time.monotonic()
        self._ready = self._shown = self._start
        self._share = 0.0
        report(f"loading the judge; {total} responses to judge")

    def show(self, done: int) -> None:
        """Say how far it is, if there is something new to say."""
        now, share = time.monotonic(), done / self._total
        if done == 0:
            self._ready = self._shown = now
            return
        due = share - self._share >= _STEP or now - self._shown >= _LINE_S
        if not due and done < self._total:
            return
        self._share, self._shown = share, now
        left = (now - self._ready) / done * (self._total - done)
        rest = f"{duration(left)} left" if left else f"in {duration(now - self._ready)}"
        self._report(f"judged {done} of {self._total}, {rest}")

    def seconds(self) -> dict[str, float]:
        """Time spent until the model was loaded, and judging."""
        return {"load": self._ready - self._start, "judge": time.monotonic() - self._ready}


def _head(report: dict[str, Any]) -> str:
    counts, data, rate = report["counts"], report["data"], report["parse_rate"]
    votes = f", {report['num_votes']} votes" if report["num_votes"] > 1 else ""
    left_out = listed(data["left_out"]) or "nothing"
    if data["gaps"]:
        left_out += f"; {data['gaps']} rankings skip a rank, which changes nothing"
    reasons = f"; the others: {listed(report['reasons'])}" if report["reasons"] else ""
    rows = [
        ["judge", f"{report['model']}, {report['form']} form{votes}, {report['template']}"],
        ["data", f"{data['path']}: {counts['prompts']:,} prompts, {counts['responses']:,} "
         f"responses, {counts['pairs']:,} pairs of which people preferred one"],
        ["left out", left_out],
        ["verdicts", f"{_percent(rate)} of {rate['n']:,} votes{reasons}"],
        ["time", f"{duration(report['seconds']['judge'])}, after "
         f"{duration(report['seconds']['load'])} to load the model"],
    ]  # fmt: skip
    return table(rows)


def _figures(report: dict[str, Any]) -> str:
    judge, longest, counts = report["judge"], report["longest"], report["counts"]
    columns = [[judge["all"], longest["all"]], [judge["matched"], longest["matched"]]]
    names = ["judge", "longer wins"]
    if report["answered"]["value"] != 1:
        columns[0].append(judge["parsed"])
        names.append("judge, where it has verdicts")
    titles = (
        f"all {counts['pairs']:,} pairs",
        f"{counts['matched']:,} pairs of about the same length, at most "
        f"{report['length_ratio']:g} times",
    )
    rows = [["", *names]]
    for title, parts in zip(titles, columns, strict=True):
        rows.append([bold(title)])
        for name, label in _FIGURES.items():
            if name in parts[0]:
                show = _number if name in _CORRELATIONS else _percent
                rows.append([label, *(show(figures.get(name)) for figures in parts)])
    return table(rows)


def _votes(report: dict[str, Any]) -> str:
    votes = report["votes"]
    if votes is None:
        return ""
    rows = [["votes", "pairwise accuracy", "ties"]]
    for row in report["by_votes"]:
        rows.append([f"{row['votes']}", _percent(row["accuracy"]), _percent(row["ties"])])
    return (
        f"two votes on one response: the same score {_percent(votes['same'])}, "
        f"{_number(votes['difference'])} points apart, Krippendorff's alpha "
        f"{_number(votes['alpha'])}\n{table(rows)}"
    )


def _calibration(bins: Sequence[dict[str, Any]]) -> str:
    has_points = any(row["human_score"]["n"] for row in bins)
    rows = [["score", "responses", "preferred to", *(["people's score"] * has_points)]]
    for row in bins:
        low, high = f"{row['low']:.2f}", f"{row['high']:.2f}"
        rows.append(
            [
                low if low == high else f"{low} to {high}",
                f"{row['n']:,}",
                _percent(row["standing"]),
                *([_number(row["human_score"])] * has_points),
            ]
        )
    return table(rows) if bins else ""


def _confusion(counts: Sequence[Sequence[int]] | None) -> str:
    if counts is None:
        return ""
    rows = [["people's score", *(f"judge {score}" for score in range(MAX_SCORE + 1)), "none"]]
    rows += [[f"{score}", *(f"{count:,}" for count in row)] for score, row in enumerate(counts)]
    return table(rows)


def _verdict(report: dict[str, Any], part: str) -> str:
    """Whether the judge beats the longer response, and on matched pairs also chance."""
    gain, accuracy = report["gain"][part], report["judge"][part]["accuracy"]
    where = f"{gain['n']:,} pairs" + (" of about the same length" if part == "matched" else "")
    beats = "there is no telling whether the judge beats the longer response"
    if gain["low"] is None:
        return f"On {where} {beats}."
    if gain["low"] > 0:
        beats = "the judge beats the longer response"
    elif gain["high"] < 0:
        beats = "the longer response beats the judge"
    interval = f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
    said = f"On {where} {beats}: {100 * gain['value']:+.1f} points {interval}"
    if part == "all":
        return f"{said}."
    if accuracy["low"] > _CHANCE:
        return f"{said}; it is better than chance."
    if accuracy["high"] < _CHANCE:
        return f"{said}; it is worse than chance."
    return f"{said}; it cannot be told from chance."


def _percent(estimate: dict[str, Any] | None) -> str:
    return _estimate(estimate, 100, ".1f", "%")


def _number(estimate: dict[str, Any] | None) -> str:
    return _estimate(estimate, 1, ".2f", "")


def _estimate(estimate: dict[str, Any] | None, scale: float, form: str, unit: str) -> str:
    if estimate is None:
        return ""
    if estimate["value"] is None:
        return "n/a"
    text = f"{scale * estimate['value']:{form}}{unit}"
    if estimate["low"] is None:
        return text
    return f"{text} [{scale * estimate['low']:{form}}, {scale * estimate['high']:{form}}]"
