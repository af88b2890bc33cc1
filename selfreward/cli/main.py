"""The command line: parse, call, print.

Data goes to standard output, progress and messages to standard error. What a verb needs is imported
in the verb, so that none waits for what another one uses. The verbs that look at runs are in
``runs.py``, those that look at configs and the machine in ``setup.py``, those that work on data
files in ``data.py``, those that take something out of a run in ``share.py``, the one that runs
experiments in ``compare.py``. Exit codes are those
of ``errors.py``; 130 and 143 mean Ctrl-C and SIGTERM.
"""

import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from selfreward import __version__
from selfreward.cli import benchmark, compare, data, runs, setup, share
from selfreward.cli.launch import INTERRUPTED, TERMINATED, work
from selfreward.cli.options import ConfigName, Json, Overrides, RunName
from selfreward.errors import ConfigError, SelfRewardError
from selfreward.sigterm import raise_at
from selfreward.verbs import console

if TYPE_CHECKING:
    from selfreward.config.run import Config
    from selfreward.storage.directory import Run

BROKEN_PIPE = 141
_USAGE = 2

app = typer.Typer(
    help="One model writes prompts, answers them, judges the answers and learns from that.",
    rich_markup_mode=None,  # plain help: rich would take a third of the time until it shows
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at configs: config show.", rich_markup_mode=None)
data_app = typer.Typer(help="Seed data: data oasst, data clean.", rich_markup_mode=None)


def main() -> None:
    """Run the command line and exit; the one place that turns errors into messages."""
    console.set_up()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _terminate)
    sys.exit(invoke(sys.argv[1:]))


def _terminate(signum: int, frame: FrameType | None) -> None:
    # Through all that ends children and removes what is half made.
    raise_at(frame, SystemExit(TERMINATED))


