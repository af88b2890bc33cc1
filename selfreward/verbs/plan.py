"""What a run will do, before it does it: counts, tokens, memory, disk, and time where measured.

Counts are exact or upper bounds, as said. Tokens to read are an estimate, at four characters each.
Time is what earlier runs of the same model took here.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfreward.config.run import Config
from selfreward.errors import SelfRewardError
from selfreward.inputs import seeds
from selfreward.inputs.choices import read_choices
from selfreward.inputs.collect import found_models, read_demonstrations
from selfreward.inputs.heldout import read_canaries, shipped_canaries, texts_asked
from selfreward.inputs.judge_templates import COMPARE_TEMPLATE
from selfreward.inputs.questions import read_questions
from selfreward.inputs.rankings import Ranking, read_ranked
from selfreward.inputs.templates import find_template
from selfreward.records import Stage
from selfreward.stages.comparisons import form_of
from selfreward.storage.directory import Run, list_runs
from selfreward.verbs.layout import counted, duration, table
from selfreward.verbs.planned_stages import (
    CHARACTERS_PER_TOKEN,
    mean_prompt_of,
    prompts_stage,
    stages_of,
    steps_of,
    tokens_of,
)
from selfreward.verbs.resources import disk_of, disk_text, memory_of, memory_text
from selfreward.workers.checks import check_run

_SEED_STAGES = {
    "sft": "sft", "train": "sft", "judgments": "selection", "evaluate": "evaluate",
}  # fmt: skip
"""Stages of iteration 0 whose time tells that of the next run's, and its name there."""


def plan_of(config: Config, source: Path | None) -> dict[str, Any]:
    """Reckon what a run of ``config`` will make and need, here or on another machine.

    Raises:
        ConfigError: See ``check_run``.
    """
    check_run(config, source, here=False)
    config = found_models(config, source)
    beside = source.parent if source else None
    asked = [judge.template if judge.traits.template else None for judge in config.judge.jurors]
    rubrics = [
        0 if name is None else len(find_template(name, beside).read_text(encoding="utf-8"))
        for name in asked
    ]
    prompts = read_demonstrations(config, beside)
    compared = len(find_template(COMPARE_TEMPLATE, beside).read_text(encoding="utf-8"))
    evolve = config.prompts.evolve
    evolving = len(find_template(evolve.template, beside).read_text("utf-8")) if evolve else 0
    written = prompts_stage(config, mean_prompt_of(prompts), evolving)
    ranked = config.train.preferences
    preferences = read_ranked(ranked, beside).rankings if ranked else []
    sft = _sft(config, beside, rubrics[0])
    parts = (prompts, written, rubrics, compared, preferences, sft)
    each = [stages_of(config, t, *parts) for t in range(1, config.iterations + 1)]
    stages = [row for iteration in each for row in iteration]
    selected = [sft["selection"]] if sft and sft["selection"] else []
    evaluation = _evaluation(config, beside, rubrics[config.judge.evaluated], compared)
    memory = memory_of(config)
    return {
        "model": config.model,
        "iterations": config.iterations,
        "sft": sft,
        "demonstrations": _demonstrations(config, len(prompts)),
        "per_iteration": max(each, key=_tokens) if each else stages_of(config, 1, *parts),
        "tokens": {
            name: sum(row[key] for row in (*stages, *selected))
            for name, key in (("sampled_at_most", "sampled"), ("read_estimate", "read"))
        },
        "steps": sum(row.get("steps", 0) for row in stages) + (sft["steps"] if sft else 0),
        "evaluation": evaluation,
        "memory": memory,
        "disk": disk_of(config, None if memory is None else 4 * memory["parameters"]),
        "time": _time(config, sft, stages, evaluation),
    }


def plan_text(plan: dict[str, Any]) -> str:
    """What ``selfreward plan`` prints."""
    sft, disk, time = plan["sft"], plan["disk"], plan["time"]
    last = plan["iterations"] + 1
    lines = [f"{plan['model']}: M0 to M{last} in {counted(plan['iterations'], 'iteration')}", ""]
    if sft:
        lines += [f"seed SFT: at most {sft['rows']} rows, {sft['steps']} steps"]
        if left := sft["eft_without_justification"]:
            lines += [f"  left out: {left} rows of sft.eft, which have no justification"]
        if selection := sft["selection"]:
            lines += [
                f"  before it, models/SFT: {selection['steps']} steps; it judges "
                f"{selection['responses']:,} responses {selection['votes']} times each (at most "
                f"{selection['sampled']:,} tokens sampled, about {selection['read']:,} read)"
            ]
        lines.append("")
    if shown := plan["demonstrations"]:
        lines += [f"new prompts after {shown['prompts']} of {shown['path']} ({shown['key']})", ""]
    rows = [["per iteration", "records", "", "tokens sampled, at most", "tokens read, about"]]
    for row in plan["per_iteration"]:
        cells = [row["stage"], f"{row['records']:,}", row["note"]]
        rows.append([*cells, f"{row['sampled']:,}", f"{row['read']:,}"])
    sampled, read = plan["tokens"]["sampled_at_most"], plan["tokens"]["read_estimate"]
    lines += [
        table(rows),
        f"in all: at most {sampled:,} tokens sampled, about {read:,} read (at "
        f"{CHARACTERS_PER_TOKEN} characters a token)",
        *([_evaluation_text(plan["evaluation"])] if plan["evaluation"] else []),
        "",
        memory_text(plan["memory"]),
        disk_text(disk),
        _time_text(time),
    ]
    return "\n".join(lines)


def _tokens(stages: list[dict[str, Any]]) -> tuple[int, int]:
    """Sampled and read, so that of several iterations the one is shown that takes most."""
    return sum(row["sampled"] for row in stages), sum(row["read"] for row in stages)


