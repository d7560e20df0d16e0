"""Chroma: an `EmbeddingFunction`, registered as "vitriton"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitriton.integrations._space import EmbeddingSpace, Role, needs

with needs("chroma"):
    from chromadb.api.types import Embeddable, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function

__all__ = ["VitritonEmbeddingFunction"]


@register_embedding_function
class VitritonEmbeddingFunction(EmbeddingFunction[Embeddable]):
    """Embeds documents and images with a served model.

    A collection keeps the configuration with the fingerprint. `get_collection(name)` makes the function of it, if this
    module is imported, and no query is answered by another model.

    Args:
        url: the server's address.
        model: the name that the model was exported under.
        **options: the other arguments of `EmbeddingSpace`: fingerprint, token_env, ca_file, timeout_s.

    Raises:
        ContractMismatch: the server has another model than the fingerprint says; from every call.
    """

    def __init__(self, url: str | Sequence[str], model: str, **options: Any) -> None:
        self._space = EmbeddingSpace(url, model, **options)

    def __call__(self, input: Embeddable) -> Embeddings:
        """Embeds documents (str) or images (arrays, (H, W, 3) uint8 RGB)."""
        return self._embed(input, "document")

    def embed_query(self, input: Embeddable) -> Embeddings:
        """Embeds queries: texts, or images."""
        return self._embed(input, "query")

    @staticmethod
    def name() -> str:
        """The name of the function in configurations."""
        return "vitriton"

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> VitritonEmbeddingFunction:
        """Makes the function of a collection's configuration."""
        return VitritonEmbeddingFunction(**config)

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the fingerprint."""
        return self._space.config

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Refuses the configuration of another embedding space; a server may move.

        Raises:
            ValueError: the fingerprints differ.
        """
        if old_config["fingerprint"] != new_config["fingerprint"]:
            raise ValueError(
                f"the collection has vectors of the model with the fingerprint {old_config['fingerprint']}, and this "
                f"is {new_config['fingerprint']}: vectors of the two must not be mixed"
            )

    def default_space(self) -> Space:
        """The distance of collections that name none."""
        return "cosine"

    def _embed(self, inputs: Embeddable, role: Role) -> Embeddings:
        texts = all(isinstance(item, str) for item in inputs)
        return list(self._space.texts(inputs, role) if texts else self._space.images(inputs))
