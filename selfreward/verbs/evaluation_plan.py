"""What the evaluations of a run will ask, before it does."""

from pathlib import Path
from typing import Any

from selfreward.config.run import Config
from selfreward.inputs.heldout import read_canaries, shipped_canaries, texts_asked
from selfreward.inputs.rankings import Ranking, read_ranked
from selfreward.stages.comparisons import form_of


def evaluation_plan(
    config: Config, beside: Path | None, rubric: int, characters_per_token: int
) -> dict[str, Any] | None:
    """Reckon what is asked of all the models; None where the evaluation is off.

    Args:
        rubric: Characters of the judge template.

    Returns:
        ``models``, ``texts`` judged and ``pairs`` compared for each; over all of them, tokens
        ``sampled`` at most and ``read`` about.
    """
    settings, judge = config.evaluation, config.judge.jurors[config.judge.evaluated]
    if not settings.is_on:
        return None
    rankings: list[Ranking] = []
    if settings.ranked is not None:
        rankings = read_ranked(settings.ranked, beside, settings.limit).rankings
    texts = texts_asked(rankings, read_canaries(shipped_canaries()) if settings.canaries else [])
    pairs = sum(_pairs(ranking) for ranking in rankings) if settings.compares else 0
    models = config.iterations + 1
    prompts = len({prompt for prompt, _ in texts})
    written = judge.num_texts(prompts, len(texts))
    written += 2 * pairs if form_of(judge) == "written" else 0
    characters = judge.num_reads * sum(rubric + len(prompt) + len(text) for prompt, text in texts)
    return {
        "models": models,
        "texts": len(texts),
        "pairs": pairs,
        "sampled": models * written * judge.max_new_tokens,
        "read": models * characters // characters_per_token,
    }


def evaluation_text(plan: dict[str, Any]) -> str:
    """A line of ``selfreward plan``."""
    pairs = f" and compares {plan['pairs']:,} pairs twice" if plan["pairs"] else ""
    return (
        f"evaluation: each of {plan['models']} models judges {plan['texts']:,} responses{pairs} "
        f"(in all at most {plan['sampled']:,} tokens sampled, about {plan['read']:,} read)"
    )


def _pairs(ranking: Ranking) -> int:
    preferences = [response.preference for response in ranking.responses]
    n = len(preferences)
    ties = sum(preferences[i] == preferences[j] for i in range(n) for j in range(i))
    return n * (n - 1) // 2 - ties
