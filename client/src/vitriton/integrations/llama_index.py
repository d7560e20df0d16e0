"""LlamaIndex: a `MultiModalEmbedding`."""

from __future__ import annotations

from typing import Any

from vitriton.integrations._space import EmbeddingSpace, needs

with needs("llama-index"):
    from llama_index.core.base.embeddings.base import Embedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.embeddings import MultiModalEmbedding
    from llama_index.core.schema import ImageType

__all__ = ["VitritonEmbedding"]


class VitritonEmbedding(MultiModalEmbedding):
    """Embeds images and texts with a served model. `to_dict` has the fingerprint; `from_dict` expects it.

    Args:
        url: the server's address.
        model_name: the name that the model was exported under.
        **options: the other arguments of `EmbeddingSpace` (fingerprint, token_env, ca_file, timeout_s), and those of
            LlamaIndex's own class.

    Raises:
        ContractMismatch: the server has another model than the fingerprint says; from every method.
    """

    url: str
    fingerprint: str | None = None
    token_env: str | None = None
    ca_file: str | None = None
    timeout_s: float | None = 60.0
    _space: EmbeddingSpace = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        names = ("fingerprint", "token_env", "ca_file", "timeout_s")
        self._space = EmbeddingSpace(self.url, self.model_name, **{name: getattr(self, name) for name in names})
        self.fingerprint = self._space.config["fingerprint"]

    @classmethod
    def class_name(cls) -> str:
        """The name of the class in dictionaries."""
        return "VitritonEmbedding"

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._space.texts(query, "query")[0].tolist()

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._space.texts(texts, "document").tolist()

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return self._space.images(img_file_paths).tolist()

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self._space.atexts(query, "query"))[0].tolist()

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return (await self._space.atexts(texts, "document")).tolist()

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return (await self._aget_image_embeddings([img_file_path]))[0]

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return (await self._space.aimages(img_file_paths)).tolist()
