"""What the stages of one iteration take, by the config alone: records, tokens, optimizer steps."""

import math
from collections.abc import Sequence
from typing import Any

from selfreward.config.run import Config
from selfreward.inputs.rankings import Ranking
from selfreward.records import JUDGE_PAIRS, META, judge_stage
from selfreward.stages.comparisons import form_of
from selfreward.training.options import DEFAULTS

CHARACTERS_PER_TOKEN = 4
"""Of English text with the vocabularies in use now; an estimate."""


def prompts_stage(config: Config, mean_prompt: int, evolving: int) -> dict[str, Any]:
    """The stage of prompts.

    Args:
        mean_prompt: Tokens of a prompt.
        evolving: Characters of the template of rewrites.
    """
    settings = config.prompts
    if settings.dataset is not None:
        return {
            "stage": "prompts",
            "records": settings.count,
            "note": "drawn",
            "sampled": 0,
            "read": 0,
        }
    rewritten = settings.most_evolved
    shown = (settings.count - rewritten) * settings.shots * mean_prompt
    rewrites = f", {rewritten} of them rewrites" if rewritten else ""
    return {
        "stage": "prompts",
        "records": settings.count,
        "note": f"accepted of at most {settings.budget} tried{rewrites}",
        "sampled": settings.budget * settings.max_new_tokens,
        "read": shown + rewritten * (mean_prompt + tokens_of(evolving)),
    }


