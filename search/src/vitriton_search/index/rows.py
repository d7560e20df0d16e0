"""Rows on their way to a store, in batches that it takes whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from vitriton._console.signals import Signals

from vitriton_search.stores.store import COLUMNS, Floats, Store

# A batch costs a store about as much as it has rows or ten times fewer: the smaller, the slower and the more versions;
# the larger, the more is lost with the process.
BATCH_ROWS = 512
BATCH_EVERY_S = 5.0

NO_DIRECTION = "its vector has no direction: all numbers are 0, or some are not finite"

Columns = Mapping[str, Any]


class Batches:
    """Collects rows, and writes them to a store.

    Args:
        store: the store.
        signals: the signals that may end the run; never in the middle of a batch.
        confirm: the function that is called before each batch, which raises if it must not be written.
    """

    def __init__(self, store: Store, signals: Signals, confirm: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._signals = signals
        self._confirm = confirm
        self._waiting: list[tuple[Columns, Floats | None]] = []
        self._written_s = time.monotonic()

    def add(self, columns: Columns, vector: Floats | None) -> None:
        """Adds a row.

        Args:
            columns: the columns of the row; those that are left out have no value.
            vector: the vector, (D,); None for a row with an error.
        """
        self._waiting.append((columns, vector))
        if len(self._waiting) >= BATCH_ROWS or time.monotonic() - self._written_s >= BATCH_EVERY_S:
            self.write()

    def write(self) -> None:
        """Writes the rows that wait.

        Raises:
            StoreError: the store did not take them.
        """
        if not self._waiting:
            return
        self._confirm()
        with self._signals.held():
            self._store.write(_kept(self._store, table_of(self._waiting, self._store)))
            self._waiting = []
            self._written_s = time.monotonic()


def has_direction(vector: Floats) -> bool:
    """Whether a vector can be compared by its cosine."""
    return bool(np.isfinite(vector).all() and vector.any())


def table_of(rows: Sequence[tuple[Columns, Floats | None]], store: Store) -> pa.Table:
    """Makes a table of rows in the schema of a store, whose own columns have no values."""
    columns = [pa.array([row.get(name) for row, _ in rows], kind) for name, kind in COLUMNS.items()]
    own = [pa.nulls(len(rows), kind) for kind in store.own.values()]
    dimensions = store.space.dimensions
    missing = np.array([vector is None for _, vector in rows])
    vectors = np.zeros((len(rows), dimensions), np.float32)
    for number, (_, vector) in enumerate(rows):
        if vector is not None:
            vectors[number] = vector
    embedding = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), dimensions, mask=pa.array(missing))
    return pa.Table.from_arrays([*columns, *own, embedding], schema=store.schema)


def copies_of(rows: pa.Table, copies: Sequence[tuple[Columns, str]]) -> pa.Table:
    """Makes rows for files from the rows of other files with the same content.

    Args:
        rows: the rows of the store that are copied, in any order.
        copies: the new rows: the columns that are its own, and the id of the row that it copies.
    """
    number_of = {name: number for number, name in enumerate(rows["id"].to_pylist())}
    table = rows.take(pa.array([number_of[name] for _, name in copies], pa.int64()))
    for name in copies[0][0]:
        place = table.schema.get_field_index(name)
        values = pa.array([columns[name] for columns, _ in copies], table.schema.field(name).type)
        table = table.set_column(place, table.schema.field(name), values)
    return table


def _kept(store: Store, rows: pa.Table) -> pa.Table:
    """The rows with the user's columns of those that they replace."""
    if not store.own:
        return rows
    old = store.rows(rows["id"].to_pylist())
    number_of = {name: number for number, name in enumerate(old["id"].to_pylist())}
    places = pa.array([number_of.get(name) for name in rows["id"].to_pylist()], pa.int64())
    for name in store.own:
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), old[name].take(places))
    return rows
