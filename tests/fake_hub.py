"""A model hub on the loopback interface, with the routes a snapshot download needs and faults on demand."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What to do instead of answering well, for the next `times` requests whose path holds `where`."""

    where: str
    times: int = 1
    status: int | None = None  # answer with this
    headers: dict[str, str] = field(default_factory=dict)
    truncate: int | None = None  # break the connection after so many bytes of the body
    corrupt: bool = False  # flip a bit of the body
    methods: tuple[str, ...] = ("GET", "HEAD")


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


class FakeHub:
    """Models by id, each a mapping of file names to contents. Weights are stored as the hub does, by SHA-256."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._lock = Lock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["FakeHub"]:
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def fail(self, where: str, **how: object) -> None:
        self.faults.append(Fault(where, **how))  # type: ignore[arg-type]  # the fields of Fault

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.where in path and fault.times > 0 and method in fault.methods:
                    fault.times -= 1
                    return fault
        return None

    def seen(self, method: str, part: str) -> list[Request]:
        with self._lock:
            return [item for item in self.requests if item.method == method and part in item.path]

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


class _Handler(BaseHTTPRequestHandler):
    server_hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        hub.note(Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        fault = hub.take_fault(self.command, self.path)
        if fault is not None and fault.status is not None:
            self._send(fault.status, b"", fault.headers)
            return
        if found := re.fullmatch(r"/api/models/(.+)/revision/([^/?]+)", self.path):
            self._info(*found.groups())
        elif found := re.match(r"/api/models/(.+)/tree/([^/?]+)", self.path):
            self._tree(found[1])
        elif found := re.fullmatch(r"/api/models/([^?]+)", self.path):
            self._info(found[1], "main")
        elif found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path):
            self._file(found[1], found[3], fault)
        else:
            self._send(404, b"")

    def _info(self, model: str, revision: str) -> None:
        if model not in self.server_hub.models:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            names = [{"rfilename": name} for name in self.server_hub.models[model]]
            self._json({"id": model, "modelId": model, "sha": COMMIT, "siblings": names, "private": False})

    def _tree(self, model: str) -> None:
        entries = []
        for name, body in self.server_hub.models[model].items():
            entry: dict[str, object] = {"type": "file", "path": name, "size": len(body), "oid": sha256(body)[:40]}
            if is_large(name):
                entry["lfs"] = {"oid": sha256(body), "size": len(body), "pointerSize": 120}
            entries.append(entry)
        self._json(entries)

    def _file(self, model: str, name: str, fault: Fault | None) -> None:
        body = self.server_hub.models.get(model, {}).get(name)
        if body is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = sha256(body) if is_large(name) else sha256(body)[:40]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if is_large(name):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(body))}
        if fault is not None and fault.corrupt:
            body = bytes([body[0] ^ 1]) + body[1:]
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._send(206 if start else 200, body[start:], headers, fault.truncate if fault else None)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True
