"""All that a run reads from outside, gathered and checked, as the files of its directory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from selfreward.config import Config, JudgeConfig, JurorConfig
from selfreward.config.combinations import check_feasible
from selfreward.config.judging import BASES, OWN_MODELS, ContestConfig
from selfreward.config.load import dump_config
from selfreward.errors import ConfigError
from selfreward.inputs import seeds
from selfreward.inputs.columns import (
    PromptRow,
    demonstration_of,
    dump_prompt_rows,
    read_prompt_rows,
)
from selfreward.inputs.functions import function_inputs
from selfreward.inputs.heldout import evaluation_inputs
from selfreward.inputs.judge_templates import (
    COMPARE_TEMPLATE,
    COMPARE_VARIABLES,
    META_VARIABLES,
    WORSE_VARIABLES,
    load_author_templates,
    load_jury_templates,
)
from selfreward.inputs.models import beside_config
from selfreward.inputs.rankings import copy_ranked, read_ranked
from selfreward.inputs.templates import find_template, load_template, read_source
from selfreward.inputs.topics import dump_topics, read_topics
from selfreward.storage.create import create_directory, free_directory
from selfreward.storage.directory import Run

J = TypeVar("J", JurorConfig, JudgeConfig, ContestConfig)


def create_run(config: Config, name: str, source: Path | None = None) -> Run:
    """Make a run directory with copies of all that the run reads; it appears whole or not at all.

    Args:
        name: Letters, digits, dot, dash and underscore, at most 64.
        source: The config file as given; templates and seed data are also looked for beside it.

    Raises:
        ConfigError: Bad name, name in use, or anything wrong with templates or seed data.
    """
    target = free_directory(name)
    return create_directory(target, run_inputs(found_models(config, source), source))


def found_models(config: Config, source: Path | None) -> Config:
    """The config with each relative model path that lies beside its file as an absolute one."""
    beside = source.parent if source else None
    author = config.prompts.author
    if author != "policy":
        author = beside_config(author, beside)
    return with_judges(config, lambda name: beside_config(name, beside)).model_copy(
        update={
            "model": beside_config(config.model, beside),
            "prompts": config.prompts.model_copy(update={"author": author}),
        }
    )


def with_judges(config: Config, rename: Callable[[str], str]) -> Config:
    """The config with other names of the judges' models that are none of the run's own.

    Args:
        rename: Given the name, gives the new one.
    """

    def renamed(judge: J) -> J:
        named = {"model": judge.model, "reference": getattr(judge, "reference", None)}
        fixed = {k: name for k, name in named.items() if name not in (None, *OWN_MODELS, *BASES)}
        return judge.model_copy(update={k: rename(fixed[k]) for k in fixed})

    jury = tuple(map(renamed, config.judge.jury))
    contests = tuple(map(renamed, config.evaluation.contests))
    return config.model_copy(
        update={
            "judge": renamed(config.judge).model_copy(update={"jury": jury}),
            "evaluation": config.evaluation.model_copy(update={"contests": contests}),
        }
    )


def run_inputs(config: Config, source: Path | None) -> dict[str, str]:
    """Text of every input file of a run, all checked.

    Raises:
        ConfigError: The first thing that is wrong.
    """
    check_feasible(config)
    beside = source.parent if source else None
    judges = load_jury_templates(config.judge, beside)
    templates = judges | load_author_templates(config.prompts, beside)
    dump = seeds.dump_rows
    files = {
        "config.yaml": source.read_text(encoding="utf-8") if source else dump_config(config),
        "config.resolved.yaml": dump_config(config),
        **{f"templates/{name}.jinja": template.source for name, template in templates.items()},
        "seeds/prompts.jsonl": dump(read_demonstrations(config, beside)),
    }
    if config.chat_template:
        chat = find_template(config.chat_template, beside)
        files["templates/chat.jinja"] = read_source(chat)
    if config.prompts.topics:
        topics = read_topics(config.prompts.topics, beside)
        files["seeds/topics.jsonl"] = dump_topics(topics)
    if config.prompts.dataset:
        rows = read_prompt_rows(config.prompts.dataset, beside)
        check_dataset(rows, config)
        files["seeds/dataset.jsonl"] = dump_prompt_rows(rows)
    if config.sft and config.sft.ift:
        files["seeds/ift.jsonl"] = dump(seeds.read_ift(config.sft.ift, beside))
    if config.sft and config.sft.eft:
        eft = seeds.read_eft(config.sft.eft, beside)
        check_eft(eft, config)
        files["seeds/eft.jsonl"] = dump(eft)
    if config.train.preferences:
        read_ranked(config.train.preferences, beside)
        files["seeds/preferences.jsonl"] = copy_ranked(config.train.preferences, beside)
    if config.compares:
        compare = load_template(find_template(COMPARE_TEMPLATE, beside), COMPARE_VARIABLES)
        files["templates/compare.jinja"] = compare.source
    if config.meta is not None:
        meta = load_template(find_template(config.meta.template, beside), META_VARIABLES)
        files["templates/meta.jinja"] = meta.source
    files |= selection_inputs(config, beside)
    files |= function_inputs(config, beside)
    return files | evaluation_inputs(config.evaluation, beside, files)


def check_dataset(rows: Sequence[PromptRow], config: Config) -> None:
    """Refuse a data set of prompts that is used up before the last iteration, as none comes twice.

    Raises:
        ConfigError: With how many there are and how many are needed; or one that nobody answered,
            with ``responses.demonstrations``.
    """
    there, needed = len(rows), config.iterations * config.prompts.count
    if there < needed:
        raise ConfigError(
            f"prompts.dataset: holds {there} different prompts, but {config.iterations} iterations "
            f"of prompts.count={config.prompts.count} draw {needed}",
            "Give more rows, or a lower prompts.count or fewer iterations.",
        )
    if config.responses.demonstrations:
        for row in rows:
            if not demonstration_of(row.columns):
                raise ConfigError(
                    f"prompts.dataset: no text in column 'demonstration' of the prompt "
                    f"{row.prompt!r:.80}, which responses.demonstrations asks for",
                    "Name the column that has it: prompts.dataset={path: ..., columns: "
                    "{demonstration: response}}.",
                )


def read_demonstrations(config: Config, beside: Path | None) -> list[str]:
    """The human prompts that new ones are written after: single requests, no conversations.

    Raises:
        ConfigError: They are fewer than an attempt is shown.
    """
    key, source = config.prompt_seeds
    if key == "sft.ift":
        rows = seeds.read_ift(source, beside)
        prompts = seeds.single_requests((row.prompt, row.columns) for row in rows)
    else:
        prompts = seeds.read_prompts(source, beside)
    check_shots(prompts, config)
    return prompts


def check_shots(prompts: list[str], config: Config) -> None:
    """Refuse human prompts that are fewer than an attempt at a new one is shown.

    Raises:
        ConfigError: With how many there are and how many are asked for.
    """
    (key, source), shots = config.prompt_seeds, config.prompts.shots
    usable = len(seeds.shown(prompts, multiline=config.prompts.multiline))
    if config.prompts.dataset is None and usable < shots:
        lines = " of one line" if usable < len(prompts) else ""
        raise ConfigError(
            f"{key}: {usable} prompts{lines} in {source.path}, but prompts.human_shots and "
            f"prompts.generated_shots ask for {shots} demonstrations",
            "Give more rows, set prompts.seeds to another file of prompts (seed/ift.jsonl is "
            "shipped), or lower the shots.",
        )


def check_eft(rows: Sequence[seeds.EftExample], config: Config) -> None:
    """Refuse EFT rows of which none can be trained on in the judge's form.

    Raises:
        ConfigError: The judge writes, and no row has a justification.
    """
    source, form = config.sft.eft if config.sft else None, config.judge.form
    if source and not any(row.teaches(writes=config.judge.traits.writes) for row in rows):
        raise ConfigError(
            f"sft.eft: none of the {len(rows)} scored answers in {source.path} has a "
            f"justification, which judge.form={form} is trained to write",
            "Set judge.form=expected with judge.template=judge/expected.jinja, which learns from "
            "scores alone; or give rows with a justification; or set sft.eft=null, with "
            f"sft.selection.ranked={source.path} to have the model write them: see docs/eft.md.",
        )


def selection_inputs(config: Config, beside: Path | None) -> dict[str, str]:
    """Text of the input files of ``sft.selection``, all checked; none where it is off.

    Raises:
        ConfigError: Among others, a judge that writes no justifications, or IFT rows that are
            needed and not there.
    """
    selection = config.sft.selection if config.sft else None
    if config.sft is None or selection is None:
        return {}
    if not config.judge.traits.writes:
        raise ConfigError(
            f"sft.selection: makes written judgments, but judge.form is {config.judge.form}",
            "Set judge.form=written, or give what people scored as sft.eft: see docs/eft.md.",
        )
    if selection.ranked is not None:
        read_ranked(selection.ranked, beside, selection.prompts, needs_order=False)
        return {"seeds/ranked.jsonl": copy_ranked(selection.ranked, beside)}
    if config.sft.ift is None:
        raise ConfigError(
            "sft.selection: without selection.ranked it needs the good answers of sft.ift",
            "Set sft.selection.ranked or sft.ift.",
        )
    worse = load_template(find_template(selection.template, beside), WORSE_VARIABLES)
    return {"templates/worse.jinja": worse.source}
