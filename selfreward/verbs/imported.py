"""What ``selfreward import`` does: scores that people or another program gave become votes.

    rows of a file -> checked against the responses of the run -> votes, and where they come from

A run with a judge in ``judge.jury`` that is ``imported`` waits for it after each iteration's other
judgments. The votes are committed together, with an event that names the file and its sha256.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from selfreward.config import SeedSource
from selfreward.errors import ConfigError, NotFoundError
from selfreward.inputs.rows import read_rows
from selfreward.measures.labels import points_of
from selfreward.records import MAX_SCORE, Judgment, Prompt, Response, judge_stage
from selfreward.storage.awaited import awaited, is_answered
from selfreward.storage.changes import IMPORTED
from selfreward.storage.directory import Run
from selfreward.storage.label import RATINGS, Content
from selfreward.storage.store import Store
from selfreward.verbs.layout import counted, listed

NOT_IMPORTED = "not imported"
"""Why a vote has no score that is no longer waited for."""
Kind = Literal["judgments", "labels"]
Key = tuple[int, int, int]
"""(iteration, attempt, sample)"""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came in."""

    run: str
    name: str
    """Of the judge, as in ``judge.jury``."""
    file: str | None
    """None where nothing but the end of waiting was told."""
    sha256: str | None
    votes: int
    left_out: dict[str, int]
    """Rows without a score, by reason."""
    given_up: int
    """Responses that are no longer waited for."""
    waits: int
    """Responses of the iterations at hand that still wait for this judge."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A score in a file."""

    at: str
    """File and row."""
    key: Key
    digest: str
    """sha256 of prompt and response, see ``storage.label.Content``."""
    score: float
    who: str
    """Of several people who scored one response, which; empty for one voice."""
    note: str


def import_votes(
    run: Run,
    file: Path | None,
    kind: Kind = "judgments",
    *,
    name: str | None = None,
    complete: bool = False,
) -> Imported:
    """Take scores of a file as the votes of an imported judge.

    Args:
        file: Rows of any kind that ``inputs.rows`` reads. None: only tell that no more will come.
        kind: ``judgments``: rows as ``export --what wanted`` writes them, with ``score`` filled
            in. ``labels``: as ``export --what labels`` does; of these the ratings, 1 to 7, count.
        name: Of the judge; needed where the run has several that are imported.
        complete: No more will come: what waits gets a vote without a score.

    Raises:
        ConfigError: A row is of another run, of another judge, or twice; or its score is none.
        NotFoundError: The run waits for no such judge, or not yet, or no more.
        LockedError: The run is at work.
    """
    juror, name = _juror(run, name)
    truncated = run.config.judge.truncated
    with run.owned() as store:
        given, left_out, sha256 = [], Counter[str](), None
        if file is not None:
            if not file.is_file():
                raise ConfigError(f"{file}: no such file")
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            read = _judgments if kind == "judgments" else _ratings
            given = [*read(file, name, store, left_out)]
        waiting = _waiting(run, store, juror, truncated)
        if not waiting and not given:
            raise NotFoundError(
                f"run {run.name} waits for no votes of {name}",
                f"`selfreward status {run.name}` says where it is.",
            )
        votes = _votes(store, given, waiting, juror, name)
        done = {(v.iteration, v.attempt, v.sample) for v in votes}
        rest = [response for key, response in waiting.items() if key not in done]
        if complete:
            votes += [_no_vote(response, juror) for response in rest]
        found = Imported(
            run=run.name,
            name=name,
            file=None if file is None else file.name,
            sha256=sha256,
            votes=len(given),
            left_out=dict(left_out.most_common()),
            given_up=len(rest) if complete else 0,
            waits=0 if complete else len(rest),
        )
        if not votes:
            raise ConfigError(f"{file}: holds no score ({listed(left_out)})", "Fill in 'score'.")
        store.add(votes, note=(IMPORTED, json.dumps(asdict(found))))
    return found


def imported_text(found: Imported, handle: str) -> str:
    """What ``selfreward import`` prints."""
    source = "" if found.file is None else f" from {found.file}"
    said = [f"{counted(found.votes, 'vote')} of {found.name}{source}"]
    if found.left_out:
        said.append(f"left out: {listed(found.left_out)}")
    if found.given_up:
        said.append(f"{counted(found.given_up, 'response')} without a score")
    if found.waits:
        said.append(f"{counted(found.waits, 'response')} still wait")
    return f"{'; '.join(said)}\ngo on with: selfreward resume {handle}"


def _juror(run: Run, name: str | None) -> tuple[int, str]:
    there = run.config.judge.imported_jurors
    if not there:
        raise NotFoundError(
            f"run {run.name} has no judge that is imported",
            "Start one with judge.jury='[{imported: NAME}]'; see docs/import.md.",
        )
    if name is None and len(there) == 1:
        return next(iter(there.items()))
    juror = next((juror for juror, known in there.items() if known == name), None)
    if juror is None or name is None:
        said = "several judges are imported" if name is None else f"no judge is called {name}"
        raise NotFoundError(
            f"run {run.name}: {said}", f"--name one of: {', '.join(there.values())}"
        )
    return juror, name


def _waiting(run: Run, store: Store, juror: int, truncated: bool) -> dict[Key, Response]:
    found: dict[Key, Response] = {}
    for iteration in range(1, run.config.iterations + 1):
        for response in awaited(store, iteration, juror, truncated) or ():
            found[iteration, response.attempt, response.sample] = response
    return found


