"""Whether the hosts that train together still hear from each other: a process beside the ranks.

What waits for a host that is gone waits long: gloo and NCCL for ``ddp_timeout`` (1,800 s), torchrun
(torch 2.13) for ever, as it looks at its own heartbeats only while hosts join. So on each of
several hosts one such process counts up a number in the store of the launcher, and looks whether
those of the others move. They are numbers and not times, as the clocks of hosts need not agree; and
it is a process and not a thread, as a thread of a rank stands still while that writes a model.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

SILENCE_S = 60.0
"""A host from which nothing has come for so long is lost."""
_START_S = 600.0
"""The same until it is heard of for the first time: it may load libraries from a slow disk."""
_BEAT_S = 2.0
_LEFT = "left"
"""What a host says last: its ranks have ended, which their launcher takes care of."""


def on_several_hosts() -> bool:
    """Whether this rank was started by a torchrun, as accelerate has one too, of several."""
    return int(os.environ.get("GROUP_WORLD_SIZE", 1)) > 1


class Watch:
    """Starts the process from a rank; it is told when the rank ends well, and ends with it.

    Nothing is started on one host, nor by any but the first rank of a host.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if on_several_hosts() and os.environ.get("LOCAL_RANK") == "0":
            command = [sys.executable, "-m", "selfreward.training.hosts", str(os.getppid())]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def close(self) -> None:
        """Say to the other hosts that this one is done. Idempotent."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(5 * _BEAT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


class Heard:
    """What was heard of the other hosts, and when, on this host's monotonic clock.

    Args:
        numbers: Of the other hosts.
        now: In seconds.
    """

    def __init__(self, numbers: list[int], now: float) -> None:
        self.numbers = numbers
        self._last = dict.fromkeys(numbers, ("", "", now))

    def hear(self, number: int, said: str, now: float) -> None:
        """Take in what a host said last: a count, or that it left, and its name."""
        count, _, name = said.partition(" ")
        if count != self._last[number][0]:
            self._last[number] = count, name, now

    def lost(self, now: float) -> str:
        """One line that names the hosts which are lost; empty if none is."""
        allowed = {
            number: SILENCE_S if said else _START_S for number, (said, _, _) in self._last.items()
        }
        silent = {
            number: name or f"number {number}"
            for number, (said, name, at) in self._last.items()
            if said != _LEFT and now - at > allowed[number]
        }
        if not silent:
            return ""
        hosts = "host" if len(silent) == 1 else "hosts"
        longest = max(allowed[number] for number in silent)
        return (
            f"nothing was heard of {hosts} {', '.join(silent.values())} for {longest:g} s or more"
        )


def main() -> None:
    """Entry point of the process, whose argument is that of the rank's launcher."""
    from selfreward.training.distributed import tell_error

    number, count = int(os.environ["GROUP_RANK"]), int(os.environ["GROUP_WORLD_SIZE"])
    heard = Heard([other for other in range(count) if other != number], time.monotonic())
    ended = threading.Event()
    # In a thread, for the store of a host that is cut off may answer never.
    threading.Thread(target=_talk, args=(number, heard, ended), daemon=True).start()
    while not select.select([sys.stdin], [], [], _BEAT_S)[0]:
        if lost := heard.lost(time.monotonic()):
            message = f"{lost} on host {socket.gethostname()}"
            tell_error("SelfRewardError", message, "See whether it is up and reached, then resume.")
            for waiting in (int(sys.argv[1]), os.getppid()):  # in a store, and in a collective
                os.kill(waiting, signal.SIGKILL)
            os._exit(1)
    ended.set()
    time.sleep(_BEAT_S)
    os._exit(0)


def _talk(number: int, heard: Heard, ended: threading.Event) -> None:
    """Say that this host is there and listen to the others, until the rank ended."""
    from torch.distributed import PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = timedelta(seconds=_START_S)
    store = PrefixStore("selfreward", TCPStore(address, port, timeout=limit))
    name, count = socket.gethostname(), 0
    while not ended.is_set():
        count += 1
        store.set(str(number), f"{count} {name}")
        for other in heard.numbers:
            if store.check([str(other)]):
                heard.hear(other, store.get(str(other)).decode(), time.monotonic())
        ended.wait(_BEAT_S)
    store.set(str(number), f"{_LEFT} {name}")
    os._exit(0)


if __name__ == "__main__":
    main()
