"""A collection of points: what a store asks of Qdrant, in the form of its REST interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from vitriton_search.stores.store import Floats

Filter = Mapping[str, Any]
VECTOR = "embedding"  # the name of the vector of a point


class QdrantPoint(TypedDict):
    """A point: a key (a UUID), a vector by its name or none, and a payload."""

    id: str
    vector: Mapping[str, list[float]]
    payload: Mapping[str, Any]


class Collection(ABC):
    """A collection that is there. All methods may be called from several threads.

    Attributes:
        name: the URL without its password.
        note: what is noted of the store.
    """

    name: str
    note: Any

    @classmethod
    @abstractmethod
    def open(cls, url: str) -> Collection | None:
        """Opens a collection; None if it is not there."""

    @classmethod
    @abstractmethod
    def create(cls, url: str, note: Any, dimensions: int, fields: Mapping[str, str]) -> Collection:
        """Makes a collection, or opens one that was made meanwhile.

        Args:
            url: the URL of the store.
            note: what is noted of the store.
            dimensions: the length of a vector.
            fields: the paths of the indexed fields of the payload, with the kinds of their indexes.
        """

    @abstractmethod
    def count(self) -> int:
        """The number of points."""

    @abstractmethod
    def upsert(self, points: Sequence[QdrantPoint]) -> None:
        """Writes points in one operation, each instead of the point with the same key."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Removes points."""

    @abstractmethod
    def scroll(
        self, condition: Filter, payload: Sequence[str], *, vectors: bool, limit: int, offset: str | None
    ) -> tuple[list[QdrantPoint], str | None]:
        """Returns points in the order of their keys, and the key at which the next ones begin, None at the end.

        Args:
            condition: the filter that the points meet.
            payload: the paths of the payload's fields that are returned.
            vectors: whether to return the vectors.
            limit: the most points.
            offset: the key to begin at; None to begin with the first.
        """

    @abstractmethod
    def query(
        self, vectors: Floats, condition: Filter, payload: Sequence[str], *, limit: int, exact: bool
    ) -> list[list[tuple[float, QdrantPoint]]]:
        """Returns for each vector, (Q, D), the points with the highest cosines, and these, the nearest first."""

    @abstractmethod
    def indexed(self) -> int:
        """The number of vectors in the approximate index."""

    @abstractmethod
    def build_index(self) -> None:
        """Brings the approximate index up to date, where that is not the server's own task."""

    @abstractmethod
    def remove(self) -> None:
        """Removes the collection."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection. Can be called again."""
