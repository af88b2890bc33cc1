"""Which templates a run is asked with, and what each is given."""

from pathlib import Path
from typing import TYPE_CHECKING

from selfreward.errors import ConfigError
from selfreward.inputs.templates import Template, find_template, load_template
from selfreward.storage.directory import Run

if TYPE_CHECKING:
    from selfreward.config import JudgeConfig, JurorConfig

DEFAULTS = {
    "written": "judge/additive.jinja",
    "expected": "judge/expected.jinja",
    "written_expected": "judge/additive.jinja",
    "criteria": "judge/criterion.jinja",
}
"""The shipped template of each form of ``judge.form``."""
COMPARE_TEMPLATE = "judge/compare.jinja"
"""How two responses are compared, in any form."""
_ANSWER = {"prompt", "response"}
_BY_CRITERION = _ANSWER | {"criterion"}

PROMPTS_VARIABLES = {"demonstrations"}
WORSE_VARIABLES = {"prompt"}
COMPARE_VARIABLES = {"prompt", "response_a", "response_b"}
_VARIABLES = {
    "prompts": PROMPTS_VARIABLES, "worse": WORSE_VARIABLES, "compare": COMPARE_VARIABLES,
}  # fmt: skip


def judge_variables(kind: str, form: str) -> set[str]:
    """What a template is given.

    Args:
        kind: ``judge``, or ``criteria`` for the one that asks for them.
        form: ``judge.form``
    """
    if kind == "criteria":
        return {"prompt"}
    return _BY_CRITERION if form == "criteria" else _ANSWER


def template_name(kind: str, juror: int) -> str:
    """Name of a run's copy of a judge's template, without its suffix."""
    return f"{kind}-{juror}" if juror else kind


def load_judge_templates(
    settings: "JurorConfig", beside: Path | None = None, key: str = "judge"
) -> dict[str, Template]:
    """Find and check the templates of a judge.

    Args:
        beside: Directory of the config.
        key: Of the judge in the config, such as ``judge.jury.0``.

    Returns:
        ``judge``, and in the ``criteria`` form also ``criteria``.

    Raises:
        ConfigError: There is none, it is no good, or it does not fit the form.
    """
    form = settings.form
    path = find_template(settings.template, beside)
    _check_fit(path, settings, key)
    templates = {"judge": load_template(path, judge_variables("judge", form))}
    if form == "criteria":
        path = find_template(settings.criteria_template, beside)
        templates["criteria"] = load_template(path, judge_variables("criteria", form))
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
    form = settings.form
    mine = judge_variables("judge", form)
    other = _ANSWER if mine == _BY_CRITERION else _BY_CRITERION
    if _loads(path, mine) or not _loads(path, other):
        return
    uses = "asks about a 'criterion'" if other == _BY_CRITERION else "does not use 'criterion'"
    raise ConfigError(
        f"{key}.template={settings.template} does not fit {key}.form={form}: it {uses}",
        f"Set {key}.template={DEFAULTS[form]}, or another {key}.form.",
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
        stage: ``prompts``, ``worse`` or ``compare``; or, of a judge, ``judge`` or ``criteria``.
        juror: Which of ``judge.jurors``.
    """
    path = run.path / "templates" / f"{template_name(stage, juror)}.jinja"
    if stage in _VARIABLES:
        return load_template(path, _VARIABLES[stage])
    form = run.config.judge.jurors[juror].form
    return load_template(path, judge_variables(stage, form))
