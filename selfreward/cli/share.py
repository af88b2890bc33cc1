"""The verbs that take something out of a run: ``export``; see ``main.py``."""

from pathlib import Path
from typing import Annotated

import typer

from selfreward.cli.options import Json, RunName
from selfreward.verbs import console


def export(
    name: RunName,
    what: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Of prompts,responses,judgments,pairs; default: all."),
    ] = None,
    kind: Annotated[
        str, typer.Option("--format", help="parquet, jsonl, csv or datasets.")
    ] = "parquet",
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New directory; default: RUN-export.")
    ] = None,
    iteration: Annotated[int | None, typer.Option(help="Default: all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: Json = False,
) -> None:
    """Write prompts, responses, judgments and pairs for other programs."""
    from selfreward.verbs.export import export, export_text
    from selfreward.verbs.maintenance import opened

    with opened(name) as run:
        found = export(
            run, output or Path(f"{run.name}-export"),
            what=what.split(",") if what else None, kind=kind, iteration=iteration, force=force,
        )  # fmt: skip
    if as_json:
        console.data_json(found)
        return
    console.data(export_text(found))
    if found.empty:
        console.note(f"left out, as there are none: {', '.join(found.empty)}")
