"""All that can be checked of a config before the work: one function for every verb that asks.

``validate`` and ``plan`` call it, and so does a run before it looks for its model; so they refuse
the same configs with the same words. ``plan`` may be asked about another machine.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from selfreward.config import Config, EngineConfig, JurorConfig, SeedSource
from selfreward.config.combinations import check_feasible
from selfreward.config.judging import (
    BASES,
    HOSTED,
    OWN_MODELS,
    REWARD,
    RUN_MODELS,
    engine_of,
)
from selfreward.config.readers import decides
from selfreward.config.run import all_judges, check_judges
from selfreward.config.training import OnlineConfig
from selfreward.engines.kinds import MEMORY_OPTIONS, candidates
from selfreward.engines.kinds import check_options as check_engine_options
from selfreward.engines.reward import check_reward_model
from selfreward.engines.vllm_build import is_cpu_build
from selfreward.errors import ConfigError, PreflightError, SelfRewardError
from selfreward.inputs import functions, seeds
from selfreward.inputs.collect import (
    check_dataset,
    check_eft,
    check_shots,
    found_models,
    run_inputs,
)
from selfreward.inputs.columns import PromptRow, column_names, read_prompt_rows
from selfreward.inputs.conversations import requests_of
from selfreward.inputs.heldout import held_out_of, held_out_prompts
from selfreward.inputs.judge_templates import (
    load_author_templates,
    load_jury_templates,
    run_templates,
    template_name,
)
from selfreward.inputs.models import check_source
from selfreward.inputs.questions import QUESTION
from selfreward.inputs.templates import Template
from selfreward.records import judge_key
from selfreward.rewards import constraints
from selfreward.stages.overlap import HeldOut
from selfreward.storage.directory import Run
from selfreward.tracking.base import check_installed
from selfreward.training import checks, options
from selfreward.training.base import Method
from selfreward.workers import passed
from selfreward.workers.functions import Columns, check_functions


def check_run(config: Config, source: Path | None, *, here: bool = True) -> dict[str, str]:
    """Check all that ``run`` does before it works.

    Args:
        source: The config file; templates and seed data are also looked for beside it.
        here: See ``check_config``.

    Returns:
        Text of every input file of the run; see ``run_inputs``.

    Raises:
        ConfigError, PreflightError: See ``run_inputs`` and ``check_config``.
    """
    config = found_models(config, source)
    inputs = run_inputs(config, source)
    beside = source.parent if source else None
    templates = load_jury_templates(config.judge, beside)
    templates |= load_author_templates(config.prompts, beside)
    check_config(config, templates, here=here)
    if here:
        found = functions.read_functions(inputs.get(functions.COPY, ""))
        _check_functions(config, found, lambda name: inputs.get(name, ""))
    if config.prompts.dataset:
        rows = read_prompt_rows(config.prompts.dataset, beside)
        _check_left(rows, held_out_prompts(inputs), config)
    return inputs


def check_config(config: Config, templates: Mapping[str, Template], *, here: bool = True) -> None:
    """Check models' names, engines, judges, templates, launch and training, but load no model.

    It imports TRL, which takes seconds, where these options have not passed here, see ``passed``.

    Args:
        templates: Those of the judges by ``template_name``, ``prompts`` and, if any, ``evolve``.
        here: Whether the run is to happen on this machine; else what it lacks is no fault.

    Raises:
        ConfigError: The first thing that is wrong, with its key and what to do.
        PreflightError: The machine lacks what the config asks for, and nothing is wrong with that.
    """
    try:
        _check_config(config, templates, here)
    except PreflightError:
        if here:  # what would be wrong on any machine is told first
            _check_config(config, templates, False)
        raise


def _check_config(config: Config, templates: Mapping[str, Template], here: bool) -> None:
    name = passed.name_of(config, here=here)
    known = passed.is_known(name)
    check_source(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    if config.prompts.author != "policy":
        check_source(config.prompts.author, key="prompts.author")
    _check_engine(config.engine, "engine", here, known)
    for key, judge in all_judges(config).items():
        if judge.model not in OWN_MODELS:
            check_source(judge.model, key=f"{key}.model")
        reference = getattr(judge, "reference", None)
        if reference not in (None, *BASES):
            check_source(reference, key=f"{key}.reference")
        if here and judge.form == REWARD and Path(judge.model).is_dir():
            check_reward_model(Path(judge.model), f"{key}.model")
        if judge.engine is not None:
            _check_engine(judge.engine, f"{key}.engine", here, known)
    check_judges(config)
    if here:
        _check_trackers(config)
    _check_templates(config, templates)
    checks.check_command(config.launch, here=here)
    checks.check_reference(config.dpo, config.engine)
    _check_beside(config)
    if not known:
        _check_training(config, here)
        passed.keep(name)


def check_changed(run: Run, config: Config, changed: Collection[str]) -> None:
    """Check a config that a run is to go on with, before anything is written.

    Args:
        run: With its own copies of templates and seed data; nothing of it is altered.
        config: What its config is to become.
        changed: Keys in which the two differ.

    Raises:
        ConfigError, PreflightError: See ``check_config``; or what the run has copied is not what
            the config asks for, or not enough for its iterations.
    """
    check_feasible(config)
    if "track" in changed:
        _check_trackers(config)
    if "iterations" in changed:
        check_drawn(run, config)
    if "judge.form" in changed and config.sft is not None and config.sft.eft is not None:
        check_eft(seeds.read_eft(SeedSource(path=str(run.seed_file("eft").resolve()))), config)
    if not {"prompts.human_shots", "prompts.generated_shots"}.isdisjoint(changed):
        copy = SeedSource(path=str(run.seed_file("prompts").resolve()))
        check_shots(seeds.read_prompts(copy), config)
    if not any(map(decides, changed)):
        return
    canaries = run.seed_file("canaries")
    if config.evaluation.canaries and not canaries.is_file():
        raise ConfigError(
            f"evaluation.canaries: the run has no {canaries}",
            "A run keeps the data that it was made with; start a new run.",
        )
    check_config(config, run_templates(run, config))


def check_own_functions(run: Run) -> None:
    """Check that each reward function of a run can be imported, and can take what it gets.

    Raises:
        ConfigError: One cannot.
        IntegrityError: See ``run_functions``.
    """
    _check_functions(run.config, functions.run_functions(run), run.read_copy)


def _check_functions(
    config: Config, found: Mapping[str, functions.Function], read: Callable[[str], str]
) -> None:
    """Check the functions of a config, whose run reads its files by ``read``, "" if it has none."""
    if found:
        prompts, questions = (read(f"seeds/{kind}.jsonl") for kind in ("dataset", "questions"))
        columns = Columns(column_names(prompts), column_names(questions, QUESTION))
        check_functions(found, config, columns)
        if any(function.module == constraints.__name__ for function in found.values()):
            _check_constraints(prompts, "prompts.dataset")
            _check_constraints(questions, "evaluation.questions")


def _check_constraints(jsonl: str, key: str) -> None:
    """Check what the rows of a run's own copy are held to by ``rewards.constraints``."""
    for number, line in enumerate(jsonl.split("\n")[:-1], 1):
        try:
            constraints.check(json.loads(line).get("constraints"))
        except ValueError as error:
            raise ConfigError(f"{key}: row {number}: {error}", "See docs/rewards.md.") from None
        except ImportError as error:
            raise PreflightError(f"{key}: row {number}: {error}") from None


