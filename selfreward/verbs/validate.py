"""Checking a config without running it: templates rendered, seed data read, option names known."""

from pathlib import Path
from typing import Any

from selfreward.config.run import Config
from selfreward.inputs import seeds
from selfreward.inputs.collect import run_inputs, selection_inputs
from selfreward.inputs.judge_templates import PROMPTS_VARIABLES, load_jury_templates
from selfreward.inputs.templates import find_template, load_template


def validate(config: Config, source: Path | None) -> list[dict[str, Any]]:
    """Check all that can be checked without the model.

    Returns:
        One mapping per part: ``name`` and ``detail``.

    Raises:
        ConfigError: The first thing that is wrong.
    """
    beside = source.parent if source else None
    judges = load_jury_templates(config.judge, beside)
    author = load_template(find_template(config.prompts.template, beside), PROMPTS_VARIABLES)
    prompts = seeds.read_prompts(config.prompts.seeds, beside)
    texts = {"prompt": prompts[0], "response": prompts[-1], "criterion": prompts[0]}
    _, begun = author.render(demonstrations=prompts[: config.prompts.human_shots])
    parts = [
        ("config", f"{config.iterations} iterations from {config.model}"),
        *(
            (f"{name} template", f"{judge.name}, {len(asked)} characters with a short answer")
            for name, judge in judges.items()
            for asked, _ in [judge.render(**texts)]
        ),
        ("prompts template", f"{author.name}, the model's turn begins with {begun[:30]!r}"),
        ("seed prompts", f"{len(prompts)} rows"),
    ]
    if config.prompts.dataset:
        rows = seeds.read_prompts(config.prompts.dataset, beside)
        parts.append(("prompts data set", f"{len(rows)} rows"))
    if config.sft:
        if config.sft.ift:
            parts.append(("IFT", f"{len(seeds.read_ift(config.sft.ift, beside))} rows"))
        if config.sft.eft:
            parts.append(("EFT", f"{len(seeds.read_eft(config.sft.eft, beside))} rows"))
    for name, text in selection_inputs(config, beside).items():
        parts.append(("selection", f"{name}, {len(text.splitlines())} lines"))
    for name, text in run_inputs(config, source).items():
        if Path(name).stem in ("heldout", "canaries"):
            parts.append(("evaluation", f"{name}, {len(text.splitlines())} rows"))
    parts.append(("options", _check_options(config)))
    return [{"name": name, "detail": detail} for name, detail in parts]


def _check_options(config: Config) -> str:
    """Check pass-through options against the classes of their libraries; return what was."""
    from selfreward import engines
    from selfreward.training import options

    engines.check_options(config.engine.kind, config.engine.options)
    checked = ["engine"]
    # Each of these imports its library, which takes seconds: only where there is a need.
    if config.sft and config.sft.options:
        options.check_options("sft", config.sft.options)
        checked.append("sft")
    if config.dpo.options:
        options.check_options("dpo", config.dpo.options)
        checked.append("dpo")
    if config.lora is not None:
        options.check_lora(config.lora)
        checked.append("lora")
    return f"{', '.join(checked)}: known"
