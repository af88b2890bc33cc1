"""A row of the table of scores: a label, and how its cell of an iteration is written."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from selfreward.measures.figures import IterationFigures

Rounds = Sequence[IterationFigures]
Cell = Callable[[IterationFigures], str]
MISSING = "-"
"""A cell with nothing in it."""


class Row(NamedTuple):
    """One row."""

    label: str
    cell: Cell
    short: bool = False
    """Whether it is in the table without ``--all``."""