def check_drawn(run: Run, config: Config) -> None:
    """Check that the data set of prompts, where a run has one, lasts to the last iteration.

    Raises:
        ConfigError: It does not.
    """
    if config.prompts.dataset is not None:
        rows = read_prompt_rows(SeedSource(path=str(run.seed_file("dataset").resolve())))
        _check_left(rows, held_out_of(run), config)


def _check_left(rows: Sequence[PromptRow], held_out: Sequence[str], config: Config) -> None:
    """Refuse a data set that is used up early because so many rows give away what is held out."""
    check_dataset(rows, config)
    known = HeldOut(held_out, config.prompts.overlap_words)
    clear = [known.overlapping(requests_of(row.prompt, row.columns)) is None for row in rows]
    left = [row for row, is_clear in zip(rows, clear, strict=True) if is_clear]
    try:
        check_dataset(left, config)
    except ConfigError as error:
        lost = rows[clear.index(False)].prompt
        raise ConfigError(
            f"{error.message}, once those are left out that share "
            f"{config.prompts.overlap_words} words in a row with held-out ones, such as "
            f"{lost!r:.80}",
            f"{error.hint} prompts.overlap_words=null leaves none out.",
        ) from None


def _check_trackers(config: Config) -> None:
    for name in config.track:
        check_installed(name)


