"""How the config of a run changed after it was made, and from which run it branched off.

Both are events. That of a change keeps the former values, so that a stage finished before it can
still be held against the config that it was made from.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from selfreward.errors import ConfigError, IntegrityError
from selfreward.records import TRAINING, model_name
from selfreward.storage.made import has_made
from selfreward.storage.store import Store
from selfreward.storage.tables import RESTORE

if TYPE_CHECKING:
    from selfreward.config.run import Config

ENDED = "ended"
"""Kind of the event that says why a run ends before its last iteration, as is its config."""
CONFIGURED, BRANCHED, PREPARED = "configured", "branched", "prepared"
"""Kinds of events: a change of the config, the birth of a branch, and that a change was checked
against the model. The text of the first two is JSON."""
FIXED = "fixed model"
"""Kind of the event that tells which judge or author was asked, see ``workers.fixed``."""
IMPORTED = "imported"
"""Kind of the event that tells where imported judgments come from; its text is JSON."""
REMOVED = "removed"
"""Kind of the event that ``gc`` leaves for a model directory; its text is the model's name."""

_HELD_AGAINST = {
    "evaluation.limit": "drift is measured against M1 on the same responses",
    "evaluation.temperature": "answers are compared with the copied ones of earlier models",
}
"""Keys of the evaluation that no branch may change, as new figures are held against copied ones."""
_ANEW = "Start a new run, or branch off with `selfreward run CONFIG --from RUN:M1`."
Event = tuple[str, str, str]
Values = Mapping[str, tuple[Any, Any]]
"""Old and new value by dotted key."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a run branched off that has the records of another one."""

    run: str
    """Name of the other run."""
    iteration: int
    """The last one of which something was copied."""
    digest: str
    """Of its last stage that was copied, in both runs: sha256 over its records, or of the model."""
    stage: str = "pairs"
    """That stage."""


@dataclass(frozen=True, slots=True)
class _Change:
    changed: dict[str, Any]
    former: dict[str, Any]
    added: list[str]


def branch_of(events: Iterable[Event]) -> Branch | None:
    """Where a run branched off last; None if it began from nothing."""
    found = [text for _, kind, text in events if kind == BRANCHED]
    if not found:
        return None
    try:
        return msgspec.json.decode(found[-1], type=Branch)
    except msgspec.DecodeError as error:
        raise _torn(BRANCHED, error) from None


def change_text(old: Mapping[str, Any], new: Mapping[str, Any], changed: Values) -> str:
    """Text of the event of a change.

    Args:
        old, new: The config as it stands in ``config.resolved.yaml``.
        changed: What that comes to.
    """
    roots = sorted(key for key in new if key not in old or new[key] != old[key])
    former = {key: old[key] for key in roots if key in old}
    added = [key for key in roots if key not in old]
    return json.dumps({"changed": changed, "former": former, "added": added})


def versions(data: dict[str, Any], events: Sequence[Event]) -> list[dict[str, Any]]:
    """All that the config of a run has been, from what it is now back to what it was made with."""
    found = [data]
    for _, kind, text in reversed(events):
        if kind == CONFIGURED:
            change = _change(text)
            kept = {key: data[key] for key in data if key not in change["added"]}
            data = kept | change["former"]
            found.append(data)
    return found


def is_unchecked(events: Sequence[Event]) -> bool:
    """Whether a key that decides records has changed since the run was last prepared."""
    from selfreward.config.readers import decides

    for _, kind, text in reversed(events):
        if kind == PREPARED:
            return False
        if kind == CONFIGURED and any(map(decides, _change(text)["changed"])):
            return True
    return False


def _change(text: str) -> dict[str, Any]:
    """The event of a change, see ``change_text``."""
    try:
        return asdict(msgspec.json.decode(text, type=_Change))
    except msgspec.DecodeError as error:
        raise _torn(CONFIGURED, error) from None


def _torn(kind: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"records.db: table events: an event {kind} is torn: {error}", RESTORE)


def made_stages(store: Store, config: "Config") -> list[tuple[int, str]]:
    """The stages that are finished or have made something, in order.

    A training that was cut off has made nothing: its checkpoints count only for the same options.
    """
    models = store.path.parent / "models"
    finished = {(row.iteration, row.stage) for row in store.stages()}
    last = max([config.iterations, *(t for t, _ in finished)])
    return [
        (t, stage)
        for t in range(last + 1)
        for stage in config.stages(t)
        if (t, stage) in finished
        or (stage in TRAINING and (models / model_name(t, stage)).is_dir())
        or (stage not in TRAINING and has_made(store, t, stage))
        or store.drop_reasons(t, stage)
    ]


