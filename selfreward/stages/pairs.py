"""Building preference pairs from scored responses (arXiv 2401.10020, 2.2)."""

from collections.abc import Sequence
from statistics import fmean

from selfreward.config import PairsConfig
from selfreward.records import Drop, Judgment, PreferencePair, Prompt, Response

_ROUNDING = 1e-9
"""Means of thirds that are one point apart differ by 0.9999999999999996."""


def build_pairs(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    settings: PairsConfig,
) -> tuple[list[PreferencePair], list[Drop]]:
    """Pair the best with the worst response of each accepted prompt.

    A response takes part if it was not dropped, was not truncated and has at least one verdict;
    of identical texts only the first does. Its score is the mean over its votes. The prompt gives
    no pair if fewer than two take part, if best and worst tie, or if they differ by less than
    ``min_margin`` points. Equal scores resolve to the earlier sample; input order does not matter.

    Returns:
        Pairs in attempt order, and a Drop for every response (``attempt/sample``) that took no
        part and every prompt (``attempt``) that gave no pair.
    """
    scores = mean_scores(judgments)
    by_prompt: dict[int, list[Response]] = {}
    for response in sorted(responses, key=lambda r: (r.attempt, r.sample)):
        by_prompt.setdefault(response.attempt, []).append(response)
    pairs: list[PreferencePair] = []
    drops: list[Drop] = []
    for prompt in sorted(prompts, key=lambda p: p.attempt):
        if prompt.dropped is not None:
            continue
        able, unable = _eligible(by_prompt.get(prompt.attempt, []), scores)
        drops += unable
        pair, reason, detail = _pair(prompt, able, settings)
        if pair is not None:
            pairs.append(pair)
        else:
            drops.append(Drop(prompt.iteration, "pairs", str(prompt.attempt), reason, detail))
    return pairs, drops


def mean_scores(judgments: Sequence[Judgment]) -> dict[tuple[int, int], float]:
    """Mean score over the votes that have one, by (attempt, sample); 0 to 5."""
    votes: dict[tuple[int, int], list[float]] = {}
    for judgment in judgments:
        if judgment.score is not None:
            votes.setdefault((judgment.attempt, judgment.sample), []).append(judgment.score)
    return {key: fmean(sorted(scores)) for key, scores in votes.items()}


def _eligible(
    responses: list[Response], scores: dict[tuple[int, int], float]
) -> tuple[list[tuple[float, Response]], list[Drop]]:
    able: list[tuple[float, Response]] = []
    unable: list[Drop] = []
    seen: dict[str, int] = {}
    for response in responses:
        score = scores.get((response.attempt, response.sample))
        detail = ""
        if response.dropped is not None:
            reason = response.dropped
        elif response.truncated:
            reason = "truncated"
        elif score is None:
            reason = "no verdict"
        elif response.text in seen:
            reason, detail = "identical", f"same text as sample {seen[response.text]}"
        else:
            seen[response.text] = response.sample
            able.append((score, response))
            continue
        item = f"{response.attempt}/{response.sample}"
        unable.append(Drop(response.iteration, "pairs", item, reason, detail))
    return able, unable


def _pair(
    prompt: Prompt, able: list[tuple[float, Response]], settings: PairsConfig
) -> tuple[PreferencePair | None, str, str]:
    if len(able) < 2:
        return None, "too few", f"{len(able)} of its responses can be paired"
    chosen_score, chosen = max(able, key=lambda item: (item[0], -item[1].sample))
    rejected_score, rejected = min(able, key=lambda item: (item[0], item[1].sample))
    margin = chosen_score - rejected_score
    if margin <= 0:
        return None, "tie", f"all score {chosen_score:.3g}"
    if margin < settings.min_margin - _ROUNDING:
        return None, "margin", f"{margin:.3g} < {settings.min_margin:.3g} points"
    return (
        PreferencePair(
            prompt.iteration, prompt.attempt, chosen.sample, rejected.sample,
            chosen_score, rejected_score,
        ), "", "",
    )  # fmt: skip