def _check_training(config: Config, here: bool) -> None:
    """Check what torch, TRL and peft know."""
    checks.check_gpus(config.launch, here=here)
    checks.check_training("dpo", config.dpo.options, config.launch, here=here)
    checks.check_weights(config.dpo)
    train = config.train
    online: dict[Method, OnlineConfig] = {"rloo": config.rloo, "grpo": config.grpo}
    for method, group in online.items():
        if train.method == method:
            checks.check_training(method, config.online_options, config.launch, here=here)
        elif group.model_extra:
            checks.check_training(method, group.options, config.launch, here=here)
    if train.method == "sft" or train.sft.options:
        checks.check_training("sft", train.sft.options, config.launch, group="train.sft", here=here)
    if config.sft is not None:
        checks.check_eft_weight(config.sft.eft_weight, config.sft.options, "sft")
        if train.replay.seed:
            checks.check_eft_weight(config.sft.eft_weight, train.sft.options, "train.sft")
        checks.check_training("sft", config.sft.options, config.launch, here=here)
    if config.lora is not None:
        options.check_lora(config.lora)
    if config.quantization is not None and here:
        checks.check_bitsandbytes()


def _check_engine(engine: EngineConfig, key: str, here: bool, known: bool) -> None:
    if known and engine.kind == "vllm":  # which takes long to import
        return
    try:
        check_engine_options(engine.kind, engine.options)
    except SelfRewardError as error:  # which speaks of `engine`, as it knows no other
        if here or not isinstance(error, PreflightError):
            message = error.message
            if message.startswith("engine."):
                message = f"{key}.{message.removeprefix('engine.')}"
            raise type(error)(message, error.hint) from None


def _check_beside(config: Config) -> None:
    """Check that judges that are asked while a model is trained leave it memory, and each other.

    A judge is there as long as the training: a server that takes weights cannot be two of them.
    """
    if config.online is None:
        return
    served: dict[str, str] = {}
    for number, judge in enumerate(config.judge.jurors):
        engine = engine_of(judge, config.engine)
        is_asked = judge.weight and judge.traits.template
        if is_asked and engine.kind == "server" and judge.model in RUN_MODELS:
            places = str(engine.options.get("endpoints"))
            if served.setdefault(places, judge.model) != judge.model:
                raise ConfigError(
                    f"train.method={config.train.method} asks {judge_key(number)}, {judge.model}, "
                    f"while it trains, and the same endpoints serve {served[places]} as a judge",
                    f"Set {judge_key(number)}.engine with endpoints of its own.",
                )
        told = any(option in engine.options for option in MEMORY_OPTIONS)
        may = is_asked and not told and not is_cpu_build()  # which takes 2 GB unless it is told
        if may and candidates(engine.kind, engine.options)[0] == "vllm":
            key = f"{judge_key(number)}.engine" if judge.engine is not None else "engine"
            raise ConfigError(
                f"train.method={config.train.method} asks {judge_key(number)} while it trains, and "
                "vLLM would take nine tenths of the memory that both need",
                f"Set {key}.kind=vllm and {key}.gpu_memory_utilization=0.3, say; or a server.",
            )


def _check_templates(config: Config, templates: Mapping[str, Template]) -> None:
    """Check that each template can be filled in, and that a hosted judge's leaves its turn."""
    filled: dict[str, str | list[str]] = dict.fromkeys(
        (
            "prompt",
            "response",
            "criterion",
            "response_a",
            "response_b",
            "topic",
            "operation",
            "asked",
            "judgment_a",
            "judgment_b",
        ),
        "?",
    )
    filled["demonstrations"] = ["?"] * config.prompts.human_shots
    started = {
        name: replace(template, name=f"{name} template").render(**filled)[1]
        for name, template in templates.items()
    }
    for juror, judge in enumerate(config.judge.jurors):
        if judge.model == HOSTED and started[template_name("judge", juror)]:
            raise _starts(judge, judge_key(juror))


def _starts(judge: JurorConfig, key: str) -> ConfigError:
    return ConfigError(
        f"{key}.template={judge.template} starts the judge's turn, which a hosted judge does not "
        "let us do",
        f"Set {key}.template to one without a started turn, or name the judge's model.",
    )
