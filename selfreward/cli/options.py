"""What several verbs take on the command line."""

from typing import Annotated

import typer

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name under runs/, or a path.")]

ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or a recipe's name.")]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Such as dpo.learning_rate=5e-7."),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Iteration = Annotated[int | None, typer.Option(help="Default: the last one that has any.")]