def stages_of(
    config: Config,
    iteration: int,
    prompts: list[str],
    written: dict[str, Any],
    rubrics: list[int],
    compared: int,
    preferences: Sequence[Ranking] = (),
    sft: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The stages that take time.

    Args:
        written: That of prompts.
        rubrics: Characters of the judges' templates.
        compared: Of the template of comparisons.
        preferences: What ``train.preferences`` holds, if it is set.
        sft: The seed step, whose rows may be trained on again.
    """
    count, n, anchors = config.prompts.count, config.responses.n, config.responses.anchors
    mean_prompt = mean_prompt_of(prompts)
    asked = [mean_prompt + tokens_of(rubric) for rubric in rubrics]
    rows = [
        written,
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
        *(_judging(config, iteration, juror, tokens) for juror, tokens in enumerate(asked)),
        _comparing(config, mean_prompt + tokens_of(compared)),
        _meta_judging(config, iteration, asked[0]),
    ]
    if config.online is not None:
        rows.append(_online(config, mean_prompt, asked))
    elif config.train.preferences is not None:
        rows.append(_by_people(config, preferences))
    else:
        tokens = mean_prompt + config.responses.max_new_tokens
        rows.append(_training(config, iteration, tokens, sft))
    return [row for row in rows if row["records"]]


def _training(
    config: Config, iteration: int, tokens: int, sft: dict[str, Any] | None
) -> dict[str, Any]:
    """The stage that trains, with what is replayed of the iterations before.

    Args:
        tokens: Of a prompt with a response.
        sft: The seed step, whose rows ``train.replay.seed`` trains on again.
    """
    train = config.train
    if train.method == "none":
        return {"stage": "train", "records": 0}
    is_dpo = train.method == "dpo"
    answers = config.responses.n + config.responses.demonstrations
    each = config.pairs.most(answers) if is_dpo else 1
    rounds = range(1 if train.replay.aift else iteration, iteration + 1)
    judged = sum(is_dpo and JUDGE_PAIRS in config.stages(t) for t in rounds)
    records = config.prompts.count * (each * len(rounds) + judged)
    group = config.dpo if is_dpo else train.sft
    again = sft if train.replay.seed and sft else {"rows": 0, "tokens_estimate": 0}
    rows = records + again["rows"]
    steps = steps_of(train.method, group.options, rows, config.launch.processes)
    seed = f" beside {again['rows']:,} rows of seed data" if again["rows"] else ""
    return {
        "stage": "train",
        "records": records,
        "note": f"{'pairs' if is_dpo else 'responses'} at most, {steps} steps{seed}",
        "steps": steps,
        "sampled": 0,
        "read": (1 + is_dpo) * records * tokens + again["tokens_estimate"],
    }


def _by_people(config: Config, preferences: Sequence[Ranking]) -> dict[str, Any]:
    """The stage that trains on what people preferred."""
    ordered = [ranking for ranking in preferences if ranking.is_ordered]
    steps = steps_of("dpo", config.dpo.options, len(ordered), config.launch.processes)
    texts = [len(r.prompt) + len(answer.text) for r in ordered for answer in r.responses]
    tokens = tokens_of(sum(texts)) / max(1, len(texts))  # of a prompt with an answer
    return {
        "stage": "train",
        "records": len(ordered),
        "note": f"pairs of people at most, {steps} steps",
        "steps": steps,
        "sampled": 0,
        "read": math.ceil(2 * len(ordered) * tokens),
    }


def _online(config: Config, prompt: int, asked: list[int]) -> dict[str, Any]:
    """The stage that trains by a method that samples; its judges are asked of every response.

    Criteria are those of the stage ``judgments``.

    Args:
        prompt: Tokens of one.
        asked: Of each judge's rubric with a prompt.
    """
    options, method = config.online_options, config.train.method
    settings = {"num_iterations": 1, **DEFAULTS[method], **options}
    updates, group = int(settings["num_iterations"]), int(settings["num_generations"])
    steps = steps_of(method, options, config.prompts.count * group * updates, 1)
    per_step = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    sampled = math.ceil(steps * per_step / updates)
    length = int(options["max_completion_length"])
    judges = [
        (judge, at) for judge, at in zip(config.judge.jurors, asked, strict=True) if judge.weight
    ]
    written = sum(judge.num_texts(0, 1) * judge.max_new_tokens for judge, _ in judges)
    judged = sum(judge.num_reads * (tokens + length) for judge, tokens in judges)
    return {
        "stage": "train",
        "records": math.ceil(sampled / group),
        "note": f"prompts, {group} responses to each, {steps} steps",
        "steps": steps,
        "sampled": sampled * (length + written),
        "read": sampled * (updates * (prompt + length) + judged),
    }


def _judging(config: Config, iteration: int, juror: int, asked: int) -> dict[str, Any]:
    """The stage of one judge.

    Args:
        asked: Tokens of the rubric with a prompt.
    """
    judge, count = config.judge.jurors[juror], config.prompts.count
    answers = count * config.responses.per_prompt(iteration)
    votes = judge.num_votes
    model = f"{judge.name}, " if config.judge.jury or judge.function else ""
    return {
        "stage": judge_stage(juror),
        "records": answers * votes,
        "note": f"{model}{judge.form}, {votes} per response",
        "sampled": judge.num_texts(count, answers) * judge.max_new_tokens,
        "read": answers * judge.num_reads * (asked + config.responses.max_new_tokens),
    }


def _comparing(config: Config, asked: int) -> dict[str, Any]:
    """The stage of comparisons, as if all responses tied.

    Args:
        asked: Tokens of the template with a prompt.
    """
    n = config.responses.n + config.responses.demonstrations
    orders = config.prompts.count * n * (n - 1)
    written = config.judge.max_new_tokens if form_of(config.judge) == "written" else 0
    return {
        "stage": "comparisons",
        "records": orders if config.judge.break_ties else 0,
        "note": "at most; where scores tie, in both orders",
        "sampled": orders * written,
        "read": orders * (asked + 2 * config.responses.max_new_tokens),
    }


def _meta_judging(config: Config, iteration: int, asked: int) -> dict[str, Any]:
    """The stage in which judgments of one response of each prompt are judged.

    Args:
        asked: Tokens of the rubric with a prompt.
    """
    judge, meta = config.judge, config.meta
    is_on = meta is not None and META in config.stages(iteration)
    compared = min(judge.votes, (meta and meta.judgments) or judge.votes) if is_on else 0
    orders = config.prompts.count * compared * (compared - 1)
    written = judge.max_new_tokens if form_of(judge) == "written" else 0
    shown = asked + config.responses.max_new_tokens + 2 * judge.max_new_tokens
    return {
        "stage": META,
        "records": orders,
        "note": "at most; each two judgments of a response, in both orders",
        "sampled": orders * written,
        "read": orders * shown,
    }


def steps_of(method: Any, options: dict[str, Any], rows: int, processes: int) -> int:
    """Optimizer steps; batch sizes are per process, and the rows of all epochs follow on."""
    settings = {**DEFAULTS[method], **options}
    if settings.get("max_steps", -1) > 0:
        return int(settings["max_steps"])
    per_step = int(settings["per_device_train_batch_size"]) * processes
    per_step *= int(settings["gradient_accumulation_steps"])
    return math.ceil(max(1, round(rows * float(settings["num_train_epochs"]))) / per_step)


def mean_prompt_of(prompts: list[str]) -> int:
    """Tokens of a prompt such as these, on average."""
    return math.ceil(sum(map(len, prompts)) / len(prompts) / CHARACTERS_PER_TOKEN)


def tokens_of(characters: int) -> int:
    """About how many tokens so many characters are."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)
