"""What a run will do, before it does it: counts, tokens, memory, disk, and time where measured.

Counts are exact or upper bounds, as said. Tokens to read are an estimate, at four characters each.
Time is in ``plan_time``.
"""

import math
import shutil
from pathlib import Path
from typing import Any

from selfreward.config.run import Config
from selfreward.inputs import seeds
from selfreward.inputs.judge_templates import COMPARE_TEMPLATE
from selfreward.inputs.rankings import read_ranked
from selfreward.inputs.templates import find_template
from selfreward.records import judge_stage
from selfreward.stages.comparisons import form_of
from selfreward.storage.directory import runs_root
from selfreward.training.options import DEFAULTS
from selfreward.verbs.evaluation_plan import evaluation_plan, evaluation_text
from selfreward.verbs.layout import existing, size, table
from selfreward.verbs.memory import memory_of, memory_text
from selfreward.verbs.plan_time import time_of, time_text
from selfreward.workers.checks import check_run

CHARACTERS_PER_TOKEN = 4
"""Of English text with the vocabularies in use now; an estimate."""
_TRAINING_COPIES = 3
"""A checkpoint holds the weights and Adam's two moments."""
_CHECKPOINTS = 3
"""Two are kept while the next one is written."""


def plan_of(config: Config, source: Path | None) -> dict[str, Any]:
    """Reckon what a run of ``config`` will make and need, here or on another machine.

    Raises:
        ConfigError: See ``check_run``.
    """
    check_run(config, source, here=False)
    beside = source.parent if source else None
    templates = [find_template(judge.template, beside) for judge in config.judge.jurors]
    rubrics = [len(template.read_text(encoding="utf-8")) for template in templates]
    prompts = seeds.read_prompts(config.prompts.seeds, beside)
    compared = len(find_template(COMPARE_TEMPLATE, beside).read_text(encoding="utf-8"))
    each = [_stages(config, t, prompts, rubrics, compared) for t in range(1, config.iterations + 1)]
    stages = [row for iteration in each for row in iteration]
    sft = _sft(config, beside, rubrics[0])
    asked = rubrics[config.judge.evaluated]
    evaluation = evaluation_plan(config, beside, asked, CHARACTERS_PER_TOKEN)
    memory = memory_of(config, _longest(config, prompts, max(rubrics)))
    return {
        "model": config.model,
        "iterations": config.iterations,
        "sft": sft,
        "per_iteration": each[-1] if each else _stages(config, 1, prompts, rubrics, compared),
        "tokens": {
            "sampled_at_most": sum(row["sampled"] for row in stages),
            "read_estimate": sum(row["read"] for row in stages),
        },
        "evaluation": evaluation,
        "memory": memory,
        "disk": _disk(config, None if memory is None else 4 * memory["parameters"]),
        "time": time_of(config, sft, stages, evaluation),
    }


def plan_text(plan: dict[str, Any]) -> str:
    """What ``selfreward plan`` prints."""
    sft, disk, time = plan["sft"], plan["disk"], plan["time"]
    last = plan["iterations"] + 1
    lines = [f"{plan['model']}: M0 to M{last} in {plan['iterations']} iterations", ""]
    if sft:
        lines += [f"seed SFT: at most {sft['rows']} rows, {sft['steps']} steps"]
        if selection := sft["selection"]:
            lines += [
                f"  before it, models/SFT: {selection['steps']} steps; it judges "
                f"{selection['responses']:,} responses {selection['votes']} times each (at most "
                f"{selection['sampled']:,} tokens sampled, about {selection['read']:,} read)"
            ]
        lines.append("")
    rows = [["per iteration", "records", "", "tokens sampled, at most", "tokens read, about"]]
    for row in plan["per_iteration"]:
        cells = [row["stage"], f"{row['records']:,}", row["note"]]
        rows.append([*cells, f"{row['sampled']:,}", f"{row['read']:,}"])
    sampled, read = plan["tokens"]["sampled_at_most"], plan["tokens"]["read_estimate"]
    lines += [
        table(rows),
        f"in all: at most {sampled:,} tokens sampled, about {read:,} read (at "
        f"{CHARACTERS_PER_TOKEN} characters a token)",
        *([evaluation_text(plan["evaluation"])] if plan["evaluation"] else []),
        "",
        memory_text(plan["memory"]),
        "",
        _disk_text(disk),
        time_text(time),
    ]
    return "\n".join(lines)


def _stages(
    config: Config, iteration: int, prompts: list[str], rubrics: list[int], compared: int
) -> list[dict[str, Any]]:
    """The stages that take time.

    Args:
        rubrics: Characters of the judges' templates.
        compared: Of the template of comparisons.
    """
    count, n, anchors = config.prompts.count, config.responses.n, config.responses.anchors
    mean_prompt = _mean_prompt(prompts)
    shots = config.prompts.human_shots + config.prompts.generated_shots
    writing = config.prompts.dataset is None
    dpo, pairs = config.dpo.options, count * config.pairs.most(n)
    rows = [
        {
            "stage": "prompts",
            "records": count,
            "note": f"accepted of at most {config.prompts.budget} tried" if writing else "drawn",
            "sampled": config.prompts.budget * config.prompts.max_new_tokens if writing else 0,
            "read": count * shots * mean_prompt if writing else 0,
        },
        {
            "stage": "responses",
            "records": count * n,
            "note": f"{n} per prompt",
            "sampled": count * n * config.responses.max_new_tokens,
            "read": count * mean_prompt,
        },
        {
            "stage": "anchors",
            "records": count * anchors if iteration > 1 else 0,
            "note": f"{anchors} per prompt by M1, from iteration 2 on",
            "sampled": count * anchors * config.responses.max_new_tokens,
            "read": count * mean_prompt,
        },
        *(
            _judging(config, iteration, juror, mean_prompt + _tokens(rubric))
            for juror, rubric in enumerate(rubrics)
        ),
        _comparing(config, mean_prompt + _tokens(compared)),
        {
            "stage": "train",
            "records": pairs,
            "note": f"pairs at most, {_steps('dpo', dpo, pairs, config.launch.processes)} steps",
            "sampled": 0,
            "read": 2 * pairs * (mean_prompt + config.responses.max_new_tokens),
        },
    ]
    return [row for row in rows if row["records"]]


