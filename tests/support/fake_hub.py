"""A Hugging Face hub on a local port, as far as fetching a model needs one, with faults on request."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_BIG = (".safetensors", ".gguf", "tokenizer.json")


class Hub:
    """``repos[id][name]`` = bytes. What it did is in ``requests``, as ``METHOD path``."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.corrupt: set[str] = set()
        """File names whose bytes are wrong on the wire, in the right number."""
        self.cut_after: dict[str, int] = {}
        """File name -> bytes after which the connection breaks, once."""
        self.status: int = 0
        """Every answer is this HTTP status."""
        self.requests: list[str] = []
        self.url = ""

    def get_count(self, name: str) -> int:
        """How often a file's bytes were asked for."""
        return sum(r.startswith("GET") and r.endswith("/" + name) for r in self.requests)


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that listens until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_folder(folder: Path) -> dict[str, bytes]:
    """File name -> bytes, for ``Hub.repos``."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            return self._send(self.hub.status, b"{}", {}, body)
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._info(m[1], m[2] or "main", body)
        if m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(m[1], m[3], body)
        return self._send(404, b"{}", {}, body)

    def _info(self, repo: str, revision: str, body: bool) -> None:
        if repo in self.hub.gated:
            return self._send(403, b'{"error":"gated"}', {"X-Error-Code": "GatedRepo"}, body)
        if repo not in self.hub.repos:
            return self._send(404, b'{"error":"none"}', {"X-Error-Code": "RepoNotFound"}, body)
        if revision not in ("main", COMMIT):
            return self._send(404, b'{"error":"none"}', {"X-Error-Code": "RevisionNotFound"}, body)
        siblings = [_sibling(name, data) for name, data in self.hub.repos[repo].items()]
        info = {
            "_id": "1",
            "id": repo,
            "modelId": repo,
            "sha": COMMIT,
            "tags": [],
            "private": False,
            "siblings": siblings,
        }
        return self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, repo: str, name: str, body: bool) -> None:
        data = self.hub.repos.get(repo, {}).get(name)
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        head = {"ETag": f'"{_etag(name, data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if name in self.hub.corrupt:
            data = bytes(b ^ 1 for b in data)
        start = 0
        if m := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(m[1])
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if body and name in self.hub.cut_after:
            return self._cut(data, self.hub.cut_after.pop(name), head)
        return self._send(206 if start else 200, data[start:], head, body)

    def _cut(self, data: bytes, after: int, head: dict[str, str]) -> None:
        self._begin(200, len(data), head)
        self.wfile.write(data[:after])
        self.wfile.flush()
        self.close_connection = True

    def _send(self, status: int, data: bytes, head: dict[str, str], body: bool) -> None:
        self._begin(status, len(data), head)
        if body:
            self.wfile.write(data)

    def _begin(self, status: int, length: int, head: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _etag(name: str, data: bytes) -> str:
    if name.endswith(_BIG):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _etag(name, data)[:40]}
    if name.endswith(_BIG):
        entry["lfs"] = {"sha256": _etag(name, data), "size": len(data), "pointerSize": 130}
    return entry
