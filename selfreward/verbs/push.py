"""What ``selfreward push`` sends to the hub: a model, its card, and the pairs it learned from.

    model directory, cards, plot, pairs -> what is to be sent -> looked through -> one commit each

Only files that load a model are sent, of a model that is the one committed; nothing goes that holds
a secret or a path of this machine.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfreward.config.secrets import secret_in
from selfreward.errors import ConfigError, NotFoundError
from selfreward.records import JUDGE_PAIRS, TRAINING
from selfreward.storage import durable
from selfreward.storage.committed import check_model, model_of
from selfreward.storage.directory import Run
from selfreward.verbs.card import PLOT, model_card, pairs_card
from selfreward.verbs.layout import size, table
from selfreward.verbs.lineage import learned_from
from selfreward.verbs.scores import scores_of

_SENT = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")
"""Files of a model directory that load it; weights of other kinds hold optimizers, and code."""
_PLACES = re.compile(
    r"(?<![\w.~/:-])(?:/(?:home|Users|root|mnt|media|private|scratch|workspace)/[\w.-]"
    r"|[A-Za-z]:\\Users\\)[^\s\"'`<>]*"
)
"""Where people's files lie."""
_TEXT = (".json", ".jinja", ".txt", ".py", ".md")
_REPOSITORY = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}")


