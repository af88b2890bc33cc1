"""What a run has committed, held against what lies there now.

``verify`` asks all of it and reads every byte; a launch asks what it is about to build on: the
records of every finished stage, and the models that the next stages start from or are judged by.
"""

from selfreward.config.judging import PREVIOUS
from selfreward.config.run import asked_models
from selfreward.errors import IntegrityError
from selfreward.records import TRAINING, Stage, model_name
from selfreward.storage import durable, seals
from selfreward.storage.changes import REMOVED
from selfreward.storage.directory import Run
from selfreward.storage.made import made_digest
from selfreward.storage.starts import before, start_of
from selfreward.storage.store import Store
from selfreward.storage.tables import RESTORE, TABLES


def check_launch(run: Run, store: Store) -> None:
    """Check all that the stages still to come are made from, but the base model.

    Raises:
        IntegrityError: A record, a count, a log or a model is not the one committed.
    """
    check_records(store)
    needed = needed_models(run, store)
    for stage in trainings(store):
        if model_of(stage) in needed:
            check_model(run, store, stage)


def check_records(store: Store) -> None:
    """Check all that is in the database of what finished stages made, and the events.

    Raises:
        IntegrityError: With the first stage that is not as it was committed.
    """
    for (table,) in store.query("SELECT name FROM sqlite_master WHERE type = 'table'"):
        next(store.query(f"SELECT 1 FROM {table} NOT INDEXED LIMIT 1"), None)  # an empty one too
    for stage in store.stages():
        check_stage(store, stage)
    check_events(store)
    check_no_stage_lost(store)


def check_no_stage_lost(store: Store) -> None:
    """Check that each stage that was sealed has its row."""
    finished = {(stage.iteration, stage.stage) for stage in store.stages()}
    for iteration, what in store.sealed:
        if what not in (seals.FIGURES, seals.EVENTS) and (iteration, what) not in finished:
            raise IntegrityError(
                f"{store.path}: table stages: iteration {iteration} {what} was finished, but has "
                "no row",
                RESTORE,
            )


def check_stage(store: Store, stage: Stage) -> str:
    """Check what a finished stage made, and its counts, drops and log.

    Returns:
        What there is of it, for people.
    """
    name = f"iteration {stage.iteration} {stage.stage}"
    if (
        stage.stage not in TRAINING
        and made_digest(store, stage.iteration, stage.stage) != stage.digest
    ):
        what = "reports" if stage.stage == "evaluate" else "records"
        raise IntegrityError(
            f"{store.path}: {name}: its {what} are not those that were committed", RESTORE
        )
    sealed = store.is_sealed(stage.iteration, stage.stage)
    if sealed is False or (sealed is None and _is_after_a_seal(store, stage)):
        raise IntegrityError(
            f"{store.path}: {name}: its counts, drops or log are not those that were committed",
            RESTORE,
        )
    return f"{stage.rows} rows, {stage.drops} drops{'' if sealed else '; made before seals'}"


def check_figures(store: Store, iteration: int) -> str:
    """Check the figures and reports of a closed iteration."""
    sealed = store.is_sealed(iteration, seals.FIGURES)
    of_this = [stage for stage in store.stages() if stage.iteration == iteration]
    here = of_this and all(store.is_sealed(iteration, s.stage) is not None for s in of_this)
    if sealed is False or (sealed is None and here):  # else an earlier release closed it
        raise IntegrityError(
            f"{store.path}: the figures or reports of iteration {iteration} are not those that "
            "were committed",
            f"{RESTORE} `selfreward scores RUN` computes the figures from the records.",
        )
    return "" if sealed else "made before seals"


def check_events(store: Store) -> str:
    """Check that no event was altered, added or taken away."""
    sealed = store.is_sealed(0, seals.EVENTS)
    if sealed is False or (sealed is None and store.is_sealing and store.events()):
        raise IntegrityError(f"{store.path}: table events is not what was written to it", RESTORE)
    return f"{len(store.events())} events"


