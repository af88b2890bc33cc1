"""Test hosts for the tests of this folder, which are skipped where there can be none."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.hosts import Host, hosts, lacking

MakeHosts = Callable[[int], list[Host]]


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[MakeHosts]:
    """Makes hosts on each of which `tests/support/remote.py` can start programs."""
    if reason := lacking():
        pytest.skip(reason)
    with ExitStack() as stack:

        def make(count: int) -> list[Host]:
            made = stack.enter_context(hosts(count, tmp_path))
            for host in made:
                serve = [sys.executable, ROOT / "tests" / "support" / "remote.py", "serve"]
                out = host.start(serve, stdout=subprocess.PIPE).stdout
                assert out is not None
                assert out.readline() == b"ready\n"
            return made

        yield make
