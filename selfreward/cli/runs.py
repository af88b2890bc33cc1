"""The verbs that look at runs; see ``main.py``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfreward.cli.options import Iteration, Json, Overrides, RunName
from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.verbs import console

if TYPE_CHECKING:
    from selfreward.storage.directory import Run
    from selfreward.verbs.show import Order


_WATCH_S = 0.5
_SHOWN_FAILED = 5
_RULES = (
    "Compare a pair rule: best_worst, all_pairs, length_control, length_regularized, anchored; or "
    "all. Repeat it."
)


def status(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="Default: newest.")] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Follow it until it ends; with --json, a line per change."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say where a run is, how fast and for how long."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.maintenance import told_as_damage
    from selfreward.verbs.status import newest_run, status_of, status_text

    run = open_run(name) if name else newest_run()
    with told_as_damage(run):
        if watch and as_json:
            _watch_lines(run)
            return
        if watch:
            from selfreward.verbs.progress import Display

            with Display(run) as display:
                while run.is_owned:
                    display.tick()
                    time.sleep(_WATCH_S)
        found = status_of(run)
        if as_json:
            console.data_json(found)
        else:
            console.data(status_text(found))


def _watch_lines(run: "Run") -> None:
    """Print the status as a line of JSON whenever the run has recorded more, and at its end."""
    from selfreward.verbs.status import status_of

    shown = None
    while True:
        is_last = not run.is_owned
        found = status_of(run)
        key = (found.state, found.updated, found.stages, found.warnings, found.error)
        if key != shown:
            console.data_json(found, lines=True)
            shown = key
        if is_last:
            return
        time.sleep(_WATCH_S)


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
    everything: Annotated[bool, typer.Option("--all", help="Every row of the table.")] = False,
    as_json: Json = False,
) -> None:
    """Say what was found, and show the scores, iteration by iteration."""
    from selfreward.verbs.maintenance import opened
    from selfreward.verbs.scores import scores_of, scores_text

    with opened(name) as run:
        found = scores_of(run)
        if plot:
            from selfreward.charts.data import ChartData
            from selfreward.charts.files import save_overview

            save_overview(ChartData(found.iterations), plot, found.run)
            console.note(f"wrote {plot}")
        if as_json:
            console.data_json(found)
        else:
            console.data(scores_text(found, console.width(), everything))


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN, or RUN:T for iteration T.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; of another run, or the same.")],
    as_json: Json = False,
) -> None:
    """Compare two iterations, or two runs: settings, and figures with their differences."""
    from selfreward.verbs.diff import diff_of
    from selfreward.verbs.diff_text import diff_text

    found = diff_of(a, b)
    if as_json:
        console.data_json(found)
    else:
        console.data(diff_text(found, console.width()))


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
    from selfreward.verbs.maintenance import opened
    from selfreward.verbs.show import prompt_of, prompt_text, select

    more = 0
    with opened(name) as run:
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


def view(
    name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Open at this run; or a path, served alone.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to answer on; default: this machine alone.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int | None,
        typer.Option(help="Default: 7860, or the next that is free. 0: any.", min=0, max=65535),
    ] = None,
    token: Annotated[str | None, typer.Option(help="Default: a random one.")] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """See runs in a browser, also while they go on; Ctrl-C ends it."""
    from selfreward.viewer.serve import Address, has_display, open_browser, serve

    run = None
    if name:
        from selfreward.storage.directory import open_run

        run = open_run(name)

    def ready(address: Address) -> None:
        if as_json:
            console.data_json({"url": address.url, "port": address.port}, lines=True)
        else:
            console.data(address.url)
        if not address.is_local:
            console.note(
                "warning: this is not encrypted, and others can reach it; over a network, tunnel "
                "through ssh instead (docs/viewer.md)"
            )
        console.note("Ctrl-C ends it")
        if not no_browser and has_display():
            open_browser(address.url)

    is_apart = run is not None and run.handle != run.name
    serve(run, is_apart=is_apart, host=host, port=port, token=token, ready=ready)


def report(
    name: RunName,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Default: report.html in the run.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each chart as PNG and SVG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what a run found into one HTML file that can be mailed."""
    from selfreward.verbs.layout import size
    from selfreward.verbs.maintenance import opened
    from selfreward.verbs.report_page import write_report

    with opened(name) as run:
        found = write_report(run, output, figures)
    if as_json:
        console.data_json(found)
        return
    console.data(found["output"])
    console.note(f"wrote {size(found['bytes'])}; {len(found['figures'])} files of charts")
    if not found["is_finished"]:
        console.note("the run is not finished; the report says so")


