"""The verb that runs experiments; see ``main.py``."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfreward.cli.launch import work
from selfreward.cli.options import Json, Overrides
from selfreward.errors import ConfigError, StoppedError
from selfreward.verbs import console

if TYPE_CHECKING:
    from selfreward.verbs.compare import Compared


def compare(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="YAML file, or a shipped one: quick.")
    ],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be run, and what is shared.")
    ] = False,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="Run nothing: show what is finished.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a figure: FILE.png or .svg.")] = None,
    as_json: Json = False,
) -> None:
    """Run arms (recipes with changes) from one model over seeds, and compare what they come to."""
    from selfreward.inputs.shipped import experiment_file
    from selfreward.sigterm import Terminated
    from selfreward.verbs.arms import arms_of
    from selfreward.verbs.compare import compare_plan, compared, run_arms

    if dry_run and (so_far or plot):
        raise ConfigError("--dry-run runs and finds nothing: it goes without --so-far and --plot")
    if plot:
        from selfreward.charts.files import check_path

        check_path(plot)
    arms = arms_of(experiment_file(experiment), overrides or [])
    if dry_run:
        plan = compare_plan(arms)
        if as_json:
            console.data_json(plan)
            return
        from selfreward.verbs.arms_text import plan_text

        console.data(plan_text(plan, console.width()))
        return
    said = [experiment, *(overrides or []), *(["--plot", str(plot)] if plot else [])]
    again = shlex.join(["selfreward", "compare", *said, *(["--json"] if as_json else [])])
    hint = f"saved; the same command goes on: {again}"
    try:
        stopped = {} if so_far else run_arms(arms, partial(work, hint=hint), console.note)
    except (KeyboardInterrupt, Terminated):
        console.note(hint)
        raise
    _show(compared(arms, stopped), plot, as_json)
    if stopped:
        told = f"{len(stopped)} of {len(list(arms.each))} runs cannot go on: {', '.join(stopped)}"
        raise StoppedError(told, hint)


def _show(found: "Compared", plot: Path | None, as_json: bool) -> None:
    from selfreward.verbs.arms_text import compare_text

    if as_json:
        console.data_json(found)
    else:
        console.data(compare_text(found, console.width()))
    if plot and not found.measures:
        console.note(f"{plot} is not drawn: no run is finished whose models were measured")
    elif plot:
        from selfreward.charts.files import save_arms
        from selfreward.measures.arms import measure_of

        by = measure_of(found.by, found.measures)
        save_arms({arm.name: arm.measures for arm in found.arms}, by, plot, found.experiment)
        console.note(f"wrote {plot}")