def invoke(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    as_json = "--json" in arguments
    try:
        # Without a verb there is nothing to do: show the help, but as the mistake that it is.
        code = app(args=arguments or ["--help"], prog_name="selfreward", standalone_mode=False)
        return _USAGE if not arguments else code if isinstance(code, int) else 0
    except SelfRewardError as error:
        _report(error.exit_code, type(error).__name__, error.message, error.hint, as_json)
        for line in getattr(error, "__notes__", ()):
            console.note(line)
        _trace()
        return error.exit_code
    except TyperException as error:
        _report(_USAGE, "UsageError", *_usage(error), as_json)
        return _USAGE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        console.abandon(sys.stdout)  # whoever read is gone, as in `selfreward show | head`
        return BROKEN_PIPE
    except OSError as error:
        from selfreward.storage.durable import disk_problem

        console.flush(sys.stdout)
        problem = disk_problem(error)
        _report(problem.exit_code, "PreflightError", problem.message, problem.hint, as_json)
        _trace()
        return problem.exit_code
    except Exception as error:
        hint = "This is a bug. See it in full with SELFREWARD_DEBUG=1, and please report it."
        message = f"internal error: {type(error).__name__}: {error}"
        _report(1, type(error).__name__, message, hint, as_json)
        _trace()
        return 1


def _report(code: int, kind: str, message: str, hint: str, as_json: bool) -> None:
    message, hint = (" ".join(text.split("\n")) for text in (message, hint))  # paths, library words
    if as_json:
        error = {"code": code, "kind": kind, "message": message, "hint": hint}
        with suppress(OSError):  # it is standard output that fails
            console.data_json({"error": error})
    console.note(message if message.startswith("internal error") else f"error: {message}")
    if hint:
        console.note(f"hint: {hint}")


def _usage(error: TyperException) -> tuple[str, str]:
    """Message and hint; without any arguments the help itself is the message."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "selfreward"
    return error.format_message(), f"{command} --help"


def _trace() -> None:
    """Print the traceback of the error at hand where ``--debug`` asks for it."""
    if os.environ.get("SELFREWARD_DEBUG", "") not in ("", "0"):
        import traceback

        console.note(traceback.format_exc())


def _print_version(wanted: bool) -> None:
    if wanted:
        console.data(f"selfreward {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        os.environ["SELFREWARD_DEBUG"] = "1"


def run(
    config: ConfigName,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: recipe-N.")] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN:M1", help="Start from a model of another run, no SFT."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a run: M0 -> M1 -> M2 -> ..."""
    from selfreward.api import new_run

    made = new_run(config, overrides or [], name=name, start=start)
    console.note(f"run {made.name}: {_outline(made.config)}; records in {made.path}")
    _launch(made, as_json, is_new=True)


def resume(
    name: RunName,
    overrides: Overrides = None,
    retrain: Annotated[
        int | None,
        typer.Option(
            metavar="T", help="Train iteration T anew from its pairs, in a new run.", min=1
        ),
    ] = None,
    new: Annotated[
        str | None, typer.Option("--name", help="Of the new run, with --retrain; default: RUN-N.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Continue a run; extend it with iterations=N; change what nothing was made with yet."""
    from selfreward.api import free_name
    from selfreward.storage.branch import create_branch
    from selfreward.storage.directory import open_run
    from selfreward.tracking.process import told_behind
    from selfreward.verbs.maintenance import told_as_damage
    from selfreward.verbs.scores import scores_of
    from selfreward.verbs.status import is_complete, status_of
    from selfreward.verbs.track import lacking
    from selfreward.workers.checks import check_changed

    opened = open_run(name)
    check = partial(check_changed, opened)
    if retrain is not None:
        new = free_name(opened.name) if new is None else new
        with told_as_damage(opened):
            made = create_branch(opened, retrain, new, overrides or [], check)
        console.note(
            f"run {made.name}: a branch of {opened.name} from the pairs of iteration {retrain} on; "
            f"records in {made.path}"
        )
        _launch(made, as_json)
        return
    if new is not None:
        raise ConfigError("--name goes with --retrain T", f"selfreward resume {name}")
    with told_as_damage(opened):
        if overrides:
            opened.configure(overrides, check)
        is_finished = is_complete(opened)
        if is_finished:
            ended, more = status_of(opened).ended, f"iterations={opened.config.iterations + 1}"
            came_to, go_on = _outline(opened.config), ("extend it", more)
            if ended:
                came_to, go_on = ended, ("go on nonetheless", "best.patience=null")
            console.note(
                f"run {opened.name} is finished ({came_to}); {go_on[0]} with: "
                f"selfreward resume {name} {go_on[1]}"
            )
            for tracker in lacking(opened):
                console.note(told_behind(opened, tracker))
            if as_json:
                console.data_json(scores_of(opened))
    if not is_finished:
        _launch(opened, as_json)


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Default: here.")] = Path("."),
    recipe: Annotated[str, typer.Option(help="Which one to copy; see --list.")] = "quickstart",
    listed: Annotated[bool, typer.Option("--list", help="List the recipes instead.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented recipe and its templates to edit."""
    from selfreward.verbs.init import recipe_rows, write_starter
    from selfreward.verbs.layout import table

    if listed:
        rows = recipe_rows()
        if as_json:
            console.data_json({"recipes": dict(rows)})
        else:
            console.data(table(rows))
        return
    written, kept = (list(map(str, paths)) for paths in write_starter(directory, recipe))
    if as_json:
        console.data_json({"files": written, "kept": kept})
        return
    console.data("\n".join(written))
    if kept:
        console.note(f"was there, stays as it is: {', '.join(kept)}")
    console.note(f"edit them, then: selfreward validate {written[0]}")
    console.note(f"                 selfreward run {written[0]}")


def _launch(run: "Run", as_json: bool, *, is_new: bool = False) -> None:
    """Do all that is left of a run, showing progress, then its scores; see ``launch.work``."""
    from selfreward.verbs.maintenance import told_as_damage
    from selfreward.verbs.scores import scores_of, scores_text

    work(run, is_new=is_new)
    with told_as_damage(run):
        scores = scores_of(run)
        if as_json:
            console.data_json(scores)
            return
        console.data(scores_text(scores, console.width()))
    console.note(f"next: selfreward scores {run.handle} --plot scores.png")
    console.note(f"      selfreward show {run.handle} --best 1")


def _outline(config: "Config") -> str:
    return f"{config.model}, M0 to M{config.iterations + 1}"


app.command("import")(share.import_)
for verb in (
    run,
    resume,
    runs.status,
    runs.ls,
    runs.scores,
    runs.diff,
    runs.show,
    runs.pairs,
    runs.labels,
    runs.view,
    runs.report,
    data.judge,
    benchmark.benchmark,
    compare.compare,
    data.compare_models,
    data.train_reward,
    share.export,
    share.push,
    setup.validate,
    setup.plan,
    runs.track,
    runs.verify,
    runs.gc,
    setup.doctor,
    init,
):
    app.command()(verb)
app.command(hidden=True, context_settings={"ignore_unknown_options": True})(runs.repair)
config_app.command("show")(setup.config_show)
data_app.command("oasst")(data.oasst)
data_app.command("clean")(data.clean)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
