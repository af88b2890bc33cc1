"""Test hosts on one machine, each with a network, a name, processes, mounts and a boot of its own.

A host is a set of Linux namespaces that a process holds; the file system is shared, as the disk of
a cluster is. Hosts hang on a switch, a bridge in a namespace of its own, by cables that can be
pulled. The namespaces have no names and no other way in: nothing is to be seen of them elsewhere,
sets of hosts of tests beside each other use the same addresses, and all is gone with the process
that made them, however it ends.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

_MTU = 1500
_BOOTED_S = 3600
"""Hosts were started so far apart: nobody may compare their monotonic clocks."""


@cache
def lacking() -> str:
    """Why there can be no test hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "test hosts need root"
    programs = ("ip", "tc", "unshare", "nsenter", "setpriv")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        return f"test hosts need {', '.join(missing)} (packages iproute2 and util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--time", "--fork", "ip", "link", "add", "type", "veth"],
        capture_output=True,
        text=True,
    )
    return f"test hosts need network namespaces: {tried.stderr.strip()}" if tried.stderr else ""


class _Held:
    """Namespaces, for as long as this process lives or until ``end``."""

    def __init__(self, setup: str, *unshared: str) -> None:
        # Whoever is left without a parent becomes a child of `sleep`, and is reaped by the kernel.
        script = f"{setup}\nip link set lo up && echo ready && trap '' CHLD && exec sleep infinity"
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork",
             "--kill-child", "--mount-proc", *unshared, "sh", "-ec", script],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the namespaces could not be made"
        [child] = psutil.Process(self._process.pid).children()
        self.pid = child.pid

    @property
    def is_there(self) -> bool:
        """Whether it has not ended; with it goes the end of its cable that is in the switch."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill all that runs there. Idempotent."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def inside(self, *argv: str) -> None:
        """Do something to its network with the programs and files of this machine."""
        subprocess.run(["nsenter", "--target", str(self.pid), "--net", *argv], check=True)


class Host:
    """One of ``hosts``.

    Args:
        name: Host name, which all hosts of the switch know.
        switch: Where its cable ends.
        number: From 1.
        names: The ``/etc/hosts`` of all.
    """

    def __init__(self, name: str, switch: _Held, number: int, names: Path) -> None:
        self.name, self.address = name, _address(number)
        self._switch, self._port = switch, f"port{number}"
        self._started: list[subprocess.Popen[Any]] = []
        self._held = _Held(
            f"hostname {name}\nmount --bind {names} /etc/hosts",
            "--uts", "--ipc", "--time", "--monotonic", str(number * _BOOTED_S),
        )  # fmt: skip
        switch.inside(
            "ip", "link", "add", self._port, "mtu", str(_MTU), "type", "veth",
            "peer", "name", "eth0", "mtu", str(_MTU), "netns", str(self._held.pid),
        )  # fmt: skip
        switch.inside("ip", "link", "set", self._port, "master", "switch", "up")
        self._held.inside("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self._held.inside("ip", "link", "set", "eth0", "up")

    def start(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program there.

        Args:
            options: Of ``Popen``; the environment is this process's unless ``env`` says otherwise.
        """
        enter = ["nsenter", "--target", str(self._held.pid), "--net", "--uts", "--ipc"]
        enter += ["--time", "--mount", "--pid", f"--wdns={options.pop('cwd', os.getcwd())}", "--"]
        self._started.append(subprocess.Popen([*enter, *map(str, argv)], **options))
        return self._started[-1]

    def run(self, argv: Sequence[str | Path], timeout_s: float = 120, **options: Any) -> str:
        """Run a program there and return what it prints; it must succeed."""
        process = self.start(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        output, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, f"{argv} on {self.name}: {output}"
        return str(output)

    def processes(self, word: str = "") -> list[psutil.Process]:
        """What runs there and has ``word`` in its command line, oldest first."""
        here = os.readlink(f"/proc/{self._held.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == self._held.pid or word not in " ".join(process.cmdline()):
                    continue
                if os.readlink(f"/proc/{process.pid}/ns/pid") == here:
                    found.append(process)
            except (psutil.Error, OSError):  # it ended, or is none of ours
                continue
        return sorted(found, key=lambda process: process.create_time())

    def is_idle(self, within_s: float, *words: str) -> bool:
        """Whether all that runs there, or has one of ``words`` in its line, ends within a time."""
        until = time.monotonic() + within_s
        while any(self.processes(word) for word in words or ("",)):
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    def cut(self) -> None:
        """Pull its cable out of the switch: what is sent is lost, and nobody is told."""
        self._switch.inside("ip", "link", "set", self._port, "down")

    def put_back(self) -> None:
        """Plug it in again, at full speed."""
        for held, device in ((self._switch, self._port), (self._held, "eth0")):
            held.inside("sh", "-c", f"tc qdisc del dev {device} root 2>/dev/null || true")
        self._switch.inside("ip", "link", "set", self._port, "up")

    def slow(self, bytes_per_s: int) -> None:
        """Let its cable pass so much in either direction."""
        rate = [f"{8 * bytes_per_s}bit", "burst", str(2 * _MTU), "latency", "5s"]
        for held, device in ((self._switch, self._port), (self._held, "eth0")):
            held.inside("tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", *rate)

    def power_off(self) -> None:
        """Kill all that runs there at once; the host is gone, without a word. Idempotent."""
        if self._held.is_there:
            self._switch.inside("ip", "link", "set", self._port, "down")
        self.end()

    def end(self) -> None:
        """The same while nobody looks."""
        self._held.end()
        for process in self._started:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def _address(number: int) -> str:
    return f"10.77.0.{10 + number}"


@contextmanager
def hosts(count: int, directory: Path) -> Iterator[list[Host]]:
    """Hosts ``n1``, ``n2``, ... on a switch of their own, which end with the body.

    Args:
        directory: For their ``/etc/hosts``.
    """
    lines = [f"{_address(i)} n{i}" for i in range(1, count + 1)]
    names = directory / "hosts"
    names.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    switch = _Held("ip link add switch type bridge && ip link set switch up")
    made: list[Host] = []
    try:
        for i in range(1, count + 1):
            made.append(Host(f"n{i}", switch, i, names))
        yield made
    finally:
        for ended in (*made, switch):
            ended.end()
