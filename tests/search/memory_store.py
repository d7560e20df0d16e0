"""A store in memory, for tests of what works on any store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from vitriton_search.stores.store import KNOWN, Floats, Hit, Space, Store
from vitriton_search.stores.where import Where

SPACE = Space(model="tiny", fingerprint="space-1", dimensions=4)


class MemoryStore(Store):
    """Keeps rows in a dict by their ids. Conditions are not supported.

    Attributes:
        writes: the number of rows of each write.
    """

    def __init__(self, space: Space = SPACE, own: Mapping[str, pa.DataType] | None = None) -> None:
        self.space = space
        self.own = own or {}
        self.writes: list[int] = []
        self._rows: dict[str, dict[str, object]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def known(self) -> pa.Table:
        return self._table(self._rows).select(list(KNOWN))

    def write(self, rows: pa.Table) -> None:
        assert rows.schema.equals(self.schema)
        self.writes.append(len(rows))
        self._rows |= {row["id"]: row for row in rows.to_pylist()}

    def delete(self, ids: Sequence[str]) -> None:
        for name in ids:
            self._rows.pop(name, None)

    def search(self, vectors: Floats, k: int, where: Where | None = None, *, exact: bool = False) -> list[list[Hit]]:
        rows = [row for row in self._rows.values() if row["embedding"] is not None]
        if not rows:
            return [[] for _ in vectors]
        matrix = np.array([row["embedding"] for row in rows], np.float32)
        unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        scores = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ unit.T
        return [
            [Hit(id=str(rows[n]["id"]), score=float(line[n]), row=rows[n]) for n in np.argsort(-line)[:k]]
            for line in scores
        ]

    def rows(self, ids: Sequence[str]) -> pa.Table:
        return self._table(dict.fromkeys(name for name in ids if name in self._rows))

    def scan(self, columns: Sequence[str], where: Where | None = None) -> Iterator[pa.RecordBatch]:
        yield from self._table(self._rows).select(list(columns)).to_batches()

    def build_index(self) -> None:
        pass

    @property
    def has_index(self) -> bool:
        return False

    def remove(self) -> None:
        self._rows = {}

    def close(self) -> None:
        pass

    def _table(self, ids: Mapping[str, object]) -> pa.Table:
        return pa.Table.from_pylist([self._rows[name] for name in ids], schema=self.schema)
