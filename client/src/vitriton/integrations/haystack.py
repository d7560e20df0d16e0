"""Haystack: embedders for a text, for documents, and for the images of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vitriton.integrations._space import EmbeddingSpace, needs

with needs("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict

__all__ = ["VitritonDocumentEmbedder", "VitritonDocumentImageEmbedder", "VitritonTextEmbedder"]


class _Embedder:
    """What the three have in common.

    Args:
        url: the server's address.
        model: the name that the model was exported under.
        **options: the other arguments of `EmbeddingSpace`: fingerprint, token_env, ca_file, timeout_s.

    Raises:
        ContractMismatch: the server has another model than the fingerprint says; from `run`.
    """

    def __init__(self, url: str | Sequence[str], model: str, **options: Any) -> None:
        self._space = EmbeddingSpace(url, model, **options)

    def to_dict(self) -> dict[str, Any]:
        """The component as a dictionary, with the fingerprint."""
        return default_to_dict(self, **self._space.config)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """The component that `to_dict` describes."""
        return default_from_dict(cls, data)


@component
class VitritonTextEmbedder(_Embedder):
    """Embeds a query, with the model's prompt for queries, if it has one."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Returns the `embedding` of a text."""
        return {"embedding": self._space.texts(text, "query")[0].tolist()}


@component
class VitritonDocumentEmbedder(_Embedder):
    """Embeds the content of documents, with the model's prompt for documents, if it has one."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Returns the `documents` with their embeddings."""
        return _embedded(documents, self._space.texts([one.content or "" for one in documents], "document"))


@component
class VitritonDocumentImageEmbedder(_Embedder):
    """Embeds the images of documents: the path or URL in `meta["file_path"]`, or the bytes in `blob`."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Returns the `documents` with their embeddings."""
        return _embedded(documents, self._space.images([_image(one) for one in documents]))


def _image(document: Document) -> Any:
    if document.blob is None and "file_path" not in document.meta:
        raise ValueError(f"document {document.id} has no image; give it a blob, or meta['file_path']")
    return document.meta["file_path"] if document.blob is None else document.blob.data


def _embedded(documents: Sequence[Document], rows: Any) -> dict[str, Any]:
    return {"documents": [replace(one, embedding=row.tolist()) for one, row in zip(documents, rows, strict=True)]}
