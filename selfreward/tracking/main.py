"""The process that follows a run for one tracker: ``main RUN TRACKER SECONDS``.

Standard input closes when the run has ended, or its process has gone: then it sends the rest and
ends, after SECONDS at most (0: as long as it takes), whatever a tracker is waiting for.
"""

import logging
import os
import sys
import threading
from pathlib import Path

from selfreward.storage.directory import Run
from selfreward.tracking.follower import follow

TOO_LATE = 3
"""Exit code of a process that was cut off."""
_NICE = 10


def main() -> None:
    """Entry point of the process."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    path, tracker, seconds = sys.argv[1:]
    os.nice(_NICE)  # the run comes first
    ended = threading.Event()
    threading.Thread(target=_wait, args=(ended, float(seconds)), daemon=True).start()
    follow(Run(Path(path)), tracker, ended.is_set)


def _wait(ended: threading.Event, seconds: float) -> None:
    while os.read(0, 1024):
        pass
    ended.set()
    if seconds:
        threading.Event().wait(seconds)
        os._exit(TOO_LATE)


if __name__ == "__main__":
    main()
