"""Checking a run against what was committed, and removing what it no longer needs."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from selfreward.errors import IntegrityError, SelfRewardError
from selfreward.inputs import models
from selfreward.records import Stage, model_name
from selfreward.storage import durable
from selfreward.storage.changes import REMOVED
from selfreward.storage.directory import Run
from selfreward.storage.store import Store, made_by
from selfreward.storage.tables import digest
from selfreward.verbs.layout import size, table

_TRAINING = ("sft", "train")
"""Stages that make a model."""

Check = dict[str, Any]


def verify(run: Run) -> list[Check]:
    """Check every byte of a run that has a checksum.

    Returns:
        One mapping per check: ``name``, ``ok`` and ``detail``, which says what is wrong.
    """
    checks: list[Check] = []

    def check(name: str, test: Callable[[], str]) -> None:
        try:
            checks.append({"name": name, "ok": True, "detail": test()})
        except (SelfRewardError, OSError) as error:
            checks.append({"name": name, "ok": False, "detail": str(error)})

    with run.store() as store:
        check("records.db", partial(_check_database, store))
        if not checks[0]["ok"]:
            return checks
        removed = _removed(store)
        check("config, templates, seed data", partial(_check_fingerprints, run, store))
        if run.base_model():
            check("M0", partial(_check_base, run))
        for stage in store.stages():
            name = f"iteration {stage.iteration} {stage.stage}"
            if stage.stage in _TRAINING:
                check(_model(stage), partial(_check_model, run, stage, removed))
            else:
                check(name, partial(_check_stage, store, stage))
    return checks


def verify_text(checks: list[Check]) -> str:
    """What ``selfreward verify`` prints."""
    rows = [["ok" if c["ok"] else "FAIL", c["name"], c["detail"]] for c in checks]
    return table(rows)


def collect(run: Run, keep: int | None, *, dry_run: bool) -> list[dict[str, Any]]:
    """Remove leftovers of killed processes, checkpoints of finished trainings and old models.

    Nothing goes before what stays has been verified. A model that a coming iteration starts from
    or is judged by always stays.

    Args:
        run: The run; it is owned meanwhile.
        keep: How many of the newest models to keep; None keeps all.
        dry_run: Only say what would go.

    Returns:
        One mapping per file or directory: ``path``, ``bytes`` and ``why``.

    Raises:
        IntegrityError: A model that stays is damaged; then nothing is removed.
        LockedError: Another process owns the run.
    """
    with run.owned() as store:
        trained = [stage for stage in store.stages() if stage.stage in _TRAINING]
        removed = _removed(store)
        old = _old_models(run, trained, keep)
        for stage in trained:
            if stage not in old:
                _check_model(run, stage, removed)
        found = [(path, "left by a killed process") for path in _leftovers(run)]
        for stage in trained:
            checkpoints = run.checkpoints_directory(_model(stage))
            if checkpoints.exists():
                found.append((checkpoints, f"{_model(stage)} is finished"))
        items = [_item(path, why) for path, why in found]
        for stage in old:
            items.append(_item(run.model_directory(_model(stage)), f"not among the newest {keep}"))
            if not dry_run:
                store.add_event(REMOVED, _model(stage))
        if not dry_run:
            for item in items:
                _remove(run, Path(item["path"]))
    return items


def why_nothing(run: Run, keep: int | None) -> str:
    """Why there is nothing to remove, and what would remove more."""
    with run.store() as store:
        trained = [stage for stage in store.stages() if stage.stage in _TRAINING]
    models = [path for stage in trained if (path := run.model_directory(_model(stage))).exists()]
    said = "no leftovers of killed processes, and no checkpoints of finished trainings"
    if not models:
        return f"{said}; the run has no model of its own"
    names = ", ".join(path.name for path in models)
    num_bytes = size(sum(_item(path, "")["bytes"] for path in models))
    if keep is None:
        return f"{said}; of its models ({names}: {num_bytes}) none goes without --keep N"
    return (
        f"{said}; its models ({names}: {num_bytes}) are the newest {keep}, or what a coming "
        "iteration starts from, answers with or is judged by"
    )


def collect_text(items: list[dict[str, Any]], *, dry_run: bool) -> str:
    """What ``selfreward gc`` prints."""
    total = size(sum(item["bytes"] for item in items))
    rows = [[size(item["bytes"]), item["path"], item["why"]] for item in items]
    summary = f"{total} would be freed" if dry_run else f"{total} freed"
    return "\n".join(filter(None, [table(rows), summary]))


def _check_database(store: Store) -> str:
    found = store.check()
    if found != "ok":
        raise IntegrityError(found)
    return ""


def _check_fingerprints(run: Run, store: Store) -> str:
    run.check_fingerprints(store)
    return "as when each stage was made"


def _check_base(run: Run) -> str:
    base = run.base_model()
    path = Path(base["path"])
    found = models.digest(path)
    if found != base["digest"]:
        raise IntegrityError(f"{path}: not the model that this run began with")
    return str(path)


def _check_model(run: Run, stage: Stage, removed: set[str]) -> str:
    directory = run.model_directory(_model(stage))
    if not directory.exists() and directory.name in removed:
        return "removed by gc"
    if durable.verify_directory(directory) != stage.digest:
        raise IntegrityError(f"{directory}: whole, but not the model that was committed")
    return str(directory)


def _check_stage(store: Store, stage: Stage) -> str:
    made = made_by(store, stage.iteration, stage.stage)
    is_as_committed = digest(made) == stage.digest
    if isinstance(made, dict):
        if not is_as_committed:
            raise IntegrityError(f"the reports {', '.join(made)} are not those committed")
        return f"{len(made)} reports"
    if not is_as_committed:
        raise IntegrityError(f"{len(made)} records are not those that were committed")
    return f"{len(made)} records"


def _old_models(run: Run, trained: list[Stage], keep: int | None) -> list[Stage]:
    """Models that may go: not among the newest, and no coming iteration needs them."""
    if keep is None:
        return []
    there = [stage for stage in trained if run.model_directory(_model(stage)).exists()]
    needed = {_model(stage) for stage in trained[-1:]}
    asks_m1 = any(judge.model == "M1" for judge in run.config.judge.jurors)
    if asks_m1 or run.config.responses.anchors:
        needed.add("M1")
    return [stage for stage in there[: len(there) - keep] if _model(stage) not in needed]


def _model(stage: Stage) -> str:
    return model_name(stage.iteration, stage.stage)


def _removed(store: Store) -> set[str]:
    """Names of the models that ``gc`` removed."""
    return {text for _, kind, text in store.events() if kind == REMOVED}


def _leftovers(run: Run) -> Iterator[Path]:
    for directory in (run.path, run.path / "models", *(run.path / "checkpoints").glob("*")):
        yield from sorted(directory.glob(f"{durable.TEMPORARY}*"))


def _item(path: Path, why: str) -> dict[str, Any]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    num_bytes = sum(file.lstat().st_size for file in files)
    return {"path": str(path), "bytes": num_bytes, "why": why}


def _remove(run: Run, path: Path) -> None:
    """Remove a file or directory; what a kill leaves of it is a leftover, never half a model."""
    temporary = run.path / f"{durable.TEMPORARY}{uuid.uuid4().hex}"
    os.rename(path, temporary)
    if temporary.is_dir():
        shutil.rmtree(temporary)
    else:
        temporary.unlink()
