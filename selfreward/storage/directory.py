"""A run directory: what it is made of and who may write to it.

runs/<name>/
  config.yaml           the config as given        config.resolved.yaml   every value, in force
  templates/  seeds/    copies of what the run reads from outside
  records.db            the record of truth (store.py)
  benchmarks.jsonl      what `selfreward benchmark` found of its models (benchmarks.py)
  labels.db             what people say of the answers, if they do (labels.py)
  models/               M0.json (where the base model is), SFT/ M1/ M2/ ..., with a manifest each
  checkpoints/  logs/   of training in progress; of each child process
  run.lock              held by the process that owns the run
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from selfreward.config.yamlfile import Path_, dump_yaml, read_yaml
from selfreward.errors import ConfigError, IntegrityError, LockedError, NotFoundError
from selfreward.records import TRAINING
from selfreward.storage import durable
from selfreward.storage.changes import (
    CONFIGURED,
    Values,
    change_text,
    made_stages,
    refuse_frozen,
    versions,
)
from selfreward.storage.fingerprints import fingerprint_of, possible_fingerprints
from selfreward.storage.store import Store, now
from selfreward.storage.tables import RESTORE

# The verbs that only read need none of pydantic and filelock, which take longer to import
# than the verbs take; so what makes, configures or owns a run imports them where it needs them.
if TYPE_CHECKING:
    from selfreward.config.run import Config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MEND_CONFIG = "Restore config.resolved.yaml from a copy: it was written when the run was made."
_KINDS = {"model": str, "iterations": int, "seed": int, "judge": dict, "evaluation": dict}
"""Types of what the reading verbs show or reckon with, of keys that every run has."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the resolved config is our own dump


def runs_root() -> Path:
    """Where runs live: ``$SELFREWARD_RUNS``, else ``runs`` in the current directory."""
    return Path(os.environ.get("SELFREWARD_RUNS") or "runs")


