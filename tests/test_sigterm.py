"""SIGTERM while an event loop runs: it ends, wherever in asyncio the signal found it."""

import asyncio
import sys
from types import FrameType
from typing import Any

import pytest

from selfreward.sigterm import Terminated, raise_at


async def work() -> None:
    """Tasks that wake each other for good, and one that waits for both."""
    queues = [asyncio.Queue[int](), asyncio.Queue[int]()]

    async def pass_on(mine: int) -> None:
        while True:
            await queues[mine].put(0)
            await queues[1 - mine].get()

    await asyncio.gather(pass_on(0), pass_on(1))


def run_with_signal(at: int) -> None:
    """Run it with a signal at the n-th line of the running loop's own."""
    seen = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal seen
        if not frame.f_globals.get("__name__", "").startswith("asyncio."):
            return None
        if event == "line" and asyncio._get_running_loop() is not None:
            seen += 1
            if seen == at:
                sys.settrace(None)
                raise_at(frame, Terminated(143))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        asyncio.run(work())
    finally:
        sys.settrace(before)


@pytest.mark.timeout(60)
def test_an_event_loop_ends_wherever_in_asyncio_the_signal_finds_it() -> None:
    """Raised there at once, it would lose the callback that was to come, and wait for ever."""
    for at in range(1, 1000, 3):
        with pytest.raises(Terminated):
            run_with_signal(at)
