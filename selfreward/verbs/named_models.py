"""Models that people name: of a run, such as ``quickstart:M2``, or of any model source."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from selfreward.errors import ConfigError
from selfreward.inputs import models
from selfreward.storage.directory import Run, list_runs, open_run

_OF_RUN = re.compile(r"(.+):(M\d+|SFT)")


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that was named, found on this machine."""

    name: str
    path: str
    """Directory, or ``hosted``."""
    digest: str | None
    chat: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``Chat``: a model of a run is asked as its run asks it."""
    run: Run | None = None


def named_model(name: str, report: Callable[[str], None]) -> NamedModel:
    """The model that a name means, looked up and read for its digest.

    Raises:
        ConfigError: There is no such model, or a run is named in place of one.
        NotFoundError: No such run, or it has no such model.
    """
    if of_run := _OF_RUN.fullmatch(name):
        run = open_run(of_run[1])
        path = run.named_model(of_run[2])
        return NamedModel(name, str(path), models.digest(path), chat_of(run), run)
    if "/" not in name and any(run.name == name for run in list_runs()):
        raise ConfigError(f"{name} is a run, not a model", f"Name one of its models: {name}:M2.")
    model = models.resolve(name, report=report)
    return NamedModel(name, str(model.path), model.digest, chat_of(None))


def chat_of(run: Run | None) -> dict[str, Any]:
    """Further arguments of ``Chat``, as a run asks its models; of no run, none."""
    if run is None:
        return {"today": None}
    config, template = run.config, run.path / "templates" / "chat.jinja"
    return {
        "system_prompt": config.system_prompt,
        "template_kwargs": config.chat_template_kwargs,
        "trust_remote_code": config.trust_remote_code,
        "chat_template": template.read_text("utf-8") if config.chat_template else None,
        "today": run.made,
    }
