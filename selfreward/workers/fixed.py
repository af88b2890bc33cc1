"""Models that a run names beside its own: a judge or an author that stays the same throughout.

A run keeps which one it asked first, as an event, and asks no other one under the same name.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from selfreward.errors import IntegrityError
from selfreward.inputs import models
from selfreward.storage.changes import FIXED
from selfreward.storage.store import Store
from selfreward.storage.tables import RESTORE


@dataclass(frozen=True, slots=True)
class _Asked:
    source: str
    """As in the config."""
    path: str
    digest: str
    """See ``models.digest``."""


def hold_fixed(store: Store, model: models.Model) -> None:
    """Record which model a source stands for, or hold it against what is recorded.

    Raises:
        IntegrityError: It is another model than the one that the run asked before.
    """
    for asked in _asked(store):
        if asked.source == model.source:
            _compare(asked, model.path, model.digest)
            return
    asked = _Asked(model.source, str(model.path), model.digest)
    store.add_event(FIXED, msgspec.json.encode(asked).decode())


def check_fixed(store: Store) -> str:
    """Read every byte of the models asked that are on this machine."""
    asked = _asked(store)
    here = [one for one in asked if Path(one.path).is_dir()]
    for one in here:
        _compare(one, Path(one.path), models.digest(Path(one.path)))
    return f"{len(here)} of {len(asked)} on this machine" if asked else "none"


def _asked(store: Store) -> list[_Asked]:
    texts = [text for _, kind, text in store.events() if kind == FIXED]
    try:
        return [msgspec.json.decode(text, type=_Asked) for text in texts]
    except msgspec.DecodeError as error:
        problem = f"{store.path}: table events: an event {FIXED} is torn: {error}"
        raise IntegrityError(problem, RESTORE) from None


def _compare(asked: _Asked, path: Path, digest: str) -> None:
    if digest != asked.digest:
        raise IntegrityError(
            f"{asked.source} ({path}) is not the model that this run asked before: digest "
            f"{digest[:12]}, was {asked.digest[:12]}",
            "Put the former model back, or start a new run.",
        )
