"""What a stage has made, as its digest covers it."""

from selfreward.records import (
    Comparison,
    Criterion,
    Judgment,
    PreferencePair,
    Prompt,
    Record,
    Response,
    judge_stage,
)
from selfreward.storage.store import Store


def made_by(store: Store, iteration: int, stage: str) -> list[Record]:
    """The records of a stage that makes any but drops, in key order; of a judge, criteria first."""
    if stage == "prompts":
        return [*store.records(Prompt, iteration)]
    if stage in ("responses", "anchors"):
        responses = store.records(Response, iteration)
        return [r for r in responses if r.is_anchor == (stage == "anchors")]
    if stage == "comparisons":
        return [*store.records(Comparison, iteration)]
    if stage == "pairs":
        return [*store.records(PreferencePair, iteration)]
    criteria, judgments = store.records(Criterion, iteration), store.records(Judgment, iteration)
    return [
        *(criterion for criterion in criteria if judge_stage(criterion.juror) == stage),
        *(judgment for judgment in judgments if judge_stage(judgment.juror) == stage),
    ]
