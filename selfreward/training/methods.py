"""The training methods: of each, what does it, and what a row of its data is.

A method is a module of this room with a function ``train_<method>``, which is a ``Fit``. It is
imported when it is asked for: all of them load torch, and those of TRL take seconds.
"""

from dataclasses import dataclass
from importlib import import_module

from selfreward.training.base import DpoRow, Fit, Method, OnlineRow, RankedRow, Row, SftRow


@dataclass(frozen=True, slots=True)
class Seat:
    """What a method brings along."""

    row: type[Row]
    config: str | None
    """Name of the class of TRL that has its options; None where it has none."""


METHODS: dict[Method, Seat] = {
    "sft": Seat(SftRow, "SFTConfig"),
    "dpo": Seat(DpoRow, "DPOConfig"),
    "none": Seat(SftRow, None),
    "reward": Seat(RankedRow, "RewardConfig"),
    "rloo": Seat(OnlineRow, "RLOOConfig"),
    "grpo": Seat(OnlineRow, "GRPOConfig"),
}


def fit_of(method: Method) -> Fit:
    """The function that trains by a method; one of ``ONLINE`` takes ``rewards``, too."""
    module = import_module(f"selfreward.training.{method}")
    fit: Fit = getattr(module, f"train_{method}")
    return fit
