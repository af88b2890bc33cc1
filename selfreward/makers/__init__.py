"""What the stages of a rollout still have to ask, and how far each is.

A maker holds the records of one stage, committed and new, and turns records of the stage before it
into requests. The stages themselves know no store; the makers know no tasks.
"""

from collections.abc import Callable

from selfreward.engines.sessions import Session
from selfreward.makers.base import Ask, Maker
from selfreward.makers.comparisons import ComparisonMaker
from selfreward.makers.judgments import FAILURES, JudgmentMaker
from selfreward.makers.prompts import PromptMaker
from selfreward.makers.responses import ResponseMaker
from selfreward.makers.selection import RankedJudgmentMaker, RankedPromptMaker, RankedResponseMaker
from selfreward.storage.directory import Run
from selfreward.storage.store import Store

SEED_MAKERS: dict[str, Callable[[Run, Store, int, Session], Maker]] = {
    "prompts": RankedPromptMaker,
    "responses": RankedResponseMaker,
    "judgments": RankedJudgmentMaker,
}
"""Those of iteration 0, with ``sft.selection``."""

__all__ = [
    "FAILURES", "SEED_MAKERS", "Ask", "ComparisonMaker", "JudgmentMaker", "Maker", "PromptMaker",
    "ResponseMaker",
]  # fmt: skip
