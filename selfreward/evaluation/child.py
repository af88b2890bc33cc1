"""Judging in a child process, so that the one that asks never holds a model.

The child takes its work, one JSON line, on standard input, which stays open: when it closes, the
parent is gone and the child ends its own process group. It answers with one JSON line when the
model is loaded and one for each few texts judged; whatever libraries print goes to its log.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from selfreward.config import EngineConfig, JudgeConfig
from selfreward.errors import KINDS, SelfRewardError
from selfreward.evaluation.judging import Text, judge_texts
from selfreward.records import Judgment
from selfreward.sessions import HOSTED
from selfreward.templates import Template

if TYPE_CHECKING:
    from selfreward.chat import Chat
    from selfreward.engines.base import Engine

_GATHER_S = 0.2
_TAIL = 20
"""Lines of the log that are shown of a child that died."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One vote on a text."""

    score: float | None
    reason: str | None
    """Why there is no score."""


def judge_in_child(
    model: str,
    engine: EngineConfig,
    template: Template,
    texts: Sequence[Text],
    settings: JudgeConfig,
    on_judged: Callable[[int], None],
) -> list[list[Verdict]]:
    """Judge texts with a model that is loaded in a child process.

    Args:
        model: Model directory, or ``hosted``.
        engine: How to run it.
        template: A checked judge template.
        on_judged: Told how many texts are judged, first 0, when the model is loaded.

    Returns:
        The votes on each text, in order.

    Raises:
        SelfRewardError: Whatever the child raised, or that it died.
    """
    work = {
        "model": model,
        "engine": engine.model_dump(mode="json"),
        "template": asdict(template),
        "judge": settings.model_dump(mode="json"),
        "texts": texts,
    }
    votes: list[list[Verdict]] = [[] for _ in texts]
    done = 0
    with tempfile.TemporaryFile() as log, _child(log) as child:
        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):  # it died early, as its answer will show
            child.stdin.write(json.dumps(work).encode() + b"\n")
            child.stdin.flush()
        for line in child.stdout:
            answer = json.loads(line)
            if error := answer.get("error"):
                raise KINDS[error["kind"]](error["message"], error["hint"])
            for text, given in answer["judged"]:
                votes[text] = [Verdict(*vote) for vote in given]
                done += 1
            on_judged(done)
        if (code := child.wait()) or done < len(texts):
            log.seek(0)
            tail = log.read().decode(errors="replace").splitlines()[-_TAIL:]
            raise SelfRewardError(
                f"the judging process ended with code {code} after {done} of {len(texts)} texts",
                "Its log ends with:\n" + "\n".join(tail),
            )
    return votes


@contextmanager
def _child(log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """A child process in its own process group, all of which ends with the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "selfreward.evaluation.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


async def _judge(work: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    engine_settings = EngineConfig.model_validate(work["engine"])
    engine, chat = _open(work["model"], engine_settings)

    judged: list[Any] = []

    def keep(text: int, judgments: list[Judgment]) -> None:
        judged.append((text, [(j.score, j.reason) for j in judgments]))
        if len(judged) == 1:  # an engine answers a whole batch at once
            asyncio.get_running_loop().call_later(_GATHER_S, tell)

    def tell() -> None:
        if judged:
            say({"judged": judged})
            judged.clear()

    try:
        say({"judged": []})
        await judge_texts(
            engine, chat, Template(**work["template"]),
            [(prompt, response) for prompt, response in work["texts"]],
            JudgeConfig.model_validate(work["judge"]), keep,
            concurrency=engine_settings.concurrency,
        )  # fmt: skip
        tell()
    finally:
        await engine.close()


def _open(model: str, settings: EngineConfig) -> "tuple[Engine, Chat]":
    if model == HOSTED:
        from selfreward.engines.hosted import open_hosted

        return open_hosted(settings.options)  # type: ignore[return-value]  # has what judging needs
    from selfreward.chat import Chat

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    chat = Chat(Path(model))
    from selfreward.engines import open_engine

    return open_engine(settings.kind, Path(model), chat, settings.options, fixed=True), chat


def _main() -> None:
    """Do the work of one line; an error of ours is the answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not spoil the answers

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    work = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        asyncio.run(_judge(work, say))
    except SelfRewardError as error:
        plain = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        say({"error": plain})
        sys.exit(error.exit_code)


def _end_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock a waiting thread would hold at exit
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    _main()