@dataclass(frozen=True, slots=True)
class Item:
    """A file that is to be sent."""

    name: str
    """In the repository."""
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """A repository and all that it is to hold."""

    repository: str
    """Without an owner it is that of the token."""
    kind: str
    """``model`` or ``dataset``."""
    title: str
    """Of the commit."""
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was sent, or would be."""

    run: str
    model: str
    private: bool
    dry_run: bool
    parcels: tuple[Parcel, ...]
    addresses: tuple[str, ...]
    """Of the commits; empty for a dry run."""


def parse_model(word: str) -> tuple[str, int]:
    """``RUN:M2`` as a run's name and a number.

    Raises:
        ConfigError: It is something else.
    """
    name, _, model = word.rpartition(":")
    if not name or not re.fullmatch(r"M[1-9][0-9]{0,5}", model):
        raise ConfigError(f"push {word}: expected RUN:M1, a run and one of the models that it made")
    return name, int(model[1:])


def parcels_of(
    run: Run, number: int, repository: str | None, work: Path, *, pairs: bool
) -> tuple[Parcel, ...]:
    """Gather and look through all that is to be sent; no request is made.

    Args:
        number: Of the model, M(number).
        repository: ``owner/name`` or ``name``; None takes the run's and the model's names.
        work: An empty directory for what is made for this.
        pairs: Whether to send the pairs, to a repository of their own.

    Raises:
        ConfigError: A bad name, or a file that holds a secret or a path of this machine.
        NotFoundError: The run has no such model.
        IntegrityError: The model is not the one that was committed.
    """
    name = f"{run.name}-M{number}" if repository is None else repository
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise ConfigError(f"{name!r}: not a name of a repository", "Use OWNER/NAME or NAME.")
    directory = _checked(run, number)
    listed = durable.read_manifest(directory)["files"]
    assert isinstance(listed, dict)
    items = [
        _item(file, directory / file)
        for file in sorted(listed)
        if Path(file).suffix in _SENT and "/" not in file
    ]
    of_pairs = f"{name}-pairs" if pairs else None
    parcels = []
    if of_pairs is not None:
        parcels.append(_pairs(run, number, name if "/" in name else None, of_pairs, work))
    has_plot = _plotted(run, number, work / PLOT)
    linked = of_pairs if of_pairs is not None and "/" in of_pairs else None
    card = model_card(run, number, plot=has_plot, pairs=linked)
    durable.write_file(work / "README.md", card)
    made = ["README.md", *([PLOT] if has_plot else [])]
    items = [*(_item(file, work / file) for file in made), *items]
    parcels.insert(0, Parcel(name, "model", f"M{number} of {run.name}", tuple(items)))
    for parcel in parcels:
        for item in parcel.items:
            look_through(run, item)
    return tuple(parcels)


def pushed_text(found: Pushed) -> str:
    """What ``selfreward push`` prints."""
    who = "private" if found.private else "public"
    blocks = []
    for parcel in found.parcels:
        total = size(sum(item.bytes for item in parcel.items))
        rows = [[item.name, size(item.bytes)] for item in parcel.items]
        blocks.append(f"{parcel.kind} {parcel.repository} ({who}, {total})\n{table(rows, '  ')}")
    return "\n\n".join([*blocks, *found.addresses])


def look_through(run: Run, item: Item) -> None:
    """Refuse a file that holds a secret, or a path that tells where it was made.

    Raises:
        ConfigError: With file, line or row, and what it is; a secret is not repeated.
    """
    own = [str(run.path.resolve()), str(run.base_model().get("path", ""))]
    for where, text, is_data in _texts(item):
        what = secret_in(text)
        if what is None and (place := _place(own, text, is_data)):
            what = f"the path {place[:60]!r}"
        if what is not None:
            raise ConfigError(
                f"push: {item.name}, {where}: holds {what}; nothing was sent",
                "Leave out --pairs, or take it out of what the run was made from."
                if is_data
                else "Take it out of the config, the template or the base model's files it comes "
                "from.",
            )


def _texts(item: Item) -> Iterator[tuple[str, str, bool]]:
    """(where, text, whether it is data) of a file that holds text."""
    path = Path(item.path)
    if path.suffix in _TEXT:
        is_data = path.name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                yield f"line {number}", line, is_data
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        number = 0
        with pyarrow.parquet.ParquetFile(path) as rows:
            for batch in rows.iter_batches(256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", json.dumps(row, ensure_ascii=False), True


def _place(own: Sequence[str], text: str, is_data: bool) -> str | None:
    """A path of this machine in a text; in data, which may be about paths, only of this run."""
    if found := next((place for place in own if len(place) > 3 and place in text), None):
        return found
    match = None if is_data else _PLACES.search(text)
    return match[0] if match else None


def _checked(run: Run, number: int) -> Path:
    directory = run.model_directory(number)
    with run.store() as store:
        made = [s for s in store.stages() if s.stage in TRAINING and model_of(s) == directory.name]
        if not made or not directory.is_dir():
            there = sorted(p.name for p in directory.parent.glob("M*") if p.is_dir())
            raise NotFoundError(
                f"run {run.name} has no finished model {directory.name}",
                f"It has: {', '.join(there) or 'none yet'}.",
            )
        check_model(run, store, made[0])
    return directory


def _plotted(run: Run, number: int, path: Path) -> bool:
    """Draw the iterations that a model came out of; whether there are any."""
    from selfreward.charts.data import ChartData
    from selfreward.charts.files import save_overview

    try:
        scores = scores_of(run)
        rounds = tuple(each for each in scores.iterations if each.iteration < number)
        save_overview(ChartData(rounds), path, scores.run)
    except NotFoundError:
        return False
    return True


def _pairs(run: Run, number: int, model: str | None, repository: str, work: Path) -> Parcel:
    from selfreward.verbs.export import write_parquet

    folder = work / "pairs"
    (folder / "data").mkdir(parents=True)
    with run.store() as store:
        learned = learned_from(store, number)
    own = learned if run.config.train.preferences is None else []
    if own and run.config.train.replay.aift:
        own = [*range(1, own[-1] + 1)]
    judged = [t for t in own if JUDGE_PAIRS in run.config.stages(t)]
    names = {t: f"data/iteration-{t}.parquet" for t in own}
    of_judge = {t: f"judgments/iteration-{t}.parquet" for t in judged}
    counts = {t: write_parquet(run, folder / name, "pairs", t) for t, name in names.items()}
    if of_judge:
        (folder / "judgments").mkdir()
    further = {t: write_parquet(run, folder / f, "judge_pairs", t) for t, f in of_judge.items()}
    if not sum(counts.values()) + sum(further.values()):
        raise NotFoundError(
            f"M{number} of run {run.name} was trained on no pairs of its own", "Leave out --pairs."
        )
    durable.write_file(folder / "README.md", pairs_card(run, number, model, counts, further))
    files = ["README.md", *names.values(), *of_judge.values()]
    items = tuple(_item(name, folder / name) for name in files)
    return Parcel(repository, "dataset", f"Pairs of M{number} of {run.name}", items)


def _item(name: str, path: Path) -> Item:
    return Item(name, str(path), path.stat().st_size)
