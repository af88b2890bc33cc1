"""The process in which a reward function runs, so that one that hangs or crashes can be ended.

    {"module", "attribute", "root", "path", "digest", "columns"}    -> {"takes"} or {"error"}
    {"prompts", "completions", "columns"}, any number of times      -> {"values"} or {"failed"}

One JSON line each, on standard input and output. What the function prints goes to the log. When
standard input closes, the process ends, with all that the function started.
"""

import asyncio
import hashlib
import importlib
import inspect
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

_SHOWN = 500
"""Characters of an error or a value that are kept."""


def main() -> None:
    """Entry point: import a function, then call it as often as is asked."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function prints must not spoil the answers

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    asked = json.loads(lines.get())
    try:
        function = _load(asked)
        takes = _takes(function, asked["columns"])
    except _UnusableError as error:
        return say({"error": str(error)})
    say({"takes": takes})
    while True:
        say(_call(function, takes, json.loads(lines.get())))


class _UnusableError(Exception):
    """The function cannot be imported, or cannot take what it gets."""


def _read(lines: "queue.SimpleQueue[str]") -> NoReturn:
    for line in os.fdopen(0, closefd=False):
        lines.put(line)
    os.killpg(os.getpgid(0), signal.SIGKILL)
    raise AssertionError("unreachable")


def _load(asked: dict[str, Any]) -> Callable[..., Any]:
    path, name = Path(asked["path"]), f"{asked['module']}:{asked['attribute']}"
    if hashlib.sha256(path.read_bytes()).hexdigest() != asked["digest"]:
        raise _UnusableError(f"{path} was changed while the run goes on")
    sys.path.insert(0, asked["root"])
    sys.dont_write_bytecode = True
    try:
        module = importlib.import_module(asked["module"])
    except Exception as error:
        raise _UnusableError(f"importing {path} raised {_said(error)}") from None
    if Path(module.__file__ or "").resolve() != path.resolve():
        raise _UnusableError(
            f"{path}: the name {asked['module']} is taken by {module.__file__ or 'Python itself'}; "
            "rename the file"
        )
    try:
        function = reduce(getattr, asked["attribute"].split("."), module)
    except AttributeError:
        raise _UnusableError(f"{path} has no {asked['attribute']}") from None
    if not callable(function):
        raise _UnusableError(f"{name} is a {type(function).__name__}, no function")
    return function


def _takes(function: Callable[..., Any], columns: list[str]) -> list[str]:
    """The keyword arguments that the function is given: all, or those that it names."""
    given = ["prompts", "completions", *(c for c in columns if c not in ("prompts", "completions"))]
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of what is written in C
        return given
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise _UnusableError(f"its argument {parameter.name!r} cannot be given by name")
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if needed and parameter.name not in given:
            raise _UnusableError(
                f"it needs an argument {parameter.name!r}, and gets {', '.join(given)}"
            )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return given
    named = {parameter.name for parameter in parameters}
    return [name for name in given if name in named]


def _call(function: Callable[..., Any], takes: list[str], batch: dict[str, Any]) -> dict[str, Any]:
    rows = len(batch["prompts"])
    every = {**batch["columns"], "prompts": batch["prompts"], "completions": batch["completions"]}
    try:
        found = function(**{name: every.get(name, [None] * rows) for name in takes})
        if inspect.isawaitable(found):
            found = asyncio.run(_awaited(found))
        if hasattr(found, "tolist"):  # an array, or a tensor
            found = found.tolist()
        if not isinstance(found, list | tuple):
            return {"failed": ["wrong type", f"returned a {type(found).__name__}, not a list"]}
        if len(found) != rows:
            return {"failed": ["wrong length", f"returned {len(found)} values for {rows}"]}
        return {"values": [_value(one) for one in found]}
    except Exception as error:
        return {"failed": [f"raised {type(error).__name__}", _said(error)]}


async def _awaited(found: Any) -> Any:
    return await found


def _value(found: Any) -> list[Any]:
    """Value, reason and text of one value that was returned."""
    if found is None:
        return [None, "no value", "None"]
    shown = _shown(repr(found))
    if isinstance(found, str | bytes) or not hasattr(found, "__float__"):
        return [None, "wrong type", shown]
    return [float(found), None, shown]


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return _shown(": ".join(filter(None, (type(error).__name__, lines[0] if lines else ""))))


def _shown(text: str) -> str:
    return text[:_SHOWN].encode("utf-8", "replace").decode()


if __name__ == "__main__":
    main()
