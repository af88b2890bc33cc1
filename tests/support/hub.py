"""A hub on loopback: it speaks as much of the hub's HTTP API as pushing takes.

Repositories, preupload (files above a size go as LFS), the LFS batch and its uploads, commits.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34
OWNER = "someone"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class Hub:
    """What it holds, and every request that came."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        """By kind (``models`` or ``datasets``) and name."""
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.fails: dict[str, int] = {}
        """Status by a part of a request's path."""
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _serve(self, method: str) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        self.hub.requests.append(f"{method} {path}")
        status = next((s for part, s in self.hub.fails.items() if part in path), 0)
        if method == "PUT":  # the storage's own address, which takes no token
            self.hub.blobs[path.rpartition("/")[2]] = body
            return self._answer(status or 200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials"})
        if status:
            return self._answer(status, {"error": "no more today\nsecond line"})
        return self._answer(*self._route(method, path, body))

    def _route(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        hub, parts = self.hub, path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return 200, {"name": OWNER, "type": "user"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            kind = f"{asked.get('type') or 'model'}s"
            name = f"{asked['organization'] or OWNER}/{asked['name']}"
            assert (kind, name) not in hub.repositories
            hub.repositories[kind, name] = Repository(asked.get("visibility") == "private")
            return 200, {"url": f"{hub.url}/{name}"}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        kind, name = parts[1], "/".join(parts[2:4])
        if (kind, name) not in hub.repositories:
            return 404, {"error": "Repository not found"}
        repository = hub.repositories[kind, name]
        if len(parts) == 4:
            return 200, {"id": name, "private": repository.private, "sha": "0" * 40,
                         "siblings": [], "tags": []}  # fmt: skip
        if parts[4] == "preupload":
            files = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["size"] > 20_000 else "regular"}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return 200, {"files": files}
        if parts[4] != "commit":
            return 404, {"error": "Not found"}
        self._commit(repository, [json.loads(line) for line in body.splitlines()])
        oid = hashlib.sha1(body).hexdigest()
        return 200, {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid}

    def _commit(self, repository: Repository, lines: list[Any]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                content = self.hub.blobs[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                repository.files[value["path"]] = content

    def _answer(self, status: int, answer: Any) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens until the end of the body."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
