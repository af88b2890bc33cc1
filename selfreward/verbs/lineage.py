"""Which model of a run was made from which."""

from dataclasses import dataclass
from typing import Any, Literal

from selfreward.storage.changes import versions
from selfreward.storage.committed import model_of, trainings
from selfreward.storage.directory import Run
from selfreward.storage.fingerprints import fingerprint_of
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


def trained_otherwise(run: Run, store: Store) -> dict[str, dict[str, Any]]:
    """What models were trained with, where the config has another value now; by model and key.

    The config of a run may change, and that of a branch has, after some of its models were made.
    """
    from selfreward.config.load import flatten
    from selfreward.config.readers import is_read

    configs = versions(run.settings, store.events())
    if len(configs) == 1:
        return {}
    prints = [fingerprint_of(config, run.path) for config in configs]
    now, *before = map(flatten, configs)
    found: dict[str, dict[str, Any]] = {}
    for stage in trainings(store):
        at = stage.iteration, stage.stage
        made = (run.stage_fingerprint(store, *at, fingerprint) for fingerprint in prints)
        number = next((n for n, one in enumerate(made) if one == stage.fingerprint), 0)
        had = [now, *before][number]
        differ = {key for key in now.keys() | had.keys() if now.get(key) != had.get(key)}
        if values := {key: had.get(key) for key in sorted(differ) if is_read(key, *at)}:
            found[model_of(stage)] = values
    return found


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
