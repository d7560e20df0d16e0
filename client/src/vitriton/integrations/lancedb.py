"""LanceDB: an `EmbeddingFunction`, registered as "vitriton"."""

from __future__ import annotations

from typing import Any

from vitriton.integrations._space import EmbeddingSpace, needs

with needs("lancedb"):
    from lancedb.embeddings import EmbeddingFunction, register
    from pydantic import PrivateAttr

__all__ = ["VitritonLanceFunction"]


@register("vitriton")
class VitritonLanceFunction(EmbeddingFunction):
    """Embeds the source column of a table, and queries. The table's metadata has the configuration.

    The source column holds images (paths, URLs or bytes) if the model embeds images, and texts otherwise. A query is a
    text, or an image (PIL or bytes).

    Args:
        url: the server's address.
        model: the name that the model was exported under.
        **options: the other arguments of `EmbeddingSpace`: fingerprint, token_env, ca_file, timeout_s.

    Raises:
        ContractMismatch: the server has another model than the fingerprint says; from every method.
    """

    url: str
    model: str
    fingerprint: str | None = None
    token_env: str | None = None
    ca_file: str | None = None
    timeout_s: float | None = 60.0
    _space: EmbeddingSpace = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self._space = EmbeddingSpace(**self.model_dump(exclude={"max_retries"}))
        self.fingerprint = self._space.config["fingerprint"]

    def safe_model_dump(self) -> dict[str, Any]:
        """The configuration for the table's metadata, with the fingerprint."""
        return self._space.config

    def ndims(self) -> int:
        """The length of a vector."""
        return self._space.dimensions

    def compute_source_embeddings(self, inputs: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Embeds the values of the source column."""
        inputs = self.sanitize_input([inputs] if isinstance(inputs, bytes) else inputs)
        images = "image" in self._space.info.towers
        return list(self._space.images(inputs) if images else self._space.texts(inputs, "document"))

    def compute_query_embeddings(self, query: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Embeds a query."""
        return list(self._space.texts(query, "query") if isinstance(query, str) else self._space.images(query))

    # LanceDB's own would try again after every error, for minutes, and hide it: the client tries again itself.
    compute_source_embeddings_with_retry = compute_source_embeddings
    compute_query_embeddings_with_retry = compute_query_embeddings
