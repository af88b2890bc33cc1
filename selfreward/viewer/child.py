"""The one child process of a viewer: it holds NumPy and Matplotlib, so that the viewer need not.

It is asked by a JSON line each, and answers each by one. It is started when it is first needed, and
ends when the viewer does, however that ends: then its standard input closes.
"""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from selfreward.errors import KINDS, PreflightError

_PATIENCE_S = 2.0


class DrawingChild:
    """Computes and draws, one thing at a time, in a process of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, job: dict[str, Any]) -> Any:
        """What the child answers, see ``drawing.answer``.

        Raises:
            SelfRewardError: What the child raised, or that it ended.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            line = b""
            with suppress(OSError, ValueError):  # it was closed meanwhile
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            if not line.endswith(b"\n"):
                self._end()
                raise PreflightError(
                    "the process that computes and draws for the viewer has ended",
                    "Load the page again; `selfreward scores RUN` may say what is wrong.",
                )
        answer = json.loads(line)
        if error := answer.get("error"):
            raise KINDS.get(error["kind"], PreflightError)(error["message"], error["hint"])
        return answer["answer"]

    def close(self) -> None:
        """End the child. Idempotent; nothing starts it again."""
        self._closed = True
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()  # it ends by that, also in the middle of work
        self._end()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._closed:
            raise PreflightError("the viewer is ending")
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selfreward.viewer.drawing"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
