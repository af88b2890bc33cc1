"""Building preference pairs from scored responses (arXiv 2401.10020, 2.2)."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, groupby, product
from operator import attrgetter

from selfreward.config import Config, PairsConfig
from selfreward.config.judging import IMPLICIT, REWARD
from selfreward.records import (
    FORMS,
    Comparison,
    Drop,
    Judgment,
    PreferencePair,
    Prompt,
    Response,
    judge_key,
)
from selfreward.stages.jury import jury_scores, means_by_response, whole_responses
from selfreward.stages.preference import break_ties
from selfreward.stages.rules import ROUNDING, RULES, Answer, Candidate, Votes

_Key = tuple[int, int]
_Able = list[tuple[Answer, bool]]
"""Answers that can be paired; True for those of M1."""


def build_pairs(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    settings: PairsConfig,
    weights: Sequence[float] = (1.0,),
    comparisons: Sequence[Comparison] = (),
) -> tuple[list[PreferencePair], list[Drop]]:
    """Pair the responses of each accepted prompt by ``settings.rule``.

    A response takes part if it was not dropped, was not truncated and has a verdict of each judge
    that sits on the prompt, see ``stages.jury``; of identical texts only the first does, and M1's
    anchors do by the rule ``anchored`` alone, as rejected. Two that take part may be paired if
    their scores differ, or comparisons tell equal ones apart, by at least ``min_margin`` points,
    and votes and judges agree on the order by at least ``min_agreement`` and ``min_jurors``. A
    prompt gives no pair only if none of its responses may. Input order does not matter.

    Args:
        weights: Of the judges, by juror.
        comparisons: Of responses that tie, see ``tied_responses``.

    Returns:
        Pairs in key order, and a Drop for every response (``attempt/sample``) that took no part
        and every prompt (``attempt``) that gave no pair.
    """
    answers = answers_of(responses, judgments, weights)
    by_prompt = by_attempt(responses)
    compared: dict[int, list[Comparison]] = {}
    for comparison in comparisons:
        compared.setdefault(comparison.attempt, []).append(comparison)
    accepted = {p.attempt: p for p in prompts if p.dropped is None}
    drops: list[Drop] = []

    def groups() -> Iterator[list[Candidate]]:
        """The candidates of each prompt that has any; one prompt at a time, there may be many."""
        for attempt, prompt in sorted(accepted.items()):
            given = by_prompt.get(attempt, [])
            able, unable = able_of(given, answers, settings)
            drops.extend(unable)
            has_anchors = settings.rule == "anchored" and any(r.is_anchor for r in given)
            ranked = _ranked(able, compared.get(attempt, []))
            candidates, reason, detail = _candidates(attempt, ranked, has_anchors, settings)
            if candidates:
                yield candidates
            else:
                drops.append(Drop(prompt.iteration, "pairs", str(attempt), reason, detail))

    pairs = [
        PreferencePair(
            accepted[taken.attempt].iteration, taken.attempt,
            taken.chosen.sample, taken.rejected.sample, taken.chosen.score, taken.rejected.score,
        )
        for taken in RULES[settings.rule](groups(), settings)
    ]  # fmt: skip
    return sorted(pairs, key=lambda pair: (pair.attempt, pair.chosen, pair.rejected)), drops


def tied_responses(
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    settings: PairsConfig,
    weights: Sequence[float] = (1.0,),
) -> list[tuple[Response, Response]]:
    """Every two responses that share the highest or the lowest score of their prompt.

    Of those that can be paired, see ``build_pairs``, but answers of M1; in key order.
    """
    answers = answers_of(responses, judgments, weights)
    tied = []
    for of_prompt in by_attempt(responses).values():
        groups = _by_score(able_of(of_prompt, answers, settings)[0])
        samples = {response.sample: response for response in of_prompt}
        for group in groups if len(groups) < 3 else (groups[0], groups[-1]):
            tied += [(samples[a], samples[b]) for a, b in combinations(group, 2)]
    return sorted(tied, key=lambda two: (two[0].attempt, two[0].sample, two[1].sample))


def by_attempt(responses: Sequence[Response]) -> dict[int, list[Response]]:
    """By attempt, in key order."""
    ordered = sorted(responses, key=attrgetter("attempt", "sample"))
    return {
        attempt: list(of_prompt) for attempt, of_prompt in groupby(ordered, attrgetter("attempt"))
    }


def _by_score(able: _Able) -> list[list[int]]:
    """Samples of the policy's answers, those of one score together, the lowest score first."""
    by_score: dict[float, list[int]] = {}
    for answer in sorted((a for a, is_anchor in able if not is_anchor), key=attrgetter("score")):
        last = next(reversed(by_score), -math.inf)
        score = last if answer.score <= last + ROUNDING else answer.score
        by_score.setdefault(score, []).append(answer.sample)
    return [sorted(samples) for samples in by_score.values()]


