"""The verbs that look at runs, configs and the machine; see ``cli.py``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.verbs import console

if TYPE_CHECKING:
    from selfreward.storage.directory import Run
    from selfreward.verbs.show import Order

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name under runs/, or a path.")]
ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or a recipe's name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Such as dpo.learning_rate=5e-7."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Iteration = Annotated[int | None, typer.Option(help="Default: the last one that has any.")]

_WATCH_S = 0.5
_SHOWN_FAILED = 5


def status(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="Default: newest.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Say where a run is, how fast and for how long."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.status import is_owned, newest_run, status_of, status_text

    run = open_run(name) if name else newest_run()
    if watch:
        from selfreward.verbs.progress import Display

        with Display(run) as display:
            while is_owned(run):
                display.tick()
                time.sleep(_WATCH_S)
    found = status_of(run)
    if as_json:
        console.data_json(found)
    else:
        console.data(status_text(found))


def ls(as_json: Json = False) -> None:
    """List runs."""
    from selfreward.verbs.status import ls_rows, ls_text

    rows = ls_rows()
    if as_json:
        console.data_json(rows)
    else:
        console.data(ls_text(rows))


def scores(
    name: RunName,
    plot: Annotated[Path | None, typer.Option(help="Draw a figure: FILE.png or .svg.")] = None,
    as_json: Json = False,
) -> None:
    """Show the scores, iteration by iteration."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.scores import scores_of, scores_text

    found = scores_of(open_run(name))
    if plot:
        from selfreward.verbs.plot import save_plot

        save_plot(found, plot)
        console.note(f"wrote {plot}")
    if as_json:
        console.data_json(found)
    else:
        console.data(scores_text(found))


def show(
    name: RunName,
    attempt: Annotated[
        int | None, typer.Argument(metavar="ATTEMPT", help="Number of the prompt.")
    ] = None,
    iteration: Iteration = None,
    best: Annotated[int | None, typer.Option(help="The N best answered.", min=1)] = None,
    worst: Annotated[int | None, typer.Option(help="The N worst answered.", min=1)] = None,
    disagree: Annotated[int | None, typer.Option(help="The N most disputed.", min=1)] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Judgments without a verdict.")] = False,
    as_json: Json = False,
) -> None:
    """Show a prompt with its responses, votes and pair."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.show import prompt_of, prompt_text, select

    run = open_run(name)
    more = 0
    if attempt is not None:
        if best or worst or disagree or failed:
            raise ConfigError("give an attempt or one of --best, --worst, --disagree, --failed")
        found = [prompt_of(run, iteration, attempt)]
    else:
        order, count = _order(best, worst, disagree, failed)
        iteration, attempts = select(run, iteration, order)
        more = len(attempts) - count
        found = [prompt_of(run, iteration, attempt) for attempt in attempts[:count]]
    if as_json:
        console.data_json(found)
        return
    console.data("\n\n".join(map(prompt_text, found)))
    if more > 0:
        console.note(f"{more} more; one of them: selfreward show {name} ATTEMPT")


def validate(config: ConfigName, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check config, templates, seed data and options."""
    from selfreward.config.load import load_config
    from selfreward.verbs.layout import table
    from selfreward.verbs.validate import validate

    parts = validate(load_config(config, overrides or []), config_path(config))
    if as_json:
        console.data_json({"valid": True, "parts": parts})
        return
    console.data(table([["ok", part["name"], part["detail"]] for part in parts]))


def plan(config: ConfigName, overrides: Overrides = None, as_json: Json = False) -> None:
    """Reckon counts, tokens, disk and time of a run."""
    from selfreward.config.load import load_config
    from selfreward.verbs.plan import plan_of, plan_text

    found = plan_of(load_config(config, overrides or []), config_path(config))
    if as_json:
        console.data_json(found)
    else:
        console.data(plan_text(found))


def verify(name: RunName, as_json: Json = False) -> None:
    """Check every record and model of a run."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.maintenance import verify, verify_text

    run = open_run(name)
    checks = verify(run)
    if as_json:
        console.data_json({"run": run.name, "checks": checks})
    else:
        console.data(verify_text(checks))
    if bad := [check for check in checks if not check["ok"]]:
        console.note(f"error: {len(bad)} of {len(checks)} checks failed")
        raise typer.Exit(IntegrityError.exit_code)


def gc(
    name: RunName,
    keep: Annotated[int | None, typer.Option(help="Newest models to keep.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what a run no longer needs."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.maintenance import collect, collect_text

    items = collect(open_run(name), keep, dry_run=dry_run)
    if as_json:
        console.data_json({"dry_run": dry_run, "items": items})
    else:
        console.data(collect_text(items, dry_run=dry_run))


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
    as_json: Json = False,
) -> None:
    """Print a config with every value filled in."""
    from selfreward.config.load import dump_config, load_config

    loaded = load_config(config, overrides or [])
    if sources:
        from selfreward.verbs.config_show import origins_of, origins_text

        rows = origins_of(loaded, config_path(config), overrides or [])
        if as_json:
            console.data_json(rows)
        else:
            console.data(origins_text(rows))
    elif as_json:
        console.data_json(loaded.model_dump(mode="json"))
    else:
        console.data(dump_config(loaded).rstrip())


def config_path(name: str) -> Path:
    """The file that a config's name means: a path, or a shipped recipe."""
    from selfreward.inputs import shipped

    path = Path(name)
    return path if path.exists() else shipped.recipes().get(name, path)


def handle(run: "Run") -> str:
    """What to call a run by on the command line: its name, or its path if it lies elsewhere."""
    from selfreward.storage.directory import runs_root

    return run.name if run.path == runs_root() / run.name else str(run.path)


def _order(
    best: int | None, worst: int | None, disagree: int | None, failed: bool
) -> "tuple[Order, int]":
    """What to select by, and how many prompts."""
    chosen: list[tuple[Order, int]] = []
    if best:
        chosen.append(("best", best))
    if worst:
        chosen.append(("worst", worst))
    if disagree:
        chosen.append(("disagree", disagree))
    if failed:
        chosen.append(("failed", _SHOWN_FAILED))
    if len(chosen) > 1:
        raise ConfigError("give only one of --best, --worst, --disagree, --failed")
    return chosen[0] if chosen else ("first", 1)
