"""LangChain: an `Embeddings` for texts, and for images by `embed_image`, which langchain-chroma calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitriton.integrations._space import EmbeddingSpace, needs

with needs("langchain"):
    from langchain_core.embeddings import Embeddings

__all__ = ["VitritonEmbeddings"]


class VitritonEmbeddings(Embeddings):
    """Embeds texts and images with a served model.

    A vector store of LangChain keeps no configuration: keep `fingerprint` in the metadata of the collection, and give
    it here when the collection is opened again.

    Args:
        url: the server's address.
        model: the name that the model was exported under.
        **options: the other arguments of `EmbeddingSpace`: fingerprint, token_env, ca_file, timeout_s.

    Raises:
        ContractMismatch: the server has another model than the fingerprint says; from every method.
    """

    def __init__(self, url: str | Sequence[str], model: str, **options: Any) -> None:
        self._space = EmbeddingSpace(url, model, **options)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the vectors."""
        return str(self._space.config["fingerprint"])

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embeds texts, with the model's prompt for documents, if it has one."""
        return self._space.texts(texts, "document").tolist()

    def embed_query(self, text: str) -> list[float]:
        """Embeds a query, with the model's prompt for queries, if it has one."""
        return self._space.texts(text, "query")[0].tolist()

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Embeds images: paths, http(s) URLs or data: URIs."""
        return self._space.images(uris).tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """See `embed_documents`."""
        return (await self._space.atexts(texts, "document")).tolist()

    async def aembed_query(self, text: str) -> list[float]:
        """See `embed_query`."""
        return (await self._space.atexts(text, "query"))[0].tolist()

    async def aembed_image(self, uris: list[str]) -> list[list[float]]:
        """See `embed_image`."""
        return (await self._space.aimages(uris)).tolist()