def _demonstrations(config: Config, count: int) -> dict[str, Any] | None:
    """Where they come from; None where prompts are drawn and not written."""
    key, source = config.prompt_seeds
    if config.prompts.dataset is not None:
        return None
    return {"prompts": count, "path": source.path, "key": key}


def _sft(config: Config, beside: Path | None, rubric: int) -> dict[str, Any] | None:
    """Rows and steps of the seed step; what needs the tokenizer to be left out is counted too."""
    if config.sft is None:
        return None
    ift = seeds.read_ift(config.sft.ift, beside) if config.sft.ift else []
    scored = seeds.read_eft(config.sft.eft, beside) if config.sft.eft else []
    eft = [row for row in scored if row.teaches(writes=config.judge.traits.writes)]
    texts = [len(row.prompt) + len(row.response) for row in ift]
    texts += [rubric + len(e.prompt) + len(e.response) + len(e.justification or "") for e in eft]
    selection = _selection(config, beside, rubric, len(texts))
    rows = len(texts) + (selection["responses"] if selection else 0)
    return {
        "selection": selection,
        "rows": rows,
        "ift_rows": len(ift),
        "eft_rows": len(eft),
        "eft_without_justification": len(scored) - len(eft),
        "steps": steps_of("sft", config.sft.options, rows, config.launch.processes),
        "tokens_estimate": tokens_of(sum(texts)),
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
        "steps": steps_of("sft", sft.options, rows, config.launch.processes),
        "responses": len(texts),
        "votes": selection.votes,
        "sampled": len(texts) * selection.votes * selection.max_new_tokens + writing,
        "read": sum(tokens_of(rubric + text) for text in texts),
    }


def _evaluation(
    config: Config, beside: Path | None, rubric: int, compared: int
) -> dict[str, Any] | None:
    """What is asked of all the models; None where the evaluation is off.

    Args:
        rubric: Characters of the judge template.
        compared: Of the template of comparisons.

    Returns:
        ``models``; for each ``texts`` judged, ``pairs`` compared, ``questions`` answered and
        ``choices`` weighed; ``contests``, answers compared over all models; and over all of them,
        tokens ``sampled`` at most and ``read`` about.
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
    for ranking in rankings if settings.compares else ():
        length = sum(len(each.text) for each in ranking.responses) / len(ranking.responses)
        asked = compared + len(ranking.prompt) + 2 * length
        characters += int(2 * _pairs(ranking) * asked)
    answered, contests, sampled, read = _contests(config, beside)
    taken = (c for each in settings.benchmarks for c in read_choices(each, beside))
    weighed = [tokens_of(len(c.question) + len(one)) for c in taken for one in c.choices]
    return {
        "models": models,
        "texts": len(texts),
        "pairs": pairs,
        "questions": answered,
        "choices": len(weighed),
        "contests": contests,
        "sampled": models * written * judge.max_new_tokens + sampled,
        "read": models * characters // CHARACTERS_PER_TOKEN + models * sum(weighed) + read,
    }


def _contests(config: Config, beside: Path | None) -> tuple[int, int, int, int]:
    """Questions; answers compared, tokens sampled at most and read about over all models."""
    settings, last = config.evaluation, config.iterations
    if settings.questions is None:
        return 0, 0, 0, 0
    questions = read_questions(settings.questions, beside)
    # Each model but M1 meets M1 and the one before it, which for M2 is M1.
    opponents = max(0, 2 * last - 1) + (last + 1 if questions[0].reference is not None else 0)
    contests = len(questions) * opponents * len(settings.judges)
    length = config.responses.max_new_tokens
    models = [judge for judge in settings.judges if judge.traits.template]
    writes = [judge.max_new_tokens for judge in models if form_of(judge) == "written"]
    asked = sum(tokens_of(len(question.prompt)) for question in questions)
    sampled = (last + 1) * len(questions) * length
    sampled += 2 * len(questions) * opponents * sum(writes)
    read = (last + 1) * asked + 2 * opponents * len(models) * (asked + 2 * length * len(questions))
    return len(questions), contests, sampled, read


def _evaluation_text(plan: dict[str, Any]) -> str:
    """A line of ``selfreward plan``."""
    pairs = f" and compares {plan['pairs']:,} pairs twice" if plan["pairs"] else ""
    if plan["questions"]:
        pairs += f" and answers {plan['questions']:,} questions"
    if plan["choices"]:
        pairs += f", weighs {plan['choices']:,} choices of benchmarks"
    if plan["contests"]:
        pairs += f"; {plan['contests']:,} pairs of answers are compared twice"
    return (
        f"evaluation: each of {plan['models']} models judges {plan['texts']:,} responses{pairs} "
        f"(in all at most {plan['sampled']:,} tokens sampled, about {plan['read']:,} read)"
    )


def _pairs(ranking: Ranking) -> int:
    """Pairs of responses of which people prefer one."""
    preferences = [response.preference for response in ranking.responses]
    return sum(a != b for a, b in itertools.combinations(preferences, 2))


def _time(
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
        each = sum(evaluation[part] for part in ("texts", "pairs", "questions", "choices"))
        planned["evaluate"] = evaluation["models"] * each + evaluation["contests"]
    if any(records and not rows[name] for name, records in planned.items()):
        return None
    by_stage = {name: n * seconds[name] / rows[name] for name, n in planned.items() if n}
    return {"runs": runs, "seconds": sum(by_stage.values()), "by_stage": by_stage}


def _time_text(time: dict[str, Any] | None) -> str:
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
    except (SelfRewardError, TypeError, AttributeError):  # its config may hold anything
        return []
