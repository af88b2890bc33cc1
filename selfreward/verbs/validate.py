"""Checking a config without running it: templates rendered, seed data read, options tried."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.config.combinations import without_effect
from selfreward.config.judging import HOSTED, OWN_MODELS
from selfreward.config.run import Config
from selfreward.errors import ConfigError
from selfreward.inputs import functions, models, seeds, shipped
from selfreward.inputs.collect import found_models, read_demonstrations, selection_inputs
from selfreward.inputs.columns import read_prompt_rows, values_of
from selfreward.inputs.conversations import MESSAGES, num_answered
from selfreward.inputs.heldout import BENCHMARK
from selfreward.inputs.judge_templates import (
    load_author_templates,
    load_jury_templates,
    template_name,
)
from selfreward.inputs.models import is_here
from selfreward.inputs.rankings import read_ranked
from selfreward.inputs.rows import read_rows
from selfreward.inputs.templates import Template, find_template
from selfreward.inputs.topics import read_topics
from selfreward.records import judge_key
from selfreward.verbs.layout import counted
from selfreward.verbs.planned_stages import CHARACTERS_PER_TOKEN
from selfreward.workers.checks import check_run

if TYPE_CHECKING:
    from selfreward.engines.chat import Chat

_OTHER_SCALE = re.compile(
    r"\b(?:0|1)\s*(?:-|\u2013|to|and|through)\s*(?:10|100|7)\b"
    r"|\bout of (?:10|100|7)\b|/\s?(?:10|100)\b"
)
_ONE_LINE = re.compile(r"\b(?:one|a single) line\b", re.IGNORECASE)
_JSON = re.compile(r"\bjson\b", re.IGNORECASE)
_EXPLAIN = re.compile(
    r"\b(?:(?:first|briefly) (?:explain|justify)|explain (?:in|why|your|which|how|briefly)"
    r"|justify your|think step by step|step by step)\b",
    re.IGNORECASE,
)
"""A guess: templates are free text, so none of these refuses a run."""


def validate(config: Config, source: Path | None) -> list[dict[str, Any]]:
    """Check all that can be checked without the model; with conversations, its chat format too.

    Returns:
        One mapping per part: ``name``, ``detail`` and ``warning``, which is true of what a run may
        stumble over.

    Raises:
        ConfigError: The first thing that is wrong.
    """
    inputs = check_run(config, source)
    config = found_models(config, source)
    beside = source.parent if source else None
    judges = load_jury_templates(config.judge, beside)
    authors = load_author_templates(config.prompts, beside)
    prompts = read_demonstrations(config, beside)
    key, file = config.prompt_seeds
    ift = seeds.read_ift(config.sft.ift, beside) if config.sft and config.sft.ift else []
    first = _example(prompts, ift)
    asked_of_author = _asked_of_author(config, beside, prompts)
    turns = {name: template.render(**asked_of_author) for name, template in authors.items()}
    places = _template_places(config, beside)
    parts = [
        ("config", f"{counted(config.iterations, 'iteration')} from {config.model}"),
        *(
            (f"{name} template", f"{places[name]}, {len(asked)} characters with a short answer")
            for name, judge in judges.items()
            for asked, _ in [judge.render(**_asked_of_judge(judge, first))]
        ),
        *(
            (f"{name} template", f"{places[name]}, the model's turn begins with {turn[:30]!r}")
            for name, (_, turn) in turns.items()
        ),
        ("seed prompts", f"{len(prompts)} of {file.path} ({key})"),
    ]
    parts += _data(config, inputs, beside, ift)
    for function in functions.read_functions(inputs.get(functions.COPY, "")).values():
        parts.append(("function", f"{function.name}, {function.path}"))
    is_sft = config.train.method == "sft"
    groups = {"engine": True, "sft": config.sft, "dpo": True, "train.sft": is_sft}
    groups |= {name: config.train.method == name for name in ("rloo", "grpo")}
    groups |= {name: getattr(config, name) is not None for name in ("lora", "quantization")}
    parts.append(("options", f"{', '.join(name for name in groups if groups[name])}: known"))
    warnings = [*_absent(config), *_misled(config, judges), *_long(config, ift)]
    warnings += without_effect(config)
    if config.prompts.multiline and _ONE_LINE.search(turns["prompts"][0]):
        better = "prompts.multiline=true takes several: instruct/multiline.jinja asks for them"
        warnings.append(("prompts template", f"asks for one line, but {better}"))
    return [
        {"name": name, "detail": detail, "warning": warning}
        for found, warning in ((parts, False), (warnings, True))
        for name, detail in found
    ]


def _data(
    config: Config, inputs: Mapping[str, str], beside: Path | None, ift: list[seeds.IftExample]
) -> list[tuple[str, str]]:
    """The data that a run reads: what it is and how much there is of it."""
    parts: list[tuple[str, str]] = []
    if config.prompts.topics:
        topics = counted(inputs["seeds/topics.jsonl"].count("\n"), "topic")
        parts.append(("topics", f"{topics}, each once before any comes twice"))
    if config.prompts.dataset:
        rows = read_prompt_rows(config.prompts.dataset, beside)
        names = sorted({name for row in rows for name in values_of(row.columns)} - {MESSAGES})
        kept = f"; kept with it: {', '.join(names)}" if names else ""
        again = sum(1 for _ in read_rows(config.prompts.dataset, beside)) - len(rows)
        left = f"; {again} more have a prompt that came before" if again else ""
        parts.append(("prompts data set", f"{counted(len(rows), 'row')}, each once{kept}{left}"))
    parts += _conversations(config, inputs)
    if config.sft:
        if config.sft.ift:
            again = len(ift) - len(set(ift))
            said = f", {again} of them again" if again else ""
            parts.append(("IFT", f"{counted(len(ift), 'row')} of {config.sft.ift.path}{said}"))
        if config.sft.eft:
            eft = seeds.read_eft(config.sft.eft, beside)
            used = sum(row.teaches(writes=config.judge.traits.writes) for row in eft)
            left = f"; {len(eft) - used} more have no justification" if used < len(eft) else ""
            parts.append(("EFT", f"{counted(used, 'row')} of {config.sft.eft.path}{left}"))
    if config.train.preferences:
        ranked = read_ranked(config.train.preferences, beside)
        pairs = counted(sum(ranking.is_ordered for ranking in ranked.rankings), "pair")
        left = "".join(f", {reason} {count}" for reason, count in ranked.left_out.items())
        parts.append(("preferences", f"{pairs} of {config.train.preferences.path}{left}"))
    for name, text in selection_inputs(config, beside).items():
        parts.append(("selection", f"{name}, {len(text.splitlines())} lines"))
    for name, text in inputs.items():
        if Path(name).stem in ("heldout", "canaries", "questions") or BENCHMARK in name:
            parts.append(("evaluation", f"{name}, {len(text.splitlines())} rows"))
    return parts


def filled_in(config: Config, source: Path | None, name: str) -> dict[str, str | None]:
    """A template of the config, filled in with seed data, as its model would be asked.

    Args:
        name: As of a run's copies: ``judge``, ``judge-1``, ..., ``criteria``, ``prompts``, or
            ``evolve``, which shows the first operation.

    Returns:
        ``template``, its ``user`` turn and the ``started`` turn of the model; and ``text``, all
        that the model is given in its chat format. That is None for a model that is not on this
        machine, or known by its endpoints alone.

    Raises:
        ConfigError: No such template; or the config is wrong.
    """
    inputs = check_run(config, source)
    config = found_models(config, source)
    beside = source.parent if source else None
    templates = load_jury_templates(config.judge, beside)
    asked = dict.fromkeys(("prompts", "evolve"), (config.prompts.author, False))
    for juror, judge in enumerate(config.judge.jurors):
        if not judge.traits.template:
            continue
        weighs = judge.traits.weighs and not judge.traits.writes
        asked[template_name("judge", juror)] = (judge.model, weighs)
        asked[template_name("criteria", juror)] = (judge.model, False)
    templates |= load_author_templates(config.prompts, beside)
    if name not in templates:
        raise ConfigError(f"--show {name}: no such template", f"One of: {', '.join(templates)}.")
    model, weighs = asked[name]
    prompts = read_demonstrations(config, beside)
    ift = seeds.read_ift(config.sft.ift, beside) if config.sft and config.sft.ift else []
    texts: dict[str, str | list[str]] = {
        **_asked_of_author(config, beside, prompts),
        **_asked_of_judge(templates[name], _example(prompts, ift)),
    }
    user, started = templates[name].render(**texts)
    text = None
    if (chat := _chat(config, model, inputs.get("templates/chat.jinja"))) is not None:
        ids = chat.score_prompt(user)[0] if weighs else chat.prompt_ids(user, started)
        text = chat.decode(ids)
    return {"template": templates[name].name, "user": user, "started": started, "text": text}


def _example(prompts: list[str], ift: list[seeds.IftExample]) -> seeds.IftExample:
    """What a judge is asked about to show its template: a prompt with its own answer, if any."""
    return ift[0] if ift else seeds.IftExample(prompts[0], "An answer.")


def _asked_of_judge(template: Template, about: seeds.IftExample) -> dict[str, str]:
    asked = template.asked(about.prompt, about.columns)
    return {**asked, "response": about.response, "criterion": about.prompt}


def _asked_of_author(
    config: Config, beside: Path | None, prompts: list[str]
) -> dict[str, str | list[str]]:
    """What the author of prompts is asked with, to show its templates."""
    asked: dict[str, str | list[str]] = {
        "prompt": prompts[0], "demonstrations": prompts[: config.prompts.human_shots]
    }  # fmt: skip
    if config.prompts.topics:
        asked["topic"] = read_topics(config.prompts.topics, beside)[0]
    if config.prompts.evolve:
        asked["operation"] = config.prompts.evolve.operations[0]
    return asked


def _template_places(config: Config, beside: Path | None) -> dict[str, str]:
    """Where each template of the config was found, by ``template_name``."""
    named = {"prompts": config.prompts.template}
    named |= {"evolve": config.prompts.evolve.template} if config.prompts.evolve else {}
    for juror, judge in enumerate(config.judge.jurors):
        if not judge.traits.template:
            continue
        named[template_name("judge", juror)] = judge.template
        if judge.traits.by_criterion:
            named[template_name("criteria", juror)] = judge.criteria_template
    found = {name: find_template(template, beside) for name, template in named.items()}
    shipped_ones = shipped.prompts_directory()
    return {
        name: f"{path.relative_to(shipped_ones)} (shipped)"
        if path.is_relative_to(shipped_ones)
        else str(path)
        for name, path in found.items()
    }


def filled_in_text(found: Mapping[str, str | None]) -> str:
    """What ``selfreward validate --show`` prints."""
    if found["text"] is not None:
        return found["text"]
    started = f"\n\nthe model's turn, which begins with:\n\n{found['started']}"
    return f"{found['user']}{started if found['started'] else ''}"


def _chat(config: Config, model: str, template: str | None) -> "Chat | None":
    """The chat format that a model of the config is asked in, if it can be known here."""
    from selfreward.engines.chat import Chat

    is_policy = model in OWN_MODELS and model != HOSTED
    source = config.model if is_policy else model
    revision = config.revision if is_policy else None
    if model == HOSTED or not is_here(source, revision):
        return None
    trust = config.trust_remote_code
    return Chat(
        models.resolve(source, revision=revision, trust_remote_code=trust).path,
        system_prompt=config.system_prompt,
        template_kwargs=config.chat_template_kwargs,
        trust_remote_code=trust,
        chat_template=template if is_policy else None,
    )


def _conversations(config: Config, inputs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """How many conversations are answered, if any, and that the chat format shows their turns.

    Raises:
        ConfigError: It does not.
    """
    found = num_answered(lambda name: inputs.get(name, ""))
    if not found:
        return
    chat = _chat(config, "policy", inputs.get("templates/chat.jinja"))
    if chat is not None:
        chat.check_conversation()
    shown = "the model is shown all turns" if chat else "the model is not here to check its format"
    yield "conversations", f"{counted(found, 'prompt')} of several turns; {shown}"


def _absent(config: Config) -> Iterator[tuple[str, str]]:
    """Models of the hub that are not in its cache, by key."""
    named = {"model": config.model, "prompts.author": config.prompts.author}
    named |= {f"{judge_key(k)}.model": judge.model for k, judge in enumerate(config.judge.jurors)}
    for key, model in named.items():
        revision = config.revision if key == "model" else None
        if model not in OWN_MODELS and not is_here(model, revision):
            yield key, f"{model} is not on this machine: run would download it from the hub"


def _long(config: Config, ift: list[seeds.IftExample]) -> Iterator[tuple[str, str]]:
    """IFT rows that are likely too long to train on."""
    if config.sft is None:
        return
    most = config.sft.max_length * CHARACTERS_PER_TOKEN
    if long := sum(len(row.prompt) + len(row.response) > most for row in ift):
        yield (
            "IFT",
            (
                f"{counted(long, 'row')} of over {most:,} characters: what has more than "
                f"sft.max_length={config.sft.max_length} tokens is dropped and recorded"
            ),
        )


def _misled(config: Config, templates: Mapping[str, Template]) -> Iterator[tuple[str, str]]:
    """Judge templates that seem to ask for what their form does not read, by name."""
    for juror, judge in enumerate(config.judge.jurors):
        if not judge.traits.template:
            continue
        name = template_name("judge", juror)
        text = templates[name].source
        if other := _OTHER_SCALE.search(text):
            yield f"{name} template", f"speaks of {other[0]!r}, but scores are read from 0 to 5"
        if _JSON.search(text):
            yield f"{name} template", "speaks of JSON, but a verdict is read as `Score: n`"
        if not judge.traits.writes and (asked := _EXPLAIN.search(text)):
            what = f"asks to {asked[0].lower()!r}, but {judge_key(juror)}.form={judge.form}"
            yield f"{name} template", f"{what} writes nothing: the score comes first"