def check_model(run: Run, store: Store, stage: Stage) -> str:
    """Read a model that training made, every byte.

    Returns:
        Its directory, or that ``gc`` removed it.
    """
    directory = run.model_directory(model_of(stage))
    if not directory.exists() and directory.name in removed_models(store):
        return "removed by gc"
    try:
        found = durable.verify_directory(directory)
    except IntegrityError as error:
        raise IntegrityError(
            f"{directory.name} is not whole: {error.message}",
            f"Restore {directory} from a copy, or start a new run.",
        ) from None
    if found != stage.digest:
        raise IntegrityError(
            f"{directory}: whole, but not the model that was committed",
            f"Restore {directory} from a copy, or start a new run.",
        )
    return str(directory)


def check_rows(store: Store) -> str:
    """Read every record, finished or not, and check that each belongs to one that is there."""
    count = 0
    for kind in TABLES:
        for row in store.query(f"SELECT DISTINCT iteration FROM {TABLES[kind][0]}"):
            count += len(store.records(kind, row[0]))
    for child, parent, on in _BELONGS:
        there = f"EXISTS (SELECT 1 FROM {parent} AS b WHERE {on})"
        for row in store.query(f"SELECT * FROM {child} AS a WHERE NOT {there} LIMIT 1"):
            raise IntegrityError(
                f"{store.path}: table {child}, row {row[:4]}: there is no such row in {parent}",
                RESTORE,
            )
    return f"{count} records"


_SAME = "a.iteration = b.iteration AND a.attempt = b.attempt"
_VOTE = f"{_SAME} AND a.sample = b.sample AND b.juror = 0"
_BELONGS = [
    ("responses", "prompts", _SAME),
    ("judgments", "responses", f"{_SAME} AND a.sample = b.sample"),
    ("criteria", "prompts", _SAME),
    ("comparisons", "responses", f"{_SAME} AND a.first = b.sample"),
    ("comparisons", "responses", f"{_SAME} AND a.second = b.sample"),
    ("meta_judgments", "judgments", f"{_VOTE} AND a.first = b.vote"),
    ("meta_judgments", "judgments", f"{_VOTE} AND a.second = b.vote"),
    ("pairs", "responses", f"{_SAME} AND a.chosen = b.sample"),
    ("pairs", "responses", f"{_SAME} AND a.rejected = b.sample"),
    ("judge_pairs", "judgments", f"{_VOTE} AND a.chosen = b.vote"),
    ("judge_pairs", "judgments", f"{_VOTE} AND a.rejected = b.vote"),
]
"""Which row each row belongs to."""


def trainings(store: Store) -> list[Stage]:
    """The finished trainings, in order."""
    return [stage for stage in store.stages() if stage.stage in TRAINING]


def needed_models(run: Run, store: Store) -> set[str]:
    """Names of the trained models that a coming iteration starts from or is judged by."""
    trained = trainings(store)
    if not trained:
        return set()
    needed = {model_of(trained[-1]), f"M{start_of(store, trained[-1].iteration + 1)}"}
    judges = asked_models(run.config)
    if PREVIOUS in judges:
        needed.add(f"M{before(store, trained[-1].iteration + 1)}")
    if "M1" in judges or run.config.responses.anchors or run.config.train.base == "M1":
        needed.add("M1")
    return needed


def model_of(stage: Stage) -> str:
    """Name of the model that a training stage made."""
    return model_name(stage.iteration, stage.stage)


def removed_models(store: Store) -> set[str]:
    """Names of the models that ``gc`` removed."""
    return {text for _, kind, text in store.events() if kind == REMOVED}


def _is_after_a_seal(store: Store, stage: Stage) -> bool:
    """Whether a stage is sealed that was finished before this one, so that this one was, too."""
    query = """
SELECT 1 FROM stages AS a JOIN stages AS b ON b.rowid < a.rowid
JOIN seals AS s ON s.iteration = b.iteration AND s.what = b.stage
WHERE a.iteration = ? AND a.stage = ? LIMIT 1"""
    return bool([*store.query(query, (stage.iteration, stage.stage))])
