"""The verbs that take something out of a run or into it: ``export``, ``import``, ``push``."""

from pathlib import Path
from typing import Annotated

import typer

from selfreward.cli.options import Json, RunName
from selfreward.errors import ConfigError
from selfreward.verbs import console


def export(
    name: RunName,
    what: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Of prompts,responses,judgments,pairs,labels,wanted; default: all."
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option("--format", help="parquet, jsonl, csv or datasets.")
    ] = "parquet",
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New directory; default: RUN-export.")
    ] = None,
    iteration: Annotated[int | None, typer.Option(help="Default: all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The LoRA adapter of the model instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write prompts, responses, judgments, pairs and labels for other programs."""
    from selfreward.verbs.maintenance import opened

    if adapter:
        if what is not None:
            raise ConfigError("--what goes without --adapter: an adapter holds no records")
        _adapter(name, output, iteration, force, as_json)
        return
    from selfreward.verbs.export import export, export_text

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


def import_(
    name: RunName,
    judgments: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `export --what wanted` wrote, with scores 0 to 5."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `export --what labels` wrote: its ratings."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--name", help="Of the judge; default: the only one imported.")
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="No more will come: go on without the rest.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take in scores by people or other programs, for which a run waits."""
    from selfreward.verbs.imported import import_votes, imported_text
    from selfreward.verbs.maintenance import opened

    if judgments and labels:
        raise ConfigError("--judgments and --labels: one file at a time")
    if not (judgments or labels or complete):
        raise ConfigError("--judgments FILE or --labels FILE: which scores are to come in?")
    with opened(name) as run:
        found = import_votes(
            run, judgments or labels, "labels" if labels else "judgments",
            name=judge, complete=complete,
        )  # fmt: skip
    if as_json:
        console.data_json(found)
    else:
        console.data(imported_text(found, run.handle))


def _adapter(
    name: str, output: Path | None, iteration: int | None, force: bool, as_json: bool
) -> None:
    from selfreward.verbs.adapter import adapter_model, adapter_text, export_adapter
    from selfreward.verbs.maintenance import opened

    with opened(name) as run:
        number = adapter_model(run, iteration)
        target = output or Path(f"{run.name}-M{number}-adapter")
        found = export_adapter(run, target, number, force=force)
    if as_json:
        console.data_json(found)
    else:
        console.data(adapter_text(found))


def push(
    model: Annotated[str, typer.Argument(metavar="RUN:M2", help="A model that the run made.")],
    repository: Annotated[
        str | None, typer.Argument(metavar="REPO", help="OWNER/NAME; default: yours, RUN-M2.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also the pairs it learned from, to REPO-pairs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files; no request is made.")
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="For everybody to see.")] = False,
    as_json: Json = False,
) -> None:
    """Put a model and its card on the hub, private unless told otherwise."""
    import tempfile

    from selfreward.verbs.hub import send
    from selfreward.verbs.maintenance import opened
    from selfreward.verbs.push import Pushed, parcels_of, parse_model, pushed_text

    name, number = parse_model(model)
    with opened(name) as run, tempfile.TemporaryDirectory(prefix="selfreward-") as work:
        parcels = parcels_of(run, number, repository, Path(work), pairs=pairs)
        addresses = () if dry_run else send(parcels, public=public)
    found = Pushed(run.name, f"M{number}", not public, dry_run, parcels, addresses)
    if as_json:
        console.data_json(found)
    else:
        console.data(pushed_text(found))
