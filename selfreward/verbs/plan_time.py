"""How long a run will take, by stages that earlier runs of the same model finished here."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from selfreward.config.run import Config
from selfreward.errors import SelfRewardError
from selfreward.records import Stage
from selfreward.storage.directory import Run, list_runs
from selfreward.verbs.layout import duration

_SEED_STAGES = {
    "sft": "sft", "train": "sft", "judgments": "selection", "evaluate": "evaluate",
}  # fmt: skip
"""Stages of iteration 0 whose time tells that of the next run's, and its name there."""


def time_of(
    config: Config, sft: Any, stages: Sequence[dict[str, Any]], evaluation: Any
) -> dict[str, Any] | None:
    """Seconds by what earlier runs of the same model took per row; None if there are none.

    How many comparisons there will be nobody knows, so their time is left out.

    Args:
        sft: Of ``plan_of``.
        stages: ``stage`` and ``records`` of the stages of each iteration from 1 on.
        evaluation: Of ``plan_of``.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    rows: Counter[str] = Counter()
    runs = 0
    for run in list_runs():
        finished = _finished_stages(run, config)
        runs += bool(finished)
        for stage in finished:
            name = stage.stage if stage.iteration else _SEED_STAGES.get(stage.stage, "")
            seconds[name] += stage.seconds
            rows[name] += stage.rows
    planned: Counter[str] = Counter()
    for row in stages:
        if row["stage"] != "comparisons":
            planned[row["stage"]] += row["records"]
    if sft:
        planned["sft"] = sft["rows"]
        if selection := sft["selection"]:
            planned["sft"] += sft["ift_rows"] + sft["eft_rows"]
            planned["selection"] = selection["responses"] * selection["votes"]
    if evaluation:
        planned["evaluate"] = evaluation["models"] * (evaluation["texts"] + evaluation["pairs"])
    if any(records and not rows[name] for name, records in planned.items()):
        return None
    by_stage = {name: n * seconds[name] / rows[name] for name, n in planned.items() if n}
    return {"runs": runs, "seconds": sum(by_stage.values()), "by_stage": by_stage}


def time_text(time: dict[str, Any] | None) -> str:
    """What ``selfreward plan`` prints about time."""
    if time is None:
        return "time: unknown, no earlier run of this model here finished all stages"
    each = ", ".join(f"{name} {duration(s)}" for name, s in time["by_stage"].items())
    return f"time: about {duration(time['seconds'])} as in {time['runs']} earlier runs ({each})"


def _finished_stages(run: Run, config: Config) -> list[Stage]:
    """The stages of a run, if it has the same model and judges and can be read."""
    try:
        settings = run.settings
        judge = settings["judge"]
        judges = [judge["form"], *((j["model"], j["form"]) for j in judge.get("jury") or ())]
        ours = [config.judge.form, *((j.model, j.form) for j in config.judge.jury)]
        if settings["model"] != config.model or judges != ours:
            return []
        with run.store() as store:
            return store.stages()
    except SelfRewardError:
        return []
