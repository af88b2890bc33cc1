"""The verbs that look at configs and the machine, before anything runs; see ``main.py``."""

from typing import Annotated

import typer

from selfreward.cli.options import ConfigName, Json, Overrides
from selfreward.errors import PreflightError
from selfreward.verbs import console


def validate(
    config: ConfigName,
    overrides: Overrides = None,
    show: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Print one filled in: judge, prompts, criteria, ..."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check config, templates, seed data and options."""
    from selfreward.config.load import load_config
    from selfreward.inputs.shipped import config_file
    from selfreward.verbs.layout import table
    from selfreward.verbs.validate import filled_in, filled_in_text, validate

    source = config_file(config)
    if show is not None:
        found = filled_in(load_config(source, overrides or []), source, show)
        if as_json:
            console.data_json(found)
            return
        console.data(filled_in_text(found))
        if found["text"] is None:
            console.note("this is what the model is told; its chat format is not on this machine")
        return
    parts = validate(load_config(source, overrides or []), source)
    if as_json:
        console.data_json({"valid": True, "parts": parts})
        return
    marks = {True: "warn", False: "ok"}
    rows = [[marks[part["warning"]], part["name"], part["detail"]] for part in parts]
    console.data(table(rows))


def plan(config: ConfigName, overrides: Overrides = None, as_json: Json = False) -> None:
    """Reckon counts, tokens, disk and time of a run."""
    from selfreward.config.load import load_config
    from selfreward.inputs.shipped import config_file
    from selfreward.verbs.plan import plan_of, plan_text

    source = config_file(config)
    found = plan_of(load_config(source, overrides or []), source)
    if as_json:
        console.data_json(found)
    else:
        console.data(plan_text(found))


def doctor(
    parity: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare the engines on a model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine."""
    from selfreward.verbs.doctor import doctor, doctor_text

    if parity is not None:
        _parity(parity, as_json)
        return
    checks = doctor()
    if as_json:
        console.data_json({"checks": checks})
    else:
        console.data(doctor_text(checks))
    if any(check["status"] == "fail" for check in checks):
        raise typer.Exit(PreflightError.exit_code)


def _parity(model: str, as_json: bool) -> None:
    from selfreward.verbs.parity import measure, parity_text

    result = measure(model, report=console.note)
    if as_json:
        console.data_json(result)
    else:
        console.data(parity_text(result))
    if not result["agree"]:
        console.note("error: the engines disagree")
        raise typer.Exit(PreflightError.exit_code)


def config_show(
    config: ConfigName,
    overrides: Overrides = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Say where each value comes from.")
    ] = False,
    key: Annotated[
        str | None, typer.Option("--explain", metavar="KEY", help="Say what a key is for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a config with every value filled in."""
    from selfreward.config.load import dump_config, load_config
    from selfreward.inputs.shipped import config_file

    source = config_file(config)
    loaded = load_config(source, overrides or [])
    if key is not None:
        from selfreward.verbs.config_show import explained, explained_text

        found = explained(loaded, key)
        if as_json:
            console.data_json(found)
        else:
            console.data(explained_text(found))
    elif sources:
        from selfreward.verbs.config_show import origins_of, origins_text

        rows = origins_of(loaded, source, overrides or [])
        if as_json:
            console.data_json(rows)
        else:
            console.data(origins_text(rows))
    elif as_json:
        console.data_json(loaded.model_dump(mode="json"))
    else:
        console.data(dump_config(loaded).rstrip())
