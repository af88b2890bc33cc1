"""The verb ``benchmark``; see ``main.py``."""

from pathlib import Path
from typing import Annotated, cast

import typer

from selfreward.cli.options import Json
from selfreward.errors import ConfigError
from selfreward.verbs import console


def benchmark(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN:M2", help="Models of runs, or any model source; several."),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="JSONL of question, choices, answer; may be repeated."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of lm-eval, such as arc_easy,piqa.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Tasks of your own for lm-eval.")
    ] = None,
    style: Annotated[
        str, typer.Option(help="question: Question: ... Answer:. plain: the question alone.")
    ] = "question",
    limit: Annotated[int | None, typer.Option(help="First N questions.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Measure models on questions that have one right answer."""
    from selfreward.config.evaluation import Style
    from selfreward.verbs.benchmark import (
        benchmark_files,
        benchmark_lm_eval,
        contestants,
        kept_text,
    )
    from selfreward.verbs.benchmark_table import benchmarks_text

    if not task and not tasks:
        raise ConfigError("benchmark: needs --task FILE, or --tasks with names of lm-eval's tasks")
    if include_path is not None and not tasks:
        raise ConfigError("--include-path: goes with --tasks")
    if style not in ("question", "plain"):
        raise ConfigError(f"--style {style}: expected question or plain")
    who = contestants(names, console.note)
    found = []
    if task:
        asked = cast(Style, style)
        found += benchmark_files(who, task, style=asked, limit=limit, report=console.note)
    if tasks:
        found += benchmark_lm_eval(
            who, tasks.split(","), include_path=include_path, limit=limit, report=console.note
        )
    if as_json:
        console.data_json(found)
    else:
        console.data(benchmarks_text(found, console.width()))
    console.note(kept_text(who, found))
