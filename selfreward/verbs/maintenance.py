"""Checking a run against what was committed, and removing what it no longer needs."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from selfreward.errors import IntegrityError, NotFoundError, SelfRewardError
from selfreward.inputs import models
from selfreward.measures.best import best_of
from selfreward.measures.figures import figures_of
from selfreward.records import TRAINING, Stage
from selfreward.storage import durable
from selfreward.storage.benchmarks import benchmarks_path, read_benchmarks
from selfreward.storage.changes import REMOVED
from selfreward.storage.committed import (
    check_events,
    check_figures,
    check_model,
    check_no_stage_lost,
    check_records,
    check_rows,
    check_stage,
    model_of,
    needed_models,
    trainings,
)
from selfreward.storage.directory import Run, open_run
from selfreward.storage.label import altered, in_force
from selfreward.storage.labels import labels_path, reading
from selfreward.storage.leftovers import leftovers, remove
from selfreward.storage.store import Store
from selfreward.storage.tables import RESTORE
from selfreward.verbs.layout import size, table
from selfreward.workers.fixed import check_fixed

Check = dict[str, Any]


def verify(run: Run) -> list[Check]:
    """Check every byte of a run that has a checksum, and that all the others can be read.

    Returns:
        One mapping per check: ``name``, ``ok`` and ``detail``, which says what is wrong.

    Raises:
        IntegrityError: ``records.db`` cannot even be opened.
    """
    checks: list[Check] = []

    def check(name: str, test: Callable[[], str]) -> bool:
        detail, is_ok = "", False
        try:
            detail, is_ok = test(), True
        except (SelfRewardError, OSError) as error:
            detail = str(error)
        except Exception as error:  # whatever a check trips over is what is wrong
            detail = f"cannot be read ({type(error).__name__}: {error})"
        checks.append({"name": name, "ok": is_ok, "detail": detail})
        return is_ok

    with run.store() as store:
        check("records.db", partial(_check_database, store))
        check("config, templates, seed data", partial(_check_config, run, store))
        check("M0", partial(_check_base, run))
        check("rows", partial(check_rows, store))
        check("events", partial(check_events, store))
        check("fixed models", partial(check_fixed, store))
        stages: list[Stage] = []
        check("stages", partial(_check_tables, store, stages))
        for stage in stages:
            if stage.stage in TRAINING:
                check(model_of(stage), partial(check_model, run, store, stage))
            check(f"iteration {stage.iteration} {stage.stage}", partial(check_stage, store, stage))
        closed: list[int] = []
        if check("figures", partial(_closed, store, closed)):
            checks.pop()
        for t in closed:
            check(f"iteration {t} figures", partial(check_figures, store, t))
        if benchmarks_path(run).exists():
            check("benchmarks.jsonl", partial(_check_benchmarks, run))
        if labels_path(run).exists():
            check("labels.db", partial(_check_labels, run, store))
    return checks


@contextmanager
def opened(name: str) -> Iterator[Run]:
    """A run by its name, see ``open_run``, for a body that reads it: see ``told_as_damage``."""
    run = open_run(name)
    with told_as_damage(run):
        yield run


@contextmanager
def told_as_damage(run: Run) -> Iterator[None]:
    """Whatever reading a run trips over, which is not named yet, is told as damage if it is.

    Records that do not fit together make code fail in ways that no reader can foresee. Then all is
    checked; only where nothing is wrong with the run is it a bug.

    Raises:
        IntegrityError: With the first check that fails.
    """
    try:
        yield
    except NotFoundError:
        with run.store() as store:
            check_records(store)  # it may be missing because it was lost
        raise
    except SelfRewardError:
        raise
    except OSError as error:
        is_inside = run.path.absolute() in Path(str(error.filename)).absolute().parents
        if error.errno not in (errno.EISDIR, errno.ENOTDIR) or not is_inside:
            raise
        raise IntegrityError(
            f"{error.filename}: {error.strerror}", durable.remedy(error)
        ) from error
    except Exception as error:
        bad = [check for check in verify(run) if not check["ok"]]
        if not bad:
            raise
        raise IntegrityError(
            f"run {run.name} is damaged: {bad[0]['name']}: {bad[0]['detail']}",
            f"Restore it from a copy; `selfreward verify {run.name}` lists all that is damaged.",
        ) from error


def verify_text(checks: list[Check]) -> str:
    """What ``selfreward verify`` prints."""
    rows = [["ok" if c["ok"] else "FAIL", c["name"], c["detail"]] for c in checks]
    return table(rows)


def collect(run: Run, keep: int | None, *, dry_run: bool) -> list[dict[str, Any]]:
    """Remove leftovers of killed processes, checkpoints of finished trainings and old models.

    Nothing goes before what stays has been verified. The best model always stays, and so does one
    that a coming iteration starts from or is judged by.

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
    with run.locked():  # the disk may be full: the database is written to once there is space
        with run.store() as store:
            trained = trainings(store)
            old = _old_models(run, store, keep)
            for stage in trained:
                if stage not in old:
                    check_model(run, store, stage)
        found = [(path, "left by a killed process") for path in leftovers(run)]
        for stage in trained:
            checkpoints = run.checkpoints_directory(model_of(stage))
            if checkpoints.is_symlink() or checkpoints.exists():
                found.append((checkpoints, f"{model_of(stage)} is finished"))
        items = [_item(path, why) for path, why in found]
        going = [run.model_directory(model_of(stage)) for stage in old]
        items += [_item(path, f"not among the newest {keep}") for path in going]
        if not dry_run:
            for path, _ in found:
                remove(path)
            if going:
                with Store.claim(run.records) as store:
                    for path in going:
                        store.add_event(REMOVED, path.name)
                        remove(path)
    return items


