"""The process of a host that listens to the others while they train together; see ``hosts``."""

import os
import select
import signal
import socket
import sys
import threading
import time
from datetime import timedelta

from selfreward.training.distributed import tell_error
from selfreward.training.hosts import BEAT_S, LEFT, START_S, Heard


def main() -> None:
    """Entry point of the process, whose argument is that of the rank's launcher."""
    number, count = int(os.environ["GROUP_RANK"]), int(os.environ["GROUP_WORLD_SIZE"])
    heard = Heard([other for other in range(count) if other != number], time.monotonic())
    ended = threading.Event()
    # In a thread, for the store of a host that is cut off may answer never.
    threading.Thread(target=_talk, args=(number, heard, ended), daemon=True).start()
    while not select.select([sys.stdin], [], [], BEAT_S)[0]:
        if lost := heard.lost(time.monotonic()):
            message = f"{lost} on host {socket.gethostname()}"
            tell_error("SelfRewardError", message, "See whether it is up and reached, then resume.")
            for waiting in (int(sys.argv[1]), os.getppid()):  # in a store, and in a collective
                os.kill(waiting, signal.SIGKILL)
            os._exit(1)
    ended.set()
    time.sleep(BEAT_S)
    os._exit(0)


def _talk(number: int, heard: Heard, ended: threading.Event) -> None:
    """Say that this host is there and listen to the others, until the rank ended."""
    from torch.distributed import PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = timedelta(seconds=START_S)
    store = PrefixStore("selfreward", TCPStore(address, port, timeout=limit))
    name, count = socket.gethostname(), 0
    while not ended.is_set():
        count += 1
        store.set(str(number), f"{count} {name}")
        for other in heard.numbers:
            if store.check([str(other)]):
                heard.hear(other, store.get(str(other)).decode(), time.monotonic())
        ended.wait(BEAT_S)
    store.set(str(number), f"{LEFT} {name}")
    os._exit(0)


if __name__ == "__main__":
    main()
