"""Who may ask, and what every answer carries: on each address, errors included."""

# ruff: noqa: F811

from pathlib import Path
from typing import Any

import pytest

from selfreward.viewer.guard import HEADERS as GUARDED
from selfreward.viewer.guard import POLICY
from tests.support.runs import at_runs, runs  # noqa: F401
from tests.support.viewer import HEADERS, PORT, TOKEN, viewing

ADDRESSES = [
    "/", "/run/whole", "/run/whole/list", "/run/whole/prompt/1/0", "/run/whole/training/1",
    "/run/whole/label", "/compare", "/static/index.html", "/static/none.js", "/static/../app.py",
    "/static/..%2fapp.py", "/nothing", "/api/nothing", "/api/runs", "/api/run/whole",
    "/api/run/none", "/api/run/..%2Fwhole", "/api/run/whole/change", "/api/run/whole/list",
    "/api/run/whole/list?kind=none", "/api/run/whole/prompt/1/0", "/api/run/whole/prompt/9/9",
    "/api/run/whole/training/1", "/api/run/whole/chart/none.svg", "/api/compare",
]  # fmt: skip


@pytest.fixture
def client(at_runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path))
    with viewing() as client:
        yield client


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_answer_has_the_policy_and_no_traceback(client: Any, address: str) -> None:
    answer = client.get(address)
    for name, value in GUARDED.items():
        assert answer.headers.get_list(name) == [value]
    assert "cache-control" in answer.headers
    assert "Traceback" not in answer.text
    if address.startswith("/api/"):
        assert answer.headers["cache-control"] == "no-store"
        assert ("error" in answer.json()) == (answer.status_code >= 400)


def test_the_policy_allows_no_inline_script_and_no_other_host() -> None:
    assert "default-src 'none'" in POLICY
    assert not {"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} & set(POLICY.split())


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"selfreward-{PORT}=wrong"}, {"cookie": f"selfreward-1={TOKEN}"},
        {"cookie": b"\x80=;;;="}, {"authorization": b"Bearer \xff\x00"},
    ],
)  # fmt: skip
def test_nobody_without_the_token_learns_anything(
    client: Any, address: str, headers: dict[str, Any]
) -> None:
    client.headers.pop("authorization")
    answer = client.get(address, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["kind"] == "TokenError"
    assert answer.headers["content-security-policy"] == POLICY


@pytest.mark.parametrize(
    ("address", "then"),
    [("/", "/"), ("/run/whole/list?kind=drops&q=a%20b", "/run/whole/list?kind=drops&q=a+b"),
     ("//evil.example/", "/evil.example/"), ("/api/runs?", "/api/runs")],
)  # fmt: skip
def test_the_token_in_the_address_becomes_a_cookie_that_works(
    client: Any, address: str, then: str
) -> None:
    del client.headers["authorization"]
    mark = "&" if "?" in address else "?"
    answer = client.get(f"http://127.0.0.1:{PORT}{address}{mark}token={TOKEN}")
    assert answer.status_code == 303
    assert answer.headers["location"] == then
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"selfreward-{PORT}={TOKEN};")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert client.get("/api/runs").status_code == 200  # by the cookie that the client has kept


def test_a_wrong_token_in_the_address_gives_no_cookie(client: Any) -> None:
    answer = client.get("/?token=wrong")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example:7860",
     "10.0.0.1:7860", "[::2]", "", "127.0.0.1@evil.example", "a:b:c"],
)  # fmt: skip
def test_another_host_is_refused_even_with_the_token(client: Any, host: str) -> None:
    for address in ("/", "/api/runs", f"/?token={TOKEN}"):
        answer = client.get(address, headers={"host": host})
        assert answer.status_code == 421
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:7860", "LOCALHOST:9000", "[::1]:7860", "[::1]"]
)
def test_the_names_of_this_machine_are_answered_through_any_port(client: Any, host: str) -> None:
    assert client.get("/api/runs", headers={"host": host}).status_code == 200


def test_a_viewer_on_all_addresses_takes_any_of_them_but_no_other_name(at_runs: Path) -> None:
    with viewing(host="0.0.0.0") as client:
        assert client.get("/api/runs", headers={"host": "192.168.1.5:7860"}).status_code == 200
        assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [(f"http://127.0.0.1:{PORT}", 404), (None, 403), ("null", 403), ("http://evil.example", 403),
     (f"http://localhost:{PORT}", 403), ("http://127.0.0.1:1", 403), ("", 403)],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_what_changes_something_comes_from_a_page_of_the_viewer(
    client: Any, method: str, origin: str | None, status: int
) -> None:
    headers = {} if origin is None else {"origin": origin}
    answer = client.request(method, "/api/nothing", headers=headers)
    assert answer.status_code == status


def test_no_page_of_another_site_may_read(client: Any) -> None:
    headers = {"origin": "http://evil.example"}
    assert client.get("/api/runs", headers=headers).status_code == 403
    assert "access-control-allow-origin" not in client.get("/api/runs").headers


def test_web_sockets_are_not_opened(client: Any) -> None:
    with pytest.raises(Exception), client.websocket_connect("/api/runs", headers=HEADERS):  # noqa: B017
        pass


def test_a_name_is_never_a_path(client: Any, at_runs: Path) -> None:
    (at_runs / "sub").mkdir(exist_ok=True)
    (at_runs / "sub" / "link").unlink(missing_ok=True)
    (at_runs / "sub" / "link").symlink_to(at_runs / "whole")
    for name in ("sub%2Flink", "..%2fruns", ".", "..", str(at_runs / "whole"), "whole%00"):
        answer = client.get(f"/api/run/{name}/change")
        assert answer.status_code == 404, name
