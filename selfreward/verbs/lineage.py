"""Which model of a run was made from which."""

from dataclasses import dataclass
from typing import Literal

from selfreward.storage.committed import model_of, trainings
from selfreward.storage.starts import trained_of
from selfreward.storage.store import Store

_Method = Literal["SFT", "DPO", "RLOO", "GRPO", "no training"]
_METHODS: dict[str, _Method] = {
    "sft": "SFT", "dpo": "DPO", "rloo": "RLOO", "grpo": "GRPO", "none": "no training"
}  # fmt: skip
"""By ``train.method``."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A model that training made."""

    model: str
    """``SFT``, ``M1``, ``M2``, ..."""
    base: str
    """From which it was made; but of SFT also the reference."""
    method: _Method
    iteration: int
    rows: int
    """That it was trained on."""
    digest: str
    """sha256 of the model directory."""
    seconds: float
    finished: str
    """UTC time."""


def learned_from(store: Store, number: int) -> list[int]:
    """The iterations whose pairs a model learned from by DPO, it or a model that it comes from."""
    made = {ancestor.model: ancestor for ancestor in lineage(store)}
    found, model = [], f"M{number}"
    while model in made and made[model].iteration > 0:
        found += [made[model].iteration] if made[model].method == "DPO" else []
        model = made[model].base
    return sorted(found)


def lineage(store: Store) -> list[Ancestor]:
    """The models that finished trainings made, in order.

    ``sft.selection`` makes SFT to judge with, and M1 from M0 again; without a seed step M1 is M0.
    """
    made = [(stage, trained_of(store, stage.iteration)) for stage in trainings(store)]
    return [
        Ancestor(
            model=model_of(stage),
            base=f"M{how.model}",
            method=_METHODS[how.method],
            iteration=stage.iteration,
            rows=stage.rows,
            digest=stage.digest,
            seconds=stage.seconds,
            finished=stage.finished,
        )
        for stage, how in made
    ]