def _ranked(able: _Able, comparisons: Sequence[Comparison]) -> _Able:
    """The same answers, those of one score ranked by comparisons."""
    if not comparisons:
        return able
    ranks = {
        sample: rank
        for samples in _by_score(able)
        for rank, group in enumerate(reversed(break_ties(samples, comparisons)))
        for sample in group
    }
    return [(replace(answer, rank=ranks.get(answer.sample, 0)), anchor) for answer, anchor in able]


def answers_of(
    responses: Sequence[Response], judgments: Sequence[Judgment], weights: Sequence[float]
) -> dict[_Key, Answer | str]:
    """Every response that was judged as an Answer, or the detail of its having no score."""
    means = means_by_response(judgments)
    scores, sitting = jury_scores(means, weights, whole_responses(responses))
    votes: dict[tuple[_Key, int], dict[int, list[float]]] = {}
    for judgment in judgments:
        if judgment.score is not None:
            asked = judgment.vote if FORMS[judgment.form].by_criterion else 0
            by = (judgment.attempt, judgment.sample), judgment.juror
            votes.setdefault(by, {}).setdefault(asked, []).append(judgment.score)
    answers: dict[_Key, Answer | str] = {}
    for response in responses:
        key = response.attempt, response.sample
        jurors = sitting.get(response.attempt, ())
        if key in scores:
            given = tuple([Votes(votes[key, j], means[key][j], weights[j]) for j in jurors])
            answers[key] = Answer(response.sample, scores[key], given, len(response.text))
        elif means.get(key):
            answers[key] = "of " + ", ".join(judge_key(j) for j in jurors if j not in means[key])
    return answers


def able_of(
    responses: list[Response], answers: dict[_Key, Answer | str], settings: PairsConfig
) -> tuple[_Able, list[Drop]]:
    """Split the responses of a prompt into those that can be trained on and the others.

    Returns:
        Answers, each with whether M1 gave it; and a Drop for every other response.
    """
    able: _Able = []
    unable: list[Drop] = []
    seen: dict[str, int] = {}
    for response in responses:
        answer = answers.get((response.attempt, response.sample), "")
        detail = ""
        if response.dropped is not None:
            reason = response.dropped
        elif response.is_anchor and settings.rule != "anchored":
            reason = "anchor"
        elif response.truncated:
            reason = "truncated"
        elif isinstance(answer, str):
            reason, detail = "no verdict", answer
        elif response.text in seen:
            reason, detail = "identical", f"same text as sample {seen[response.text]}"
        else:
            seen[response.text] = response.sample
            able.append((answer, response.is_anchor))
            continue
        item = f"{response.attempt}/{response.sample}"
        unable.append(Drop(response.iteration, "pairs", item, reason, detail))
    return able, unable


