"""Which model an iteration starts from: the newest, unless ``best.continue_from`` chose another.

It is kept as a report of the iteration before anything of it is made, so that whatever changes
afterwards, figures or settings, the iteration goes on from the same model. How the next model was
then trained is a report too, where it is not by DPO of that model.
"""

from dataclasses import dataclass

from selfreward.errors import IntegrityError
from selfreward.storage.store import Store
from selfreward.storage.tables import RESTORE

START = "start"
"""Name of the report."""


@dataclass(frozen=True, slots=True)
class Start:
    """The model that writes and answers the prompts of an iteration, and is trained on them."""

    model: int
    """1 for M1, ...; the reference of the training, too."""


TRAINED = "trained"
"""Name of the other report."""


@dataclass(frozen=True, slots=True)
class Trained:
    """How the model of an iteration was made."""

    method: str
    """As ``train.method`` has it; in iteration 0 ``sft``."""
    model: int
    """Which model was trained: 0 for M0, ..."""


def trained_of(store: Store, iteration: int) -> Trained:
    """How a finished training of an iteration was done."""
    kept = store.report(iteration, TRAINED, Trained)
    return kept or Trained("dpo" if iteration else "sft", start_of(store, iteration))


def before(store: Store, iteration: int) -> int:
    """The number of the model from which the policy of an iteration above 0 was trained."""
    return trained_of(store, start_of(store, iteration) - 1).model


def start_of(store: Store, iteration: int) -> int:
    """The number of the model that an iteration starts from: its own, unless another was chosen.

    Raises:
        IntegrityError: What was kept names no model that there is.
    """
    start = store.report(iteration, START, Start)
    if start is None:
        return iteration
    if not 1 <= start.model < iteration:
        raise IntegrityError(
            f"{store.path}: iteration {iteration} starts from M{start.model}, which was not made "
            "before it",
            RESTORE,
        )
    return start.model


def keep_start(store: Store, iteration: int, model: int) -> None:
    """Keep that an iteration starts from an older model than the newest."""
    store.save_report(iteration, START, Start(model))
