"""Asking a reward function, which runs in a process of its own.

    responses that wait -> a call, 16 at most -> if it fails, each alone -> a value, or the reason

A thread cannot be ended and a process can: where a call takes too long, or the process dies, it is
started anew for the next one.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfreward.config import Config, JurorConfig
from selfreward.config.judging import ContestConfig
from selfreward.config.run import all_judges
from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.inputs.functions import Function, run_functions
from selfreward.stages.functions import CANDIDATES, Given
from selfreward.storage.directory import Run

AT_ONCE = 16
"""Responses of a call, at most."""
IMPORT_S = 120
"""Seconds that importing may take, libraries such as torch included."""
HANGS = 5
"""So many calls about a single response that end without an answer, one after another: it hangs or
crashes whatever it is given, and each costs ``timeout_s``."""
_Row = tuple[str, str, Mapping[str, Any]]
"""Prompt, completion, columns."""
_LIMIT = 1 << 30
"""Bytes of an answer."""


class FunctionProcess:
    """A function that can be asked; an async context manager that ends its process.

    Args:
        key: That names it in the config.
        timeout_s: Seconds that a call may take.
        columns: Names of the columns of all rows; one that a row lacks is None there.
    """

    def __init__(
        self, function: Function, key: str, timeout_s: float, columns: Sequence[str] = ()
    ) -> None:
        self._function, self._key = function, key
        self._timeout_s, self._columns = timeout_s, list(columns)
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: deque[tuple[_Row, asyncio.Future[Given]]] = deque()
        self._work: asyncio.Task[None] | None = None
        self._at_once, self._hangs = AT_ONCE, 0

    async def score(self, prompt: str, completion: str, columns: Mapping[str, Any]) -> Given:
        """Its value for one completion; see ``stages.functions.Scorer``.

        Raises:
            ConfigError: It cannot be imported, or cannot take what it gets.
            IntegrityError: Its file was changed since the run was made.
            PreflightError: It ends call after call without an answer.
        """
        future: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
        self._waiting.append(((prompt, completion, columns), future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer())
        return await future

    async def start(self) -> None:
        """Start the process and import the function, unless that is done.

        Raises:
            ConfigError, IntegrityError: See ``score``.
        """
        if self._process is not None:
            return
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "selfreward.workers.function_main",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True, limit=_LIMIT,
        )  # fmt: skip
        function = self._function
        asked = {
            "module": function.module, "attribute": function.attribute, "root": function.root,
            "path": function.path, "digest": function.digest, "columns": self._columns,
        }  # fmt: skip
        answer = await self._exchange(asked, IMPORT_S)
        name = f"{self._key}={function.name}"
        if isinstance(answer, str):
            raise ConfigError(f"{name}: importing {function.path} {answer}", _LOG)
        if error := answer.get("error"):
            await self.close()
            if "was changed" in error:
                raise IntegrityError(f"{name}: {error}", "Put the former source back.")
            raise ConfigError(f"{name}: {error}", _TAKES)

    async def close(self) -> None:
        """End the process, with all that the function started. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

    async def __aenter__(self) -> "FunctionProcess":
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self.close()

    async def _answer(self) -> None:
        """Ask about all that waits, as many at once as a call takes."""
        await asyncio.sleep(0)  # what comes in within the same turn shares a call
        while self._waiting:
            count = min(len(self._waiting), self._at_once)
            taken = [self._waiting.popleft() for _ in range(count)]
            try:
                found = await self._ask([row for row, _ in taken])
            except (ConfigError, IntegrityError, PreflightError, OSError) as error:
                for _, future in (*taken, *self._waiting):
                    if not future.done():
                        future.set_exception(error)
                self._waiting.clear()
                return
            for (_, future), given in zip(taken, found, strict=True):
                if not future.done():
                    future.set_result(given)

    async def _ask(self, rows: Sequence[_Row]) -> list[Given]:
        """What the function gives each row; those of a call that fails are asked about alone."""
        await self.start()
        columns = {name: [columns.get(name) for _, _, columns in rows] for name in self._columns}
        batch = {
            "prompts": [prompt for prompt, _, _ in rows],
            "completions": [completion for _, completion, _ in rows],
            "columns": columns,
        }
        answer = await self._exchange(batch, self._timeout_s)
        if not isinstance(answer, str):
            self._hangs = 0
            if "values" in answer:
                return [Given(*value) for value in answer["values"]]
        elif len(rows) > 1:
            self._at_once = 1  # else every further call would be lost as this one is
        if len(rows) > 1:
            return [given for row in rows for given in await self._ask([row])]
        if not isinstance(answer, str):
            return [Given(None, *answer["failed"])]
        self._hangs += 1
        if self._hangs >= HANGS:
            raise PreflightError(
                f"{self._key}={self._function.name}: {self._hangs} calls in a row {answer}",
                f"Mend the function and start a new run, or raise {self._seconds}.",
            )
        return [Given(None, answer, answer)]

    @property
    def _seconds(self) -> str:
        return self._key.removesuffix("function") + f"timeout_s={self._timeout_s:g}"

    async def _exchange(self, line: dict[str, Any], timeout_s: float) -> dict[str, Any] | str:
        """The answer to a line; or how the process ended without one, and it is ended for sure."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                process.stdin.write(json.dumps(line).encode() + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except TimeoutError:
            await self.close()
            return "timed out"
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        if not answer.endswith(b"\n"):
            await self.close()
            return "crashed"
        return dict(json.loads(answer))


def function_process(
    run: Run, judge: JurorConfig | ContestConfig, key: str, columns: Sequence[str]
) -> FunctionProcess:
    """The function of a judge of a run, which has to be the one that the run was made with.

    Args:
        key: Of the judge in the config, such as ``judge.jury.0``.
        columns: See ``FunctionProcess``.

    Raises:
        ConfigError, IntegrityError: See ``run_functions``.
    """
    assert judge.function is not None
    function = run_functions(run)[judge.function]
    return FunctionProcess(function, f"{key}.function", judge.timeout_s, columns)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the further columns that the rows of a run have."""

    prompts: Sequence[str]
    """Of ``prompts.dataset``."""
    questions: Sequence[str]
    """Of ``evaluation.questions``."""


def check_functions(found: Mapping[str, Function], config: Config, columns: Columns) -> None:
    """Import each function of a config, and check that it can take what it gets.

    Args:
        found: By name.
        columns: What a juror is given, and what a judge of contests.

    Raises:
        ConfigError: One cannot be imported, or cannot take it.
    """

    async def check() -> None:
        for key, judge in all_judges(config).items():
            if judge.function is None:
                continue
            is_contest = isinstance(judge, ContestConfig)
            given = columns.questions if is_contest else [*columns.prompts, CANDIDATES]
            function, at = found[judge.function], f"{key}.function"
            async with FunctionProcess(function, at, judge.timeout_s, given) as process:
                await process.start()

    asyncio.run(check())


_LOG = "What it printed is above, or in the log of the process that asked."
_TAKES = (
    "A function takes prompts, completions and columns of the data by name, which are those that a "
    "row of it has (within its limit, if it has one), and returns a list of numbers; see "
    "docs/rewards.md."
)
