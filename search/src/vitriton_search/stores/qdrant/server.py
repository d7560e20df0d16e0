"""A Qdrant server (qdrant-client)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from vitriton_search.stores.address import shown
from vitriton_search.stores.qdrant.collection import VECTOR, Collection, Filter, QdrantPoint
from vitriton_search.stores.qdrant.store import QdrantStore
from vitriton_search.stores.store import Floats, StoreError

_TIMEOUT_S = 60
_NOT_FOUND, _CONFLICT = 404, 409
_REFUSED = (401, 403)
_SCHEMAS = {"keyword": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, prefix=True)}  # for patterns


class ServerCollection(Collection):
    """A collection of a server.

    The URL is http(s)://HOST:PORT/COLLECTION. An API key is in its place for the password (`https://:KEY@HOST:6333/photos`)
    or in the environment variable QDRANT_API_KEY.

    Args:
        url: the URL of the store.
    """

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        try:
            parts = urlsplit(url)
            address, port = parts.hostname, parts.port
        except ValueError:
            address, port = None, None
        prefix, _, self._collection = parts.path.rstrip("/").rpartition("/") if address else ("", "", "")
        if not self._collection:
            raise StoreError(f"{self.name} names no collection; a store is http://HOST:6333/COLLECTION")
        self._collection = unquote(self._collection)
        key = parts.password or parts.username or ""
        self._client = QdrantClient(
            url=f"{parts.scheme}://{f'[{address}]' if ':' in str(address) else address}:{port or 6333}",
            prefix=prefix or None,
            api_key=unquote(key) or os.environ.get("QDRANT_API_KEY"),
            timeout=_TIMEOUT_S,
            check_compatibility=False,  # that is a request, and a warning where it fails
        )
        self.note: Any = None

    @classmethod
    def open(cls, url: str) -> ServerCollection | None:
        """See `Collection`."""
        made = cls(url)
        with made._in_words():
            try:
                found = made._client.get_collection(made._collection)
            except UnexpectedResponse as exc:
                if exc.status_code != _NOT_FOUND:
                    raise
                made.close()
                return None
        made.note = found.config.metadata
        return made

    @classmethod
    def create(cls, url: str, note: Any, dimensions: int, fields: Mapping[str, str]) -> ServerCollection:
        """See `Collection`."""
        made = cls(url)
        vector = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
        with made._in_words():
            try:
                made._client.create_collection(made._collection, vectors_config={VECTOR: vector}, metadata=note)
            except UnexpectedResponse as exc:
                if exc.status_code != _CONFLICT or (found := cls.open(url)) is None:
                    raise
                made.close()
                return found  # another process has just made it
            for path, kind in fields.items():
                made._client.create_payload_index(made._collection, path, _SCHEMAS.get(kind, kind))
        made.note = note
        return made

    def count(self) -> int:
        """See `Collection`."""
        with self._in_words():
            return int(self._client.count(self._collection, exact=True).count)

    def upsert(self, points: Sequence[QdrantPoint]) -> None:
        """See `Collection`."""
        with self._in_words():
            self._client.upsert(self._collection, [models.PointStruct(**point) for point in points], wait=True)

    def delete(self, keys: Sequence[str]) -> None:
        """See `Collection`."""
        with self._in_words():
            self._client.delete(self._collection, models.PointIdsList(points=list(keys)), wait=True)

    def scroll(
        self, condition: Filter, payload: Sequence[str], *, vectors: bool, limit: int, offset: str | None
    ) -> tuple[list[QdrantPoint], str | None]:
        """See `Collection`."""
        with self._in_words():
            found, following = self._client.scroll(
                self._collection,
                scroll_filter=models.Filter(**condition),
                limit=limit,
                offset=offset,
                with_payload=list(payload),
                with_vectors=vectors,
            )
        return [_point(one) for one in found], None if following is None else str(following)

    def query(
        self, vectors: Floats, condition: Filter, payload: Sequence[str], *, limit: int, exact: bool
    ) -> list[list[tuple[float, QdrantPoint]]]:
        """See `Collection`."""
        asked = [
            models.QueryRequest(
                query=vector,
                using=VECTOR,
                filter=models.Filter(**condition),
                params=models.SearchParams(exact=exact),
                limit=limit,
                with_payload=list(payload),
            )
            for vector in vectors.tolist()
        ]
        with self._in_words():
            answers = self._client.query_batch_points(self._collection, asked) if asked else []
        return [[(one.score, _point(one)) for one in answer.points] for answer in answers]

    def indexed(self) -> int:
        """See `Collection`."""
        with self._in_words():
            return int(self._client.get_collection(self._collection).indexed_vectors_count or 0)

    def build_index(self) -> None:
        """See `Collection`."""

    def remove(self) -> None:
        """See `Collection`."""
        with self._in_words():
            self._client.delete_collection(self._collection)

    def close(self) -> None:
        """See `Collection`."""
        self._client.close()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except UnexpectedResponse as exc:
            if exc.status_code in _REFUSED:
                raise StoreError(f"{self.name} refuses the API key, or wants one: set QDRANT_API_KEY") from exc
            raise StoreError(f"{self.name} answers {exc.status_code}: {_reason(exc)}") from exc
        except ResponseHandlingException as exc:
            again = "when the server answers, give the command again: it goes on where it stopped"
            raise StoreError(
                f"{self.name} does not answer: {str(exc.source) or type(exc.source).__name__}; {again}"
            ) from exc
        except (ApiException, QdrantException) as exc:
            raise StoreError(f"{self.name}: {exc}") from exc


class QdrantServerStore(QdrantStore):
    """A store at `http(s)://HOST:PORT/COLLECTION`."""

    collections = ServerCollection


def _reason(exc: UnexpectedResponse) -> str:
    try:
        return str(exc.structured()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return str(exc.reason_phrase)


def _point(found: Any) -> QdrantPoint:
    return QdrantPoint(id=str(found.id), vector=found.vector or {}, payload=found.payload or {})
