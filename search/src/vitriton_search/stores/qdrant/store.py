"""A collection of Qdrant as a store: rows and conditions in its form."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vitriton_search.stores import notes
from vitriton_search.stores.keys import key_of
from vitriton_search.stores.qdrant.collection import VECTOR, Collection, Filter, QdrantPoint
from vitriton_search.stores.qdrant.filters import path, translate
from vitriton_search.stores.store import COLUMNS, KNOWN, Floats, Hit, Space, Store
from vitriton_search.stores.where import Where, columns_of, meets

_REQUEST_BYTES = 16 << 20  # a server takes 32 MB
_PAGE = 1_000  # points at a time, with their vectors
_LONG_PAGE = 10_000  # without
_QUERIES = 64  # at a time


class QdrantStore(Store):
    """A collection of Qdrant. The key of a point is the UUID of its id (`keys.key_of`), which is in its payload.

    Args:
        collection: the collection.

    Attributes:
        collections: the class of the collection.
    """

    collections: type[Collection]

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.space, self.own = notes.read(collection.note, collection.name)

    @classmethod
    def open(cls, url: str) -> QdrantStore | None:
        """Opens the store with this URL; None if it is not there."""
        collection = cls.collections.open(url)
        return None if collection is None else cls(collection)

    @classmethod
    def create(cls, url: str, space: Space, own: Mapping[str, pa.DataType]) -> QdrantStore:
        """Makes an empty store."""
        fields = {path(name): _field(kind) for name, kind in {**COLUMNS, **own}.items() if name != "id"}
        return cls(cls.collections.create(url, notes.noted(space, own), space.dimensions, fields))

    def __len__(self) -> int:
        return self._collection.count()

    def known(self) -> pa.Table:
        """See `Store`."""
        schema = pa.schema([(name, COLUMNS[name]) for name in KNOWN])
        return pa.Table.from_batches(self.scan(KNOWN), schema)

    def write(self, rows: pa.Table) -> None:
        """See `Store`. More than 16 MB are several operations, of which the first ones may stay after a failure."""
        rows = self.checked(rows)
        each = 24 * self.space.dimensions + 4096  # bytes, about
        for start in range(0, rows.num_rows, max(1, _REQUEST_BYTES // each)):
            self._collection.upsert(_points(rows.slice(start, max(1, _REQUEST_BYTES // each))))

    def delete(self, ids: Sequence[str]) -> None:
        """See `Store`."""
        for start in range(0, len(ids), _LONG_PAGE):
            self._collection.delete([str(key_of(one)) for one in ids[start : start + _LONG_PAGE]])

    def search(self, vectors: Floats, k: int, where: Where | None = None, *, exact: bool = False) -> list[list[Hit]]:
        """See `Store`."""
        queries = self.checked_queries(vectors)
        return [
            hits
            for start in range(0, len(queries), _QUERIES)
            for hits in self._nearest(queries[start : start + _QUERIES], k, where, exact=exact)
        ]

    def _nearest(self, queries: Floats, k: int, where: Where | None, *, exact: bool) -> list[list[Hit]]:
        condition, whole = _condition(where)
        names = [name for name in self.schema.names if name != VECTOR]
        limit = k
        while True:
            found = self._collection.query(queries, condition, [*map(path, names)], limit=limit, exact=exact)
            hits = [self._hits(points, names, None if whole else where) for points in found]
            # of rows that had to be looked at, enough remain, or there are no more
            if all(len(some) >= k or len(points) < limit for some, points in zip(hits, found, strict=True)):
                return [some[:k] for some in hits]
            limit *= 4

    def _hits(self, found: Sequence[tuple[float, QdrantPoint]], names: Sequence[str], where: Where | None) -> list[Hit]:
        rows = self._batch([point for _, point in found], names).to_pylist()
        return [
            Hit(id=row["id"], score=score, row=row)
            for (score, _), row in zip(found, rows, strict=True)
            if where is None or meets(where, row)
        ]

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """See `Store`."""
        keys = sorted({str(key_of(one)) for one in ids})
        parts = [
            batch
            for start in range(0, len(keys), _PAGE)
            for batch in self._pages({"must": [{"has_id": keys[start : start + _PAGE]}]}, self.schema.names)
        ]
        return pa.Table.from_batches(parts, self.schema)

    def scan(self, columns: Sequence[str], where: Where | None = None) -> Iterator[pa.RecordBatch]:
        """See `Store`. Rows that are written meanwhile may be among them or not."""
        condition, whole = _condition(where)
        if where is None or whole:
            yield from self._pages(condition, columns)
            return
        looked_at = [*dict.fromkeys(columns_of(where))]
        for batch in self._pages(condition, [*columns, *(name for name in looked_at if name not in columns)]):
            passed = [meets(where, row) is True for row in batch.select(looked_at).to_pylist()]
            yield batch.select(columns).filter(pa.array(passed, pa.bool_()))

    def _pages(self, condition: Filter, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        vectors, payload, offset = VECTOR in names, [*map(path, names)], None
        limit = _PAGE if vectors else _LONG_PAGE
        while True:
            points, offset = self._collection.scroll(condition, payload, vectors=vectors, limit=limit, offset=offset)
            yield self._batch(points, names)
            if offset is None:
                return

    def build_index(self) -> None:
        """See `Store`. A server does it on its own, above a size of its own."""
        self._collection.build_index()

    @property
    def has_index(self) -> bool:
        """See `Store`."""
        return self._collection.indexed() > 0

    def remove(self) -> None:
        """See `Store`."""
        self._collection.remove()
        self.close()

    def close(self) -> None:
        """See `Store`."""
        self._collection.close()

    def _batch(self, points: Sequence[QdrantPoint], names: Sequence[str]) -> pa.RecordBatch:
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.record_batch([_column(points, field) for field in schema], schema)


def _condition(where: Where | None) -> tuple[Filter, bool]:
    if where is None:
        return {}, True
    condition, whole = translate(where)
    return {"must": [condition]}, whole


def _field(kind: pa.DataType) -> str:
    """The kind of the payload index of a column."""
    if pa.types.is_timestamp(kind):
        return "datetime"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "integer"
    return "float" if pa.types.is_floating(kind) else "keyword"


def _points(rows: pa.Table) -> list[QdrantPoint]:
    """Rows as points. Qdrant keeps vectors of length one; what makes the whole vector of it is in the payload."""
    columns = [[_in_json(value) for value in rows[name].to_pylist()] for name in rows.column_names[:-1]]
    vectors = iter(
        _split(np.asarray(rows[VECTOR].drop_null().combine_chunks().flatten()).reshape(-1, rows[VECTOR].type.list_size))
    )
    points = []
    for values, there in zip(zip(*columns, strict=True), rows[VECTOR].is_valid().to_pylist(), strict=True):
        payload = {name: value for name, value in zip(rows.column_names, values, strict=False) if value is not None}
        point = QdrantPoint(id=str(key_of(payload["id"])), vector={}, payload=payload)
        if there:
            unit, payload[VECTOR] = next(vectors)
            point["vector"] = {VECTOR: unit}
        points.append(point)
    return points


def _split(matrix: Floats) -> Iterator[tuple[list[float], dict[str, Any]]]:
    """Vectors of length one, and for each the length and what rounding took: `_joined` gives the vectors to the bit."""
    lengths = np.linalg.norm(matrix.astype(np.float64), axis=1)
    units = (matrix / lengths[:, None]).astype(np.float32)
    lost = (matrix.view(np.int32) - _scaled(units, lengths).view(np.int32)).clip(-127, 127).astype(np.int8)
    for unit, length, steps in zip(units, lengths, lost, strict=True):
        yield unit.tolist(), {"length": float(length), "lost": base64.b64encode(steps.tobytes()).decode()}


def _joined(points: Sequence[QdrantPoint]) -> Floats:
    """The vectors of points that have one, (N, D)."""
    units = np.array([point["vector"][VECTOR] for point in points], np.float32)
    kept = [point["payload"][VECTOR] for point in points]
    lost = np.frombuffer(b"".join(base64.b64decode(one["lost"]) for one in kept), np.int8).reshape(units.shape)
    return (_scaled(units, np.array([one["length"] for one in kept])).view(np.int32) + lost).view(np.float32)


def _scaled(units: Floats, lengths: NDArray[np.float64]) -> Floats:
    return (units * lengths[:, None]).astype(np.float32)


def _in_json(value: Any) -> Any:
    """A value as JSON has it."""
    return value.isoformat() if isinstance(value, datetime) else value


def _column(points: Sequence[QdrantPoint], field: pa.Field) -> pa.Array:
    if field.name == VECTOR:
        present = [point for point in points if point["vector"]]
        vectors = iter(_joined(present)) if present else iter(())
        return pa.array([next(vectors) if point["vector"] else None for point in points], field.type)
    values = [point["payload"].get(field.name) for point in points]
    if pa.types.is_timestamp(field.type):
        values = [None if value is None else datetime.fromisoformat(value) for value in values]
    if pa.types.is_boolean(field.type):
        values = [None if value is None else bool(value) for value in values]  # 1 and 0 in the engine
    return pa.array(values, field.type)
