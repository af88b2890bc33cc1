"""What one engine answers on a model, in a child process of its own and in float32.

Greedy text and score probabilities, which all engines should give alike.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfreward.config import Sampling
from selfreward.engines.base import Request
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.engines.vllm_build import vllm_problem
from selfreward.errors import ConfigError, SelfRewardError
from selfreward.workers.process import Child

OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {"dtype": "float32"},
    "ctranslate2": {"compute_type": "float32"},
    "vllm": {"dtype": "float32"},
}
"""By engine that can be asked, the options that make it compute in float32."""
_PROMPTS = (
    "Name three fruits.",
    "What is the capital of France?",
    "Write a short poem about the sea and the wind that blows over it in the winter.",
    "Explain in a few sentences why the sky is blue during the day and red in the evening.",
)
_NEW_TOKENS = 24
_TIMEOUT_S = 900


def ask_in_child(kind: str, model: Path) -> dict[str, Any]:
    """What ``parity_job`` says of an engine, or ``{"error": ...}`` in one line.

    Args:
        kind: One of ``OPTIONS``.
        model: Model directory.
    """
    if kind == "vllm" and (problem := vllm_problem()):
        return {"error": f"{problem.message}: {problem.fix}"}
    until = time.monotonic() + _TIMEOUT_S
    answers: list[dict[str, Any]] = []

    def tick() -> None:
        if time.monotonic() > until:
            raise TimeoutError

    job = {"work": "parity", "kind": kind, "model": str(model)}
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
    """Say the greedy answers and score probabilities of one engine.

    That is ``answers``, of which each has ``token_ids`` and ``logprob``, and ``probabilities`` of
    the scores after all prompts, one list; empty if the tokenizer has no token for each score.
    """
    chat = Chat(Path(job["model"]))
    greedy = Sampling(max_new_tokens=_NEW_TOKENS, temperature=0.0)
    requests = [Request(chat.prompt_ids(prompt), greedy) for prompt in _PROMPTS]
    try:
        asked = [chat.score_prompt(prompt) for prompt in _PROMPTS]
    except ConfigError:
        asked = []
    requests += [Request(prompt, score_tokens=scores) for prompt, scores in asked]
    engine = open_engine(job["kind"], chat.model, chat, OPTIONS[job["kind"]])
    try:
        answers = [answer for [answer] in await asyncio.gather(*map(engine.generate, requests))]
    finally:
        await engine.close()
    said, scored = answers[: len(_PROMPTS)], answers[len(_PROMPTS) :]
    say(
        {
            "answers": [{"token_ids": a.token_ids, "logprob": a.logprob} for a in said],
            "probabilities": [p for answer in scored for p in answer.probabilities or ()],
        }
    )
