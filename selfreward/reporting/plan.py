"""What a run will do, before it does it: counts, tokens, memory, disk, and time where measured.

Counts are exact or upper bounds, as said. Tokens to read are an estimate, at four characters each.
Time comes from stages that earlier runs of the same model finished here, else it is unknown.
"""

import math
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from selfreward import seeds
from selfreward.config import Config
from selfreward.errors import SelfRewardError
from selfreward.records import Stage
from selfreward.reporting.layout import duration, existing, size, table
from selfreward.reporting.memory import memory_of, memory_text
from selfreward.reporting.status import settings_of
from selfreward.run import Run, list_runs, runs_root
from selfreward.templates import find_template
from selfreward.training.options import DEFAULTS

CHARACTERS_PER_TOKEN = 4
"""Of English text with the vocabularies in use now; an estimate."""
_TRAINING_COPIES = 3
"""A checkpoint holds the weights and Adam's two moments."""
_CHECKPOINTS = 3
"""Two are kept while the next one is written."""


def plan_of(config: Config, source: Path | None) -> dict[str, Any]:
    """Reckon what a run of ``config`` will make and need; templates and seed data are read."""
    beside = source.parent if source else None
    judge_template = find_template(config.judge.template, beside)
    rubric = len(judge_template.read_text(encoding="utf-8"))
    prompts = seeds.read_prompts(config.prompts.seeds, beside)
    stages = _stages(config, prompts, rubric)
    sft = _sft(config, beside, rubric)
    memory = memory_of(config, _longest(config, prompts, rubric))
    return {
        "model": config.model,
        "iterations": config.iterations,
        "sft": sft,
        "per_iteration": stages,
        "tokens": {
            "sampled_at_most": config.iterations * sum(row["sampled"] for row in stages),
            "read_estimate": config.iterations * sum(row["read"] for row in stages),
        },
        "memory": memory,
        "disk": _disk(config, None if memory is None else 4 * memory["parameters"]),
        "time": _time(config, sft, stages),
    }


def plan_text(plan: dict[str, Any]) -> str:
    """What ``selfreward plan`` prints."""
    sft, disk, time = plan["sft"], plan["disk"], plan["time"]
    last = plan["iterations"] + 1
    lines = [f"{plan['model']}: M0 to M{last} in {plan['iterations']} iterations", ""]
    if sft:
        lines += [f"seed SFT: at most {sft['rows']} rows, {sft['steps']} steps", ""]
    rows = [["per iteration", "records", "", "tokens sampled, at most", "tokens read, about"]]
    for row in plan["per_iteration"]:
        cells = [row["stage"], f"{row['records']:,}", row["note"]]
        rows.append([*cells, f"{row['sampled']:,}", f"{row['read']:,}"])
    sampled, read = plan["tokens"]["sampled_at_most"], plan["tokens"]["read_estimate"]
    lines += [
        table(rows),
        f"in all: at most {sampled:,} tokens sampled, about {read:,} read (at "
        f"{CHARACTERS_PER_TOKEN} characters a token)",
        "",
        memory_text(plan["memory"]),
        "",
        _disk_text(disk),
        _time_text(time),
    ]
    return "\n".join(lines)


def _stages(config: Config, prompts: list[str], rubric: int) -> list[dict[str, Any]]:
    count, n, votes = config.prompts.count, config.responses.n, config.judge.num_votes
    mean_prompt = _mean_prompt(prompts)
    shots = config.prompts.human_shots + config.prompts.generated_shots
    answers = count * n
    writing = config.prompts.dataset is None
    judged = _tokens(rubric) + mean_prompt + config.responses.max_new_tokens
    written = config.judge.form == "written"
    dpo, pairs = config.dpo.options, count * config.pairs.most(n)
    return [
        {
            "stage": "prompts",
            "records": count,
            "note": f"accepted of at most {config.prompts.budget} tried" if writing else "drawn",
            "sampled": config.prompts.budget * config.prompts.max_new_tokens if writing else 0,
            "read": count * shots * mean_prompt if writing else 0,
        },
        {
            "stage": "responses",
            "records": answers,
            "note": f"{n} per prompt",
            "sampled": answers * config.responses.max_new_tokens,
            "read": count * mean_prompt,
        },
        {
            "stage": "judgments",
            "records": answers * votes,
            "note": f"{config.judge.form}, {votes} per response",
            "sampled": answers * votes * config.judge.max_new_tokens if written else 0,
            "read": answers * judged,
        },
        {
            "stage": "train",
            "records": pairs,
            "note": f"pairs at most, {_steps('dpo', dpo, pairs, config.launch.processes)} steps",
            "sampled": 0,
            "read": 2 * pairs * (mean_prompt + config.responses.max_new_tokens),
        },
    ]


