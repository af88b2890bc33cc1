"""What Python programs and notebooks use: start a run, open one, and read what it holds.

    from selfreward import Run, run

    demo = run("quickstart", name="demo", iterations=1)      # as `selfreward run` does
    Run.open("demo").responses(iteration=1).to_pandas()

Importing this loads neither torch nor pandas nor pyarrow; a method loads what it needs. The
command line launches runs by the same two functions, ``new_run`` and ``launch``.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward import controller
from selfreward.errors import ConfigError, LockedError, NotFoundError, SelfRewardError
from selfreward.sigterm import Terminated
from selfreward.storage import directory
from selfreward.storage.create import discard_empty, is_empty
from selfreward.storage.directory import open_run, runs_root
from selfreward.tracking.process import Followers, told_behind
from selfreward.verbs.maintenance import told_as_damage

if TYPE_CHECKING:
    import pyarrow

    from selfreward.measures.figures import IterationFigures
    from selfreward.verbs.status import Status
    from selfreward.verbs.tables import What

_LOG = logging.getLogger(__name__)
_NUMBER = re.compile(r"[0-9]{1,9}")
_TOLD_S = 0.5
"""Least time between two calls of ``progress``."""


class Run:
    """A run, for reading; and for going on with it.

    Every method that reads gives what is committed at that moment, also while the run is at work.
    They raise ``IntegrityError`` where the run is damaged.
    """

    def __init__(self, run: directory.Run) -> None:
        self._run = run

    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> "Run":
        """Open a run by its name under the runs directory, or by path.

        Raises:
            NotFoundError: There is none; the message lists the runs there are.
        """
        return cls(open_run(os.fspath(name)))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def name(self) -> str:
        """Its name, that of its directory."""
        return self._run.name

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._run.path

    @property
    def settings(self) -> dict[str, Any]:
        """The config in force as plain data, every value filled in."""
        return self._run.settings

    def status(self) -> "Status":
        """Where it is, how fast and for how long."""
        from selfreward.verbs.status import status_of

        with told_as_damage(self._run):
            return status_of(self._run)

    def figures(self) -> tuple["IterationFigures", ...]:
        """All figures of each iteration that has begun, in order, with their units.

        Raises:
            NotFoundError: It has no records yet.
        """
        from selfreward.verbs.scores import scores_of

        with told_as_damage(self._run):
            return scores_of(self._run).iterations

    def scores(self) -> "pyarrow.Table":
        """The same as a table: a row per iteration, a column per number, such as ``scores.mean``.

        Raises:
            NotFoundError: It has no records yet.
        """
        import pyarrow

        rows = [dict(_numbers(asdict(figures))) for figures in self.figures()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pyarrow.table({name: [row.get(name) for row in rows] for name in names})

    def prompts(self, iteration: int | None = None) -> "pyarrow.Table":
        """Every try at writing a prompt; those that were accepted have no ``dropped``.

        Args:
            iteration: None for all, as in the methods below.

        Raises:
            NotFoundError: There is no such iteration.
        """
        return self._table("prompts", iteration)

    def responses(self, iteration: int | None = None) -> "pyarrow.Table":
        """Every answer with its prompt and the score by which pairs are made, 0 to 5 points."""
        return self._table("responses", iteration)

    def judgments(self, iteration: int | None = None) -> "pyarrow.Table":
        """Every vote on an answer, with the judge's own words."""
        return self._table("judgments", iteration)

    def pairs(self, iteration: int | None = None) -> "pyarrow.Table":
        """Every preference pair, in the conversational form that TRL takes."""
        return self._table("pairs", iteration)

    def labels(self, iteration: int | None = None) -> "pyarrow.Table":
        """What people said of answers, as far as it is in force."""
        return self._table("labels", iteration)

    def model(self, number: int) -> Path:
        """Directory of M0, M1, M2, ..., whole and for ``from_pretrained``.

        Raises:
            NotFoundError: It is not made yet, or ``gc`` removed it.
            IntegrityError: It is not whole.
        """
        base = self._run.base_model().get("path")
        if base and (number == 0 or (number == 1 and self._run.settings["sft"] is None)):
            return Path(base)
        path = self._run.model_directory(number)
        if not path.is_dir():
            there = sorted(p.name for p in path.parent.glob("M*") if p.is_dir())
            raise NotFoundError(
                f"run {self.name} has no model {path.name}",
                f"It has: {', '.join(there) or 'none yet'}.",
            )
        return self._run.whole_model(number)

    def resume(self, progress: Callable[["Status"], None] | None = None) -> "Run":
        """Do all that is left of it; nothing where it is finished. See ``run``."""
        from selfreward.verbs.status import is_complete

        with told_as_damage(self._run):
            is_finished = is_complete(self._run)
        if not is_finished:
            launch(self._run, _teller(self._run, progress))
        return self

    def _table(self, what: "What", iteration: int | None) -> "pyarrow.Table":
        from selfreward.verbs.tables import table

        with told_as_damage(self._run):
            return table(self._run, what, iteration)


