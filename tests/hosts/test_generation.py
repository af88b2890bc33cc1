"""Generation by servers on two hosts, asked from a third, loses and doubles nothing.

Each answer says with which weights and for which seed it was made, so one that is lost, doubled,
exchanged or of old weights is another text.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts.conftest import MakeHosts
from tests.support import ROOT
from tests.support.host_server import said
from tests.support.hosts import Host
from tests.support.models import make_model

pytestmark = pytest.mark.long
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
NOTICED_S = 90
"""A server that is silent fails its requests within 60 s."""


class Asked:
    """An asking host and two that serve, `n2` and `n3`."""

    def __init__(self, hosts: list[Host], directory: Path) -> None:
        self.directory, (asker, self.first, self.second) = directory, hosts
        self.servers = [host.name for host in hosts[1:] if self._serve(host)]
        urls = [f"http://{host.name}:8000/v1" for host in hosts[1:]]
        self._process = asker.start(
            [sys.executable, "-m", "tests.support.host_asking", directory / "M1", *urls],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
        )  # fmt: skip
        self._seed = 0
        self.answer()  # it is ready

    def _serve(self, host: Host) -> bool:
        process = host.start(
            [sys.executable, "-m", "tests.support.host_server", self.directory / "M1", host.name,
             self.directory],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
        )  # fmt: skip
        assert process.stdout is not None
        return process.stdout.readline() == "ready\n"

    def do(self, line: str) -> dict[str, str]:
        self.begin(line)
        return self.answer()

    def begin(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, str]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def ask(self, count: int, weights: str, meanwhile: Callable[[], None] = lambda: None) -> float:
        """Ask and check every answer; return how many seconds that took.

        Args:
            meanwhile: Done once the work is under way.
        """
        first, self._seed = self._seed, self._seed + count
        begin = time.monotonic()
        self.begin(f"ask {first} {self._seed}")
        self.wait(lambda: any(f" {seed}" in self.journal() for seed in range(first, self._seed)))
        meanwhile()
        found = self.answer()
        assert found == {str(s): said(weights, s) for s in range(first, self._seed)}
        return time.monotonic() - begin

    def journal(self, *names: str) -> str:
        files = [self.directory / f"{name}-journal" for name in names or self.servers]
        return "\n".join(file.read_text() for file in files if file.exists()) + "\n"

    def served(self, name: str) -> int:
        """How many completions a host has made so far."""
        lines = self.journal(name).splitlines()
        return sum(line != "" and not line.startswith("takes") for line in lines)

    def wait(self, is_so: Callable[[], bool], within_s: float = 60) -> None:
        until = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def asked(tmp_path: Path, make_hosts: MakeHosts) -> Asked:
    for name in ("M1", "M2"):
        make_model(tmp_path / name)
    return Asked(make_hosts(3), tmp_path)


def test_a_host_that_is_cut_off_loses_nothing_and_gets_work_again_when_it_is_back(
    asked: Asked,
) -> None:
    asked.ask(60, "M1")
    assert min(asked.served("n2"), asked.served("n3")) > 20
    assert asked.ask(60, "M1", asked.second.cut) < NOTICED_S
    before = asked.served("n3")
    asked.ask(30, "M1")
    assert asked.served("n3") == before
    asked.second.put_back()
    until = time.monotonic() + 90  # it is looked at again after 60 s at most
    while asked.served("n3") == before:
        assert time.monotonic() < until
        asked.ask(30, "M1")


def test_a_host_at_1_kb_a_second_gets_less_work_and_loses_none(asked: Asked) -> None:
    asked.ask(20, "M1")
    before = asked.served("n2"), asked.served("n3")
    asked.second.slow(1000)
    asked.ask(200, "M1")
    fast, slow = asked.served("n2") - before[0], asked.served("n3") - before[1]
    assert 3 * slow < fast
    asked.second.put_back()
    before_all = asked.served("n3")
    asked.ask(60, "M1")
    assert asked.served("n3") - before_all > 10


def test_half_an_answer_is_none(asked: Asked) -> None:
    half = asked.directory / "n3-half"

    def answer_half() -> None:
        half.touch()

    asked.ask(60, "M1", answer_half)
    half.unlink()
    before = asked.served("n3")
    asked.wait(lambda: asked.ask(20, "M1") > 0 and asked.served("n3") > before, 90)


def test_new_weights_are_served_by_all_before_anything_is_asked_also_by_one_that_was_away(
    asked: Asked,
) -> None:
    asked.ask(30, "M1")
    asked.second.cut()
    assert asked.do(f"load {asked.directory / 'M2'}") == {}
    asked.ask(30, "M2")
    asked.second.put_back()
    before = asked.served("n3")
    asked.wait(lambda: asked.ask(20, "M2") > 0 and asked.served("n3") > before, 120)
    for name in ("n2", "n3"):
        lines = asked.journal(name).split()
        weights = [line for line in asked.journal(name).splitlines() if line]
        new = weights.index("takes M2")
        assert not any(line.startswith("M2") for line in weights[:new])
        assert not any(line.startswith("M1") for line in weights[new:])
        assert lines


def test_an_address_at_which_there_is_no_host_is_named(asked: Asked) -> None:
    asked.first.cut()
    asked.second.cut()
    told = asked.do("ask 0 1")
    assert told["error"].startswith("no endpoint answers: http://n2:8000/v1: ")
    assert "http://n3:8000/v1: " in told["error"]
