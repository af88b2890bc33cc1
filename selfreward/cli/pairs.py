"""The verbs about preference pairs; see ``cli.py``."""

from typing import Annotated

import typer

from selfreward.cli.runs import Iteration, Json, Overrides, RunName
from selfreward.verbs import console


def pairs(
    name: RunName,
    iteration: Iteration = None,
    limit: Annotated[int, typer.Option(help="Pairs to print; --json has all.", min=0)] = 10,
    as_json: Json = False,
) -> None:
    """Show what DPO trains on, and what was left out."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.pairs import pairs_of, pairs_text

    found = pairs_of(open_run(name), iteration)
    if as_json:
        console.data_json(found)
    else:
        console.data(pairs_text(found, limit))


def repair(
    name: RunName,
    overrides: Overrides = None,
    iteration: Iteration = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="As pairs.rule; again for more. Default: all.")
    ] = None,
    min_margin: Annotated[
        list[float] | None, typer.Option(help="In points; again for more. Default: the run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare pair rules on a run's records; nothing is sampled or written."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.repair import repair, repair_text

    found = repair(open_run(name), iteration, rule or [], min_margin or [], overrides or [])
    if as_json:
        console.data_json(found)
    else:
        console.data(repair_text(found))
