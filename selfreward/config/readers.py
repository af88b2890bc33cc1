"""Which stages read which keys of the config: what a change would make untrue of what is made.

A key that none of the groups below names, such as ``seed``, is read by every stage.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from selfreward.config.run import Config, is_runtime_key

StageKey = tuple[int, str]
"""(iteration, stage)"""

EXTENDABLE = frozenset({"iterations", "meta.iterations"})
"""Keys that say how far a run goes, or which stages it has, but decide none of its records;
``keeps_order`` guards the stages that are made."""

_SAMPLED: dict[str, tuple[str, ...]] = {
    "prompts": ("prompts", "engine"),
    "responses": ("responses", "engine"),
    "anchors": ("responses", "engine"),
    "judgments": ("judge", "engine"),
    "comparisons": ("judge", "engine"),
    "meta_judgments": ("judge", "engine", "meta"),
    "pairs": ("pairs", "judge"),
    "judge_pairs": ("judge", "meta"),
}
_LATER = _SAMPLED | {
    "train": ("train", "dpo", "rloo", "grpo", "lora", "quantization", "launch"),
    "evaluate": ("evaluation", "judge", "engine"),
}
_SEED = {stage: (*groups, "sft") for stage, groups in _SAMPLED.items()} | {
    # EFT rows have the judge's form and template.
    "sft": ("sft", "judge", "lora", "quantization", "launch"),
    "selection": ("sft",),
    "train": ("sft", "judge", "lora", "quantization", "launch"),
    "evaluate": _LATER["evaluate"],
}
"""The groups that each stage of iteration 0 reads; ``_LATER`` of the others."""
_GROUPS = {group for groups in (*_SEED.values(), *_LATER.values()) for group in groups}

_COPIED = re.compile(
    r"(.*\.)?(chat_template|template|criteria_template|function)"
    r"|(sft\.ift|sft\.eft|sft\.selection\.ranked|train\.preferences|prompts\.(seeds|dataset|topics)|evaluation\.(ranked|questions|benchmarks))(\..*)?"
)


def is_copied(key: str) -> bool:
    """Whether the key names a file or data set of which a run keeps its own copy."""
    return bool(_COPIED.fullmatch(key))


def first_copied(changed: Mapping[str, tuple[Any, Any]]) -> str | None:
    """The first such key that is to name something else than that of which a run has its copy.

    What leaves a list, such as a contest, needs its copy no more, and what comes or leaves may
    name nothing.

    Args:
        changed: See ``load.changes``.
    """
    for key, (old, new) in changed.items():
        leaves = new is None and re.search(r"\.\d+\.", key)
        if decides(key) and is_copied(key) and old != new and not leaves:
            return key
    return None


def decides(key: str) -> bool:
    """Whether any record depends on the key."""
    return not (is_runtime_key(key) or key in EXTENDABLE)


def is_read(key: str, iteration: int, stage: str) -> bool:
    """Whether what a stage makes depends on a key, such as ``dpo.beta``."""
    group, _, name = key.partition(".")
    groups = (_LATER if iteration else _SEED)[stage.partition("/")[0]]
    if stage == "evaluate" and group == "responses":
        return decides(key) and name not in _NOT_ANSWERED_BY
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


def keeps_copied(old: Config, new: Config, iteration: int) -> bool:
    """Whether a branch that trains an iteration anew has the stages whose records it copies.

    What that iteration is trained on may become less, as without pairs of judgments.
    """

    def stages(config: Config, t: int) -> list[str]:
        return [stage for stage in config.stages(t) if stage != "evaluate"]

    return set(stages(new, iteration)) <= set(stages(old, iteration)) and all(
        stages(old, t) == stages(new, t) for t in range(iteration)
    )


_FILES = {
    r"templates/(judge|criteria)(-\d+)?\.jinja": "judge",
    r"templates/(prompts|evolve)\.jinja|seeds/(prompts|topics|dataset)\.jsonl": "prompts",
    r"templates/worse\.jinja|seeds/(ift|eft|ranked)\.jsonl": "sft",
    r"seeds/preferences\.jsonl": "train",
}
"""Of the files that a run has a copy of, those that only the stages read that read a group."""


def alike(old: Config, new: Config, differing: Iterable[str] = ()) -> list[StageKey]:
    """The first stages of a run that make the same with either config, in order.

    Finer than ``is_read``, which says for every config which change it refuses: a judge of a jury
    is read by its own stage and by the pairs. Stricter too: keys that only stop a run count.

    Args:
        differing: Input files, such as ``templates/judge.jinja``, that are not the same.
    """
    files = [*differing]

    def same(two: tuple[StageKey, StageKey]) -> bool:
        (t, stage), other = two
        return (
            (t, stage) == other
            and _reading(old, t, stage) == _reading(new, t, stage)
            and not any(_reads_file(new, t, stage, name) for name in files)
        )

    both = zip(_order(old), _order(new), strict=False)
    return [key for key, _ in takewhile(same, both)]


def _order(config: Config) -> list[StageKey]:
    return [(t, stage) for t in range(config.iterations + 1) for stage in config.stages(t)]


def _reading(config: Config, iteration: int, stage: str) -> dict[str, Any]:
    """All of a config that decides what a stage makes, or whether the run gets that far."""
    kind, _, juror = stage.partition("/")
    groups = (_LATER if iteration else _SEED)[kind]
    left_out = {*EXTENDABLE, "track"} | {key for key, t in _FROM.items() if iteration < t}
    data = {
        key: value
        for key, value in config.model_dump(mode="json").items()
        if (key in groups or key not in _GROUPS) and key not in left_out
    }
    if "judge" in data and iteration == 0 and kind != "evaluate":
        data["judge"] = {key: data["judge"][key] for key in _TAUGHT}
    elif "judge" in data and kind not in ("pairs", "comparisons"):
        sits = config.judge.evaluated if kind == "evaluate" else int(juror or 0)
        data["judge"]["jury"] = data["judge"]["jury"][sits - 1] if sits else None
    if kind == "evaluate":
        if not _asks_judge(config):
            data.pop("judge")
        sampling = config.responses.model_dump(mode="json")
        data["responses"] = {k: v for k, v in sampling.items() if k not in _NOT_ANSWERED_BY}
    return data


_TAUGHT = ("form", "template", "criteria_template")
"""Keys of ``judge`` that the seed step reads: what EFT rows look like."""
_FROM = {"health": 1, "best": 2}
"""Groups that decide whether a run gets to an iteration, or from which model it starts, and the
first iteration of which that is true."""
_NOT_ANSWERED_BY = ("n", "anchors", "temperature")
"""Keys of ``responses`` that the answers to ``evaluation.questions`` have no use for."""


def _asks_judge(config: Config) -> bool:
    """Whether an evaluation has the judge of the run say anything."""
    return config.evaluation.ranked is not None or config.evaluation.canaries


def _reads_file(config: Config, iteration: int, stage: str, name: str) -> bool:
    """Whether a stage may read a run's copy of a file; what is not known is read by all."""
    kind, _, juror = stage.partition("/")
    group = next((group for form, group in _FILES.items() if re.fullmatch(form, name)), None)
    if group != "judge":
        groups = (_LATER if iteration else _SEED)[kind]
        return group is None or group in groups
    if kind in ("pairs", "comparisons", "responses", "prompts"):
        return kind == "comparisons"
    if kind == "evaluate" and not _asks_judge(config):
        return False
    number = re.search(r"-(\d+)", name)
    sits = config.judge.evaluated if kind == "evaluate" else int(juror or 0)
    return int(number[1] if number else 0) == sits
