"""SIGTERM raises an error, as Ctrl-C does, and nothing that drops it keeps a run alive."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Terminated(SystemExit):
    """SIGTERM arrived; asyncio lets it through, as it does KeyboardInterrupt for Ctrl-C."""


def raise_at(frame: FrameType | None, error: SystemExit) -> None:
    """Raise where a signal found the process; in the middle of asyncio's own code, soon after.

    Raised there, it would lose the callback that asyncio was about to run, and whoever waits for
    that would wait for ever. A loop that is at its last callback ends without it.

    Args:
        frame: As a handler of signals is given it.
    """
    if frame is not None and frame.f_globals.get("__name__", "").startswith("asyncio."):
        import asyncio  # which is loaded, then

        with suppress(RuntimeError):  # no loop is running
            asyncio.get_running_loop().call_soon_threadsafe(_raise, error)
            return
    raise error


def _raise(error: SystemExit) -> None:
    raise error


@contextmanager
def sigterm_raises() -> Iterator[Callable[[], None]]:
    """Let SIGTERM raise, and again by what is yielded: a finalizer drops what is raised in it."""
    arrived = False

    def raise_again() -> None:
        if arrived:
            raise Terminated(128 + signal.SIGTERM)

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal arrived
        arrived = True
        raise_at(frame, Terminated(128 + signal.SIGTERM))

    if threading.current_thread() is not threading.main_thread():
        yield raise_again
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield raise_again
        raise_again()  # what was dropped after the last time that it was asked
    finally:
        signal.signal(signal.SIGTERM, before)
