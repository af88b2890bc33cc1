"""A run that takes over the records of another one.

``create_branch`` trains anew from its stored pairs. ``create_sharing`` makes a run with a config of
its own, of which another run has made the first stages already.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from selfreward.config.yamlfile import dump_yaml, read_yaml
from selfreward.errors import IntegrityError, NotFoundError
from selfreward.records import REPORTS_OF, TRAINING, Stage, model_name
from selfreward.storage import benchmarks, database, durable, labels
from selfreward.storage.changes import (
    BRANCHED,
    CONFIGURED,
    FIXED,
    IMPORTED,
    REMOVED,
    Branch,
    Values,
    change_text,
    check_retrained,
)
from selfreward.storage.committed import removed_models, trainings
from selfreward.storage.create import free_directory, new_directory
from selfreward.storage.directory import Run
from selfreward.storage.starts import START, start_of
from selfreward.storage.store import Store

if TYPE_CHECKING:
    from selfreward.config.run import Config


def create_branch(
    origin: Run,
    iteration: int,
    name: str,
    overrides: Sequence[str] = (),
    check: Callable[["Config", Values], None] | None = None,
) -> Run:
    """Make a run of what another one made up to the pairs of an iteration.

    It has the records, labels, benchmarks and models of all before, hard-linked where that can be;
    to train the iteration's model and all that follows is left to do. The other run is only read,
    and may be at work. The branch appears whole or not at all.

    Args:
        origin: The other run.
        iteration: Above 0.
        name: As for ``free_directory``.
        overrides: ``dotted.key=value`` words, of keys that decide none of these records.
        check: As for ``Run.configure``.

    Raises:
        NotFoundError: The iteration's pairs are not made yet.
        IntegrityError: A key that decides the records would change; or a model that is needed is
            gone or damaged.
        ConfigError: A value is wrong, or the name is bad or in use.
        PreflightError: The directory cannot be written.
    """
    from selfreward.config.load import changes, load_copy, override

    new = load_copy(origin.resolved, overrides)
    changed = changes(origin.config, new)
    pairs, kept = _made(origin, iteration)
    check_retrained(origin.config, new, changed, kept, iteration)
    if check is not None:
        check(new, changed)
    target = free_directory(name)
    old = read_yaml(origin.resolved)[0]
    data = override(old, overrides) if changed else old
    with new_directory(target) as directory:
        durable.write_file(directory / "config.resolved.yaml", dump_yaml(data))
        for path in _inputs(origin):
            copy = directory / path.relative_to(origin.path)
            durable.write_file(copy, path.read_bytes())
        database.copy(origin.records, directory / "records.db")
        with Store.claim(directory / "records.db") as store:
            events = (CONFIGURED, BRANCHED, FIXED, IMPORTED)
            stages = [stage for t, stage in kept if t == iteration]
            store.cut(iteration, stages, events, (START,))
            _link_models(origin, store, directory / "models", iteration)
            if changed:
                store.add_event(CONFIGURED, change_text(old, data, changed))
            branch = Branch(origin.name, iteration, pairs.digest)
            store.add_event(BRANCHED, json.dumps(asdict(branch)))
            digests = {
                str(origin.base_model().get("digest")),
                *(row.digest for row in trainings(store)),
            }
        labels.carry(origin, Run(directory), iteration)
        benchmarks.carry(origin, Run(directory), digests)
    return Run(target)


def create_sharing(
    target: Path, files: Mapping[str, str], origin: Run, made: Sequence[tuple[int, str]]
) -> Run:
    """Make a run of which another one has made the first stages, that are alike in both.

    Records are copied and models hard-linked where that can be, and each stage is entered as made
    from the new run's own config and files. The other run is only read, and may be at work. The
    new one appears whole or not at all.

    Args:
        target: See ``create.free_directory``.
        files: See ``create.create_directory``.
        made: Stages finished in ``origin``, in order, which ``config.readers.alike`` calls alike.

    Raises:
        IntegrityError: A model is gone or damaged.
        PreflightError: The directory cannot be written.
    """
    iteration, last = made[-1]
    with origin.store() as other:
        end = other.finished(iteration, last)
    assert end is not None
    stages = [stage for t, stage in made if t == iteration]
    with new_directory(target) as directory:
        for path, text in files.items():
            durable.write_file(directory / path, text)
        base = (origin.path / "models" / "M0.json").read_bytes()
        durable.write_file(directory / "models" / "M0.json", base)
        database.copy(origin.records, directory / "records.db")
        run = Run(directory)
        with Store.claim(directory / "records.db") as store:
            reports = [START, *(name for stage in stages for name in REPORTS_OF.get(stage, ()))]
            store.cut(iteration, stages, (FIXED, IMPORTED), reports)
            store.plan({t: run.config.stages(t) for t in range(run.config.iterations + 1)})
            _link_models(origin, store, directory / "models", iteration)
            for stage in store.stages():
                fingerprint = run.stage_fingerprint(store, stage.iteration, stage.stage)
                store.set_fingerprint(stage.iteration, stage.stage, fingerprint)
            branch = Branch(origin.name, iteration, end.digest, last)
            store.add_event(BRANCHED, json.dumps(asdict(branch)))
    return Run(target)


def _made(run: Run, iteration: int) -> tuple[Stage, list[tuple[int, str]]]:
    """The stage of the pairs of an iteration, and all stages up to it.

    Raises:
        NotFoundError: It is not finished.
    """
    with run.store() as store:
        stages, pairs = store.stages(), store.finished(iteration, "pairs")
    if pairs is None:
        found = [row.iteration for row in stages if row.stage == "pairs"]
        raise NotFoundError(
            f"run {run.name} has no finished pairs of iteration {iteration} to train from",
            f"It has those of {', '.join(map(str, found)) or 'none yet'}.",
        )
    later = [(iteration, "train"), (iteration, "evaluate")]
    made = [(row.iteration, row.stage) for row in stages if row.iteration <= iteration]
    return pairs, [at for at in made if at not in later]


def _inputs(run: Run) -> list[Path]:
    """The files that a run reads, but the config in force and the records."""
    found = [run.path / "config.yaml", run.path / "models" / "M0.json"]
    found += [*run.path.glob("templates/*.jinja"), *run.path.glob("seeds/*.jsonl")]
    return [path for path in found if path.is_file()]


def _link_models(run: Run, store: Store, models: Path, iteration: int) -> None:
    """Link the models that the stages in ``store`` made, but those that ``gc`` removed before.

    Raises:
        IntegrityError: One is not whole or not the one committed, or the one to train is gone.
    """
    with run.store() as other:
        removed, start = removed_models(other), f"M{start_of(other, iteration)}"
    for row in store.stages():
        if row.stage not in TRAINING:
            continue
        name = model_name(row.iteration, row.stage)
        if name in removed and not run.model_directory(name).exists():
            if name == start:
                raise IntegrityError(
                    f"{name}, from which iteration {iteration} is trained, was removed by gc",
                    f"Put a copy back as {run.model_directory(name)}, or start a new run.",
                )
            store.add_event(REMOVED, name)
            continue
        source = run.whole_model(name)
        if durable.verify_directory(source, deep=False) != row.digest:
            raise IntegrityError(f"{source}: whole, but not the model that was committed")
        durable.link_directory(source, models / name)