def track(
    name: RunName,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="trackio, wandb, tensorboard or mlflow; default: its `track`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send trackers what they have not got of a run."""
    from selfreward.storage.directory import open_run
    from selfreward.verbs.maintenance import told_as_damage
    from selfreward.verbs.track import track_run, track_text

    run = open_run(name)
    with told_as_damage(run):
        found, failed = track_run(run, to)
    if as_json:
        console.data_json(found)
    else:
        console.data(track_text(found))
    if failed:
        told = "; ".join(error.message for error in failed)
        raise PreflightError(told, " ".join(error.hint for error in failed))


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
    from selfreward.verbs.maintenance import collect, collect_text, opened, why_nothing

    with opened(name) as run:
        items = collect(run, keep, dry_run=dry_run)
    if as_json:
        console.data_json({"dry_run": dry_run, "items": items})
    else:
        console.data(collect_text(items, dry_run=dry_run))
    if not items:
        console.note(f"nothing to remove: {why_nothing(run, keep)}")


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


def pairs(
    name: RunName,
    overrides: Overrides = None,
    iteration: Iteration = None,
    limit: Annotated[int, typer.Option(help="Pairs to print; --json has all.", min=0)] = 10,
    tried: Annotated[
        list[str] | None,
        typer.Option("--try", metavar="RULE", help=_RULES),
    ] = None,
    min_margin: Annotated[
        list[float] | None,
        typer.Option(help="With --try: in points; again for more. Default: the run's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what DPO trains on; --try other rules, which samples and writes nothing."""
    from selfreward.verbs.maintenance import opened
    from selfreward.verbs.pairs import compare_rules, comparison_text, pairs_of, pairs_text

    if (overrides or min_margin) and not tried:
        raise ConfigError(
            "pairs: --min-margin and pairs.KEY=VALUE go with --try RULE", "Every rule: --try all."
        )
    with opened(name) as run:
        if tried:
            rules = [] if "all" in tried else tried
            found = compare_rules(run, iteration, rules, min_margin or [], overrides or [])
            text = comparison_text(found)
        else:
            found = pairs_of(run, iteration)
            text = pairs_text(found, limit)
        if as_json:
            console.data_json(found)
        else:
            console.data(text)


def labels(
    name: RunName,
    labeler: Annotated[str | None, typer.Option(help="Only those of one person.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only ab, ranking or rating.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Write them as ranked data, for judge and EFT."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far the judge agrees with people, and they with each other."""
    from selfreward.verbs.labels import export as write
    from selfreward.verbs.labels import figures_of_labels, labels_text
    from selfreward.verbs.layout import listed
    from selfreward.verbs.maintenance import opened

    with opened(name) as run:
        if export:
            rows = write(run, export, labeler, kind)
            console.note(f"wrote {export}: {listed(rows)}")
            console.note(f"use it: selfreward judge MODEL --data {export}")
            console.note(f"        sft.selection.ranked={export} judge.form=written")
            if rows.keys() == {"rating"}:
                console.note(f"        sft.eft={export} judge.form=expected")
        found = figures_of_labels(run, labeler, kind)
        if as_json:
            console.data_json(found)
        else:
            console.data(labels_text(found, console.width()))


def repair(words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """What ``pairs --try`` was called; a user who types it is told."""
    raise ConfigError(
        "`repair` is now `pairs RUN --try RULE`",
        "selfreward pairs RUN --try all [--min-margin X] [pairs.KEY=VALUE]",
    )