def why_nothing(run: Run, keep: int | None) -> str:
    """Why there is nothing to remove, and what would remove more."""
    with run.store() as store:
        trained = trainings(store)
    models = [path for stage in trained if (path := run.model_directory(model_of(stage))).exists()]
    said = "no leftovers of killed processes, and no checkpoints of finished trainings"
    if not models:
        return f"{said}; the run has no model of its own"
    names = ", ".join(path.name for path in models)
    num_bytes = size(sum(_item(path, "")["bytes"] for path in models))
    if keep is None:
        return f"{said}; of its models ({names}: {num_bytes}) none goes without --keep N"
    return (
        f"{said}; its models ({names}: {num_bytes}) are the newest {keep}, the best, or what "
        "a coming iteration starts from, answers with or is judged by"
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
        raise IntegrityError(f"{store.path}: {found}")
    store.owner()
    return ""


def _check_tables(store: Store, stages: list[Stage]) -> str:
    """Read what is no record; ``stages`` is filled."""
    stages += store.stages()
    store.plans()
    for progress in store.progress():
        try:
            datetime.fromisoformat(progress.at)
        except ValueError:
            raise IntegrityError(
                f"{store.path}: table progress: {progress.at!r:.60} is no time", RESTORE
            ) from None
    check_no_stage_lost(store)
    return f"{len(stages)} finished"


def _closed(store: Store, closed: list[int]) -> str:
    closed += store.closed
    return ""


def _check_config(run: Run, store: Store) -> str:
    anew = Run(run.path)
    assert anew.config
    anew.check_fingerprints(store)
    return "as when each stage was made"


def _check_benchmarks(run: Run) -> str:
    return f"{len(read_benchmarks(run))} results"


def _check_labels(run: Run, store: Store) -> str:
    with reading(run) as labels:
        history = labels.check() if labels else []
    if gone := altered(store, history):
        raise IntegrityError(
            f"{labels_path(run)}: label {min(gone)}{' and others' if len(gone) > 1 else ''}: the "
            "records no longer hold what was labeled"
        )
    return f"{len(in_force(history))} labels"


def _check_base(run: Run) -> str:
    base = run.base_model()
    if not base:
        return "not looked up yet"
    path = Path(base["path"])
    found = models.digest(path)
    if found != base["digest"]:
        raise IntegrityError(f"{path}: not the model that this run began with")
    return str(path)


def _old_models(run: Run, store: Store, keep: int | None) -> list[Stage]:
    """Models that may go: neither new nor the best, and no coming iteration needs them."""
    if keep is None:
        return []
    there = [stage for stage in trainings(store) if run.model_directory(model_of(stage)).exists()]
    needed = needed_models(run, store)
    if best := best_of(run, [figures_of(store, t) for t in store.closed]):
        needed.add(best.model)
    return [stage for stage in there[: len(there) - keep] if model_of(stage) not in needed]


def _item(path: Path, why: str) -> dict[str, Any]:
    inner = path.is_dir() and not path.is_symlink()
    files = [p for p in path.rglob("*") if p.is_file()] if inner else [path]
    num_bytes = sum(file.lstat().st_size for file in files)
    return {"path": str(path), "bytes": num_bytes, "why": why}
