"""Checkpoints of the transformers Trainer that can be trusted.

The Trainer writes ``checkpoint-N/`` in place, takes the highest N on resume whether whole or
not, and some of its files are pickles. So each is sealed with a manifest after it is written,
and only a sealed one of the same job is ever loaded.
"""

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from selfreward.errors import IntegrityError
from selfreward.storage import durable
from selfreward.storage.leftovers import remove

_LOG = logging.getLogger(__name__)


def seal_checkpoint(directory: Path, step: int, job: str) -> None:
    """Seal the checkpoint that the Trainer has just written for ``step`` under ``directory``.

    Args:
        directory: Holds the ``checkpoint-N`` directories.
        step: Optimizer steps done.
        job: What is trained on what; see ``last_complete_checkpoint``.
    """
    durable.seal_directory(directory / f"checkpoint-{step}", facts={"job": job})


def last_complete_checkpoint(
    directory: Path,
    jobs: Collection[str] | None = None,
    *,
    warn: Callable[[str], None] = _LOG.warning,
) -> Path | None:
    """Return the whole checkpoint of the highest step, or None if there is none.

    Args:
        directory: Holds the ``checkpoint-N`` directories; need not exist.
        jobs: Only a checkpoint sealed for one of these counts; None takes any.
        warn: Told of each newer one that is passed over, and which file of it is broken.
    """
    for checkpoint in sorted(directory.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            durable.verify_directory(checkpoint)
            sealed = durable.read_manifest(checkpoint).get("job")
        except IntegrityError as error:
            warn(f"checkpoint passed over: {error}")
            continue
        if jobs is None or sealed in jobs:
            return checkpoint
        warn(f"checkpoint passed over: {checkpoint} is of other rows, options or start model")
    return None


def settle_checkpoint(directory: Path, jobs: Collection[str]) -> Path | None:
    """Return the checkpoint to go on from, and remove all others.

    The Trainer would count broken ones as newer.
    """
    kept = last_complete_checkpoint(directory, jobs)
    for checkpoint in directory.glob("checkpoint-*"):
        if kept is None or checkpoint.name != kept.name:
            remove(checkpoint)
    return kept


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1
