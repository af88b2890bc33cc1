"""Checking a config without running it: templates rendered, seed data read, options tried."""

from pathlib import Path
from typing import Any

from selfreward.config.run import Config
from selfreward.inputs import seeds
from selfreward.inputs.collect import selection_inputs
from selfreward.inputs.judge_templates import PROMPTS_VARIABLES, load_jury_templates
from selfreward.inputs.templates import find_template, load_template
from selfreward.workers.checks import check_run


def validate(config: Config, source: Path | None) -> list[dict[str, Any]]:
    """Check all that can be checked without the model.

    Returns:
        One mapping per part: ``name`` and ``detail``.

    Raises:
        ConfigError: The first thing that is wrong.
    """
    inputs = check_run(config, source)
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
    for name, text in inputs.items():
        if Path(name).stem in ("heldout", "canaries"):
            parts.append(("evaluation", f"{name}, {len(text.splitlines())} rows"))
    groups = {"engine": True, "sft": config.sft, "dpo": True, "lora": config.lora is not None}
    parts.append(("options", f"{', '.join(name for name in groups if groups[name])}: known"))
    return [{"name": name, "detail": detail} for name, detail in parts]
