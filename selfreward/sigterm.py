"""SIGTERM raises an error, as Ctrl-C does, and nothing that drops it keeps a run alive."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(SystemExit):
    """SIGTERM arrived; asyncio lets it through, as it does KeyboardInterrupt for Ctrl-C."""


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
        raise_again()

    if threading.current_thread() is not threading.main_thread():
        yield raise_again
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield raise_again
        raise_again()  # what was dropped after the last time that it was asked
    finally:
        signal.signal(signal.SIGTERM, before)
