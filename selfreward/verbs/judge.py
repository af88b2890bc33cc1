"""What ``selfreward judge`` does: a judge against people, beside the longer response."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from selfreward.config import JudgeConfig, SeedSource
from selfreward.config.load import build_config
from selfreward.engines.sessions import HOSTED
from selfreward.errors import ConfigError
from selfreward.inputs import models
from selfreward.inputs.judge_templates import COMPARE_TEMPLATE, DEFAULTS, load_judge_templates
from selfreward.inputs.templates import Template, find_template, load_template
from selfreward.verbs.layout import duration
from selfreward.workers.jobs import check_judge

if TYPE_CHECKING:
    from selfreward.inputs.rankings import Ranking
    from selfreward.records import Comparison, Judgment

_STEP, _LINE_S = 0.05, 30
"""A line of progress at each further share of the work, and at least every so many seconds."""


def judge_report(
    model: str,
    data: str,
    *,
    compare: bool = False,
    form: str | None = None,
    template: str | None = None,
    votes: int | None = None,
    engine: Sequence[str] = (),
    limit: int | None = None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Have human-ranked responses judged, and put what people think beside it.

    Args:
        model: Any model source, or ``hosted``.
        data: See ``evaluation.ranked``.
        compare: Have each two responses compared instead of scoring each.
        form: Of the judge; None for that of the config, like the next two.
        template: Name or path.
        votes: Per response.
        engine: ``KEY=VALUE`` words, as in the config under ``judge.engine``.
        limit: Rankings to take, the first ones.
        report: Told what is being done, one line each.

    Returns:
        ``model``, ``digest`` (None if hosted), ``form``, ``template``, ``num_votes``, ``engine``,
        ``data`` (``path``, ``limit``, ``left_out`` by reason, ``gaps``), ``reasons`` (votes
        without a verdict by reason), ``seconds`` (``load``, ``judge``), and the figures of
        ``agreement`` with ``responses``, or those of ``positions`` with ``compared``, from which
        all can be computed again.

    Raises:
        ConfigError: Data, template or options are wrong.
        PreflightError: The model cannot be run here.
    """
    from selfreward.inputs.rankings import read_ranked

    settings = _settings(model, compare, form, template, votes, engine)
    templates = _templates(settings, compare)
    human = read_ranked(SeedSource(path=data), limit=limit)
    resolved = None if model == HOSTED else models.resolve(model, report=report)
    where = HOSTED if resolved is None else str(resolved.path)
    judge = _compared if compare else _scored
    judged = judge(where, human.rankings, templates, settings, report)
    assert settings.engine is not None
    return {
        "model": model,
        "digest": None if resolved is None else resolved.digest,
        "form": settings.form,
        "template": settings.template,
        "num_votes": 1 if compare or settings.form == "criteria" else settings.num_votes,
        "engine": settings.engine.model_dump(mode="json"),
        "data": {
            "path": data, "limit": limit, "left_out": human.left_out, "gaps": human.num_gaps,
        },
        **judged,
    }  # fmt: skip


def _scored(
    model: str, rankings: "Sequence[Ranking]", templates: Mapping[str, Template],
    settings: JudgeConfig, report: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    from selfreward.measures.agreement import agreement
    from selfreward.stages.evaluate import judged_responses, texts_of, votes_of
    from selfreward.workers.judge import judge_in_child

    texts = texts_of(rankings)
    progress = _Progress(len(texts), "responses", report)
    assert settings.engine is not None
    votes = judge_in_child(model, settings.engine, templates, texts, settings, progress.show)
    seconds = progress.seconds()
    scores = {text: votes_of(given) for text, given in zip(texts, votes, strict=True)}
    responses = judged_responses(rankings, scores)
    return {
        "reasons": _reasons(votes),
        "seconds": seconds,
        **agreement(responses),
        "responses": [asdict(response) for response in responses],
    }


def _compared(
    model: str, rankings: "Sequence[Ranking]", templates: Mapping[str, Template],
    settings: JudgeConfig, report: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    from selfreward.measures.positions import compared_pairs, pairs_of, positions
    from selfreward.workers.judge import compare_in_child

    pairs = pairs_of(rankings)
    progress = _Progress(len(pairs), "pairs", report)
    assert settings.engine is not None
    given = compare_in_child(model, settings.engine, templates, pairs, settings, progress.show)
    seconds = progress.seconds()
    compared = compared_pairs(rankings, dict(zip(pairs, given, strict=True)))
    return {
        "reasons": _reasons(given),
        "seconds": seconds,
        **positions(compared),
        "compared": [asdict(pair) for pair in compared],
    }


def _reasons(judged: "Sequence[Sequence[Judgment | Comparison]]") -> dict[str, int]:
    """Votes without a verdict, by reason, the most frequent first."""
    reasons = (vote.reason for given in judged for vote in given if vote.reason is not None)
    return dict(Counter(reasons).most_common())


def _settings(
    model: str, compare: bool, form: str | None, template: str | None, votes: int | None,
    engine: Sequence[str],
) -> JudgeConfig:  # fmt: skip
    if compare and votes is not None:
        raise ConfigError("--votes: a comparison is asked once in each order")
    if compare and form not in (None, "written", "expected"):
        raise ConfigError(f"--form {form}: comparisons are written or expected")
    chosen: dict[str, object] = {"model": model, "engine": {}}
    template = template or (COMPARE_TEMPLATE if compare else DEFAULTS.get(form or ""))
    given = {"form": form, "template": template, "votes": votes}
    chosen |= {name: value for name, value in given.items() if value is not None}
    config = build_config({"judge": chosen}, [f"judge.engine.{w}" for w in engine], name="judge")
    check_judge(config)
    return config.judge


def _templates(settings: JudgeConfig, compare: bool) -> dict[str, Template]:
    if not compare:
        return load_judge_templates(settings)
    from selfreward.stages.comparisons import VARIABLES

    return {"judge": load_template(find_template(settings.template), set(VARIABLES))}


class _Progress:
    """Lines of progress with the time that is left; the model's load does not count as work."""

    def __init__(self, total: int, what: str, report: Callable[[str], None]) -> None:
        self._total, self._report = total, report
        self._start = time.monotonic()
        self._ready = self._shown = self._start
        self._share = 0.0
        report(f"loading the judge; {total} {what} to judge")

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
