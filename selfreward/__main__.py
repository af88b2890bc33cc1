"""``python -m selfreward`` is ``selfreward``; both begin here, so that a signal finds it ready."""

import os
import signal
from types import FrameType


def main() -> None:
    """Heed Ctrl-C and SIGTERM before anything is imported that takes time, then begin."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of ``nohup`` and background jobs
            signal.signal(number, _leave)
    from selfreward.cli.main import main

    main()


def _leave(signum: int, frame: FrameType | None) -> None:
    os._exit(128 + signum)  # nothing was begun


if __name__ == "__main__":
    main()
