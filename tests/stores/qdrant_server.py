"""Qdrant's REST interface, as far as a store asks for it, on Qdrant's own engine: the package index has no server.

python qdrant_server.py FOLDER KEY PORT; prints the port when it listens. Each collection is a folder in FOLDER.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from qdrant_client import models
from vitriton_search.stores.qdrant.edge import EdgeCollection
from vitriton_search.stores.store import StoreError

Answer = tuple[int, Any]


class Collections:
    """The collections in a folder, each opened once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._opened: dict[str, EdgeCollection] = {}

    def url(self, name: str) -> str:
        return f"qdrant-edge:{self._folder / name}"

    def find(self, name: str) -> EdgeCollection | None:
        with self._lock:
            if name not in self._opened and (found := EdgeCollection.open(self.url(name))) is not None:
                self._opened[name] = found
            return self._opened.get(name)

    def create(self, name: str, wanted: models.CreateCollection) -> bool:
        with self._lock:
            if name in self._opened or EdgeCollection.open(self.url(name)) is not None:
                return False
            vector = wanted.vectors["embedding"]
            assert vector.distance == models.Distance.COSINE
            self._opened[name] = EdgeCollection.create(self.url(name), wanted.metadata, vector.size, {})
            return True

    def remove(self, name: str) -> None:
        with self._lock:
            self._opened.pop(name).remove()


def _described(collection: EdgeCollection) -> dict[str, Any]:
    return {
        "status": "green",
        "optimizer_status": "ok",
        "indexed_vectors_count": collection.indexed(),
        "points_count": collection.count(),
        "segments_count": 1,
        "payload_schema": {},
        "config": {
            "params": {},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "metadata": collection.note,
        },
    }


def _form(condition: models.Filter | None) -> dict[str, Any]:
    return {} if condition is None else json.loads(condition.model_dump_json(exclude_none=True))


def _scroll(collection: EdgeCollection, body: Any) -> Any:
    asked = models.ScrollRequest(**body)
    points, following = collection.scroll(
        _form(asked.filter),
        asked.with_payload,
        vectors=asked.with_vector,
        limit=asked.limit,
        offset=asked.offset,
    )
    return {"points": points, "next_page_offset": following}


def _query(collection: EdgeCollection, body: Any) -> Any:
    answers = []
    for one in models.QueryRequestBatch(**body).searches:
        vector = one.query.nearest if isinstance(one.query, models.NearestQuery) else one.query
        (found,) = collection.query(
            np.array([vector], np.float32), _form(one.filter), one.with_payload, limit=one.limit, exact=one.params.exact
        )
        answers.append({"points": [{**point, "version": 0, "score": score} for score, point in found]})
    return answers


def _upsert(collection: EdgeCollection, body: Any) -> Any:
    collection.upsert([point.model_dump() for point in models.PointsList(**body).points])
    return {"operation_id": 0, "status": "completed"}


def _delete(collection: EdgeCollection, body: Any) -> Any:
    collection.delete(models.PointIdsList(**body).points)
    return {"operation_id": 0, "status": "completed"}


def _index(collection: EdgeCollection, body: Any) -> Any:
    models.CreateFieldIndex(**body)  # the engine makes them on its own
    return {"operation_id": 0, "status": "completed"}


def _count(collection: EdgeCollection, body: Any) -> Any:
    assert models.CountRequest(**body).exact
    return {"count": collection.count()}


ROUTES: dict[tuple[str, str], Callable[[EdgeCollection, Any], Any]] = {
    ("GET", ""): lambda collection, body: _described(collection),
    ("PUT", "index"): _index,
    ("PUT", "points"): _upsert,
    ("POST", "points/delete"): _delete,
    ("POST", "points/scroll"): _scroll,
    ("POST", "points/query/batch"): _query,
    ("POST", "points/count"): _count,
}


class Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    collections: Collections
    key = ""

    def _answer(self) -> Answer:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if self.headers.get("api-key", "") != self.key:
            return 401, "Must provide an API key or an Authorization bearer token"
        _, root, name, *rest = map(unquote, urlsplit(self.path).path.split("/"))
        assert root == "collections"
        if (self.command, rest) == ("PUT", []):
            made = self.collections.create(name, models.CreateCollection(**body))
            return (200, True) if made else (409, f"Collection `{name}` already exists!")
        collection = self.collections.find(name)
        if collection is None:
            return 404, f"Not found: Collection `{name}` doesn't exist!"
        if (self.command, rest) == ("DELETE", []):
            self.collections.remove(name)
            return 200, True
        return 200, ROUTES[self.command, "/".join(rest)](collection, body)

    def do_GET(self) -> None:
        try:
            status, result = self._answer()
        except (StoreError, KeyError, ValueError) as exc:
            status, result = 400, f"{type(exc).__name__}: {exc}"
        answer = {"result": result, "status": "ok"} if status == 200 else {"status": {"error": result}}
        data = json.dumps({**answer, "time": 0.0}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keeps silent."""


class Server(ThreadingHTTPServer):
    """Listens."""

    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    folder, Handler.key, port = sys.argv[1:]
    Handler.collections = Collections(Path(folder))
    with Server(("127.0.0.1", int(port)), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