def run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *words: str,
    name: str | None = None,
    start: str | None = None,
    progress: Callable[["Status"], None] | None = None,
    **settings: Any,
) -> Run:
    """Start a run and do all of it: M0 -> M1 -> M2 -> ...

    Args:
        config: A YAML file, a recipe's name such as ``quickstart``, or the same as plain data.
        words: ``dotted.key=value``, as on the command line.
        name: Of the run; default: the config's and a number.
        start: ``RUN:M1`` to start from a model of another run, without SFT.
        progress: Told where the run is, at most twice a second while there is news.
        settings: Keys that replace the config's; those of groups as mappings, such as
            ``iterations=1, dpo={"beta": 0.2}``. The words are applied before.

    Returns:
        The run, finished.

    Raises:
        ConfigError: Config, template or seed data is wrong, or the name is in use.
        StoppedError: The method cannot go on; ``Run.open(name).resume()`` continues.
        KeyboardInterrupt: What was committed stays, as with any error above.
        SelfRewardError: All others, see ``errors``.
    """
    from selfreward.config.load import words_of

    made = new_run(config, [*words, *words_of(settings)], name=name, start=start)
    launch(made, _teller(made, progress), is_new=True)
    return Run(made)


def new_run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    words: list[str],
    *,
    name: str | None = None,
    start: str | None = None,
) -> directory.Run:
    """Make the directory of a run, with copies of all that it reads; see ``run``."""
    from selfreward.config.load import build_config, load_config
    from selfreward.inputs.collect import create_run
    from selfreward.inputs.shipped import config_file

    words = [*(_branch(start) if start else []), *words]
    if isinstance(config, Mapping):
        built = build_config(dict(config), words)
        return create_run(built, free_name("run") if name is None else name)
    source = config_file(os.fspath(config))
    name = free_name(source.stem) if name is None else name
    return create_run(load_config(source, words), name, source)


def launch(
    run: directory.Run,
    tick: Callable[[], None],
    *,
    is_new: bool = False,
    say: Callable[[str], None] = _LOG.warning,
) -> None:
    """Do all that is left of a run.

    Args:
        tick: Called a few times a second while child processes work.
        is_new: Whether it was made just now, so that it need not stay if it records nothing.
        say: Told at the end of each tracker that has not got all of it.

    Raises:
        KeyboardInterrupt, sigterm.Terminated, SelfRewardError: See ``controller.launch``; each
            has a note that says what the run has kept.
    """
    followers = Followers(run, run.config.track)
    try:
        with told_as_damage(run), followers:
            controller.launch(run, tick)
    except (KeyboardInterrupt, Terminated) as stop:
        stop.add_note(_left(run, "", is_new))
        raise
    except SelfRewardError as error:
        if not isinstance(error, LockedError):
            error.add_note(_left(run, f"{error.message} {error.hint}", is_new))
        raise
    finally:
        for tracker in followers.behind if run.records.is_file() else ():
            say(told_behind(run, tracker))


def free_name(stem: str) -> str:
    """The stem and the smallest number that is free."""
    number = 1
    while (runs_root() / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def _left(run: directory.Run, said: str, is_new: bool) -> str:
    """What a launch that ended early has left, in a line; a new run without records is removed.

    Args:
        said: The error; a run in which it names a file, such as a log, stays to be looked at.
    """
    if not is_empty(run):
        return f"saved; continue with: selfreward resume {run.handle}"
    named = any(str(path) in said for path in (run.path, run.path.resolve()))
    if is_new and not named and discard_empty(run):
        return f"nothing was recorded, so there is no run {run.name}; its name is free"
    return (
        f"nothing was recorded yet; go on with: selfreward resume {run.handle}; or mend the config "
        "and run it again under this name"
    )


def _branch(start: str) -> list[str]:
    """Overrides that start a run from a model of another one."""
    name, colon, model = start.rpartition(":")
    if not colon or not model.startswith("M") or not _NUMBER.fullmatch(model[1:]):
        raise ConfigError(f"--from {start}: expected RUN:M1, a run and one of its models")
    path = Run.open(name).model(int(model[1:]))
    return [f"model={json.dumps(str(path.resolve()))}", "sft=null"]


def _teller(run: directory.Run, progress: Callable[["Status"], None] | None) -> Callable[[], None]:
    """A tick that tells where the run is, when that has changed."""
    if progress is None:
        return lambda: None
    from selfreward.verbs.status import status_of

    told: list[Any] = [0.0, None]

    def tick() -> None:
        if time.monotonic() - told[0] < _TOLD_S:
            return
        status = status_of(run)
        key = (status.state, status.updated, status.stages)
        if key != told[1]:
            progress(status)
            told[1] = key
        told[0] = time.monotonic()

    return tick


def _numbers(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """The numbers in nested figures by dotted name; None where there is none, nested or not."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{key}", value