def refuse_frozen(
    name: str, old: "Config", new: "Config", changed: Values, made: Sequence[tuple[int, str]]
) -> None:
    """Refuse a change that would make what a run has made untrue.

    Args:
        name: Of the run.
        changed: Old and new values, by key.
        made: Its stages that are finished or have made something.

    Raises:
        IntegrityError: A stage was made with the old value; the message names key and stage.
        ConfigError: The run would have fewer iterations than it has begun.
    """
    from selfreward.config.readers import decides, first_copied, first_reader, keeps_order

    if key := first_copied(changed):
        raise IntegrityError(f"{key} is frozen: the run has its own copy of what it names", _ANEW)
    for key in filter(decides, changed):
        if reader := first_reader(key, made):
            iteration, stage = reader
            raise IntegrityError(
                f"{key} is frozen: {stage} of iteration {iteration} was made with it",
                _remedy(name, key, changed[key][1], iteration, stage),
            )
    if not keeps_order(old, new, made):
        raise IntegrityError(
            f"{', '.join(changed)}: would change the stages before those that are made", _ANEW
        )
    begun = max((t for t, _ in made), default=0)
    if new.iterations < min(old.iterations, begun):
        raise ConfigError(
            f"iterations={new.iterations}, but iteration {begun} has begun",
            "iterations can only shrink to those that have begun.",
        )


def check_retrained(
    old: "Config",
    new: "Config",
    changed: Values,
    made: Sequence[tuple[int, str]],
    iteration: int,
) -> None:
    """Refuse to branch off with a change of what the copied records were made with.

    Earlier trainings may have been done otherwise: the branch keeps how.

    Args:
        changed: Old and new values, by key.
        made: The stages whose records are copied.
        iteration: That is trained anew.

    Raises:
        IntegrityError: With the key and the stage that was made with it.
        ConfigError: Iterations that end before the one that is trained anew.
    """
    from selfreward.config.readers import (
        decides,
        first_copied,
        first_reader,
        is_read,
        keeps_copied,
    )

    coming = [(iteration, "train"), (iteration, "evaluate")]
    if key := first_copied(changed):
        raise IntegrityError(f"{key} is frozen: a branch copies what it names from the run", _ANEW)
    for key in filter(decides, changed):
        if key in _HELD_AGAINST and (0, "evaluate") in made:
            raise IntegrityError(f"{key} is frozen: {_HELD_AGAINST[key]}", _ANEW)
        sampled = [at for at in made if at[1] not in (*TRAINING, "evaluate")]
        reader = first_reader(key, sampled)
        if reader is None and not any(is_read(key, *at) for at in coming):
            reader = first_reader(key, made)
        if reader is None:
            continue
        hint = (
            "Only train, dpo, rloo, grpo, lora, quantization, launch, evaluation and keys that "
            "decide no record may change."
        )
        if key.startswith("pairs."):
            hint = "Compare other rules on the same judgments: selfreward pairs RUN --try RULE."
        raise IntegrityError(
            f"{key}: {reader[1]} of iteration {reader[0]} was made with it and is copied", hint
        )
    if not keeps_copied(old, new, iteration):
        raise IntegrityError(
            f"{', '.join(changed)}: would change the stages whose records are copied", _ANEW
        )
    if new.iterations < iteration:
        raise ConfigError(f"iterations={new.iterations} ends before --retrain {iteration}")


def _remedy(name: str, key: str, value: object, iteration: int, stage: str) -> str:
    if iteration and stage in ("train", "evaluate"):
        return (
            f"Train again from the stored pairs, in a run of its own: selfreward resume {name} "
            f"--retrain {iteration} --name NEW {key}={json.dumps(value)}"
        )
    if stage == "pairs" and key.startswith("pairs."):
        return f"Compare rules on the same judgments: selfreward pairs {name} --try RULE."
    if not iteration:
        return "Start a new run: what it makes first depends on this key."
    return f"Start a new run, or branch off: selfreward run CONFIG --from {name}:M1"
