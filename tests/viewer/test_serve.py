"""``selfreward view`` as a process: its address, its port, and how it ends."""

# ruff: noqa: F811

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfreward.errors import ConfigError, PreflightError
from selfreward.viewer import serve
from selfreward.viewer.serve import Address, has_display
from tests.support.runs import at_runs, runs  # noqa: F401

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes")


@contextmanager
def viewer(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "selfreward", "view", "--json", "--no-browser", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str, token: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_it_answers_until_it_is_ended_and_leaves_no_child(
    at_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    with viewer("whole", "--port", "0") as (process, said):
        token = said["url"].partition("?token=")[2]
        assert said["url"] == f"http://127.0.0.1:{said['port']}/run/whole?token={token}"
        assert len(token) > 20
        assert get(said["port"], "/api/run/whole", "wrong-token")[0] == 401
        assert get(said["port"], "/api/run/whole", token)[0] == 200
        assert get(said["port"], "/api/run/whole/chart/means.svg", token)[0] == 200
        for path in ("/static/../serve.py", "/static/%2e%2e/serve.py", "/static//etc/passwd"):
            assert get(said["port"], path, token)[0] == 404
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 1
        process.send_signal(number)
        assert process.wait(30) == code
        psutil.wait_procs(children, timeout=20)
        assert not any(child.is_running() for child in children)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_port_that_is_taken_is_left_for_the_next_one_or_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(serve, "PORT", port)
        with serve._bound("127.0.0.1", None) as bound:
            assert port < bound.getsockname()[1] < port + 100
        with pytest.raises(PreflightError, match=f"--port {port}") as raised:
            serve._bound("127.0.0.1", port)
        assert "--port" in raised.value.hint
        monkeypatch.setattr(serve, "_TRIED", 1)
        with pytest.raises(PreflightError, match="all in use"):
            serve._bound("127.0.0.1", None)


def test_a_host_that_is_none_of_this_machine_is_one_message() -> None:
    for host in ("no.such.host.invalid", "203.0.113.7", "..", "a..b", "a" * 70):
        with pytest.raises((ConfigError, PreflightError), match=f"--host {re.escape(host)}"):
            serve._bound(host, 0)


def test_a_missing_extra_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "has_module", lambda name: name != "uvicorn")
    with pytest.raises(PreflightError, match="not installed: uvicorn") as raised:
        serve.serve(None, ready=lambda address: None)
    assert raised.value.hint == f"{sys.executable} -m pip install 'selfreward-loop[view]'"


@pytest.mark.parametrize("token", ["", "short", "with space in it", "semicolon;comma,;", "é" * 20])
def test_a_token_that_no_cookie_holds_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="--token"):
        serve.serve(None, token=token, ready=lambda address: None)


def test_the_address_is_one_that_a_browser_opens() -> None:
    def url(host: str) -> str:
        return Address(host, 1, "T", "/").url

    assert url("127.0.0.1") == "http://127.0.0.1:1/?token=T"
    assert url("::1") == url("::") == "http://[::1]:1/?token=T"
    assert url("0.0.0.0") == url("127.0.0.1")
    assert [Address(h, 1, "T", "/").is_local for h in ("::1", "0.0.0.0")] == [True, False]


def test_no_browser_is_opened_where_nobody_would_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    assert not has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert has_display()
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 22")
    assert not has_display()


def test_a_run_that_is_not_there_is_one_message(at_runs: Path) -> None:
    command = [sys.executable, "-m", "selfreward", "view", "none", "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3
    assert done.stdout == "" and "no run 'none'" in done.stderr


def test_the_viewer_itself_holds_no_library_for_numbers(at_runs: Path) -> None:
    code = (
        "import sys, selfreward.viewer.app, selfreward.viewer.pages, selfreward.viewer.lists, "
        "selfreward.viewer.drawn, selfreward.viewer.figures, selfreward.viewer.indexes, "
        "selfreward.viewer.questions, uvicorn; "
        "print({'numpy', 'scipy', 'matplotlib', 'torch', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