def _candidates(
    attempt: int, able: _Able, has_anchors: bool, settings: PairsConfig
) -> tuple[list[Candidate], str, str]:
    """All that may be paired of a prompt; if none, why: the filter that took the last, a detail."""
    better = [answer for answer, is_anchor in able if not is_anchor]
    worse = [answer for answer, is_anchor in able if is_anchor == has_anchors]
    if has_anchors and not (better and worse):
        return [], "too few", f"{len(better)} of the policy and {len(worse)} of M1 can be paired"
    if len(able) < 2:
        return [], "too few", f"{len(able)} of its responses can be paired"
    left = [
        Candidate(attempt, a, b)
        for a, b in product(better, worse)
        if a.score > b.score + ROUNDING
        or (abs(a.score - b.score) <= ROUNDING and a.rank > b.rank and not has_anchors)
    ]
    if not left:
        best, worst = max(a.score for a in better), min(b.score for b in worse)
        if best < worst:
            return [], "below M1", f"best {best:.3g}, M1's worst {worst:.3g}"
        return [], "tie", f"all score {best:.3g}" if not has_anchors else f"with M1's {best:.3g}"
    for reason, figure, least, unit in _filters(settings):
        if least == 0:
            continue
        passed = [c for c in left if figure(c) >= least - ROUNDING]
        if not passed:
            return [], reason, f"{max(map(figure, left)):.3g} < {least:.3g} {unit}"
        left = passed
    return left, "", ""


def _filters(
    settings: PairsConfig,
) -> list[tuple[str, Callable[[Candidate], float], float, str]]:
    """Reason of a drop, figure of a candidate, its smallest value, and what it is counted in."""
    return [
        ("margin", lambda c: c.margin, settings.min_margin, "points"),
        ("agreement", lambda c: c.agreement, settings.min_agreement, "of the votes"),
        ("judges", lambda c: c.jurors, settings.min_jurors, "of the judges"),
    ]


def few_pairs_remedy(config: Config, run_name: str, drops: Counter[str]) -> str:
    """What gives more pairs, by what most of them were lost to."""
    of_prompts = ("too few", "tie", "below M1", "margin", "agreement", "judges")
    lost = [reason for reason, _ in drops.most_common()]
    reason = next((reason for reason in lost if reason in of_prompts), "")
    if reason == "too few":  # answers, which were lost one by one
        reason = next((reason for reason in lost if reason not in of_prompts), "")
    if reason == "truncated":
        return (
            f"Answers were cut off at responses.max_new_tokens={config.responses.max_new_tokens}, "
            "and half an answer is not trained on: start a run with more."
        )
    if reason == "identical":
        return (
            f"Answers to a prompt are the same text at responses.temperature="
            f"{config.responses.temperature:g}: start a run with a higher one, or shorter prompts."
        )
    if config.judge.form in (REWARD, IMPLICIT) and reason == "no verdict":
        return (
            f"{config.judge.model} gives no reward on judge.scale (`selfreward show {run_name} "
            "--failed` has the reasons): start a run with a wider one, or shorter answers."
        )
    if (function := config.judge.function) and reason == "no verdict":
        return (
            f"{function} gives no value (`selfreward show {run_name} --failed` has the reasons): "
            "mend it, or judge.scale, and start a run."
        )
    if reason == "tie" and (function or config.judge.form in (REWARD, IMPLICIT)):
        return (
            f"{function or config.judge.model} gives all answers to a prompt the same value: start "
            "a run with one that tells them apart, or with a second one in judge.jury."
        )
    if reason == "no verdict":
        return (
            f"The judge's replies hold no score (`selfreward show {run_name} --failed`): start a "
            "run with more EFT data, a larger judge.max_new_tokens or judge.form=expected."
        )
    if reason in ("margin", "agreement", "judges"):
        key = {"judges": "jurors"}.get(reason, reason)
        return (
            f"pairs.min_{key}={getattr(config.pairs, f'min_{key}'):g} keeps few: compare others on "
            f"the same judgments with `selfreward pairs {run_name} --try all`."
        )
    if reason in ("tie", "below M1"):
        taught = ""
        if config.meta is not None:
            taught = (
                " Pairs of judgments may have taught it to: train again without them, `selfreward "
                f"resume {run_name} --retrain T --name NEW meta.iterations=[]`."
            )
        return (
            "A judge that always says the same needs EFT data, judge.form=expected, judge.votes of "
            f"2 or more, or another template.{taught}"
        )
    return "Start a run with more prompts (prompts.count) or answers (responses.n)."
