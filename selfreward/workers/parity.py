"""What one engine answers on a model, in a child process of its own and in float32.

The questions are those by which engines are proved before they are used; see ``engines.proof``.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfreward.engines import proof
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.engines.proof import Found
from selfreward.engines.reference import Expected, reference
from selfreward.engines.vllm_build import vllm_problem
from selfreward.errors import SelfRewardError
from selfreward.workers.process import Child

OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {"dtype": "float32"},
    "openvino": {"precision": "f32"},
    "ctranslate2": {"compute_type": "float32"},
    "vllm": {"dtype": "float32"},
}
"""By engine that can be asked, the options that make it compute in float32."""
_TIMEOUT_S = 900


def ask_in_child(kind: str, model: Path, expected: Any = None) -> dict[str, Any]:
    """What ``parity_job`` says of an engine, or ``{"error": ...}`` in one line.

    Args:
        kind: One of ``OPTIONS``.
        model: Model directory.
        expected: What another child has said that transformers makes of it.
    """
    if kind == "vllm" and (problem := vllm_problem()):
        return {"error": f"{problem.message}: {problem.fix}"}
    until = time.monotonic() + _TIMEOUT_S
    answers: list[dict[str, Any]] = []

    def tick() -> None:
        if time.monotonic() > until:
            raise TimeoutError

    job = {"work": "parity", "kind": kind, "model": str(model), "expected": expected}
    try:
        with Child() as child:
            child.work(job, f"{kind} process", tick, answers.append)
    except TimeoutError:
        return {"error": f"no answer in {_TIMEOUT_S} s"}
    except SelfRewardError as error:
        last = error.hint.splitlines()[-1:]  # where it died, the last line of its log
        return {"error": " ".join([error.message, *last])}
    return answers[-1]


async def parity_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Say what transformers makes of the prompts, ``expected``, and what an engine does, ``found``.

    The former as given or, where it is not, found out first; see ``Expected`` and ``Found``.
    """
    chat = Chat(Path(job["model"]))
    kind, options = job["kind"], OPTIONS[job["kind"]]
    told = job["expected"]
    if told is None:
        prompts = proof.prompts(chat, proof.long_length(chat.model, chat.max_length, options))
        told = list(map(asdict, reference(chat.model, chat, prompts, proof.NEW_TOKENS)))
    requests = [request for one in told for request in proof.requests(Expected.of(one))]
    engine = open_engine(kind, chat.model, chat, options)
    try:
        answers = [answer for [answer] in await asyncio.gather(*map(engine.generate, requests))]
    finally:
        await engine.close()
    found = [Found(*both) for both in zip(answers[::2], answers[1::2], strict=True)]
    say({"expected": told, "found": list(map(asdict, found))})