def _votes(
    store: Store, given: Sequence[_Given], waiting: Mapping[Key, Response], juror: int, name: str
) -> list[Judgment]:
    """The votes; those of several people on one response are numbered in the order of their names.

    Raises:
        ConfigError: See ``import_votes``.
    """
    first: dict[tuple[Key, str], str] = {}
    for one in given:
        if (before := first.setdefault((one.key, one.who), one.at)) != one.at:
            raise ConfigError(f"{one.at}: the response is that of {before}", "Remove one of them.")
        if one.key not in waiting:
            raise ConfigError(f"{one.at}: {_why_not(store, one.key, juror, name)}")
        if one.digest != _digest(store, waiting[one.key]):
            raise ConfigError(
                f"{one.at}: prompt and response {_named(one.key)} are not those of this run",
                "Is the file of another run, or was a text altered?",
            )
    votes, count = [], Counter[Key]()
    for one in sorted(given, key=lambda one: (one.key, one.who)):
        votes.append(
            Judgment(*one.key, count[one.key], "imported", one.note, one.score, juror=juror)
        )
        count[one.key] += 1
    return votes


def _why_not(store: Store, key: Key, juror: int, name: str) -> str:
    """Why a response does not wait for a vote."""
    iteration, attempt, sample = key
    found = [r for r in store.records(Response, iteration, attempt) if r.sample == sample]
    if not found:
        return f"the run has no response {_named(key)}"
    if not is_answered(store, iteration):
        return f"the responses of iteration {iteration} are not finished; resume the run first"
    if store.finished(iteration, judge_stage(juror)):
        return f"the judgments of iteration {iteration} by {name} are closed"
    if any(j.sample == sample and j.juror == juror for j in
           store.records(Judgment, iteration, attempt)):  # fmt: skip
        return f"response {_named(key)} has a vote of {name} already"
    return f"response {_named(key)} is not judged ({found[0].dropped or 'truncated'})"


def _named(key: Key) -> str:
    return "iteration {}, attempt {}, sample {}".format(*key)


def _digest(store: Store, response: Response) -> str:
    prompt = store.record(Prompt, response.iteration, response.attempt)
    return Content(prompt.text, (response.text,)).digest


def _no_vote(response: Response, juror: int) -> Judgment:
    key = (response.iteration, response.attempt, response.sample)
    return Judgment(*key, 0, "imported", "", None, NOT_IMPORTED, juror=juror)


# Rows


def _judgments(file: Path, name: str, store: Store, left_out: Counter[str]) -> Iterator[_Given]:
    for at, row in read_rows(SeedSource(path=str(file)), exported=True):
        if row.get("judge") not in (None, "", name):
            raise ConfigError(f"{at}: is for {row['judge']!r:.40}, not for {name}", "See --name.")
        key = (_whole(row, "iteration", at), _whole(row, "attempt", at), _whole(row, "sample", at))
        if (score := _score(row, at)) is None:
            left_out["no score"] += 1
            continue
        yield _Given(at, key, _digest_of(row, at, key, store), score, "", _note(row, at))


def _ratings(file: Path, name: str, store: Store, left_out: Counter[str]) -> Iterator[_Given]:
    for at, row in read_rows(SeedSource(path=str(file)), exported=True):
        if row.get("kind") != "rating":
            left_out[f"{row.get('kind')!s:.20}, which has no points"] += 1
            continue
        samples = row.get("samples")
        if isinstance(samples, str):
            try:
                samples = json.loads(samples)
            except ValueError:
                samples = None
        if not isinstance(samples, list) or len(samples) != 1:
            raise ConfigError(f"{at}: column 'samples' of a rating must be one number in a list")
        rating = _whole(row, "rating", at)
        if rating not in RATINGS:
            raise ConfigError(f"{at}: rating {rating}: expected {RATINGS[0]} to {RATINGS[-1]}")
        key = (_whole(row, "iteration", at), _whole(row, "attempt", at),
               _whole({"samples": samples[0]}, "samples", at))  # fmt: skip
        who = str(row.get("labeler") or "")
        digest = _digest_of(row, at, key, store)
        yield _Given(at, key, digest, points_of(rating), who, _note(row, at))


def _score(row: Mapping[str, Any], at: str) -> float | None:
    value = row.get("score")
    if value is None or value == "":
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= MAX_SCORE:
        raise ConfigError(f"{at}: score {value!r:.40}: expected points, 0 to {MAX_SCORE}")
    return score


def _digest_of(row: Mapping[str, Any], at: str, key: Key, store: Store) -> str:
    """That of the row, or of its text with the prompt of the run."""
    digest, text = row.get("digest"), row.get("text")
    if isinstance(digest, str) and digest:
        return digest
    if not isinstance(text, str):
        raise ConfigError(
            f"{at}: has neither 'digest' nor 'text', so it is not sure which response is meant",
            "Keep the columns that `selfreward export RUN --what wanted` writes.",
        )
    prompts = store.records(Prompt, key[0], key[1])
    prompt = row.get("prompt")
    if not isinstance(prompt, str):
        prompt = prompts[0].text if prompts else ""
    return Content(prompt, (text,)).digest


def _note(row: Mapping[str, Any], at: str) -> str:
    note = row.get("note")
    if note is None:
        return ""
    if not isinstance(note, str):
        raise ConfigError(f"{at}: column 'note' must be a text, found {note!r:.40}")
    return note


def _whole(row: Mapping[str, Any], name: str, at: str) -> int:
    value = row.get(name)
    text = str(value).removesuffix(".0")  # as spreadsheets and pandas write it
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"{at}: column {name!r} must be a whole number, found {value!r:.40}")
    return int(text)
