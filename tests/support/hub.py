"""A Hugging Face hub on this machine, as far as a download needs one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "5dca96d358b3fcb9d53b3d3881eb1ae20b6752d1"


@dataclass
class Hub:
    """Serves one folder as the model `org/model`, at the revisions main and v1.

    Attributes:
        folder: its files.
        token: what a request must bear; None lets everybody in.
        gated: answer as for a model whose terms were not accepted.
        status: the answer to everything, as of a server that is no hub; None is a hub.
        requests: the paths that were asked for.
    """

    folder: Path
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
            elif path.startswith("/api/models/org/model/revision/"):
                known = path.rsplit("/", 1)[1] in ("main", "v1", COMMIT)
                self._json(self._info()) if known else self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif path.startswith("/api/models/org/model/tree/"):
                self._json(self._files())
            elif path == "/api/models/org/model":
                self._json(self._info())
            elif path.startswith("/org/model/resolve/"):
                self._file(hub.folder / path.rsplit("/", 1)[1])
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _info(self) -> dict[str, object]:
            return {"id": "org/model", "sha": COMMIT, "siblings": [{"rfilename": f["path"]} for f in self._files()]}

        def _files(self) -> list[dict[str, object]]:
            files = sorted(hub.folder.iterdir())
            return [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _etag(path)} for path in files
            ]

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


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
