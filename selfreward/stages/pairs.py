"""Building preference pairs from scored responses (arXiv 2401.10020, 2.2)."""

from collections.abc import Iterator, Sequence
from itertools import permutations
from statistics import fmean

from selfreward.config import PairsConfig
from selfreward.records import Drop, Judgment, PreferencePair, Prompt, Response
from selfreward.stages.rules import ROUNDING, RULES, Answer, Candidate


def build_pairs(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    settings: PairsConfig,
) -> tuple[list[PreferencePair], list[Drop]]:
    """Pair the responses of each accepted prompt by ``settings.rule``.

    A response takes part if it was not dropped, was not truncated and has at least one verdict;
    of identical texts only the first does. Its score is the mean over its votes. Two that take
    part may be paired if their scores differ, by at least ``min_margin`` points, and their votes
    agree on the order by at least ``min_agreement``. A prompt gives no pair only if none of its
    responses may. Input order does not matter.

    Returns:
        Pairs in key order, and a Drop for every response (``attempt/sample``) that took no part
        and every prompt (``attempt``) that gave no pair.
    """
    votes = _votes(judgments)
    by_prompt: dict[int, list[Response]] = {}
    for response in sorted(responses, key=lambda r: (r.attempt, r.sample)):
        by_prompt.setdefault(response.attempt, []).append(response)
    accepted = {p.attempt: p for p in prompts if p.dropped is None}
    drops: list[Drop] = []

    def groups() -> Iterator[list[Candidate]]:
        """The candidates of each prompt that has any; one prompt at a time, there may be many."""
        for attempt, prompt in sorted(accepted.items()):
            able, unable = _able(by_prompt.get(attempt, []), votes)
            drops.extend(unable)
            candidates, reason, detail = _candidates(attempt, able, settings)
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


def mean_scores(judgments: Sequence[Judgment]) -> dict[tuple[int, int], float]:
    """Mean score over the votes that have one, by (attempt, sample); 0 to 5."""
    return {key: fmean(votes) for key, votes in _votes(judgments).items()}


def _votes(judgments: Sequence[Judgment]) -> dict[tuple[int, int], tuple[float, ...]]:
    votes: dict[tuple[int, int], list[float]] = {}
    for judgment in judgments:
        if judgment.score is not None:
            votes.setdefault((judgment.attempt, judgment.sample), []).append(judgment.score)
    return {key: tuple(scores) for key, scores in votes.items()}


def _able(
    responses: list[Response], votes: dict[tuple[int, int], tuple[float, ...]]
) -> tuple[list[Answer], list[Drop]]:
    """Split the responses of a prompt into those that can be paired and the others."""
    able: list[Answer] = []
    unable: list[Drop] = []
    seen: dict[str, int] = {}
    for response in responses:
        cast = votes.get((response.attempt, response.sample))
        detail = ""
        if response.dropped is not None:
            reason = response.dropped
        elif response.truncated:
            reason = "truncated"
        elif cast is None:
            reason = "no verdict"
        elif response.text in seen:
            reason, detail = "identical", f"same text as sample {seen[response.text]}"
        else:
            seen[response.text] = response.sample
            able.append(Answer(response.sample, fmean(cast), cast, len(response.text)))
            continue
        item = f"{response.attempt}/{response.sample}"
        unable.append(Drop(response.iteration, "pairs", item, reason, detail))
    return able, unable


def _candidates(
    attempt: int, able: list[Answer], settings: PairsConfig
) -> tuple[list[Candidate], str, str]:
    """All that may be paired of a prompt; if none, why: the filter that took the last, a detail."""
    if len(able) < 2:
        return [], "too few", f"{len(able)} of its responses can be paired"
    found = [Candidate(attempt, a, b) for a, b in permutations(able, 2) if a.score > b.score]
    if not found:
        return [], "tie", f"all score {able[0].score:.3g}"
    wide = [c for c in found if c.margin >= settings.min_margin - ROUNDING]
    if not wide:
        widest = max(c.margin for c in found)
        return [], "margin", f"{widest:.3g} < {settings.min_margin:.3g} points"
    if settings.min_agreement == 0:
        return wide, "", ""
    agreed = [c for c in wide if c.agreement >= settings.min_agreement]
    if not agreed:
        most = max(c.agreement for c in wide)
        return [], "agreement", f"{most:.3g} < {settings.min_agreement:.3g} of the votes"
    return agreed, "", ""
