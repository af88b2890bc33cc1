"""Tokens that models wrote in an iteration, by what they were sampled for."""

from selfreward.measures.figures import IterationFigures
from selfreward.records import META, judge_key


def sampled(figures: IterationFigures) -> dict[str, int]:
    """Tokens by what they were sampled for; kinds of which there are none are left out.

    The first judge is ``judgments``. What judges write while a model is trained is not kept, and
    not in it.
    """
    online = figures.training.online
    found = {
        "prompts": figures.prompts.tokens,
        "responses": figures.responses.tokens,
        "answers of M1": figures.anchors.tokens if figures.anchors else 0,
        "judgments": figures.judgments.tokens,
        "comparisons": figures.comparisons.tokens if figures.comparisons else 0,
        META: figures.meta.tokens if figures.meta else 0,
    }
    jurors = figures.jury.judges[1:] if figures.jury else ()
    found |= {judge_key(number): juror.tokens for number, juror in enumerate(jurors, 1)}
    found["training"] = online.tokens if online else 0
    return {kind: count for kind, count in found.items() if count}


def num_sampled(figures: IterationFigures) -> int:
    """All of them."""
    return sum(sampled(figures).values())
