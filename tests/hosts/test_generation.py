"""Generation by servers on two hosts, asked from a third, loses and doubles nothing.

Each answer says with which weights and for which seed it was made, so one that is lost, doubled,
exchanged or of old weights is another text.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.host_server import said
from tests.support.hosts import Host, hosts, lacking
from tests.support.models import make_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
NOTICED_S = 90
"""A server that is silent fails its requests within 60 s."""


class Asked:
    """An asking host and two that serve, `n2` and `n3`."""

    def __init__(self, made: list[Host], directory: Path) -> None:
        self.directory, (asker, self.first, self.second) = directory, made
        self.weights = "M1"
        """What must be served."""
        model, self._seed = directory / "M1", 0
        outputs = []
        for host in made[1:]:
            program = [
                sys.executable,
                "-m",
                "tests.support.host_server",
                model,
                host.name,
                directory,
            ]
            server = host.start(program, stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT)
            outputs.append(server.stdout)
        urls = [f"http://{host.name}:8000/v1" for host in made[1:]]
        self._process = asker.start(
            [sys.executable, "-m", "tests.support.host_asking", model, *urls],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
        )  # fmt: skip
        for output in outputs:
            assert output is not None
            assert output.readline() == b"ready\n"
        self.answer()  # it is ready, too

    def mend(self) -> None:
        """Put both back, and ask until both are given work."""
        for host in (self.first, self.second):
            host.put_back()
        before = self.served("n2"), self.served("n3")
        until = time.monotonic() + 150  # one is looked at again after 60 s at most
        while self.served("n2") == before[0] or self.served("n3") == before[1]:
            assert time.monotonic() < until
            self.ask(20)

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

    def ask(self, count: int, meanwhile: Callable[[], None] = lambda: None) -> float:
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
        assert found == {str(s): said(self.weights, s) for s in range(first, self._seed)}
        return time.monotonic() - begin

    def journal(self, *names: str) -> str:
        files = [self.directory / f"{name}-journal" for name in names or ("n2", "n3")]
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


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    if reason := lacking():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("hosts")
    for name in ("M1", "M2"):
        make_model(directory / name)
    with hosts(3, directory) as made:
        yield Asked(made, directory)


@pytest.fixture
def asked(started: Asked) -> Asked:
    """Whole and at work, whatever was done to it before."""
    started.mend()
    return started


def test_a_host_that_is_cut_off_loses_nothing_and_gets_work_again_when_it_is_back(
    asked: Asked,
) -> None:
    assert asked.ask(60, asked.second.cut) < NOTICED_S
    before = asked.served("n3")
    asked.ask(30)
    assert asked.served("n3") == before
    asked.mend()
    assert asked.served("n3") > before


def test_a_host_at_1_kb_a_second_gets_less_work_and_loses_none(asked: Asked) -> None:
    before = asked.served("n2"), asked.served("n3")
    asked.second.slow(1000)
    asked.ask(200)
    fast, slow = asked.served("n2") - before[0], asked.served("n3") - before[1]
    assert 3 * slow < fast
    asked.second.put_back()
    before_all = asked.served("n3")
    asked.ask(60)
    assert asked.served("n3") - before_all > 10


def test_half_an_answer_is_none(asked: Asked) -> None:
    half = asked.directory / "n3-half"
    asked.ask(60, half.touch)
    half.unlink()
    asked.mend()


def test_new_weights_are_served_by_all_before_anything_is_asked_also_by_one_that_was_away(
    asked: Asked,
) -> None:
    asked.second.cut()
    assert asked.do(f"load {asked.directory / 'M2'}") == {}
    asked.weights = "M2"
    asked.ask(30)
    asked.mend()
    for name in ("n2", "n3"):
        lines = asked.journal(name).split("\n")
        new = lines.index("takes M2")
        assert not any(line.startswith("M2") for line in lines[:new])
        assert not any(line.startswith("M1") for line in lines[new:])


def test_where_no_host_answers_all_are_named(asked: Asked) -> None:
    asked.first.cut()
    asked.second.cut()
    error = asked.do("ask 0 1")["error"]
    assert error.startswith("no endpoint answers: http://n2:8000/v1: ")
    assert "http://n3:8000/v1: " in error