class Run:
    """An existing run directory; see ``creation.create_run`` and ``open_run``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = Path(os.path.abspath(path)).name

    @property
    def handle(self) -> str:
        """What to call it by on the command line: its name, or its path if it lies elsewhere."""
        return self.name if self.path == runs_root() / self.name else str(self.path)

    @cached_property
    def config(self) -> "Config":
        """The config in force, from ``config.resolved.yaml``.

        Raises:
            IntegrityError: It is no longer what was written there.
        """
        from selfreward.config.load import build_copy

        data, places = self._written
        try:
            return build_copy(data, places, str(self.resolved))
        except ConfigError as error:
            raise IntegrityError(error.message, _MEND_CONFIG) from None

    @property
    def settings(self) -> dict[str, Any]:
        """The same as plain data, for verbs that only read: this loads no pydantic.

        Raises:
            IntegrityError: It is gone, no YAML or has another type at a key of ``_KINDS``; also
                where a key is asked for that is missing.
        """
        try:
            data = yaml.load(self.resolved.read_text(encoding="utf-8"), Loader=_LOADER)
            if not isinstance(data, dict):
                raise ValueError("no mapping of keys")
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            reason = str(error).split("\n")[0]
            problem = f"{self.resolved}: cannot be read ({reason})"
            raise IntegrityError(problem, _MEND_CONFIG) from None
        for name, kind in _KINDS.items():
            if name in data and type(data[name]) is not kind:
                problem = f"{self.resolved}: key {name} is {data[name]!r:.60}"
                raise IntegrityError(problem, _MEND_CONFIG)
        return _Settings(data, str(self.resolved))

    @property
    def is_owned(self) -> bool:
        """Whether a process holds the run's lock; a shared lock for a moment finds out."""
        try:
            descriptor = os.open(self.path / "run.lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def resolved(self) -> Path:
        """``config.resolved.yaml``, which rules."""
        return self.path / "config.resolved.yaml"

    @property
    def records(self) -> Path:
        """``records.db``"""
        return self.path / "records.db"

    def store(self) -> Store:
        """The records, for reading."""
        return Store(self.records)

    @property
    def made(self) -> date:
        """UTC day of the first launch, which templates that tell the date are given."""
        with self.store() as store:
            events = store.events()
        try:
            return datetime.fromisoformat(events[0][0] if events else now()).date()
        except ValueError as error:
            raise IntegrityError(f"{self.records}: table events: {error}", RESTORE) from None

    def model_directory(self, model: int | str) -> Path:
        """``models/M<index>`` or ``models/SFT``, which exists only whole."""
        return self.path / "models" / _model_name(model)

    def checkpoints_directory(self, model: int | str) -> Path:
        """Where the training that makes the model keeps its checkpoints."""
        return self.path / "checkpoints" / _model_name(model)

    def log_path(self, iteration: int, stage: str) -> Path:
        """Log of the child process that runs a stage; all launches append to it."""
        return self.path / "logs" / f"{iteration}-{stage}.log"

    def seed_file(self, kind: str) -> Path:
        """The run's own copy of seed data, such as ``ift``, ``eft``, ``ranked`` or ``heldout``."""
        return self.path / "seeds" / f"{kind}.jsonl"

    def read_copy(self, name: str) -> str:
        """Text of the run's own copy of an input file, such as ``seeds/ift.jsonl``; "" if none."""
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all that decides the records: config, templates and seed data.

        The number of iterations and the keys that only change speed are left out, so that a run
        can be extended and resumed on another machine. The config counts as it was written when
        the run was made: a key that a later release adds is not in it.
        """
        return fingerprint_of(self._written[0], self.path)

    @cached_property
    def _written(self) -> tuple[dict[str, object], dict[Path_, str]]:
        """The config as it was written, without what later releases add, and its places."""
        try:
            return read_yaml(self.resolved)
        except ConfigError as error:
            raise IntegrityError(error.message, _MEND_CONFIG) from None

    def stage_fingerprint(
        self, store: Store, iteration: int, stage: str, fingerprint: str | None = None
    ) -> str:
        """sha256 over the run's fingerprint, the base model and every stage finished before.

        Args:
            fingerprint: Of the run, where it is not that of this version.
        """
        earlier = []
        for row in store.stages():
            if (row.iteration, row.stage) == (iteration, stage):
                break
            earlier.append((row.iteration, row.stage, row.digest))
        base = self.base_model().get("digest")
        text = json.dumps([fingerprint or self.fingerprint, base, iteration, stage, earlier])
        return hashlib.sha256(text.encode()).hexdigest()

    def check_fingerprints(self, store: Store) -> None:
        """Compare every finished stage with what its inputs are now, or were before a change.

        Raises:
            IntegrityError: Config, templates or seed data were altered after the fact.
        """
        configs = versions(self._written[0], store.events())
        for row in store.stages():
            possible = possible_fingerprints(configs, self.path)
            made = (self.stage_fingerprint(store, row.iteration, row.stage, p) for p in possible)
            if row.fingerprint not in made:
                raise IntegrityError(
                    f"{self.path}: {row.stage} of iteration {row.iteration} was made from another "
                    "config, template, seed data or base model than lies here now",
                    "Restore config.resolved.yaml, templates/, seeds/ and models/M0.json, or "
                    "start a new run.",
                )

    def base_model(self) -> dict[str, Any]:
        """Path, digest, source and revision of M0; empty before it is resolved.

        Raises:
            IntegrityError: The file was altered and is no JSON.
        """
        path = self.path / "models" / "M0.json"
        if not os.path.lexists(path):
            return {}
        try:
            base = json.loads(path.read_bytes())
            if not isinstance(base, dict):
                raise ValueError(f"a {type(base).__name__} instead of an object")
            for key in ("path", "digest"):
                if not isinstance(base.get(key), str):
                    raise ValueError(f"key {key} is missing or no text")
            return base
        except (OSError, ValueError, RecursionError) as error:
            raise IntegrityError(
                f"{path}: cannot be read ({error})",
                "Restore it from a copy. While the run is not finished it may also be removed: "
                "`selfreward resume RUN` finds the model again and checks that it is the same.",
            ) from None

    def policy(self, number: int) -> Path:
        """Directory of M0, M1, ...; without a seed step M1 is M0, see also ``starts.start_of``.

        Raises:
            IntegrityError: The directory is gone or not whole.
        """
        if number == 0 or (number == 1 and self.config.sft is None):
            return Path(self.base_model()["path"])
        return self.whole_model(number)

    def policy_digest(self, number: int) -> str:
        """sha256 of the same, as it was found or committed; the files are not read again."""
        model, base = self.policy(number), self.base_model()
        if str(model) == base["path"]:
            return str(base["digest"])
        return durable.verify_directory(model, deep=False)

    def whole_model(self, model: int | str) -> Path:
        """Directory of a model that training has made.

        Raises:
            IntegrityError: The directory is gone or not whole.
        """
        directory = self.model_directory(model)
        try:
            durable.verify_directory(directory, deep=False)
        except IntegrityError as error:
            raise IntegrityError(
                f"{directory.name} is needed but not whole: {error.message}",
                "Restore the directory from a copy, or start a new run; `selfreward verify RUN` "
                "checks all of them.",
            ) from None
        return directory

    def named_model(self, name: str) -> Path:
        """Directory of ``M0``, ``SFT``, ``M1``, ....

        Raises:
            NotFoundError: The run has not made it, or not yet.
            IntegrityError: It has, and the directory is gone or not whole.
        """
        number = None if name == "SFT" else int(name[1:])
        is_base = number == 0 or (number == 1 and self.config.sft is None)
        with self.store() as store:
            made = {(row.iteration, row.stage) for row in store.stages()}
        stage = (0, "sft") if number is None else (number - 1, "train")
        if not (self.base_model() if is_base else stage in made):
            raise NotFoundError(
                f"run {self.name} has no {name}, or not yet",
                f"`selfreward status {self.name}` says how far it is.",
            )
        return self.whole_model("SFT") if number is None else self.policy(number)

    def configure(
        self, overrides: Sequence[str], check: Callable[["Config", Values], None] | None = None
    ) -> None:
        """Change keys that no stage of the run was made with yet, and note the change.

        Args:
            overrides: ``dotted.key=value`` words; ``iterations`` may shrink to those begun.
            check: Told the new config and what differs before anything is written; raises where
                the run could not go on with it.

        Raises:
            IntegrityError: A stage was made with the old value; the message names both.
            ConfigError: A value is wrong, or iterations that have begun would go.
            LockedError: Another process owns the run.
        """
        from selfreward.config.load import changes, load_copy, override
        from selfreward.config.readers import is_read

        with self.owned() as store:
            old_config = self.config  # first: damage of what lies there is no fault of the words
            new = load_copy(self.resolved, overrides)
            if not (changed := changes(old_config, new)):
                return
            refuse_frozen(self.name, self.config, new, changed, made_stages(store, self.config))
            if check is not None:
                check(new, changed)
            old = self._written[0]
            text = change_text(old, data := override(old, overrides), changed)
            again = [
                (t, stage)
                for t, stage in store.begun
                if stage in TRAINING
                and not store.finished(t, stage)
                and any(is_read(key, t, stage) for key in changed)
            ]
            store.note_change(CONFIGURED, text, again)
            durable.write_file(self.resolved, dump_yaml(data))
        for cached in ("config", "fingerprint", "_written"):
            self.__dict__.pop(cached, None)

    @contextmanager
    def owned(self) -> Iterator[Store]:
        """Own the run: hold its lock and a store that may write.

        Raises:
            LockedError: Another process owns it.
        """
        with self.locked(), Store.claim(self.records) as store:
            yield store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock alone, which needs no space on the disk.

        Raises:
            LockedError: Another process owns the run.
            IntegrityError: What lies in the lock's place is no file.
        """
        from filelock import FileLock, Timeout

        path = self.path / "run.lock"
        if path.exists() and not path.is_file():
            raise IntegrityError(f"{path}: not a file", "Remove it; it holds nothing.")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            with self.store() as store:
                owner = store.owner()
            raise LockedError(
                f"run {self.name} is in use by process {owner['pid']} on {owner['host']} "
                f"since {owner['since']}",
                f"Watch it with `selfreward status {self.name} --watch`.",
            ) from None
        try:
            yield
        finally:
            lock.release()


def open_run(name: str) -> Run:
    """Open a run by its name under the runs directory, or by path.

    Raises:
        NotFoundError: There is none; the message lists the runs there are.
    """
    for path in (runs_root() / name if NAME.fullmatch(name) else Path(name), Path(name)):
        if os.path.isfile(path / "records.db"):  # unlike Path.is_file, False for any bad name
            return Run(path)
    known = ", ".join(run.name for run in list_runs()) or "none yet"
    raise NotFoundError(f"no run {name!r} in {runs_root()}/", f"Runs there: {known}.")


def list_runs() -> list[Run]:
    """Every run under the runs directory, by name."""
    return [Run(p.parent) for p in sorted(runs_root().glob("[!.]*/records.db"))]


class _Settings(dict[str, Any]):
    """A mapping that says which key of which file is missing."""

    def __init__(self, data: Mapping[str, Any], at: str) -> None:
        inner = {
            name: _Settings(value, f"{at}: {name}") if isinstance(value, dict) else value
            for name, value in data.items()
        }
        super().__init__(inner)
        self._at = at

    def __missing__(self, key: str) -> Any:
        raise IntegrityError(f"{self._at}: key {key} is missing", _MEND_CONFIG)


def _model_name(model: int | str) -> str:
    return f"M{model}" if isinstance(model, int) else model


def jury_weights(store: Store) -> tuple[float, ...]:
    """Weights of the judges of the run that a store belongs to, by juror."""
    judge = Run(store.path.parent).settings["judge"]
    return (judge["weight"], *(juror["weight"] for juror in judge["jury"]))
