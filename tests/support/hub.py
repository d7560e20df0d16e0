"""A Hugging Face hub on this machine, as far as a download needs one."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "5dca96d358b3fcb9d53b3d3881eb1ae20b6752d1"
_PATH = re.compile(
    r"(/api/models/(?P<id>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+)|(?P<tree>/tree/.*))?)"
    r"|(/(?P<named>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+))"
)


@dataclass
class Hub:
    """Serves models, at the revisions main and v1 of each.

    Attributes:
        models: a folder of files for each model's id.
        token: what a request must bear; None lets everybody in.
        gated: answer as for a model whose terms were not accepted.
        status: the answer to everything, as of a server that is no hub; None is a hub.
        requests: the paths that were asked for.
    """

    models: Mapping[str, Path]
    token: str | None = None
    gated: bool = False
    status: int | None = None
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serves until the end of the block; `hub.url` goes into HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = self.path.split("?")[0]
            hub.requests.append(path)
            if hub.status is not None:
                self._send(hub.status, b"", {})
            elif hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._send(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
            elif hub.gated:
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            else:
                self._known(path)

        def _known(self, path: str) -> None:
            found = _PATH.fullmatch(path)
            folder = hub.models.get(found["id"] or found["named"]) if found else None
            if found is None or folder is None:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif found["revision"] and found["revision"] not in ("main", "v1", COMMIT):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif found["tree"]:
                self._json(_files(folder))
            elif found["file"]:
                self._file(folder / found["file"])
            else:
                self._json({"id": found["id"], "sha": COMMIT, "siblings": _siblings(folder)})

        def _file(self, path: Path) -> None:
            if not path.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            self._send(200, path.read_bytes(), {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT})

        def _json(self, document: object) -> None:
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


def _files(folder: Path) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": _etag(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def _siblings(folder: Path) -> list[dict[str, object]]:
    return [{"rfilename": file["path"]} for file in _files(folder)]


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
