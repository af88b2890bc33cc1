"""What the tables of scores are made of: a row is a label, with a cell for each iteration."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from selfreward.measures.figures import IterationFigures

Rounds = Sequence[IterationFigures]
T = TypeVar("T")
Cell = Callable[[IterationFigures], str]


class Row(NamedTuple):
    """One row, of all iterations."""

    label: str
    cell: Cell
    short: bool = False
    """Whether it is in the table without ``--all``."""


def measured(of: Callable[[IterationFigures], T | None], show: Callable[[T], str]) -> Cell:
    """A cell that says so where there is nothing to show."""

    def cell(figures: IterationFigures) -> str:
        part = of(figures)
        return "not measured" if part is None else show(part)

    return cell
