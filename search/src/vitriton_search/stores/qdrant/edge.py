"""Qdrant's engine in this process (qdrant-edge-py), on a folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import IO, Any

import qdrant_edge as edge

from vitriton_search.stores.qdrant.collection import VECTOR, Collection, Filter, QdrantPoint
from vitriton_search.stores.qdrant.store import QdrantStore
from vitriton_search.stores.store import Floats, StoreError

_NOTE = "vitriton.json"
_INDEXED_ROWS = 10_000  # below, looking at every payload is as fast
_MATCHES = {"value": edge.MatchValue, "prefix": edge.MatchPrefix, "substring": edge.MatchSubstring}
_SCHEMAS = {
    "keyword": edge.KeywordIndexParams(prefix=True),
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Integer,  # see `_numbers`
    "datetime": edge.PayloadSchemaType.Datetime,
}


class EdgeCollection(Collection):
    """A shard of Qdrant's engine, which one process has open at a time.

    Args:
        folder: the folder of the shard, with what is noted of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"qdrant-edge:{folder}"
        self._folder = folder
        self._lock = RLock()  # the engine does not say what one thread sees while another one writes
        self._open: IO[str] | None = (folder / _NOTE).open(encoding="utf-8")
        try:
            fcntl.flock(self._open, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._open.close()
            raise StoreError(f"{self.name} is open in another process; one at a time can use it") from None
        kept = json.load(self._open)
        self.note, self._fields = kept["note"], kept["fields"]
        with self._in_words():
            self._shard = edge.EdgeShard.load(str(folder))

    @classmethod
    def open(cls, url: str) -> EdgeCollection | None:
        """See `Collection`."""
        folder = _folder(url)
        return cls(folder) if (folder / _NOTE).is_file() else None

    @classmethod
    def create(cls, url: str, note: Any, dimensions: int, fields: Mapping[str, str]) -> EdgeCollection:
        """See `Collection`."""
        folder = _folder(url)
        if folder.exists() and any(folder.iterdir()):
            raise StoreError(f"{url} is there, and was not made by `vitriton search`; name a new one")
        made = folder.with_name(f".{folder.name}-{os.getpid()}")
        try:
            made.mkdir(parents=True)
            vector = edge.EdgeVectorParams(size=dimensions, distance=edge.Distance.Cosine)
            shard = edge.EdgeShard.create(str(made), edge.EdgeConfig(vectors={VECTOR: vector}))
            shard.close()
            (made / _NOTE).write_text(json.dumps({"note": note, "fields": dict(fields)}), encoding="utf-8")
            made.rename(folder)  # in one step: it is there whole or not at all
        except OSError as exc:
            raise StoreError(f"{url} cannot be made: {exc}") from exc
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return cls(folder)

    def count(self) -> int:
        """See `Collection`."""
        with self._in_words():
            return int(self._shard.count(edge.CountRequest(exact=True)))

    def upsert(self, points: Sequence[QdrantPoint]) -> None:
        """See `Collection`."""
        made = [edge.Point(point["id"], dict(point["vector"]), _numbers(point["payload"])) for point in points]
        with self._in_words():
            self._shard.update(edge.UpdateOperation.upsert_points(made))

    def delete(self, keys: Sequence[str]) -> None:
        """See `Collection`."""
        with self._in_words():
            self._shard.update(edge.UpdateOperation.delete_points(list(keys)))

    def scroll(
        self, condition: Filter, payload: Sequence[str], *, vectors: bool, limit: int, offset: str | None
    ) -> tuple[list[QdrantPoint], str | None]:
        """See `Collection`."""
        asked = edge.ScrollRequest(
            offset=offset,
            limit=limit,
            filter=_filter(condition),
            with_payload=list(payload),
            with_vector=vectors,
        )
        with self._in_words():
            found, following = self._shard.scroll(asked)
        return [_point(one) for one in found], None if following is None else str(following)

    def query(
        self, vectors: Floats, condition: Filter, payload: Sequence[str], *, limit: int, exact: bool
    ) -> list[list[tuple[float, QdrantPoint]]]:
        """See `Collection`."""
        asked = [
            edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(vector, using=VECTOR),
                filter=_filter(condition),
                params=edge.SearchParams(exact=exact),
                with_payload=list(payload),
            )
            for vector in vectors.tolist()
        ]
        with self._in_words():
            return [[(one.score, _point(one)) for one in self._shard.query(each)] for each in asked]

    def indexed(self) -> int:
        """See `Collection`."""
        with self._in_words():
            return int(self._shard.info().indexed_vectors_count)

    def build_index(self) -> None:
        """See `Collection`."""
        with self._in_words():
            if self.count() >= _INDEXED_ROWS:
                there = self._shard.info().payload_schema
                for path in self._fields.keys() - there.keys():
                    schema = _SCHEMAS[self._fields[path]]
                    self._shard.update(edge.UpdateOperation.create_field_index(path, schema))
            self._shard.optimize()
            self._shard.flush()

    def remove(self) -> None:
        """See `Collection`."""
        self.close()
        (self._folder / _NOTE).unlink()  # first: without it the folder is no store
        shutil.rmtree(self._folder)

    def close(self) -> None:
        """See `Collection`."""
        with self._lock:
            if self._open is not None:
                self._shard.close()
                self._open.close()
                self._open = None

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except StoreError:
                raise
            except Exception as exc:  # the engine has no class of its own
                raise StoreError(f"{self.name}: {exc}") from exc


class QdrantEdgeStore(QdrantStore):
    """A store at `qdrant-edge:FOLDER`."""

    collections = EdgeCollection


def _folder(url: str) -> Path:
    return Path(os.path.abspath(url.removeprefix("qdrant-edge:").removeprefix("//")))  # noqa: PTH100


def _numbers(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload with 1 and 0 for true and false: in a filter, this engine takes True of Python for 1."""
    return {name: int(value) if isinstance(value, bool) else value for name, value in payload.items()}


def _point(found: Any) -> QdrantPoint:
    return QdrantPoint(id=str(found.id), vector=found.vector or {}, payload=found.payload or {})


def _filter(form: Filter) -> Any:
    """A filter in the engine's classes."""
    return edge.Filter(**{clause: [_condition(one) for one in form[clause]] for clause in form})


def _condition(form: Filter) -> Any:
    if "has_id" in form:
        return edge.HasIdCondition(set(form["has_id"]))
    if "is_empty" in form:
        return edge.IsEmptyCondition(form["is_empty"]["key"])
    if "match" in form:
        ((kind, value),) = form["match"].items()
        return edge.FieldCondition(form["key"], match=_MATCHES[kind](value))
    if "range" in form:
        of_time = any(isinstance(bound, str) for bound in form["range"].values())
        return edge.FieldCondition(
            form["key"], range=(edge.RangeDateTime if of_time else edge.RangeFloat)(**form["range"])
        )
    return _filter(form)
