"""Reward functions: where the code of one lies, and that it is the code that a run was made with.

    my_rewards:brief -> my_rewards.py, beside the config -> a copy of its source in the run

Nothing is imported here: a function is code of anyone's, and runs in a process of its own. The run
calls the file itself, which may import others, so the copy is what the file is held against.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from selfreward.config import Config
from selfreward.config.run import all_judges
from selfreward.errors import ConfigError, IntegrityError
from selfreward.storage.directory import Run
from selfreward.storage.tables import RESTORE

COPY = "seeds/functions.jsonl"
"""What a run keeps of them."""


@dataclass(frozen=True, slots=True)
class Function:
    """A reward function, not imported."""

    name: str
    """As in the config: ``my_rewards:brief``."""
    module: str
    """By which it is imported."""
    attribute: str
    """May be dotted."""
    path: str
    """Of the file of the module."""
    source: str
    """Text of that file."""

    @property
    def root(self) -> str:
        """The directory from which the module is imported."""
        path = Path(self.path)
        inside = path.parent if path.stem == "__init__" else path
        return str(inside.parents[self.module.count(".")])

    @property
    def digest(self) -> str:
        """sha256 of its source."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def find_function(name: str, key: str, beside: Path | None = None) -> Function:
    """Find the file of a function.

    Args:
        name: ``MODULE:NAME`` or ``FILE.py:NAME``.
        key: That names it in the config.
        beside: Directory that is looked in first, then in the working directory.

    Raises:
        ConfigError: There is no such file, or it is not Python that can be read.
    """
    module, _, attribute = name.rpartition(":")
    relative = Path(module if module.endswith(".py") else f"{module.replace('.', '/')}.py")
    places = [*([beside] if beside else []), Path()]
    here = next((p / relative for p in places if (p / relative).is_file()), None)
    if module.endswith(".py"):
        module = relative.stem
        if here is not None and not module.isidentifier():
            raise ConfigError(
                f"{key}={name}: {relative.name} cannot be imported by that name",
                "Name the file by letters, digits and underscores, such as my_rewards.py.",
            )
    elif here is None:
        here = _installed(module)
    if here is None:
        where = f"beside the config ({beside}), " if beside else ""
        raise ConfigError(
            f"{key}={name}: there is no {relative}, nor an installed module {module}",
            f"It was looked for {where}in the working directory, and where Python looks; "
            "path/to/file.py:NAME names a file.",
        )
    try:
        source = here.read_bytes().decode()
        compile(source, str(here), "exec")
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{key}={name}: {here} is no Python that can be read ({error})") from None
    return Function(name, module, attribute, str(here.resolve()), source)


def named_functions(config: Config) -> dict[str, str]:
    """The functions that a config names, with the key that names each first."""
    named: dict[str, str] = {}
    for key, judge in all_judges(config).items():
        if judge.function is not None:
            named.setdefault(judge.function, f"{key}.function")
    return named


def function_inputs(config: Config, beside: Path | None) -> dict[str, str]:
    """What a run keeps of its functions, as the files of its directory; none where it has none.

    Raises:
        ConfigError: See ``find_function``.
    """
    found = [find_function(name, key, beside) for name, key in named_functions(config).items()]
    rows = (json.dumps(asdict(function), ensure_ascii=False) + "\n" for function in found)
    return {COPY: "".join(rows)} if found else {}


def read_functions(text: str) -> dict[str, Function]:
    """The functions of a run's copy, by name."""
    lines = text.split("\n")[:-1]  # a source may hold other ends of lines
    return {f.name: f for f in (msgspec.json.decode(line, type=Function) for line in lines)}


def run_functions(run: Run) -> dict[str, Function]:
    """The functions of a run, by name, each as it was when the run was made.

    Where the file is not in its place any more, it is looked for as for a new run.

    Raises:
        IntegrityError: The source of one is another now, or the run's copy is damaged.
        ConfigError: The file of one is not there any more.
    """
    path = run.path / COPY
    if not (named := named_functions(run.config)):
        return {}
    try:
        kept = read_functions(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error})", RESTORE) from None
    return {name: _unchanged(kept.get(name), name, key, path) for name, key in named.items()}


def _unchanged(kept: Function | None, name: str, key: str, path: Path) -> Function:
    """The function where it lies now, if it is the one that the run keeps."""
    if kept is None:
        raise IntegrityError(f"{path}: holds no {key}={name}", RESTORE)
    here = Path(kept.path)
    now = kept.path if here.is_file() else find_function(name, key).path
    found = Path(now).read_bytes()
    if hashlib.sha256(found).hexdigest() != kept.digest:
        raise IntegrityError(
            f"{key}={name}: {now} is not what this run was made with: digest "
            f"{hashlib.sha256(found).hexdigest()[:12]}, was {kept.digest[:12]}",
            f"Put the former source back (it is in {path}), or start a new run.",
        )
    return Function(name, kept.module, kept.attribute, now, kept.source)


def _installed(module: str) -> Path | None:
    """The file of a module that Python finds, and that of none of its packages is executed."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # of a module that is no module, such as __main__
        return None
    name = top
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)
