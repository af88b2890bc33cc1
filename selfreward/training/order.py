"""The order in which rows are trained on: random steps, little padding, the same at each resume."""

import random
from collections.abc import Sequence


def step_order(
    lengths: Sequence[int], *, rows_per_step: int, num_rows: int, seed: int
) -> list[int]:
    """Return indices of rows, ``num_rows`` in all, every epoch shuffled anew.

    The rows of one optimizer step are a random sample, and within a step they are sorted by
    length, longest first, so that its micro-batches need little padding. Sorting further, over
    several steps (as ``group_by_length`` of transformers does), would make steps of long rows
    and steps of short ones; and its order depends on the global random state, which a resume
    does not bring back before the batches are drawn.

    Args:
        lengths: Tokens of each row.
        rows_per_step: Rows of an optimizer step, over all micro-batches and processes.
        num_rows: How many rows to draw; more than ``len(lengths)`` begins a new epoch.
        seed: Decides the order together with the number of rows.
    """
    order: list[int] = []
    for epoch in range(-(-num_rows // len(lengths))):
        rows = list(range(len(lengths)))
        random.Random(f"{seed}/{epoch}").shuffle(rows)
        order += rows
    order = order[:num_rows]
    steps = [order[i : i + rows_per_step] for i in range(0, num_rows, rows_per_step)]
    return [row for step in steps for row in sorted(step, key=lambda row: -lengths[row])]
