"""Which templates a run is asked with, and what each is given."""

from pathlib import Path
from typing import TYPE_CHECKING

from selfreward.errors import ConfigError
from selfreward.inputs.templates import Template, find_template, load_template
from selfreward.records import FORMS
from selfreward.storage.directory import Run

if TYPE_CHECKING:
    from selfreward.config import Config, JudgeConfig, JurorConfig, PromptsConfig
    from selfreward.config.generation import EvolveConfig

COMPARE_TEMPLATE = "judge/compare.jinja"
"""How two responses are compared, in any form."""

PROMPTS_VARIABLES = {"demonstrations"}
TOPIC = "topic"
"""What the template of new prompts is given too where there are ``prompts.topics``."""
EVOLVE_VARIABLES = {"prompt", "operation"}
WORSE_VARIABLES = {"prompt"}
COMPARE_VARIABLES = {"prompt", "response_a", "response_b"}
META_VARIABLES = {"asked", "judgment_a", "judgment_b"}
_VARIABLES = {
    "evolve": EVOLVE_VARIABLES, "worse": WORSE_VARIABLES, "compare": COMPARE_VARIABLES,
    "criteria": {"prompt"}, "meta": META_VARIABLES,
}  # fmt: skip


def template_name(kind: str, juror: int) -> str:
    """Name of a run's copy of a judge's template, without its suffix."""
    return f"{kind}-{juror}" if juror else kind


def author_variables(settings: "PromptsConfig") -> set[str]:
    """What the template of new prompts is given."""
    return PROMPTS_VARIABLES | ({TOPIC} if settings.topics else set())


def load_author_templates(
    settings: "PromptsConfig", beside: Path | None = None
) -> dict[str, Template]:
    """Find and check the templates of who writes prompts: ``prompts``, and ``evolve`` if asked for.

    Raises:
        ConfigError: There is none, it is no good, or it does not fit topics or operations.
    """
    path = find_template(settings.template, beside)
    variables = author_variables(settings)
    other = PROMPTS_VARIABLES if settings.topics else PROMPTS_VARIABLES | {TOPIC}
    if not _loads(path, variables) and _loads(path, other):
        key = f"prompts.template={settings.template}"
        if settings.topics:
            raise ConfigError(
                f"{key} does not use 'topic', so prompts.topics would have no effect",
                "Set prompts.template=instruct/topic.jinja, or use {{ topic }} in yours.",
            )
        raise ConfigError(
            f"{key} uses 'topic', and there are no prompts.topics",
            "Set prompts.topics, or another prompts.template.",
        )
    templates = {"prompts": load_template(path, variables)}
    if settings.evolve is not None:
        evolve = load_template(find_template(settings.evolve.template, beside), EVOLVE_VARIABLES)
        check_operations(evolve, settings.evolve)
        templates["evolve"] = evolve
    return templates


def check_operations(template: Template, settings: "EvolveConfig") -> None:
    """Refuse operations that the template has nothing to say about.

    Raises:
        ConfigError: With the first.
    """
    unknown = template.render(prompt="?", operation="?")
    for operation in settings.operations:
        if template.render(prompt="?", operation=operation) == unknown:
            raise ConfigError(
                f"prompts.evolve.operations: {settings.template} asks for nothing of its own "
                f"where the operation is {operation!r}",
                "Name operations as the template does, or add what this one asks for to it.",
            )


def load_judge_templates(
    settings: "JurorConfig", beside: Path | None = None, key: str = "judge"
) -> dict[str, Template]:
    """Find and check the templates of a judge.

    Args:
        beside: Directory of the config.
        key: Of the judge in the config, such as ``judge.jury.0``.

    Returns:
        ``judge``, and where it judges by criteria also ``criteria``, which asks for them; none
        where no model is asked.

    Raises:
        ConfigError: There is none, it is no good, or it does not fit the form.
    """
    if not settings.traits.template:
        return {}
    path = find_template(settings.template, beside)
    _check_fit(path, settings, key)
    templates = {"judge": load_template(path, settings.traits.variables)}
    if settings.traits.by_criterion:
        path = find_template(settings.criteria_template, beside)
        templates["criteria"] = load_template(path, _VARIABLES["criteria"])
    return templates


