"""Which stages read which keys of the config: what a change would make untrue of what is made.

A key that none of the groups below names, such as ``seed``, is read by every stage.
"""

import re
from collections.abc import Iterable, Sequence

from selfreward.config.run import Config, is_runtime_key

StageKey = tuple[int, str]
"""(iteration, stage)"""

EXTENDABLE = frozenset({"iterations"})
"""Keys that say how far a run goes, but decide none of its records."""

_SAMPLED: dict[str, tuple[str, ...]] = {
    "prompts": ("prompts", "engine"),
    "responses": ("responses", "engine"),
    "anchors": ("responses", "engine"),
    "judgments": ("judge", "engine"),
    "comparisons": ("judge", "engine"),
    "pairs": ("pairs", "judge"),
}
_LATER = _SAMPLED | {
    "train": ("train", "dpo", "rloo", "grpo", "lora", "launch"),
    "evaluate": ("evaluation", "judge", "engine"),
}
_SEED = {stage: (*groups, "sft") for stage, groups in _SAMPLED.items()} | {
    "sft": ("sft", "judge", "lora", "launch"),  # EFT rows have the judge's form and template
    "selection": ("sft",),
    "train": ("sft", "judge", "lora", "launch"),
    "evaluate": _LATER["evaluate"],
}
"""The groups that each stage of iteration 0 reads; ``_LATER`` of the others."""
_GROUPS = {group for groups in (*_SEED.values(), *_LATER.values()) for group in groups}

_COPIED = re.compile(
    r"(.*\.)?(chat_template|template|criteria_template|function)"
    r"|(sft\.ift|sft\.eft|sft\.selection\.ranked|prompts\.(seeds|dataset|topics)|evaluation\.(ranked|questions|benchmarks))(\..*)?"
)


def is_copied(key: str) -> bool:
    """Whether the key names a file or data set of which a run keeps its own copy."""
    return bool(_COPIED.fullmatch(key))


def decides(key: str) -> bool:
    """Whether any record depends on the key."""
    return not (is_runtime_key(key) or key in EXTENDABLE)


def is_read(key: str, iteration: int, stage: str) -> bool:
    """Whether what a stage makes depends on a key, such as ``dpo.beta``."""
    group = key.partition(".")[0]
    groups = (_LATER if iteration else _SEED)[stage.partition("/")[0]]
    return decides(key) and (group in groups or group not in _GROUPS)


def first_reader(key: str, made: Iterable[StageKey]) -> StageKey | None:
    """The first of the stages made that depends on a key; None if none does."""
    return next((at for at in made if is_read(key, *at)), None)


def keeps_order(old: Config, new: Config, made: Sequence[StageKey]) -> bool:
    """Whether the stages up to the last one made are the same in both configs."""
    if not made:
        return True
    last = max(made, key=lambda at: at[0])[0]
    before = [(t, stage) for t in range(last + 1) for stage in old.stages(t)]
    after = [(t, stage) for t in range(last + 1) for stage in new.stages(t)]
    count = 1 + max(before.index(at) for at in made if at in before)
    return before[:count] == after[:count]