def _sft(config: Config, beside: Path | None, rubric: int) -> dict[str, Any] | None:
    """Rows and steps of the seed step; rows longer than ``max_length`` are left out later."""
    if config.sft is None:
        return None
    ift = seeds.read_ift(config.sft.ift, beside) if config.sft.ift else []
    eft = seeds.read_eft(config.sft.eft, beside) if config.sft.eft else []
    texts = [len(row.prompt) + len(row.response) for row in ift]
    texts += [rubric + len(e.prompt) + len(e.response) + len(e.justification or "") for e in eft]
    rows = len(texts)
    return {
        "rows": rows,
        "ift_rows": len(ift),
        "eft_rows": len(eft),
        "steps": _steps("sft", config.sft.options, rows, config.launch.processes),
        "tokens_estimate": _tokens(sum(texts)),
    }


def _steps(method: Any, options: dict[str, Any], rows: int, processes: int) -> int:
    """Optimizer steps; batch sizes are per process, and the rows of all epochs follow on."""
    settings = {**DEFAULTS[method], **options}
    if settings.get("max_steps", -1) > 0:
        return int(settings["max_steps"])
    per_step = int(settings["per_device_train_batch_size"]) * processes
    per_step *= int(settings["gradient_accumulation_steps"])
    return math.ceil(max(1, round(rows * float(settings["num_train_epochs"]))) / per_step)


def _mean_prompt(prompts: list[str]) -> int:
    return math.ceil(sum(map(len, prompts)) / len(prompts) / CHARACTERS_PER_TOKEN)


def _longest(config: Config, prompts: list[str], rubric: int) -> int:
    """Tokens of the longest sequence, for a prompt of mean length."""
    answered = _mean_prompt(prompts) + config.responses.max_new_tokens
    written = config.judge.max_new_tokens if config.judge.form == "written" else 1
    return answered + _tokens(rubric) + written


def _tokens(characters: int) -> int:
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def _disk(config: Config, weights: int | None) -> dict[str, Any]:
    """Bytes needed at most; None where the size of the model is not known here.

    Args:
        weights: Bytes of the model in float32.
    """
    num_models = config.iterations + (config.sft is not None)
    place = existing(runs_root())
    disk: dict[str, Any] = {"weights": weights, "models": num_models, "place": str(place)}
    disk["free"] = shutil.disk_usage(place).free
    disk["run"] = disk["cache"] = None
    if weights is not None:
        training = 0 if config.lora else _CHECKPOINTS * _TRAINING_COPIES * weights
        disk["run"] = num_models * weights + training
        # CTranslate2 keeps a converted copy of each model that it ran.
        copies = max(config.iterations, 1) if config.engine.kind in ("auto", "ctranslate2") else 0
        converted = config.model.startswith("bundled:") or config.model.endswith(".gguf")
        disk["cache"] = (converted + copies) * weights
    return disk


def _time(config: Config, sft: Any, stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Seconds by what earlier runs of the same model took per row; None if there are none."""
    seconds: defaultdict[str, float] = defaultdict(float)
    rows: Counter[str] = Counter()
    runs = 0
    for run in list_runs():
        finished = _finished_stages(run, config)
        runs += bool(finished)
        for stage in finished:
            name = "sft" if stage.iteration == 0 else stage.stage
            seconds[name] += stage.seconds
            rows[name] += stage.rows
    planned = {row["stage"]: row["records"] * config.iterations for row in stages}
    planned |= {"sft": sft["rows"]} if sft else {}
    if any(records and not rows[name] for name, records in planned.items()):
        return None
    by_stage = {name: n * seconds[name] / rows[name] for name, n in planned.items() if n}
    return {"runs": runs, "seconds": sum(by_stage.values()), "by_stage": by_stage}


def _finished_stages(run: Run, config: Config) -> list[Stage]:
    """The stages of a run, if it has the same model and judge form and can be read."""
    try:
        settings = settings_of(run)
        if settings["model"] != config.model or settings["judge"]["form"] != config.judge.form:
            return []
        with run.store() as store:
            return store.stages()
    except SelfRewardError:
        return []


def _disk_text(disk: dict[str, Any]) -> str:
    free = f"{size(disk['free'])} free at {disk['place']}"
    if disk["weights"] is None:
        return f"disk: unknown, the model is not on this machine yet; {free}"
    need = f"disk: {size(disk['run'])} in the run ({disk['models']} models of "
    need += f"{size(disk['weights'])} in float32, and checkpoints), "
    warning = " - NOT ENOUGH" if disk["free"] < disk["run"] + disk["cache"] else ""
    return f"{need}{size(disk['cache'])} in the cache; {free}{warning}"


def _time_text(time: dict[str, Any] | None) -> str:
    if time is None:
        return "time: unknown, no earlier run of this model here finished all stages"
    each = ", ".join(f"{name} {duration(s)}" for name, s in time["by_stage"].items())
    return f"time: about {duration(time['seconds'])} as in {time['runs']} earlier runs ({each})"