def load_jury_templates(judge: "JudgeConfig", beside: Path | None = None) -> dict[str, Template]:
    """The templates of all judges, by ``template_name``.

    Raises:
        ConfigError: See ``load_judge_templates``.
    """
    found = {}
    for juror, settings in enumerate(judge.jurors):
        key = f"judge.jury.{juror - 1}" if juror else "judge"
        for kind, template in load_judge_templates(settings, beside, key).items():
            found[template_name(kind, juror)] = template
    return found


def _check_fit(path: Path, settings: "JurorConfig", key: str) -> None:
    """Refuse a template that is good, but for another form."""
    mine = settings.traits.variables
    others = (f.variables for f in FORMS.values() if f.template and f.variables != mine)
    other = next((variables for variables in others if _loads(path, variables)), None)
    if _loads(path, mine) or other is None:
        return
    more, less = sorted(other - mine), sorted(mine - other)
    uses = f"asks about a {more[0]!r}" if more else f"does not use {less[0]!r}"
    raise ConfigError(
        f"{key}.template={settings.template} does not fit {key}.form={settings.form}: it {uses}",
        f"Set {key}.template={settings.traits.template}, or another {key}.form.",
    )


def _loads(path: Path, variables: set[str]) -> bool:
    try:
        load_template(path, variables)
    except ConfigError:
        return False
    return True


def run_template(run: "Run", stage: str, juror: int = 0) -> Template:
    """A run's own copy of a template.

    Args:
        stage: ``prompts``, ``evolve``, ``worse``, ``compare`` or ``meta``; or, of a judge,
            ``judge`` or ``criteria``.
        juror: Which of ``judge.jurors``.
    """
    path = run.path / "templates" / f"{template_name(stage, juror)}.jinja"
    if stage == "prompts":
        return load_template(path, author_variables(run.config.prompts))
    if stage in _VARIABLES:
        return load_template(path, _VARIABLES[stage])
    return load_template(path, run.config.judge.jurors[juror].traits.variables)


def run_templates(run: "Run", config: "Config") -> dict[str, Template]:
    """A run's own copies of all templates that a config asks for, by ``template_name``.

    Args:
        config: That of the run, or what it is to become.

    Raises:
        ConfigError: The run has no copy of one, or what it has does not fit the config.
    """
    wanted = {"prompts": author_variables(config.prompts)}
    wanted |= {"evolve": EVOLVE_VARIABLES} if config.prompts.evolve else {}
    for juror, judge in enumerate(config.judge.jurors):
        if not judge.traits.template:
            continue
        wanted[template_name("judge", juror)] = judge.traits.variables
        if judge.traits.by_criterion:
            wanted[template_name("criteria", juror)] = _VARIABLES["criteria"]
    worse = config.selection is not None and config.selection.ranked is None
    wanted |= {"compare": COMPARE_VARIABLES} if config.compares else {}
    wanted |= {"meta": META_VARIABLES} if config.meta is not None else {}
    wanted |= {"worse": WORSE_VARIABLES} if worse else {}
    found = {}
    for name, variables in wanted.items():
        path = run.path / "templates" / f"{name}.jinja"
        if not path.is_file():
            raise ConfigError(
                f"{path}: the run has no such template, and this config asks with one",
                "A run keeps the templates that it was made with; start a new run.",
            )
        found[name] = load_template(path, variables)
    if config.prompts.evolve is not None:
        check_operations(found["evolve"], config.prompts.evolve)
    return found


def run_judge_templates(run: "Run", juror: int) -> dict[str, Template]:
    """A run's own copies of the templates of a judge, as ``load_judge_templates`` returns them."""
    if not run.config.judge.jurors[juror].traits.template:
        return {}
    by_criterion = run.config.judge.jurors[juror].traits.by_criterion
    kinds = ("judge", "criteria") if by_criterion else ("judge",)
    return {kind: run_template(run, kind, juror) for kind in kinds}
