"""Rows of the table of scores on the health of the data, see ``measures.diversity``."""

from collections.abc import Callable
from functools import partial

from selfreward.measures.diversity import OTHER, DataFigures
from selfreward.measures.figures import IterationFigures
from selfreward.verbs.layout import MISSING, share
from selfreward.verbs.score_cells import Row

_KINDS = 3


def data_rows() -> list[Row]:
    """A dash until an iteration is closed."""
    cells: list[tuple[str, Callable[[DataFigures], str], bool]] = [
        ("  nearly repeated", lambda d: share(d.near_duplicates, d.compared), True),
        ("  begin with", _kinds, False),
        ("distinct-1, 2 of prompts", _distinct_prompts, False),
        ("distinct-1, 2 of responses", _distinct_responses, False),
    ]
    return [Row(label, partial(_of_data, cell), is_short) for label, cell, is_short in cells]


def _of_data(cell: Callable[[DataFigures], str], figures: IterationFigures) -> str:
    return MISSING if figures.data is None else cell(figures.data)


def _kinds(data: DataFigures) -> str:
    named = [(kind, count) for kind, count in data.kinds.items() if kind != OTHER]
    total = sum(data.kinds.values())
    return ", ".join(f"{kind[:12]} {count / total:.0%}" for kind, count in named[:_KINDS])


def _distinct_prompts(data: DataFigures) -> str:
    return f"{data.prompts.distinct_1:.1%}, {data.prompts.distinct_2:.1%}"


def _distinct_responses(data: DataFigures) -> str:
    found = data.responses
    return f"{found.distinct_1:.1%}, {found.distinct_2:.1%}" if found else MISSING
