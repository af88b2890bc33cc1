"""Runs that begin alike: what one of them has made already is not made again.

runs there are, a new config -> the longest beginning that is the same -> a run that has it
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfreward.config.readers import StageKey, alike
from selfreward.config.run import Config
from selfreward.inputs.functions import COPY, read_functions
from selfreward.records import TRAINING, model_name
from selfreward.storage.branch import create_sharing
from selfreward.storage.create import create_directory, free_directory
from selfreward.storage.directory import Run


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a run has made that another is to begin with."""

    run: Run
    stages: tuple[StageKey, ...]
    """Finished and alike in both, in order; at least one."""


def create_sharing_run(name: str, files: dict[str, str], found: Beginning | None) -> Run:
    """Make a run that begins with what another has made.

    Args:
        name: See ``create.free_directory``.
        files: Of the run, see ``collect.run_inputs``.
        found: What ``beginning`` found; None makes a run in which nothing is made.

    Raises:
        ConfigError: The name is bad or in use.
        IntegrityError: The other run is damaged.
        PreflightError: The directory cannot be written.
    """
    target = free_directory(name)
    if found is None:
        return create_directory(target, files)
    return create_sharing(target, files, found.run, found.stages)


def beginning(config: Config, files: dict[str, str], others: Iterable[Run]) -> Beginning | None:
    """The longest beginning that any of the others has made; None where none has made any."""
    found = (Beginning(run, tuple(_made_alike(config, files, run))) for run in others)
    best = max(found, key=lambda each: len(each.stages), default=None)
    return best if best and best.stages else None


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of input files that are not the same in two runs, functions by themselves.

    A file that only one has follows from a key of the config that the other does not have.
    """
    both = (one.keys() & other.keys()) - {COPY, "config.yaml", "config.resolved.yaml"}
    names = sorted(name for name in both if one[name] != other[name])
    mine, theirs = (read_functions(files.get(COPY, "")) for files in (one, other))
    shared = mine.keys() & theirs.keys()
    return names + sorted(name for name in shared if mine[name].digest != theirs[name].digest)


def copied_files(run: Run) -> dict[str, str]:
    """Text of every input file that a run has a copy of, by relative path."""
    paths = [*run.path.glob("templates/*.jinja"), *run.path.glob("seeds/*.jsonl")]
    return {str(Path(p.parent.name, p.name)): p.read_text(encoding="utf-8") for p in paths}


def _made_alike(config: Config, files: dict[str, str], run: Run) -> Sequence[StageKey]:
    """The first stages that a run has finished and whose models are there, alike in both."""
    with run.store() as store:
        finished = {(row.iteration, row.stage) for row in store.stages()}
    made: list[StageKey] = []
    for t, stage in alike(run.config, config, differing(copied_files(run), files)):
        model = run.model_directory(model_name(t, stage)) if stage in TRAINING else None
        if (t, stage) not in finished or (model is not None and not model.is_dir()):
            break
        made.append((t, stage))
    return made
