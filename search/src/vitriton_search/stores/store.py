"""The interface of a vector store, and the rows that every store holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from vitriton import VitritonError

from vitriton_search.stores.where import Where

Floats = NDArray[np.float32]

# The columns of every store, beside `embedding` and the user's own. A row without an embedding has an error instead.
COLUMNS: Mapping[str, pa.DataType] = {
    "id": pa.string(),  # the source; for a frame of a video with its time after #t=
    "source": pa.string(),  # the path or the URL
    "sha256": pa.string(),  # the hash of the file's bytes
    "bytes": pa.int64(),  # the size of the file
    "modified": pa.timestamp("us", tz="UTC"),
    "taken": pa.timestamp("us"),  # the EXIF date, in the camera's own time
    "width": pa.int32(),
    "height": pa.int32(),
    "time_s": pa.float64(),  # the time of a frame in its video
    # the time between the frames of a video, in the row of its first frame or its error, once all of them have a row
    "every_s": pa.float64(),
    "error": pa.string(),
}

# The types that a user's own column can have.
OWN_TYPES = (pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us"), pa.timestamp("us", tz="UTC"))

# What `Store.known` tells of each row.
KNOWN = ("id", "source", "sha256", "bytes", "modified", "every_s", "error")


class StoreError(VitritonError):
    """A store cannot be opened, read or written; or it holds vectors of another space."""


class StoreNotFound(StoreError):  # noqa: N818 - as the other errors
    """There is no store."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """The embedding space of a store's vectors.

    Attributes:
        model: the name of the export.
        fingerprint: the name of the space; vectors of another one are refused.
        dimensions: the length of a vector.
    """

    model: str
    fingerprint: str
    dimensions: int


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row that was found.

    Attributes:
        id: the id of the row.
        score: the cosine of the row's vector and the query's, from -1 to 1.
        row: the other columns, without the vector.
    """

    id: str
    score: float
    row: Mapping[str, Any] = field(default_factory=dict)


class Store(ABC):
    """A collection of vectors with the columns of `COLUMNS` and the user's own. Can be used in a `with` block.

    Vectors are compared by their cosine. All methods may be called from several threads.

    Attributes:
        space: the space of the vectors.
        own: the user's columns, by name.
    """

    space: Space
    own: Mapping[str, pa.DataType]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows: `COLUMNS`, the user's own, and `embedding`, a list of D float32."""
        vector = pa.list_(pa.float32(), self.space.dimensions)
        return pa.schema([*COLUMNS.items(), *self.own.items(), ("embedding", vector)])

    @property
    def columns(self) -> Mapping[str, pa.DataType]:
        """The columns that a condition can name: `COLUMNS` and the user's own."""
        return {**COLUMNS, **self.own}

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows, with those that have an error."""

    @abstractmethod
    def known(self) -> pa.Table:
        """Returns the columns of `KNOWN` of all rows."""

    @abstractmethod
    def write(self, rows: pa.Table) -> None:
        """Writes rows, each instead of the row with the same id; all of them or, after a failure, none.

        Args:
            rows: the rows, in this store's schema. A number that is not finite is a missing value.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Removes rows; an id that is not there is no error."""

    @abstractmethod
    def search(self, vectors: Floats, k: int, where: Where | None = None, *, exact: bool = False) -> list[list[Hit]]:
        """Finds the nearest rows of each vector, the nearest first. Rows with an error are never among them.

        Args:
            vectors: the queries, (Q, D).
            k: the most rows for each.
            where: the condition that the rows meet; None for all rows.
            exact: whether to compare with every row instead of asking the approximate index.
        """

    @abstractmethod
    def rows(self, ids: Sequence[str]) -> pa.Table:
        """Returns the rows with these ids, in any order, with their vectors; ids that are not there are left out."""

    @abstractmethod
    def scan(self, columns: Sequence[str], where: Where | None = None) -> Iterator[pa.RecordBatch]:
        """Yields some columns of all rows, in no order and in bounded memory."""

    @abstractmethod
    def build_index(self) -> None:
        """Makes or brings up to date the approximate index; does nothing for a store that needs none."""

    @property
    @abstractmethod
    def has_index(self) -> bool:
        """Whether a search that is not exact asks an approximate index."""

    @abstractmethod
    def remove(self) -> None:
        """Removes the store with all its rows, and closes it."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection. Can be called again."""

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def checked(self, rows: pa.Table) -> pa.Table:
        """Returns the rows that `write` was given in this store's schema; those with an error have no vector.

        A number that is not finite is a missing value.

        Raises:
            StoreError: a column lacks or is unknown, an id lacks or is there twice, or a row has neither an error nor a
                vector that has a cosine.
        """
        rows = _in_schema(rows, self.schema)
        _check_ids(rows["id"])
        return _finite(_vectors_checked(rows))

    def checked_queries(self, vectors: Floats) -> Floats:
        """Returns the queries, (Q, D) float32, as `search` was given them.

        Raises:
            StoreError: they have another length, or one has no cosine.
        """
        queries = np.asarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.space.dimensions:
            raise StoreError(f"queries are (Q, {self.space.dimensions}), and these are {queries.shape}")
        if not _have_cosines(queries).all():
            raise StoreError("a query is zero or not finite, and has no cosine")
        return queries


def _in_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    given, wanted = set(rows.column_names), set(schema.names)
    if given != wanted or len(rows.column_names) != len(wanted):
        differing = ", ".join(sorted(given ^ wanted)) or "one that is there twice"
        raise StoreError(f"rows need the columns of the store, each once; these differ in {differing}")
    try:
        return rows.select(schema.names).cast(schema)
    except pa.ArrowException as exc:
        raise StoreError(f"rows need the types of the store, with vectors of its length: {exc}") from exc


def _check_ids(ids: pa.ChunkedArray) -> None:
    if ids.null_count:
        raise StoreError("a row has no id")
    if len(ids.unique()) < len(ids):
        twice = next(one["values"] for one in ids.value_counts().to_pylist() if one["counts"] > 1)
        raise StoreError(f"{twice} is there twice among the rows of one write")


def _vectors_checked(rows: pa.Table) -> pa.Table:
    """The rows without the vectors of those that have an error, which are never to be found."""
    healthy = rows["error"].is_null().to_numpy()
    vectors = rows["embedding"].combine_chunks()
    if not healthy.all():
        vectors = vectors.take(pa.array(np.arange(len(rows)), mask=~healthy))
        rows = rows.set_column(rows.column_names.index("embedding"), rows.schema.field("embedding"), vectors)
    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    faulty = healthy & ~present
    matrix: Floats = np.asarray(vectors.drop_null().flatten()).reshape(-1, vectors.type.list_size)
    faulty[present] = ~_have_cosines(matrix)
    if faulty.any():
        raise StoreError(f"{rows['id'][int(faulty.argmax())]} has no error, and no vector that has a cosine")
    return rows


def _finite(rows: pa.Table) -> pa.Table:
    """The rows without NaN and infinity, of which engines say different things."""
    for number, column in enumerate(rows.schema):
        if pa.types.is_floating(column.type):
            values = rows[column.name].to_numpy()
            rows = rows.set_column(number, column, pa.array(values, column.type, mask=~np.isfinite(values)))
    return rows


def _have_cosines(matrix: Floats) -> NDArray[np.bool_]:
    """Whether each vector is finite and not zero."""
    found: NDArray[np.bool_] = np.isfinite(matrix).all(axis=1) & matrix.any(axis=1)
    return found