def _judging(config: Config, iteration: int, juror: int, asked: int) -> dict[str, Any]:
    """The stage of one judge.

    Args:
        asked: Tokens of the rubric with a prompt.
    """
    judge, count = config.judge.jurors[juror], config.prompts.count
    answers = count * config.responses.per_prompt(iteration)
    votes = judge.num_votes
    written = {"expected": 0, "criteria": count}.get(judge.form, answers * votes)
    reads = {"written": 1, "written_expected": 1 + votes}.get(judge.form, votes)
    model = f"{judge.model}, " if config.judge.jury else ""
    return {
        "stage": judge_stage(juror),
        "records": answers * votes,
        "note": f"{model}{judge.form}, {votes} per response",
        "sampled": written * judge.max_new_tokens,
        "read": answers * reads * (asked + config.responses.max_new_tokens),
    }


def _comparing(config: Config, asked: int) -> dict[str, Any]:
    """The stage of comparisons, as if all responses tied.

    Args:
        asked: Tokens of the template with a prompt.
    """
    n = config.responses.n
    orders = config.prompts.count * n * (n - 1)
    written = config.judge.max_new_tokens if form_of(config.judge) == "written" else 0
    return {
        "stage": "comparisons",
        "records": orders if config.judge.break_ties else 0,
        "note": "at most; where scores tie, in both orders",
        "sampled": orders * written,
        "read": orders * (asked + 2 * config.responses.max_new_tokens),
    }


def _sft(config: Config, beside: Path | None, rubric: int) -> dict[str, Any] | None:
    """Rows and steps of the seed step; rows longer than ``max_length`` are left out later."""
    if config.sft is None:
        return None
    ift = seeds.read_ift(config.sft.ift, beside) if config.sft.ift else []
    eft = seeds.read_eft(config.sft.eft, beside) if config.sft.eft else []
    texts = [len(row.prompt) + len(row.response) for row in ift]
    texts += [rubric + len(e.prompt) + len(e.response) + len(e.justification or "") for e in eft]
    selection = _selection(config, beside, rubric, len(texts))
    rows = len(texts) + (selection["responses"] if selection else 0)
    return {
        "selection": selection,
        "rows": rows,
        "ift_rows": len(ift),
        "eft_rows": len(eft),
        "steps": _steps("sft", config.sft.options, rows, config.launch.processes),
        "tokens_estimate": _tokens(sum(texts)),
    }


def _selection(
    config: Config, beside: Path | None, rubric: int, rows: int
) -> dict[str, Any] | None:
    """What iteration 0 samples with ``sft.selection``, at most; a response gives one row at most.

    Args:
        rows: Seed rows that ``models/SFT`` is trained on.
    """
    sft = config.sft
    if sft is None or sft.selection is None:
        return None
    selection, writing = sft.selection, 0
    if selection.ranked is not None:
        human = read_ranked(selection.ranked, beside, selection.prompts, needs_order=False)
        texts = [len(r.prompt) + len(a.text) for r in human.rankings for a in r.responses]
    else:
        assert sft.ift is not None
        ift = seeds.read_ift(sft.ift, beside)[: selection.prompts]
        writing = config.prompts.max_new_tokens + config.responses.max_new_tokens
        made = CHARACTERS_PER_TOKEN * config.responses.max_new_tokens
        texts = [len(row.prompt) + length for row in ift for length in (len(row.response), made)]
        writing *= len(ift)
    return {
        "steps": _steps("sft", sft.options, rows, config.launch.processes),
        "responses": len(texts),
        "votes": selection.votes,
        "sampled": len(texts) * selection.votes * selection.max_new_tokens + writing,
        "read": sum(_tokens(rubric + text) for text in texts),
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
    written = max(1 if j.form == "expected" else j.max_new_tokens for j in config.judge.jurors)
    return answered + _tokens(rubric) + written


def _tokens(characters: int) -> int:
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def _disk(config: Config, weights: int | None) -> dict[str, Any]:
    """Bytes needed at most; None where the size of the model is not known here.

    Args:
        weights: Bytes of the model in float32.
    """
    num_models = config.iterations + (config.sft is not None)
    num_models += config.sft is not None and config.sft.selection is not None
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


def _disk_text(disk: dict[str, Any]) -> str:
    free = f"{size(disk['free'])} free at {disk['place']}"
    if disk["weights"] is None:
        return f"disk: unknown, the model is not on this machine yet; {free}"
    need = f"disk: {size(disk['run'])} in the run ({disk['models']} models of "
    need += f"{size(disk['weights'])} in float32, and checkpoints), "
    warning = " - NOT ENOUGH" if disk["free"] < disk["run"] + disk["cache"] else ""
    return f"{need}{size(disk['cache'])} in the cache; {free}{warning}"
