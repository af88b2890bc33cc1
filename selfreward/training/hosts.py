"""Whether the hosts that train together still hear from each other: a process beside the ranks,
``host_main``.

What waits for a host that is gone waits long: gloo and NCCL for ``ddp_timeout`` (1,800 s), torchrun
(torch 2.13) for ever, as it looks at its own heartbeats only while hosts join. So on each of
several hosts one such process counts up a number in the store of the launcher, and looks whether
those of the others move. They are numbers and not times, as the clocks of hosts need not agree; and
it is a process and not a thread, as a thread of a rank stands still while that writes a model.
"""

import os
import subprocess
import sys

SILENCE_S = 60.0
"""A host from which nothing has come for so long is lost."""
START_S = 600.0
"""The same until it is heard of for the first time: it may load libraries from a slow disk."""
BEAT_S = 2.0
LEFT = "left"
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
            command = [sys.executable, "-m", "selfreward.training.host_main", str(os.getppid())]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def close(self) -> None:
        """Say to the other hosts that this one is done. Idempotent."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(5 * BEAT_S)
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
            number: SILENCE_S if said else START_S for number, (said, _, _) in self._last.items()
        }
        silent = {
            number: name or f"number {number}"
            for number, (said, name, at) in self._last.items()
            if said != LEFT and now - at > allowed[number]
        }
        if not silent:
            return ""
        hosts = "host" if len(silent) == 1 else "hosts"
        longest = max(allowed[number] for number in silent)
        return (
            f"nothing was heard of {hosts} {', '.join(silent.values())} for {longest:g} s or more"
        )
