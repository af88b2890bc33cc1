"""The responses that SFT is to imitate: the best-scored one of each prompt (best of N)."""

from collections.abc import Sequence
from dataclasses import dataclass

from selfreward.config import PairsConfig
from selfreward.records import Drop, Judgment, Prompt, Response
from selfreward.stages.pairs import able_of, answers_of, by_attempt
from selfreward.stages.rules import ROUNDING


@dataclass(frozen=True, slots=True)
class Positive:
    """A response to imitate."""

    attempt: int
    sample: int
    score: float
    """Weighted mean over the judges, 0 to 5."""


def best_responses(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    settings: PairsConfig,
    weights: Sequence[float] = (1.0,),
    min_score: float = 0.0,
) -> tuple[list[Positive], list[Drop]]:
    """Take the best-scored of the policy's responses to each accepted prompt; of equals the first.

    A response takes part as it does in ``pairs.build_pairs``.

    Args:
        weights: Of the judges, by juror.
        min_score: Points that the best one needs; else the prompt is left out.

    Returns:
        Positives in key order, and a Drop for every accepted prompt that gave none.

    Source: Self-Rewarding Language Models, arXiv 2401.10020, "positive examples only".
    """
    answers, given = answers_of(responses, judgments, weights), by_attempt(responses)
    taken, drops = [], []
    for prompt in sorted(prompts, key=lambda prompt: prompt.attempt):
        if prompt.dropped is not None:
            continue
        able, _ = able_of(given.get(prompt.attempt, []), answers, settings)
        own = [answer for answer, is_anchor in able if not is_anchor]
        best = max(own, key=lambda answer: (answer.score, -answer.sample), default=None)
        if best is None:
            reason, detail = "too few", "none of its responses can be trained on"
        elif best.score < min_score - ROUNDING:
            reason, detail = "score", f"best {best.score:.3g} < {min_score:.3g} points"
        else:
            taken.append(Positive(prompt.attempt, best.sample, best.score))
            continue
        drops.append(Drop(prompt.iteration, "train", str(prompt.attempt), reason, detail))
    return taken, drops
